"""Pages in a real browser, on a desk and on a phone, with and without scripts, against a real server."""

import hashlib
import http.server
import json
import math
import os
import shutil
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from dredge.insights.store import Store

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = os.environ.get("CHROMIUM") or next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is on PATH, and CHROMIUM names none"),
]
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
TOKEN = "a-token-of-thirty-two-characters"
DESK, PHONE = 1280, 390
TEXTS = {
    "plain": "Gravity waves break at the shelf, where the slope is steepest.\nMeasured twice, in June and in July.",
    "near": "gravity waves break at the shelf, where the slope is steepest. Measured twice, in June and in July.",
    "like": "Gravity waves are bent by the slope of the shelf.",
    "arabic": "\u202eمرحبا بالعالم، هذه ملاحظة طويلة باللغة العربية mixed with English 123",
    "odd": "👩‍👩‍👧‍👦 🏳️‍🌈 Z̷̛̤͓͙̞͍̪̊́̾͗̔̆a̴̘̿l̸̡̛̥͊̈́g̷̰̈́ọ̸̌ \x01\x1b[31m <script>document.title='owned'</script>",
    "word": "A" * 5000,
    "megabyte": "0123456789" * 104_857,
}


def chirp() -> list[tuple[float, float]]:
    """The published signal: 1000 samples of sin(x² / 2) exp(−x² / 10), and half a sin(20 x) on fifty of them."""
    places = [-10 + 20 * n / 999 for n in range(1000)]
    glitch = [0.5 * math.sin(20 * x) if 500 <= n < 550 else 0.0 for n, x in enumerate(places)]
    return [(x, math.sin(x * x / 2) * math.exp(-x * x / 10) + extra) for x, extra in zip(places, glitch, strict=True)]


def document(title: str, rows: list[dict[str, Any]], places: np.ndarray, grid: np.ndarray, sides: list[int]) -> Any:
    """What is kept of a signal that is the sum of some packets and an error of a hundredth."""

    def wave(row: dict[str, Any], at: np.ndarray) -> np.ndarray:
        moved = at - np.array(row["centre"])
        phase = moved @ (math.tau * np.array(row["cycles"])) + row["phase"]
        return row["amplitude"] * np.exp(-((moved / row["width"]) ** 2).sum(1) / 2) * np.cos(phase)

    def listed(at: np.ndarray) -> Any:
        return at[:, 0].tolist() if at.shape[1] == 1 else at.tolist()

    curves = np.array([wave(row, grid) for row in rows])
    left = 0.01 * np.cos(np.arange(len(places)))
    values = sum(wave(row, places) for row in rows) + left + 0.25
    return {
        "title": title, "dim": places.shape[1], "points": len(places),
        "samples": {"coords": listed(places), "values": values.tolist()},
        "fit": {"coords": listed(grid), "values": (curves.sum(0) + 0.25).tolist(), "shape": sides,
                "packets": curves.tolist() if places.shape[1] == 1 else []},
        "packets": rows, "constant": 0.25,
        "residual": {"rms": 0.0071, "largest": 0.01, "explained": 0.9987, "values": left.tolist()},
    }  # fmt: skip


def bursts(*numbers: tuple[list[float], list[float], list[float], float]) -> list[dict[str, Any]]:
    names = ("centre", "width", "cycles", "amplitude")
    return [dict(zip(names, row, strict=True)) | {"phase": 0.5, "frequency": []} for row in numbers]


def line() -> Any:
    rows = bursts(([-2.0], [1.5], [0.4], 2.0), ([3.0], [0.8], [1.1], 0.9), ([0.5], [3.0], [0.8], 0.05))
    places, grid = (np.linspace(-10, 10, n)[:, None] for n in (400, 512))
    return document("Line", rows, places, grid, [512])


def plate() -> Any:
    rows = bursts(([0.5, -0.5], [0.4, 0.8], [0.8, 0.3], 1.0), ([-1.0, 1.2], [0.5, 0.3], [0.0, 0.9], 0.6))
    grid = np.stack(np.meshgrid(*[np.linspace(-2, 2, 64)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    return document("Plate", rows, np.random.default_rng(0).uniform(-2, 2, (500, 2)), grid, [64, 64])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Site:
    """A server with records, and the paths of its pages."""

    def __init__(self, folder: Path, serve: Callable[..., Any]) -> None:
        with Store.open(folder / "notes.db") as store:
            kept = store.put_many([*TEXTS.values()])
            self.ids = {name: one.insight.id for name, one in zip(TEXTS, kept, strict=True)}
            for name, drawn in (("line", line()), ("plate", plate())):
                self.ids[name] = hashlib.sha256(name.encode()).hexdigest()
                store.put_signal(self.ids[name], f"{drawn['title']}: packets", drawn)
        self.served = serve(folder=folder)
        self.address = f"http://127.0.0.1:{self.served.port}"
        self.paths = {"home": "/", "browse": "/notes", "find": "/find?q=gravity+shelf", "empty": "/find",
                      "form": "/signals", "vain": "/find?q=zzzz&mode=text"}  # fmt: skip
        self.paths |= {name: f"/notes/{identifier}" for name, identifier in self.ids.items()}
        self.paths["delete"] = f"/notes/{self.ids['plain']}/delete"


@pytest.fixture(scope="module")
def site(serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), serve)


class Visit:
    """A tab, and everything that went wrong or over the wire while it was open."""

    def __init__(self, browser: Any, address: str, *, width: int = DESK, script: bool = True, **options: Any) -> None:
        self.address = address
        self.context = browser.new_context(
            viewport={"width": width, "height": 844}, java_script_enabled=script, **options
        )
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.troubles.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def open(self, path: str) -> int:
        """Goes to a path; the status."""
        return int(self.page.goto(self.address + path).status)

    def until(self, expression: str, seconds: float = 60.0) -> None:
        """Waits until a condition holds. The browser's own waiting is code in a string, which the page forbids."""
        last = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < last, f"never came true: {expression}"
            self.page.wait_for_timeout(20)

    def follow(self, target: Any) -> None:
        """Clicks what leads to another page, and waits until that is there, its style too."""
        with self.page.expect_navigation(wait_until="load"):
            target.click()

    def path(self) -> str:
        """Where the tab is."""
        return str(self.page.url).removeprefix(self.address)

    def calm(self) -> None:
        """Nothing went wrong, and nothing left the host."""
        assert self.troubles == []
        assert all(url.startswith((f"{self.address}/", "data:")) for url in self.requests), self.requests


# What has no name for a screen reader, what a pointer cannot hit, and what stands too little out from its ground.
AUDIT = """() => {
  const troubles = [];
  const seen = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const name = (element) => (element.getAttribute('aria-label')
    || [...(element.labels || [])].map(label => label.textContent).join(' ')
    || (element.getAttribute('aria-labelledby') || '').split(' ')
      .map(id => document.getElementById(id)?.textContent || '').join(' ')
    || element.querySelector('title')?.textContent
    || (element.matches('a, button') ? element.textContent : '')).trim();
  const named = 'a, button, input, textarea, meter, svg, [role=region], nav, fieldset';
  for (const element of document.querySelectorAll(named)) {
    const own = element.matches('fieldset') ? element.querySelector('legend')?.textContent : name(element);
    if (seen(element) && !own) troubles.push('no name: ' + element.outerHTML.slice(0, 120));
  }
  const once = (selector) => document.querySelectorAll(selector).length === 1;
  for (const landmark of ['main', 'h1', 'header.top', 'footer', '[role=search]']) {
    if (!once(landmark)) troubles.push('not one ' + landmark);
  }
  let level = 1;
  for (const heading of document.querySelectorAll('h1, h2, h3')) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) troubles.push('a heading skips a level: ' + heading.textContent);
    level = own;
  }
  const channels = (colour) => {
    const parts = colour.match(/[\\d.]+/g).map(Number);
    return parts.length === 3 ? [...parts, 1] : parts;
  };
  const over = (top, ground) => top.slice(0, 3).map((value, i) => value * top[3] + ground[i] * (1 - top[3]));
  const ground = (element) => {
    const layers = [];
    for (let up = element; up; up = up.parentElement) layers.push(channels(getComputedStyle(up).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map(value => value / 255)
      .map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let counted = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !seen(element) || element.closest('.unseen, title, script')) continue;
    const style = getComputedStyle(element);
    const ink = channels(element.closest('svg') ? style.fill : style.color);
    const below = ground(element.closest('svg')?.parentElement || element);
    counted += 1;
    const found = contrast(over(ink, below), below);
    if (found < 4.5) troubles.push(`contrast ${found.toFixed(2)}: ${element.textContent.slice(0, 60)}`);
  }
  if (counted < 8) troubles.push('hardly any text was looked at');
  for (const field of document.querySelectorAll('input:not([type=radio], [type=checkbox]), textarea, button')) {
    if (!seen(field)) continue;
    const below = ground(field.parentElement);
    if (Math.max(contrast(channels(getComputedStyle(field).borderTopColor), below),
                 contrast(ground(field), below)) < 3) troubles.push('faint: ' + field.outerHTML.slice(0, 100));
    if (field.getBoundingClientRect().height < 24) troubles.push('small: ' + field.outerHTML.slice(0, 100));
  }
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) troubles.push(`${wide} wide in ${innerWidth}`);
  if (document.title.includes('owned')) troubles.push('a text was run as a script');
  return troubles;
}"""


@pytest.mark.parametrize(("width", "scheme"), [(DESK, "light"), (360, "dark")])
def test_every_page_is_calm_named_and_readable(browser: Any, site: Site, width: int, scheme: str) -> None:
    with Visit(browser, site.address, width=width, color_scheme=scheme) as visit:
        for name, path in site.paths.items():
            assert visit.open(path) == 200
            assert visit.page.evaluate(AUDIT) == [], name
            visit.calm()


@pytest.mark.parametrize(("width", "scheme"), [(DESK, "dark"), (PHONE, "light")])
def test_pages_that_refuse_are_readable_too(browser: Any, site: Site, width: int, scheme: str) -> None:
    with Visit(browser, site.address, width=width, color_scheme=scheme, script=False) as visit:
        for path, status in (("/notes/none", 404), (f"/find?q={'x' * 1001}", 422), ("/notes?cursor=x", 422)):
            assert visit.open(path) == status
            assert visit.page.evaluate(AUDIT) == [], path
        visit.open("/")
        visit.page.fill("#text", "  \n ")
        visit.follow(visit.page.locator("button.main"))
        assert visit.page.evaluate(AUDIT) == []
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
        assert visit.page.evaluate(AUDIT) == []


@pytest.mark.parametrize(("width", "script"), [(DESK, True), (PHONE, False)])
def test_a_note_is_lifted_found_and_deleted(browser: Any, site: Site, width: int, script: bool) -> None:
    text = f"Basalt columns at {width} metres\nhave six sides {'with' if script else 'without'} exception"
    with Visit(browser, site.address, width=width, script=script) as visit:
        page = visit.page
        visit.open("/")
        page.fill("#text", text)
        visit.follow(page.locator("button.main"))
        assert page.locator("[role=status].told").text_content() == "Kept."
        identifier = page.locator("#id").text_content()
        assert visit.path().partition("?")[0] == f"/notes/{identifier}"
        # What is asked for anew is not sent anew.
        page.reload()
        assert (
            site.served.request("GET", f"/insights/{identifier}")[1] | {"text": text, "seen": 1}
            == (site.served.request("GET", f"/insights/{identifier}")[1])
        )
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


def test_search_as_you_type(browser: Any, site: Site) -> None:
    with Visit(browser, site.address) as visit:
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


def test_the_keyboard_reaches_everything(browser: Any, site: Site) -> None:
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    focused = "document.activeElement.id || document.activeElement.textContent.trim()"
    with Visit(browser, site.address) as visit:
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


def test_an_id_is_copied(browser: Any, site: Site) -> None:
    with Visit(browser, site.address, permissions=["clipboard-read", "clipboard-write"]) as visit:
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
    with Visit(browser, site.address, script=False) as visit:
        visit.open(site.paths["plain"])
        assert not visit.page.locator("[data-copy]").is_visible()


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.needs_extra("torch")
@pytest.mark.parametrize(("width", "script"), [(DESK, True), (PHONE, False)])
def test_a_signal_is_pasted_fitted_and_drawn(browser: Any, site: Site, width: int, script: bool) -> None:
    with Visit(browser, site.address, width=width, script=script) as visit:
        page = visit.page
        visit.open("/signals")
        page.fill("#samples", "\n".join(f"{x}\t{y}" for x, y in chirp()[:: 1 if script else 2]))
        page.fill("#title", "A chirp")
        page.fill("#most", "3")
        visit.follow(page.locator("button.main"))
        assert page.locator("h1").text_content() == "A chirp"
        assert page.locator("tbody tr").count() == 3
        # Even three packets explain four fifths of it.
        assert float(page.locator(".sums dd").first.text_content().rstrip("% ")) > 80
        # One drawing of each kind is seen: that for this width.
        for name in ("fit", "packets", "residual"):
            drawn = [chart for chart in page.locator(f"#drawing-{name} svg").all() if chart.is_visible()]
            assert len(drawn) == 1
            box = drawn[0].bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert 11 <= 12 * drawn[0].evaluate(SCALE) <= 18
        visit.calm()


SCALE = "chart => chart.getBoundingClientRect().width / chart.viewBox.baseVal.width"
BOX = "chart => (box => [box.left, box.top, box.right, box.bottom])(chart.getBoundingClientRect())"
TEXT_BOXES = """chart => [...chart.querySelectorAll('text')].map(text => text.getBoundingClientRect())
  .map(box => [box.left, box.top, box.right, box.bottom])"""


@pytest.mark.parametrize("width", [DESK, 360])
@pytest.mark.parametrize("name", ["line", "plate"])
def test_no_label_of_a_drawing_is_cut_off_or_on_another(browser: Any, site: Site, width: int, name: str) -> None:
    with Visit(browser, site.address, width=width) as visit:
        visit.open(site.paths[name])
        charts = [chart for chart in visit.page.locator("svg.chart").all() if chart.is_visible()]
        assert len(charts) == 3
        for chart in charts:
            left, top, right, bottom = chart.evaluate(BOX)
            boxes = chart.evaluate(TEXT_BOXES)
            assert len(boxes) >= 6
            for index, (x0, y0, x1, y1) in enumerate(boxes):
                assert left - 1 <= x0 < x1 <= right + 1, (name, index)
                assert top - 4 <= y0 < y1 <= bottom + 4, (name, index)
                for a0, b0, a1, b1 in boxes[:index]:
                    # Boxes of text are taller than its ink.
                    assert min(x1, a1) - max(x0, a0) < 1 or min(y1, b1) - max(y0, b0) < 5, (name, index)


def test_packets_are_left_out_and_taken_in_again(browser: Any, site: Site) -> None:
    told = site.served.request("GET", f"/insights/{site.ids['line']}")[1]["signal"]
    with Visit(browser, site.address) as visit:
        page = visit.page
        visit.open(site.paths["line"])
        boxes = page.locator("tbody input[type=checkbox]")
        assert boxes.count() == len(told["packets"]) > 1
        line = page.locator("#drawing-fit .wide .fit")
        whole = line.get_attribute("d")
        boxes.nth(0).focus()
        page.keyboard.press("Space")
        visit.until("document.getElementById('status').textContent.startsWith('The line is the sum of')")
        assert page.locator("#drawing-packets .wide .packet.off").count() == 1
        # What is drawn is the sum of the others, by the numbers that are kept.
        chart = page.locator("#drawing-fit .wide svg")
        low, high, start, end = map(float, chart.get_attribute("data-y").split())
        sums = [told["constant"] + sum(column) for column in zip(*told["fit"]["packets"][1:], strict=True)]
        wanted = [start + (value - low) / (high - low) * (end - start) for value in sums]
        drawn = [float(pair.split()[1]) for pair in line.get_attribute("d")[1:].split("L")]
        assert drawn == pytest.approx(wanted, abs=0.06)
        assert max(abs(value - (start + (fit - low) / (high - low) * (end - start)))
                   for value, fit in zip(drawn, told["fit"]["values"], strict=True)) > 10  # fmt: skip
        page.keyboard.press("Space")
        visit.until("document.querySelectorAll('.packet.off').length === 0")
        assert line.get_attribute("d") == whole
        visit.calm()
        visit.open(site.paths["plate"])
        assert page.locator("#drawing-fit .wide ellipse").count() == page.locator("tbody tr").count()
        page.locator("tbody input").first.uncheck()
        visit.until("document.querySelectorAll('#drawing-fit .wide .packet.off').length === 1")
        visit.calm()
    with Visit(browser, site.address, script=False) as visit:
        visit.open(site.paths["line"])
        assert visit.page.locator("tbody input").count() == 0


# --- who may send forms -----------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(site: Site) -> Iterator[str]:
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


def test_a_form_of_another_site_changes_nothing(browser: Any, site: Site, elsewhere: str) -> None:
    port = elsewhere.partition(":")[2]
    form = (
        f'<form method="post" action="{site.address}/notes"><input name="text" value="x"><button>Send</button></form>'
    )
    sources = (f"http://{elsewhere}/", f"http://localhost:{port}/", f"data:text/html,{quote(form)}")
    _, before = site.served.request("GET", "/insights?limit=200")
    for source in sources:
        with Visit(browser, site.address) as visit:
            visit.page.goto(source)
            with visit.page.expect_navigation() as sent:
                visit.page.click("button")
            assert sent.value.status == 403, source
            assert json.loads(visit.page.locator("body").text_content())["code"] == "cross_site"
    # Nor can another site show the page within its own.
    with Visit(browser, site.address) as visit:
        visit.page.goto(f"http://{elsewhere}/")
        frame = f"f = document.createElement('iframe'), f.src = {site.address!r} + '/', document.body.append(f)"
        visit.page.evaluate(f"() => {{ let f; {frame}; }}")
        deadline = time.monotonic() + 60
        while not any("frame" in trouble for trouble in visit.troubles):
            assert time.monotonic() < deadline, visit.troubles
            visit.page.wait_for_timeout(20)
    assert site.served.request("GET", "/insights?limit=200")[1] == before


def test_a_token_is_asked_for_and_opens_everything(browser: Any, serve: Callable[..., Any]) -> None:
    served = serve(DREDGE_AUTH__TOKENS=json.dumps([TOKEN]))
    address = f"http://127.0.0.1:{served.port}"
    with Visit(browser, address, http_credentials={"username": "anyone", "password": TOKEN}) as visit:
        assert visit.open("/") == 200
        visit.page.fill("#text", "kept with a token")
        visit.follow(visit.page.locator("button.main"))
        assert visit.page.locator(".told").text_content() == "Kept."
        visit.open("/find")
        visit.page.fill("#q", "token")
        visit.until("document.querySelectorAll('#results mark').length > 0")
        visit.calm()
    with Visit(browser, address, http_credentials={"username": "anyone", "password": "another"}) as visit:
        assert visit.open("/") == 401
