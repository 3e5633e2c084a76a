"""Commands that ask a running service, and what they say of one that is none."""

import http.server
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from dredge.cli import main
from dredge.config import Settings
from dredge.insights.store import Store
from dredge.server import create_app

TOKEN = "a-token-of-enough-characters"
Run = Callable[..., tuple[str, str]]
Serve = Callable[..., tuple[str, Store]]


@contextmanager
def answering(server: http.server.HTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serves a store of its own; the address and the store."""
    with ExitStack() as stack:

        def start(*tokens: str) -> tuple[str, Store]:
            store = stack.enter_context(Store.open(tmp_path / "notes.db"))
            settings = Settings(log={"level": "ERROR"}, auth={"tokens": tokens}, search={"hash_cache": 8})
            server = make_server("127.0.0.1", 0, create_app(settings, store), request_handler=Quiet)
            return stack.enter_context(answering(server)), store

        yield start


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, err
        return out, err

    return call


def test_a_service_is_ready_until_its_database_is_gone(serve: Serve, run: Run) -> None:
    url, store = serve()
    found = json.loads(run("health", "--url", f"{url}/", "--json")[0])
    assert (found["status"], found["ready"], found["readiness"]["status"]) == ("healthy", True, "ready")
    store.close()
    found = json.loads(run("health", "--url", url, "--json", code=1)[0])
    assert (found["status"], found["ready"], found["readiness"]["code"]) == ("healthy", False, "store_unavailable")
    assert "False" in run("health", "--url", url, code=1)[0]


def test_a_service_with_tokens_is_asked_with_one(serve: Serve, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    url, _ = serve(TOKEN)
    for command in ("health", "stats"):
        assert "got none. Give it with --token" in run(command, "--url", url, code=2)[1]
        assert "got another" in run(command, "--url", url, "--token", "x" * 20, code=2)[1]
        run(command, "--url", url, "--token", TOKEN)
    monkeypatch.setenv("DREDGE_TOKEN", TOKEN)
    assert json.loads(run("health", "--url", url, "--json")[0])["ready"]


def test_the_cache_of_ids_is_told(serve: Serve, run: Run) -> None:
    url, _ = serve()
    for text in ("one", "one", "one", "two"):
        body = json.dumps({"insight_text": text}).encode()
        request = urllib.request.Request(f"{url}/lift", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=30).close()
    found = json.loads(run("stats", "--url", url, "--json")[0])
    assert (found["insights"], found["store_up"]) == (2, 1)
    cache = [found[f"hash_cache_{name}"] for name in ("hits_total", "misses_total", "hit_rate")]
    assert cache == [2, 2, 0.5]
    assert "hash cache hit rate" in run("stats", "--url", url)[0]


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'"x"', b"\xff", b"a 1\n", b"# EOF\n"])
def test_what_is_no_dredge_is_said_in_a_line(run: Run, body: bytes) -> None:
    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with answering(http.server.HTTPServer(("127.0.0.1", 0), Stranger)) as url:
        for command in ("health", "stats"):
            out, err = run(command, "--url", url, code=2)
            assert out == ""
            assert err.startswith("dredge: a service ")
            assert err.count("\n") == 1


def test_what_speaks_no_http_is_said_in_a_line(run: Run) -> None:
    class Mute(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(b"SSH-2.0-other\r\n")

    with answering(http.server.HTTPServer(("127.0.0.1", 0), Mute)) as url:
        assert "a service answers at its address" in run("health", "--url", url, code=2)[1]
