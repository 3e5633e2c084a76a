"""Tables and pictures say what the evaluation says, whole and without colour."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from claimbench.findings import Evaluation, Finding, RowFinding
from claimbench.record import Record
from claimbench.tables import (
    VERDICTS,
    counts_line,
    machine_name,
    markdown_table,
    measured_words,
    number,
    packages_of,
    plain_table,
    summary_svg,
    terminal_table,
    text_width,
    verdict_words,
)
from claimbench.verdict import Verdict

SVG = "{http://www.w3.org/2000/svg}"
Judged = tuple[Evaluation, Record]


def _in_parts(*figures: tuple[float, float, float], unit: str = " MB") -> Finding:
    same = {"verdict": Verdict.REPRODUCED, "reason": "", "unit": unit, "band": "b"}
    rows = [
        RowFinding(label=f"{i}", estimate=at, low=low, high=high, **same) for i, (at, low, high) in enumerate(figures)
    ]
    texts = dict.fromkeys(("id", "title", "package", "published", "provenance", "note", "plain", "kind"), "")
    return Finding(**texts, **same, band_low=0, band_high=1, ours=False, estimate=figures[0][0], rows=rows)


def test_a_few_exact_parts_are_all_shown():
    exact = [(float(n), float(n), float(n)) for n in (192, 320, 192)]
    assert measured_words(_in_parts(*exact)) == "192 / 320 / 192 MB"
    assert measured_words(_in_parts(exact[0])) == "192 MB"
    assert measured_words(_in_parts(*exact, *exact)) == "192 MB"  # too many for a cell
    assert measured_words(_in_parts(exact[0], (320.0, 310.0, 330.0))) == "192 MB"  # one of them has an interval


def test_every_verdict_has_a_glyph_of_its_own():
    assert set(VERDICTS) == set(Verdict)
    assert len({word.glyph for word in VERDICTS.values()}) == len(Verdict)
    assert len({word.word for word in VERDICTS.values()}) == len(Verdict)


def test_the_synthetic_record_reaches_every_verdict(evaluated: Judged):
    assert {finding.verdict for finding in evaluated[0].findings} == set(Verdict)


@given(st.floats(min_value=1e-12, max_value=1e12), st.booleans())
def test_a_printed_number_reads_back_within_half_a_unit_of_its_third_digit(value: float, negative: bool):
    value = -value if negative else value
    text = number(value).replace(",", "")
    mantissa, _, power = text.partition("×10")
    exponent = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))) if power else 0
    assert float(mantissa) * 10.0**exponent == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (math.nan, "not a number"), (math.inf, "∞"), (-80.0, "-80"), (79.96, "80.0"), (1e-9, "1.00×10⁻⁹")],
)
def test_numbers_at_the_edges(value: float, text: str):
    assert number(value) == text


def test_the_plain_table_has_a_line_for_each_claim_with_its_verdict(evaluated: Judged):
    evaluation, _ = evaluated
    lines = plain_table(evaluation).splitlines()
    for finding in evaluation.findings:
        (line,) = [line for line in lines if line.startswith(f"{finding.id} ")]
        assert line.endswith(verdict_words(finding.verdict))
        assert finding.published in line
    assert counts_line(evaluation) in lines


def test_the_plain_table_warns(builder):
    rows = [builder.start(quick=True, processes=1), *builder.timed({"after": 0.2}, processes=1)]
    evaluation, _ = builder.evaluated(rows, garbage='{"kind": "samp')
    text = plain_table(evaluation)
    assert text.count("warning: ") == 3
    assert "no winner is declared" in text
    assert "did not come to its end" in text
    assert "could not be read" in text


@pytest.mark.parametrize("width", [100, 160])
def test_the_terminal_table_never_cuts_an_id_or_a_verdict(evaluated: Judged, width: int):
    console = Console(width=width, record=True, file=None, quiet=False, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(terminal_table(evaluated[0]))
    text = capture.get()
    for finding in evaluated[0].findings:
        (line,) = [line for line in text.splitlines() if line.startswith(f"{finding.id} ")]
        assert verdict_words(finding.verdict) in line
    assert max(map(len, text.splitlines())) <= width


def test_markdown_has_the_same_cells_in_every_row_and_escapes_bars(evaluated: Judged):
    evaluation, _ = evaluated
    first = evaluation.findings[0].model_copy(update={"plain": "a | b\nc"})
    changed = evaluation.model_copy(update={"findings": [first, *evaluation.findings[1:]]})
    table = [line for line in markdown_table(changed).splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(evaluation.findings)
    assert {line.replace(r"\|", "").count("|") for line in table} == {8}
    assert r"a \| b c" in table[2]


def test_markdown_of_one_package_says_where_it_was_measured(evaluated: Judged):
    text = markdown_table(evaluated[0], "resu")
    assert "`resu.memory`" in text
    assert "boolean" not in text
    assert "Measured 2026-03-04 on cpu · Imaginary CPU 9000, 5 processes, commit ffffffffffff." in text


def test_machine_name_prefers_the_gpu_on_a_gpu(builder):
    from claimbench.record import Environment

    facts = {"cpu": {"name": "Some CPU"}, "cuda": [{"name": "Some GPU"}]}
    rows = [builder.start(device="cuda"), Environment(where="parent", facts=facts)]
    assert machine_name(builder.evaluated(rows)[0]) == "cuda · Some GPU"
    assert machine_name(builder.evaluated([builder.start()], name="bare")[0]) == "cpu"


def _pictures(root: ElementTree.Element) -> dict[str, tuple[list[ElementTree.Element], list[ElementTree.Element]]]:
    """Bands and marks by the claim whose row they are in."""
    rows = {float(t.get("y", 0)): t.text for t in root.iter(f"{SVG}text") if t.get("x") == "8" and t.text != "claim"}

    def row_of(y: float) -> str:
        return str(rows[min(rows, key=lambda other: abs(other - y))])

    found: dict[str, tuple[list[ElementTree.Element], list[ElementTree.Element]]] = {
        str(name): ([], []) for name in rows.values()
    }
    for rect in root.iter(f"{SVG}rect"):
        found[row_of(float(rect.get("y", 0)) + float(rect.get("height", 0)) / 2)][0].append(rect)
    for path in root.iter(f"{SVG}path"):
        if path.get("class") == "cb-p":
            words = path.get("d", "").replace("M", " ").replace("L", " ").replace("Z", "").split()
            found[row_of(sum(map(float, words[1::2])) / len(words[1::2]))][1].append(path)
    return found


def test_the_picture_sets_each_estimate_against_its_band(evaluated: Judged):
    evaluation, _ = evaluated
    root = ElementTree.fromstring(summary_svg(evaluation, "boolean_nca_cc"))
    pictures = _pictures(root)
    findings = {f.id: f for f in evaluation.findings if f.package == "boolean_nca_cc"}
    assert set(pictures) == set(findings)

    # The plot is 360 wide and shows three half widths to each side: the band is its middle third.
    (band,), (mark,) = pictures["boolean.reproduced"]
    assert (float(band.get("x", 0)), float(band.get("width", 0))) == pytest.approx((120.0, 120.0))
    estimate = findings["boolean.reproduced"].estimate
    assert estimate is not None
    left = float(mark.get("d", "")[1:].split()[0])
    assert left + 5 == pytest.approx(180 + 60 * (estimate - 80) / 10, abs=0.06)

    # 80 % against a band of 20 to 30 % is eleven half widths away: an arrow with its tip at the right edge.
    _, (arrow,) = pictures["boolean.exceeded"]
    assert "L360.0 " in arrow.get("d", "")
    # What was not measured has its band, and no mark.
    assert pictures["boolean.hardware"][1] == []
    assert len(pictures["boolean.hardware"][0]) == 1


@pytest.mark.parametrize(
    ("name", "published"), [("short", "2×"), ("x.worst_of_all." + "wm" * 20, "WM" * 22), ("m.m", "no change, " * 9)]
)
def test_no_text_of_the_picture_reaches_past_its_column(evaluated: Judged, name: str, published: str):
    evaluation, _ = evaluated
    first = evaluation.findings[0].model_copy(update={"id": name, "published": published})
    changed = evaluation.model_copy(update={"findings": [first, *evaluation.findings[1:]]})
    root = ElementTree.fromstring(summary_svg(changed, "boolean_nca_cc"))
    texts = [(float(text.get("x", 0)), text.text or "") for text in root.iter(f"{SVG}text")]
    assert name in [text for _, text in texts]
    columns = [*sorted({x for x, _ in texts}), float(root.get("viewBox", "").split()[2])]
    assert len(columns) == 4
    for x, text in texts:
        assert x + text_width(text) <= columns[columns.index(x) + 1], text


def test_the_picture_can_be_read_without_eyes(evaluated: Judged):
    root = ElementTree.fromstring(summary_svg(evaluated[0], "boolean_nca_cc"))
    assert root.get("role") == "img"
    description = root.findtext(f"{SVG}desc") or ""
    for finding in evaluated[0].findings:
        if finding.package == "boolean_nca_cc":
            assert f"{finding.id}: " in description
            assert VERDICTS[finding.verdict].word in description


def test_packages_keep_their_order(evaluated: Judged):
    assert packages_of([evaluated[0]]) == ["boolean_nca_cc", "resu"]
