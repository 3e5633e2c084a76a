"""The report in a real browser, with the network off, at the width of a desk and of a phone."""

from __future__ import annotations

import os
import shutil
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from claimbench.report import write_report
from claimbench.tables import VERDICTS, summary_svg, text_width

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
ALL_DRAWN = "[...document.querySelectorAll('.chart')].every(chart => chart.dataset.drawn && chart.querySelector('svg'))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def reports(evaluated: Any, shared_builder: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of one machine, and one of two."""
    evaluation, record = evaluated
    folder = tmp_path_factory.mktemp("reports")
    ledger = shared_builder.ledger()
    quick = [shared_builder.start(quick=True, processes=1), *shared_builder.timed({"after": 0.2}, processes=1)]
    second, other = shared_builder.evaluated(quick, name="quick")
    return {
        "one": write_report([evaluation], [record], folder / "one.html", ledger),
        "two": write_report([evaluation, second], [record, other], folder / "two.html", ledger),
    }


class Visit:
    """A page, and everything that went wrong or over the wire while it was open."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.troubles.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def until(self, expression: str, seconds: float = 20.0) -> None:
        """Wait until a condition holds. The browser's own waiting is code in a string, which the page forbids."""
        last = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < last, f"never came true: {expression}"
            self.page.wait_for_timeout(30)

    def draw(self, within: str = "main") -> None:
        """Scroll to each chart, as a reader would, and wait until it is there."""
        for figure in self.page.locator(f"{within} figure.distribution").all():
            figure.evaluate("figure => figure.scrollIntoView({behavior: 'instant'})")
            last = time.monotonic() + 20
            while not figure.evaluate("figure => figure.querySelector('.chart').dataset.drawn === 'yes'"):
                assert time.monotonic() < last, "a chart was never drawn"
                self.page.wait_for_timeout(20)

    def shown(self, selector: str) -> int:
        """How many elements of a selector can be seen."""
        visible = "selector => [...document.querySelectorAll(selector)].filter(e => e.checkVisibility()).length"
        return int(self.page.evaluate(visible, selector))


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("one", 1280, "light"), ("one", 360, "dark"), ("two", 1280, "dark"), ("two", 360, "light")],
)
def test_it_opens_offline_without_a_murmur(browser, reports, evaluated, name: str, width: int, scheme: str):
    with Visit(browser, reports[name], viewport={"width": width, "height": 900}, color_scheme=scheme) as visit:
        visit.draw()
        assert visit.troubles == []
        assert visit.requests == [reports[name].as_uri()]
        for finding in evaluated[0].findings:
            assert visit.shown(f"#verdicts a[href='#{finding.id}']") == 1
            assert visit.shown(f"section[id='{finding.id}'] h3") == 1
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_chart_draws_every_process_and_the_shaded_bands(browser, reports):
    with Visit(browser, reports["one"], viewport={"width": 1280, "height": 900}) as visit:
        visit.draw("section[id='boolean.reproduced']")
        chart = visit.page.locator("section[id='boolean.reproduced'] .chart")
        names = chart.evaluate("element => element.data.map(trace => trace.name)")
        assert names == [*(f"process {p}" for p in range(1, 6)), "median of a process", "estimate, 99 % interval"]
        # Three rows of forty pairs in each process; the published band is 70 to 90 %.
        assert chart.evaluate("element => element.data[0].x.length") == 120
        shapes = chart.evaluate("element => element.layout.shapes.map(shape => [shape.x0, shape.x1])")
        assert [70, 90] in shapes
        assert [0, 0] in shapes
        assert chart.locator(".shapelayer path").count() == len(shapes) == 3


def test_charts_are_drawn_only_when_they_come_near(browser, reports):
    with Visit(browser, reports["one"], viewport={"width": 1280, "height": 700}) as visit:
        visit.page.wait_for_timeout(300)
        assert visit.page.locator(".chart").count() == 7
        assert visit.page.locator(".chart[data-drawn]").count() < 7


def test_a_narrow_window_redraws_its_charts(browser, reports):
    with Visit(browser, reports["one"], viewport={"width": 1280, "height": 900}) as visit:
        visit.draw("section[id='boolean.partly']")
        visit.page.set_viewport_size({"width": 360, "height": 900})
        visit.until(
            "[...document.querySelectorAll('.chart .main-svg')].every(svg => svg.getBoundingClientRect().width < 360)"
        )
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("javascript", [True, False])
def test_the_filter_needs_no_script(browser, reports, evaluated, javascript: bool):
    with Visit(
        browser, reports["one"], viewport={"width": 1280, "height": 900}, java_script_enabled=javascript
    ) as visit:
        rows = "#verdicts tbody[data-verdict]"
        total = len(evaluated[0].findings)
        assert visit.shown(rows) == total
        visit.page.locator("#show-incorrect").check()
        assert visit.shown(rows) == evaluated[0].counts()["incorrect"] == 2
        assert visit.shown("section.claim") == 2
        visit.page.locator("#show-all").check()
        assert visit.shown(rows) == total


def test_the_keyboard_reaches_everything(browser, reports):
    with Visit(browser, reports["one"], viewport={"width": 1280, "height": 900}) as visit:
        focused = "document.activeElement.id || document.activeElement.className"
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate(focused) == "skip"
        box = visit.page.locator(".skip").bounding_box()
        assert box["x"] >= 0
        assert visit.page.evaluate(outline) == "solid"
        visit.page.keyboard.press("Enter")
        assert visit.page.evaluate(focused) == "verdicts"
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate(focused) == "show-all"
        visit.page.keyboard.press("ArrowRight")
        assert visit.page.evaluate(focused) == "show-reproduced"
        assert visit.shown("#verdicts tbody[data-verdict]") == 3
        label = "getComputedStyle(document.querySelector('label[for=show-reproduced]')).outlineStyle"
        assert visit.page.evaluate(label) == "solid"
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.getAttribute('href')") == "#boolean.reproduced"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_shows_everything(browser, reports, evaluated, scheme: str):
    with Visit(browser, reports["one"], viewport={"width": 1280, "height": 900}, color_scheme=scheme) as visit:
        visit.page.locator("#show-incorrect").check()
        visit.page.emulate_media(media="print", color_scheme=scheme)
        visit.until(ALL_DRAWN)
        assert visit.page.locator("details:not([open])").count() == 0
        for finding in evaluated[0].findings:
            assert visit.shown(f"section[id='{finding.id}'] h3") == 1
        assert visit.shown("table.numbers") == 7
        # Ink on white, whatever the screen looked like; luminance of dark ink is below that of mid grey.
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        ink = visit.page.evaluate("getComputedStyle(document.body).color")
        assert sum(int(part) for part in ink[4:-1].split(",")) < 3 * 100
        text = visit.page.locator(".chart .xtick text").first.evaluate("element => getComputedStyle(element).fill")
        assert sum(int(part) for part in text[4:-1].split(",")) < 3 * 100
        visit.page.emulate_media(media="screen", color_scheme=scheme)
        visit.until("document.querySelectorAll('details[open]').length === 0")
        assert visit.troubles == []


def _luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.1)."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


COLOURS = """(selector) => [...document.querySelectorAll(selector)].map((element) => {
  let ground = element;
  while (getComputedStyle(ground).backgroundColor.endsWith(', 0)')) ground = ground.parentElement;
  return [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor, element.textContent];
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, reports, scheme: str):
    selectors = (
        ".badge",
        "p",
        "dt",
        "dd",
        "caption",
        "th",
        "td",
        ".choice label",
        "summary",
        "figcaption",
        "#verdicts a",
    )
    with Visit(browser, reports["two"], viewport={"width": 1280, "height": 900}, color_scheme=scheme) as visit:
        for selector in selectors:
            found = visit.page.evaluate(COLOURS, selector)
            assert found, selector
            for ink, ground, text in found:
                light, dark = sorted((_luminance(ink), _luminance(ground)), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (selector, text)


def test_texts_of_the_picture_are_no_wider_than_they_were_taken_for(browser, evaluated, tmp_path):
    evaluation, _ = evaluated
    drawn = (
        string.digits + string.ascii_letters + string.punctuation + "".join(word.glyph for word in VERDICTS.values())
    )
    findings = [
        evaluation.findings[0].model_copy(update={"id": character, "published": 30 * character}) for character in drawn
    ]
    picture = tmp_path / "picture.svg"
    changed = evaluation.model_copy(update={"findings": findings})
    picture.write_text(summary_svg(changed, evaluation.findings[0].package), encoding="utf-8")
    with Visit(browser, picture) as visit:
        width = visit.page.evaluate("document.documentElement.viewBox.baseVal.width")
        texts = visit.page.evaluate(
            "[...document.querySelectorAll('text')].map(text =>"
            " [text.textContent, text.x.baseVal[0].value, text.getComputedTextLength()])"
        )
        assert len(texts) == 3 + 2 * len(drawn)
        for text, x, length in texts:
            assert 0 < length <= text_width(text), text
            assert x + length < width, text


def test_tables_wider_than_a_phone_scroll_in_their_own_box(browser, reports):
    with Visit(browser, reports["one"], viewport={"width": 360, "height": 900}) as visit:
        boxes = visit.page.evaluate(
            "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth)"
            ".map(box => [getComputedStyle(box).overflowX, box.tabIndex])"
        )
        assert boxes
        assert all(box == ["auto", 0] for box in boxes)
