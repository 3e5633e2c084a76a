"""The report is one whole, harmless and readable file, and its numbers are those of the record."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claimbench.errors import RecordError
from claimbench.evaluate import evaluate
from claimbench.findings import Evaluation, Finding, RowFinding
from claimbench.record import Cost, Probe, Record, Samples
from claimbench.report import render_report, write_report
from claimbench.report.charts import chart_of, points_a_process, thin
from claimbench.report.roofline import peak, roofs
from claimbench.report.view import DEFAULT_PROCESSES, page_of
from claimbench.run import PROCESSES
from claimbench.tables import VERDICTS
from claimbench.verdict import Verdict

Judged = tuple[Evaluation, Record]


class Outline(HTMLParser):
    """Every element with its attributes, the text of scripts, and whether elements are closed in order."""

    VOID: ClassVar = {"meta", "link", "input", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((attributes, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def html(evaluated: Judged, shared_builder) -> str:
    evaluation, record = evaluated
    return render_report([evaluation], [record], shared_builder.ledger())


@pytest.fixture(scope="module")
def outline(html: str) -> Outline:
    return Outline(html)


def test_elements_are_closed_and_ids_are_unique(outline: Outline):
    assert outline.open == []
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched(html: str, outline: Outline):
    for tag, attributes in outline.elements:
        assert "src" not in attributes, tag
        assert attributes.get("href", "#").startswith(("#", "data:")), tag
    style = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    assert "@import" not in style
    assert "url(" not in style
    (policy,) = [m["content"] for m in outline.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_plotly_is_there_once(outline: Outline):
    large = [text for attributes, text in outline.scripts if len(text) > 1e6]
    assert len(large) == 1
    assert "plotly.js v" in large[0][:2000]


def test_the_page_can_be_walked_without_eyes(outline: Outline):
    assert outline.of("html")[0]["lang"] == "en"
    assert len(outline.of("h1")) == 1
    assert outline.of("th")
    assert all(th.get("scope") in {"col", "row"} for th in outline.of("th"))
    assert len(outline.of("caption")) == len(outline.of("table"))
    ids = {attributes["id"] for _, attributes in outline.elements if "id" in attributes}
    targets = [a["href"][1:] for a in outline.of("a")] + [label["for"] for label in outline.of("label")]
    targets += [a["aria-labelledby"] for _, a in outline.elements if "aria-labelledby" in a]
    assert set(targets) <= ids
    for _, attributes in outline.elements:
        if attributes.get("role") == "region" or "chart" in attributes.get("class", "").split():
            assert attributes["aria-label"]


def test_every_claim_has_a_row_and_a_section_with_its_verdict(outline: Outline, evaluated: Judged):
    rows = [attributes["data-verdict"] for attributes in outline.of("tbody") if "data-verdict" in attributes]
    sections = {a["id"]: a["data-verdict"] for a in outline.of("section") if "data-verdict" in a}
    findings = evaluated[0].findings
    assert rows == [finding.verdict.value for finding in findings]
    assert sections == {finding.id: finding.verdict.value for finding in findings}


def test_counts_and_words_of_the_filter(outline: Outline, evaluated: Judged):
    text = " ".join(" ".join(outline.words).split())
    for verdict, count in evaluated[0].counts().items():
        word = VERDICTS[Verdict(verdict)]
        assert f"{word.glyph} {word.word} {count}" in text


def test_text_from_a_record_stays_text(html: str):
    assert "no <b>such</b> size" not in html
    assert "no &lt;b&gt;such&lt;/b&gt; size" in html


def test_charts_carry_plain_json_of_the_record(outline: Outline, evaluated: Judged):
    charts = [json.loads(text) for attributes, text in outline.scripts if attributes.get("type") == "application/json"]
    timed = [finding for finding in evaluated[0].findings if any(row.pairs for row in finding.rows)]
    assert len(charts) == len(timed) > 0
    for chart, finding in zip(charts, timed, strict=True):
        assert [row["label"] for row in chart["rows"]] == [row.label or "all" for row in finding.rows]
        assert chart["view"][0] < min(row["low"] for row in chart["rows"])
        assert chart["view"][1] > max(row["high"] for row in chart["rows"])


def test_the_numbers_behind_a_chart_are_the_pairs_of_the_record(evaluated: Judged, shared_builder):
    evaluation, record = evaluated
    page = page_of([evaluation], [record], shared_builder.ledger())
    (view,) = [claim for claim in page.claims if claim.id == "boolean.reproduced"]
    shown = {(point, row.process): row for point, rows in view.shown[0].processes for row in rows}
    samples = [s for s in record.of(Samples) if s.case == "boolean.update"]
    assert len(shown) == len(samples) == 15
    for sample in samples:
        series = sample.clocks["process"]
        figures = 100 * (1 - np.array(series["after"]) / np.array(series["before"]))
        row = shown[f"size={sample.params['size']}", sample.process + 1]
        assert row.pairs == 40
        assert float(row.median) == pytest.approx(np.median(figures), abs=0.051)
        assert float(row.low) == pytest.approx(np.quantile(figures, 0.05), abs=0.051)
        assert float(row.high) == pytest.approx(np.quantile(figures, 0.95), abs=0.051)


def test_the_roofline_is_bytes_over_speed_over_time(evaluated: Judged):
    found = roofs(evaluated[1])
    assert len(found) == 6
    # 500,000 bytes at 12.5 GB/s take 40,000 ns; 100,000 operations at 81 Gflop/s take 1,235 ns.
    for roof in found:
        assert roof.bound == "memory"
        assert roof.least_ns == pytest.approx(40_000)
        size = roof.point.removeprefix("size=")
        times = [
            value
            for sample in evaluated[1].of(Samples)
            if sample.case == "boolean.update" and sample.params["size"] == size
            for value in sample.clocks["wall"][roof.variant]
        ]
        assert roof.share == pytest.approx(40_000 / np.median(times))


def test_a_variant_bound_by_arithmetic_says_so(builder):
    rows = [builder.start(), *builder.timed({"after": 1.0}, noise=0), Probe(name="copy", value=1e12, unit="B/s"),
            Probe(name="matmul", value=2.0, unit="GFLOP/s"),
            Cost(case="boolean.update", params={}, variant="after", bytes=8.0, flops=1e6)]  # fmt: skip
    (roof,) = roofs(builder.write(rows))
    # 1e6 operations at 2e9 a second are 500,000 ns of the call's 1,000,000.
    assert (roof.bound, roof.share) == ("arithmetic", pytest.approx(0.5))


def test_a_probe_without_a_known_unit_gives_no_roof(builder):
    assert peak([Probe(name="copy", value=3.0, unit="furlongs")], "copy") is None
    rows = [builder.start(), *builder.timed({"after": 1.0}), Probe(name="copy", value=3.0, unit="furlongs"),
            Cost(case="boolean.update", params={}, variant="after", bytes=8.0)]  # fmt: skip
    assert roofs(builder.write(rows)) == []


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(2, 50))
def test_thinning_keeps_measured_values_and_both_extremes(values: list[float], most: int):
    kept = thin(values, most)
    assert len(kept) == min(len(values), most)
    assert kept == sorted(kept)
    assert set(kept) <= set(values)
    if values:
        assert (kept[0], kept[-1]) == (min(values), max(values))


def _finding(pairs: list[list[float]], **changes: object) -> Finding:
    row = RowFinding(label="n=1", estimate=2.0, low=1.9, high=2.1, verdict=Verdict.REPRODUCED, reason="", pairs=pairs)
    fields = {
        "id": "boolean.x", "title": "x", "package": "boolean_nca_cc", "published": "2×", "unit": "×",
        "band": "at least 1.5×", "band_low": 1.5, "band_high": float("inf"), "provenance": "measured", "note": "",
        "plain": "x", "kind": "ratio", "ours": False, "verdict": Verdict.REPRODUCED, "reason": "", "rows": [row],
        "floor": 0.02, "transform": "speedup", "clock": "process", "estimate": 2.0, "low": 1.9, "high": 2.1,
    }  # fmt: skip
    return Finding.model_validate({**fields, **changes})


def test_a_chart_counts_what_lies_beyond_its_edges():
    pairs = [[2.0 + 0.001 * i for i in range(100)] + [50.0]]
    chart = chart_of(_finding(pairs), 20)
    assert chart is not None
    low, high = chart["view"]
    assert (chart["beyond"], chart["pairs"], chart["drawn"]) == (1, 101, 20)
    assert low < 1.0 < 1.5 < 2.1 < high < 50  # "no difference", the band, the interval
    assert chart["band"] == [1.5, None]
    assert chart["floor"] == pytest.approx([1 / 1.02, 1.02], rel=1e-4)


def test_no_pairs_no_chart():
    assert chart_of(_finding([]), 20) is None


def test_an_open_band_and_a_plain_value_have_nothing_shaded():
    chart = chart_of(_finding([[2.0, 2.0]], band_low=float("-inf"), transform="value", floor=0.0), 20)
    assert chart is not None
    assert (chart["band"], chart["floor"], chart["nothing"]) == (None, None, None)


def test_a_report_of_the_whole_ledger_stays_near_six_megabytes(evaluated: Judged, shared_builder, tmp_path: Path):
    evaluation, record = evaluated
    generator = np.random.default_rng(0)
    row = evaluation.findings[0].rows[0]
    findings = []
    for index in range(143):
        rows = [
            row.model_copy(update={"label": f"size=s{r}", "pairs": generator.normal(80, 1, (7, 200)).tolist()})
            for r in range(3)
        ]
        findings.append(evaluation.findings[0].model_copy(update={"id": f"boolean.many{index}", "rows": rows}))
    many = evaluation.model_copy(update={"findings": findings})
    path = write_report([many], [record], tmp_path / "many.html", shared_builder.ledger())
    assert path.stat().st_size <= 6_400_000


@pytest.mark.parametrize(("series", "points"), [(1, 60), (1_000, 60), (2_000, 30), (100_000, 8)])
def test_the_more_is_drawn_the_fewer_points_each_process_gets(series: int, points: int):
    assert points_a_process([_finding([[2.0]] * series)]) == points


def test_several_machines_stand_side_by_side(evaluated: Judged, builder):
    evaluation, record = evaluated
    rows = [builder.start(quick=True, processes=1, dirty=True), *builder.timed({"after": 0.2}, processes=1)]
    other = builder.write(rows, garbage="garbage")
    second = evaluate(other, builder.ledger()[:2])
    text = Outline(render_report([evaluation, second], [record, other], builder.ledger()))
    words = " ".join(" ".join(text.words).split())
    assert "Verdict, A" in words
    assert "Verdict, B" in words
    assert words.count("not in this record") == len(evaluation.findings) - 2
    assert "Read with care (machine B)" in words
    assert "with uncommitted changes" in words
    verdicts = {a["id"]: a["data-verdict"] for a in text.of("section") if "data-verdict" in a}
    assert verdicts["boolean.reproduced"] == "reproduced inconclusive"


def test_each_evaluation_needs_its_record(evaluated: Judged):
    with pytest.raises(RecordError, match="got 1 evaluations and 0 records"):
        render_report([evaluated[0]], [])


def test_a_report_is_written_whole(evaluated: Judged, shared_builder, tmp_path: Path):
    path = write_report([evaluated[0]], [evaluated[1]], tmp_path / "report.html", shared_builder.ledger())
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_default_processes_are_those_of_a_run():
    assert DEFAULT_PROCESSES == PROCESSES


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"claims": ["boolean.partly"]}, "claimbench run boolean.partly --device cpu --seed 0"),
        (
            {"claims": ["boolean.partly"], "quick": True, "seed": 3},
            "claimbench run boolean.partly --device cpu --quick --seed 3",
        ),
        (
            {"claims": "normal", "processes": 11},
            "claimbench run --package boolean_nca_cc --device cpu --careful --seed 0",
        ),
        ({"claims": "all"}, "claimbench run --package boolean_nca_cc --long --device cpu --seed 0"),
    ],
)
def test_the_command_that_repeats_a_run(builder, changes: dict[str, object], command: str):
    own = [claim for claim in builder.ledger() if claim.package == "boolean_nca_cc"]
    names = {"all": own, "normal": [claim for claim in own if claim.duration != "long"]}
    asked = changes["claims"]
    claims = [claim.id for claim in names[asked]] if isinstance(asked, str) else asked
    evaluation, record = builder.evaluated([builder.start(**{**changes, "claims": claims})])
    assert page_of([evaluation], [record], builder.ledger()).machines[0].command == command


def test_ids_that_share_a_beginning_are_asked_for_by_it(builder):
    band = builder.ledger()[0].band
    ledger = [builder.claim(f"boolean.{name}", band) for name in ("a.x", "a.y", "b.x", "b.y", "c")]
    evaluation, record = builder.evaluated([builder.start(claims=["boolean.a.x", "boolean.a.y", "boolean.b.x"])])
    command = page_of([evaluation], [record], ledger).machines[0].command
    assert command == "claimbench run boolean.a boolean.b.x --device cpu --seed 0"


def test_failures_of_no_case_are_shown(builder):
    from claimbench.record import Failure

    rows = [builder.start(), Failure(stage="import", reason="resu is not installed here")]
    evaluation, record = builder.evaluated(rows)
    words = " ".join(Outline(render_report([evaluation], [record], builder.ledger())).words)
    assert "Outside every known claim" in words
    assert "resu is not installed here" in words
