"""Signals in a real browser: fitted, drawn, and their packets left out."""

import math
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser
Visiting = Callable[..., Any]
DESK, PHONE = 1280, 390
SCALE = "chart => chart.getBoundingClientRect().width / chart.viewBox.baseVal.width"
BOX = "chart => (box => [box.left, box.top, box.right, box.bottom])(chart.getBoundingClientRect())"
TEXT_BOXES = """chart => [...chart.querySelectorAll('text')].map(text => text.getBoundingClientRect())
  .map(box => [box.left, box.top, box.right, box.bottom])"""


def chirp() -> list[tuple[float, float]]:
    """The published signal: 1000 samples of sin(x² / 2) exp(−x² / 10), and half a sin(20 x) on fifty of them."""
    places = [-10 + 20 * n / 999 for n in range(1000)]
    glitch = [0.5 * math.sin(20 * x) if 500 <= n < 550 else 0.0 for n, x in enumerate(places)]
    return [(x, math.sin(x * x / 2) * math.exp(-x * x / 10) + extra) for x, extra in zip(places, glitch, strict=True)]


@pytest.mark.needs_extra("torch")
@pytest.mark.parametrize(("width", "script"), [(DESK, True), (PHONE, False)])
def test_a_signal_is_pasted_fitted_and_drawn(visiting: Visiting, site: Any, width: int, script: bool) -> None:
    with visiting(site.address, width=width, script=script) as visit:
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


@pytest.mark.parametrize("width", [DESK, 360])
@pytest.mark.parametrize("name", ["line", "plate"])
def test_no_label_of_a_drawing_is_cut_off_or_on_another(visiting: Visiting, site: Any, width: int, name: str) -> None:
    with visiting(site.address, width=width) as visit:
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


def test_packets_are_left_out_and_taken_in_again(visiting: Visiting, site: Any) -> None:
    told = site.served.request("GET", f"/insights/{site.ids['line']}")[1]["signal"]
    with visiting(site.address) as visit:
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
        assert page.locator("#status").text_content() == "1 of 2 packets are shown."
        visit.calm()
        # Without the numbers the line stays, and it is said.
        visit.open(site.paths["line"])
        visit.context.set_offline(True)
        boxes.nth(0).uncheck()
        visit.until("document.getElementById('status').textContent.startsWith('The line was not drawn anew')")
        assert line.get_attribute("d") == whole
    with visiting(site.address, script=False) as visit:
        visit.open(site.paths["line"])
        assert visit.page.locator("tbody input").count() == 0


def test_a_form_that_is_shown_again_can_be_sent_again(visiting: Visiting, site: Any) -> None:
    with visiting(site.address) as visit:
        visit.open("/signals")
        idle = visit.page.locator(".actions .hint").text_content()
        # An event of a script sends nothing.
        visit.page.evaluate("document.querySelector('form.lift').dispatchEvent(new Event('submit'))")
        visit.until("document.querySelector('button.main').disabled")
        assert "Fitting" in visit.page.locator(".actions .hint").text_content()
        visit.page.evaluate("dispatchEvent(new Event('pageshow'))")
        assert visit.page.locator("button.main").is_enabled()
        assert visit.page.locator(".actions .hint").text_content() == idle
        visit.calm()
