"""Notes in a real browser, on a desk and on a phone, with and without scripts: every page, and what is done there."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser
Visiting = Callable[..., Any]
DESK, PHONE = 1280, 390


@pytest.mark.parametrize(("width", "scheme"), [(DESK, "light"), (360, "dark")])
def test_every_page_is_calm_named_and_readable(visiting: Visiting, site: Any, width: int, scheme: str) -> None:
    with visiting(site.address, width=width, color_scheme=scheme) as visit:
        for name, path in site.paths.items():
            assert visit.open(path) == 200
            assert visit.audit() == [], name
            visit.calm()


@pytest.mark.parametrize(("width", "scheme"), [(DESK, "dark"), (PHONE, "light")])
def test_pages_that_refuse_are_readable_too(visiting: Visiting, site: Any, width: int, scheme: str) -> None:
    with visiting(site.address, width=width, color_scheme=scheme, script=False) as visit:
        for path, status in (("/notes/none", 404), (f"/find?q={'x' * 1001}", 422), ("/notes?cursor=x", 422)):
            assert visit.open(path) == status
            assert visit.audit() == [], path
        visit.open("/")
        visit.page.fill("#text", "  \n ")
        visit.follow(visit.page.locator("button.main"))
        assert visit.audit() == []
        assert visit.page.locator("#text").input_value() == "  \n "
        assert "can be seen" in visit.page.locator("#text-error").text_content()
        # The message stands next to its field, which has the focus.
        message, field = (visit.page.locator(one).bounding_box() for one in ("#text-error", "#text"))
        assert 0 <= field["y"] - message["y"] - message["height"] < 20
        assert visit.page.evaluate("document.activeElement.id") == "text"
        visit.open("/signals")
        visit.page.fill("#samples", "1 2\n2 x")
        visit.page.fill("#title", "kept")
        visit.follow(visit.page.locator("button.main"))
        assert "line 2" in visit.page.locator("#samples-error").text_content()
        assert visit.page.locator("#title").input_value() == "kept"
        assert visit.audit() == []


@pytest.mark.parametrize(("width", "script"), [(DESK, True), (PHONE, False)])
def test_a_note_is_lifted_found_and_deleted(visiting: Visiting, site: Any, width: int, script: bool) -> None:
    text = f"Basalt columns at {width} metres\nhave six sides {'with' if script else 'without'} exception"
    with visiting(site.address, width=width, script=script) as visit:
        page = visit.page
        visit.open("/")
        page.fill("#text", text)
        visit.follow(page.locator("button.main"))
        assert page.locator("[role=status].told").text_content() == "Kept."
        identifier = page.locator("#id").text_content()
        assert visit.path().partition("?")[0] == f"/notes/{identifier}"
        # What is asked for anew is not sent anew.
        page.reload()
        kept = site.served.request("GET", f"/insights/{identifier}")[1]
        assert (kept["text"], kept["seen"]) == (text, 1)
        page.fill("#q", "bazalt colums")
        page.keyboard.press("Enter")
        page.wait_for_url("**/find?**")
        first = page.locator("#results li").first
        assert first.locator(".title").text_content().startswith("Basalt columns")
        assert page.locator("meter").count() == page.locator("#results li").count()
        page.fill("#q", "basalt")
        visit.follow(page.locator("#search button"))
        page.get_by_label("whole words").check()
        if script:
            visit.until("location.search.includes('mode=text')")
        else:
            visit.follow(page.get_by_role("button", name="Apply"))
        assert "mode=text" in page.url
        assert page.locator("mark").all_text_contents()[0] == "Basalt"
        visit.follow(page.locator("#results li a").first)
        visit.follow(page.get_by_role("link", name="Delete…"))
        visit.follow(page.get_by_role("link", name="Keep it"))
        visit.follow(page.get_by_role("link", name="Delete…"))
        visit.follow(page.get_by_role("button", name="Delete"))
        assert page.locator("[role=status].told").text_content() == "Deleted."
        assert site.served.request("GET", f"/insights/{identifier}")[0] == 404
        visit.calm()


# Key by key, more quickly than any hand, however busy the machine is.
TYPE = """text => {
  const field = document.getElementById('q');
  for (const key of text) {
    field.value += key;
    field.dispatchEvent(new Event('input', { bubbles: true }));
  }
}"""


def test_search_as_you_type(visiting: Visiting, site: Any) -> None:
    with visiting(site.address) as visit:
        page = visit.page
        visit.open("/")
        newest = page.locator("#results").inner_html()
        before = len(visit.requests)
        page.evaluate(TYPE, "gravity shelf")
        visit.until("document.querySelectorAll('#results mark').length > 0")
        # One request for keys that come quickly; and the page is still the first one.
        assert visit.requests[before:] == [f"{site.address}/find?q=gravity+shelf"]
        assert visit.path() == "/"
        count = page.locator("#results li").count()
        assert count > 0
        assert page.locator("#status").text_content() == f"{count} found"
        assert page.locator("#status").get_attribute("role") == "status"
        page.fill("#q", "")
        visit.until("document.querySelector('#results h2') !== null")
        assert page.locator("#results").inner_html() == newest
        visit.open("/find?q=shelf")
        page.fill("#q", "measured twice")
        visit.until("[...document.querySelectorAll('#results mark')].some(mark => mark.textContent === 'Measured')")
        assert "q=measured+twice" in page.url
        assert page.title().startswith("measured twice")
        page.reload()
        assert page.locator("#q").input_value() == "measured twice"
        assert page.get_by_label("words and spelling").is_checked()
        visit.calm()
        page.fill("#q", "x" * 1001)
        visit.until("document.querySelector('#results .error') !== null")
        assert "at most 1000 characters" in page.locator("#status").text_content()
        visit.context.set_offline(True)
        page.fill("#q", "shelf")
        visit.until("document.querySelector('#results').textContent.includes('not answered')")
        assert page.locator("#results").get_attribute("aria-busy") is None


def test_a_search_that_is_given_up_leaves_the_page_as_it_was(visiting: Visiting, site: Any) -> None:
    with visiting(site.address) as visit:
        page = visit.page
        visit.open("/")
        newest = page.locator("#results").inner_html()
        # An answer that never comes.
        page.route("**/find?**", lambda route: None)
        page.fill("#q", "gravity")
        visit.until("document.getElementById('results').ariaBusy === 'true'")
        page.fill("#q", "")
        visit.until("document.getElementById('results').ariaBusy !== 'true'")
        assert page.locator("#results").inner_html() == newest
        assert page.locator("#status").text_content() == ""
        visit.calm()


def test_the_keyboard_reaches_everything(visiting: Visiting, site: Any) -> None:
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    focused = "document.activeElement.id || document.activeElement.textContent.trim()"
    with visiting(site.address) as visit:
        page = visit.page
        visit.open("/")
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "Skip to the content"
        assert page.locator(".skip").bounding_box()["y"] >= 0
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "text"
        assert page.evaluate(outline) == "solid"
        # In a field a slash is a slash; elsewhere it leads to the search.
        page.keyboard.type("1/2 kept by hand")
        assert page.locator("#text").input_value() == "1/2 kept by hand"
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "Lift"
        page.keyboard.press("/")
        assert page.evaluate(focused) == "q"
        assert page.locator("#q").input_value() == ""
        visit.open(site.paths["plain"])
        reached = []
        for _ in range(60):
            page.keyboard.press("Tab")
            name, style, gone = page.evaluate(f"[{focused}, {outline}, document.activeElement === document.body]")
            if gone:
                break
            assert style == "solid", name
            reached.append(name)
        wanted = page.evaluate(
            "[...document.querySelectorAll('a, button, input')].filter(e => e.checkVisibility())"
            ".map(e => e.id || e.textContent.trim())"
        )
        assert reached == wanted
        page.get_by_role("link", name="Delete…").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/delete")
        visit.calm()


def test_an_id_is_copied(visiting: Visiting, site: Any) -> None:
    with visiting(site.address, permissions=["clipboard-read", "clipboard-write"]) as visit:
        visit.open(site.paths["plain"])
        visit.page.get_by_role("button", name="Copy").click()
        visit.until("document.getElementById('status').textContent === 'Copied.'")
        assert visit.page.evaluate("navigator.clipboard.readText()") == site.ids["plain"]
        # Where there is no clipboard, it is selected.
        visit.page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('none')); }")
        visit.page.locator("[data-copy]").click()
        visit.until("getSelection().toString().length === 64")
        assert visit.page.evaluate("getSelection().toString()") == site.ids["plain"]
        visit.calm()
    with visiting(site.address, script=False) as visit:
        visit.open(site.paths["plain"])
        assert not visit.page.locator("[data-copy]").is_visible()
