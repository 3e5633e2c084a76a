"""Who may send forms: not another site, and with a token who has it."""

import http.server
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.browser
Visiting = Callable[..., Any]
TOKEN = "a-token-of-thirty-two-characters"


@pytest.fixture
def elsewhere(site: Any) -> Iterator[str]:
    """Another site: a page that sends a form to the service."""
    form = f"""<form method="post" action="{site.address}/notes"><textarea name="text">from another site</textarea>
        <button>Send</button></form>"""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(form.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_form_of_another_site_changes_nothing(visiting: Visiting, site: Any, elsewhere: str) -> None:
    port = elsewhere.partition(":")[2]
    form = (
        f'<form method="post" action="{site.address}/notes"><input name="text" value="x"><button>Send</button></form>'
    )
    sources = (f"http://{elsewhere}/", f"http://localhost:{port}/", f"data:text/html,{quote(form)}")
    _, before = site.served.request("GET", "/insights?limit=200")
    for source in sources:
        with visiting(site.address) as visit:
            visit.page.goto(source)
            with visit.page.expect_navigation() as sent:
                visit.page.click("button")
            assert sent.value.status == 403, source
            assert json.loads(visit.page.locator("body").text_content())["code"] == "cross_site"
    # Nor can another site show the page within its own.
    with visiting(site.address) as visit:
        visit.page.goto(f"http://{elsewhere}/")
        frame = f"f = document.createElement('iframe'), f.src = {site.address!r} + '/', document.body.append(f)"
        visit.page.evaluate(f"() => {{ let f; {frame}; }}")
        deadline = time.monotonic() + 60
        while not any("frame" in trouble for trouble in visit.troubles):
            assert time.monotonic() < deadline, visit.troubles
            visit.page.wait_for_timeout(20)
    assert site.served.request("GET", "/insights?limit=200")[1] == before


def test_a_token_is_asked_for_and_opens_everything(visiting: Visiting, serve: Callable[..., Any]) -> None:
    served = serve(DREDGE_AUTH__TOKENS=json.dumps([TOKEN]))
    address = f"http://127.0.0.1:{served.port}"
    with visiting(address, http_credentials={"username": "anyone", "password": TOKEN}) as visit:
        assert visit.open("/") == 200
        visit.page.fill("#text", "kept with a token")
        visit.follow(visit.page.locator("button.main"))
        assert visit.page.locator(".told").text_content() == "Kept."
        visit.open("/find")
        visit.page.fill("#q", "token")
        visit.until("document.querySelectorAll('#results mark').length > 0")
        visit.calm()
    with visiting(address, http_credentials={"username": "anyone", "password": "another"}) as visit:
        assert visit.open("/") == 401
