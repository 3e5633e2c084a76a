"""Verdicts as tables (terminal, plain text, Markdown) and as one picture a package, all made from an evaluation.

Nothing here needs more than the standard library, except `terminal_table`, which needs rich and is asked for only
where rich is there.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from claimbench.findings import Evaluation, Finding
from claimbench.verdict import Verdict

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "VERDICTS",
    "VerdictWord",
    "counts_line",
    "floor_words",
    "interval_words",
    "machine_name",
    "markdown_table",
    "measured_words",
    "number",
    "packages_of",
    "plain_table",
    "span_words",
    "summary_svg",
    "terminal_table",
    "text_width",
    "verdict_words",
]

NOTHING = "–"
FEW_PARTS = 4  # as many figures as fit a cell


class VerdictWord(NamedTuple):
    """How a verdict is written.

    Attributes:
        glyph: One character, so that no verdict rests on colour.
        word: The verdict in words.
        meaning: What it says, in one line for a legend.
        tone: Name of its colour: good, middle, bad or quiet.
    """

    glyph: str
    word: str
    meaning: str
    tone: str


VERDICTS: dict[Verdict, VerdictWord] = {
    Verdict.REPRODUCED: VerdictWord("✓", "reproduced", "the whole interval lies inside the published band", "good"),
    Verdict.EXCEEDED: VerdictWord("▲", "exceeded", "the whole interval is better than the published band", "good"),
    Verdict.PARTLY: VerdictWord("◐", "partly", "some rows of the grid, or one reading, hold", "middle"),
    Verdict.NOT_REPRODUCED: VerdictWord("✗", "not reproduced", "the whole interval lies outside the band", "bad"),
    Verdict.INCONCLUSIVE: VerdictWord("?", "inconclusive", "the measurement cannot tell", "middle"),
    Verdict.INCORRECT: VerdictWord(
        "‼", "incorrect", "a variant computes something else, or is no faithful copy", "bad"
    ),
    Verdict.STATED: VerdictWord("§", "stated", "a statement, not a measurement; a test answers it", "quiet"),
    Verdict.HARDWARE_MISSING: VerdictWord("○", "hardware missing", "needs a device that is not here", "quiet"),
    Verdict.NOT_RUN_HERE: VerdictWord("·", "not run here", "this record holds no measurement of it", "quiet"),
    Verdict.ERROR: VerdictWord("!", "error", "something failed before there was a figure", "bad"),
}
"""Glyph, word, meaning and tone of each verdict, in the order of the tables."""

_RICH_STYLES = {"good": "green", "middle": "yellow", "bad": "red", "quiet": "dim"}


def verdict_words(verdict: Verdict) -> str:
    """A verdict with its glyph.

    Example:
        >>> verdict_words(Verdict.NOT_REPRODUCED)
        '✗ not reproduced'
    """
    return f"{VERDICTS[verdict].glyph} {VERDICTS[verdict].word}"


def number(value: float, digits: int = 3) -> str:
    """A number with few significant digits, never in a form that a reader has to decode.

    Args:
        value: Any number.
        digits: Significant digits of a number that is not whole; whole numbers below ten million are printed whole.

    Returns:
        The number; large ones with groups of thousands, infinities as ∞.

    Example:
        >>> number(0.01234), number(60.34), number(42.0), number(12345678.9), number(2e-7), number(-math.inf)
        ('0.0123', '60.3', '42', '12,300,000', '2.00×10⁻⁷', '-∞')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == int(value) and abs(value) < 1e7:
        return f"{value:,.0f}"
    size = math.floor(math.log10(abs(value)))
    if size < -4:
        power = str(size).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{value / 10.0**size:.{digits - 1}f}×10{power}"
    places = digits - 1 - size
    return f"{round(value, places):,.{max(0, places)}f}"


def measured_words(finding: Finding) -> str:
    """The estimate with its unit, or a dash; of a claim with a few exact parts all of them, in their order.

    Example:
        >>> from claimbench.verdict import Verdict
        >>> blank = Finding(id="a.b", title="", package="", published="", unit=" %", band="", band_low=0, band_high=1,
        ...     provenance="", note="", plain="", kind="", ours=False, verdict=Verdict.REPRODUCED, reason="")
        >>> measured_words(blank), measured_words(blank.model_copy(update={"estimate": 0.5}))
        ('–', '0.500 %')
    """
    if finding.estimate is None:
        return NOTHING
    rows = finding.rows
    few = 1 < len(rows) <= FEW_PARTS and len({row.unit for row in rows}) == 1
    if few and all(row.band and row.low == row.high for row in rows):
        return f"{' / '.join(number(row.estimate) for row in rows)}{rows[0].unit}"
    return f"{number(finding.estimate)}{finding.unit}"


def span_words(low: float, high: float, unit: str = "") -> str:
    """Two ends with their unit; ends that are equal say so.

    Example:
        >>> span_words(1.5, 2.25, "×"), span_words(4.0, 4.0)
        ('1.50 to 2.25×', 'no spread')
    """
    return "no spread" if low == high else f"{number(low)} to {number(high)}{unit}"


def interval_words(finding: Finding) -> str:
    """The 99 % interval, the range of a counted figure, or a dash."""
    if finding.low is None or finding.high is None:
        return NOTHING
    return span_words(finding.low, finding.high, finding.unit)


def floor_words(finding: Finding) -> str:
    """How much identical code seemed to differ, or a dash where nothing was timed."""
    if finding.floor is None or not finding.clock:
        return NOTHING
    return f"{number(100 * finding.floor, 2)} %"


def counts_line(evaluation: Evaluation) -> str:
    """How many claims got each verdict, in one line."""
    counts = evaluation.counts()
    return " · ".join(f"{counts[v.value]} {verdict_words(v)}" for v in VERDICTS if v.value in counts) or "no claims"


def machine_name(evaluation: Evaluation) -> str:
    """What the run was made on, in a few words, from what its environment says of itself."""
    device = evaluation.start.device
    for environment in evaluation.environments:
        cuda = environment.facts.get("cuda") or [{}]
        found = cuda[0].get("name") if device == "cuda" else environment.facts.get("cpu", {}).get("name")
        if found:
            return f"{device} · {' '.join(str(found).split())}"
    return device


COLUMNS = ("claim", "published", "measured here", "99 % interval", "noise floor", "verdict")


def _cells(finding: Finding) -> tuple[str, ...]:
    return (
        finding.id,
        finding.published,
        measured_words(finding),
        interval_words(finding),
        floor_words(finding),
        verdict_words(finding.verdict),
    )


def _closing(evaluation: Evaluation) -> list[str]:
    lines = [counts_line(evaluation)]
    lines += [f"warning: {warning}" for warning in evaluation.warnings]
    if evaluation.missing:
        lines.append(f"{len(evaluation.missing)} figures of the notes have no claim yet; `claimbench list` names them")
    return lines


def plain_table(evaluation: Evaluation) -> str:
    """The verdicts as text of aligned columns, for logs and for terminals without rich.

    Args:
        evaluation: What was found.

    Returns:
        Header, one line a claim, the counts and the warnings.
    """
    rows = [COLUMNS, *(_cells(finding) for finding in evaluation.findings)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *_closing(evaluation)])


def terminal_table(evaluation: Evaluation) -> Table:
    """The verdicts as a rich table.

    Args:
        evaluation: What was found.

    Returns:
        A table for `rich.console.Console.print`; the counts and the warnings are its caption.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        caption=escape("\n".join(_closing(evaluation))), caption_justify="left", show_edge=False, pad_edge=False
    )
    for name in COLUMNS:
        numeric = name in {"measured here", "99 % interval", "noise floor"}
        # On a narrow terminal the interval gives way to a second line, the id and the verdict never.
        keep = name in {"claim", "verdict", "measured here"}
        table.add_column(name, justify="right" if numeric else "left", no_wrap=keep, overflow="fold")
    package = None
    for finding in evaluation.findings:
        if package not in (None, finding.package):
            table.add_section()
        package = finding.package
        *cells, verdict = _cells(finding)
        style = _RICH_STYLES[VERDICTS[finding.verdict].tone]
        table.add_row(*map(escape, cells), f"[{style}]{escape(verdict)}[/]")
    return table


def markdown_table(evaluation: Evaluation, package: str | None = None) -> str:
    """The verdicts as a Markdown table for a README.

    Args:
        evaluation: What was found.
        package: Import name of the one package to show, or None for all.

    Returns:
        The table, closed by a line that says where and when it was measured.
    """

    def cell(text: str) -> str:
        return " ".join(text.split()).replace("|", "\\|")

    header = ("Claim", "Published", "Measured here", "99 % interval", "Noise floor", "Verdict", "In plain words")
    lines = ["| " + " | ".join(header) + " |", "|---|---|--:|--:|--:|---|---|"]
    for finding in evaluation.findings:
        if package in (None, finding.package):
            name, *rest = _cells(finding)
            lines.append("| " + " | ".join([f"`{name}`", *map(cell, rest), cell(finding.plain)]) + " |")
    start = evaluation.start
    commit = f", commit {start.commit[:12]}" + (" with changes" if start.dirty else "") if start.commit else ""
    processes = f"{start.processes} process" + ("es" if start.processes != 1 else "")
    lines += ["", f"Measured {start.created[:10]} on {machine_name(evaluation)}, {processes}{commit}."]
    lines += [f"\n**Note:** {cell(warning)}." for warning in evaluation.warnings]
    return "\n".join(lines) + "\n"


# --- the picture of a package -----------------------------------------------------------------------------------------

ROW, TOP, PLOT = 26, 34, 360
MARGIN, GAP = 8, 16  # beside the picture, and between its columns
FONT = 13  # the size that the style names
REACH = 3.0  # how many half widths of the band are drawn to each side of its middle

_STYLE = """
.cb-t{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',sans-serif;fill:#222}.cb-q{fill:#5c5c5c}
.cb-b{fill:#cfe0ee}.cb-l{stroke:#222;stroke-width:2;fill:none}.cb-p{fill:#222}.cb-r{stroke:#8884;stroke-width:1}
@media screen and (prefers-color-scheme:dark){.cb-t{fill:#e6e6e6}.cb-q{fill:#a9a9a9}.cb-b{fill:#2b4257}
.cb-l{stroke:#e6e6e6}.cb-p{fill:#e6e6e6}}
"""


@dataclass(frozen=True)
class _Scale:
    """Figures of one claim in half widths of its band: every band with two ends lies between −1 and 1."""

    middle: float
    half: float

    def __call__(self, value: float) -> float:
        return (value - self.middle) / self.half if math.isfinite(value) else math.copysign(math.inf, value)

    @classmethod
    def of(cls, finding: Finding) -> _Scale:
        low, high = finding.band_low, finding.band_high
        ends = [v for v in (finding.low, finding.high, finding.estimate) if v is not None and math.isfinite(v)]
        if math.isfinite(low) and math.isfinite(high):
            # An exact figure has a band without width; one per cent of it is then the unit.
            return cls((low + high) / 2, (high - low) / 2 or 0.01 * abs(low) or 1.0)
        if math.isfinite(low) or math.isfinite(high):
            limit = low if math.isfinite(low) else high
            half = 0.2 * abs(limit) or max((abs(v) for v in ends), default=1.0) or 1.0
            return cls(limit + half if math.isfinite(low) else limit - half, half)
        return cls(ends[-1] if ends else 0.0, max((max(ends) - min(ends)), 1e-12) if ends else 1.0)


def text_width(text: str) -> float:
    """How wide a text of the picture is at most, since nobody knows in which font it will be seen.

    Args:
        text: One line.

    Returns:
        Pixels; at no character less than DejaVu Sans takes, the widest font that a `sans-serif` usually means.

    Example:
        >>> text_width("ill") < text_width("sum") < text_width("MWM")
        True
    """
    narrow, wide = " '(),-./:;I[]fijlt|", "#%&+<=>@MW^mw~"
    ems = (
        0.42 if c in narrow else 1.02 if c in wide or not c.isascii() else 0.8 if c.isupper() else 0.65 for c in text
    )
    return FONT * sum(ems)


def _place(position: float) -> float:
    return PLOT * (min(max(position, -REACH), REACH) + REACH) / (2 * REACH)


def _draw_finding(add: Callable[..., ElementTree.Element], finding: Finding, y: float) -> None:
    scale = _Scale.of(finding)
    if math.isfinite(finding.band_low) or math.isfinite(finding.band_high):
        low, high = _place(scale(finding.band_low)), _place(scale(finding.band_high))
        if finding.band_low == finding.band_high:
            low, high = low - 2, high + 2
        add("rect", x=low, y=y - ROW / 2 + 3, width=high - low, height=ROW - 6, cls="cb-b")
    if finding.estimate is None or finding.low is None or finding.high is None:
        return
    ends = [scale(finding.low), scale(finding.high)]
    if all(abs(end) <= REACH for end in ends) or ends[0] * ends[1] < 0:
        add("path", d=f"M{_place(ends[0]):.1f} {y}H{_place(ends[1]):.1f}", cls="cb-l")
    middle = scale(finding.estimate)
    x = _place(middle)
    if abs(middle) > REACH:
        tip = math.copysign(9, middle)
        add("path", d=f"M{x - tip:.1f} {y - 5}L{x:.1f} {y}L{x - tip:.1f} {y + 5}Z", cls="cb-p")
    else:
        add("path", d=f"M{x - 5:.1f} {y}L{x:.1f} {y - 5}L{x + 5:.1f} {y}L{x:.1f} {y + 5}Z", cls="cb-p")


def summary_svg(evaluation: Evaluation, package: str) -> str:
    """Each claim of a package as its interval against its published band.

    The bands of all claims are drawn at the same place and at the same width, so that claims of different units stand
    in one picture; a figure further away than three half widths is an arrow at the edge. The columns are as wide as
    their widest text may be.

    Args:
        evaluation: What was found.
        package: Import name of the package.

    Returns:
        An SVG document, with a text for those who cannot see it and without a fixed background.
    """
    findings = [finding for finding in evaluation.findings if finding.package == package]
    words = [
        textwrap.shorten(f"{VERDICTS[f.verdict].glyph} {measured_words(f)} ({f.published})", 52, placeholder=" …")
        for f in findings
    ]
    names, figures = "claim", "verdict, measured (published)"
    left = math.ceil(MARGIN + max(map(text_width, [names, *(f.id for f in findings)])) + GAP)
    right = left + PLOT + GAP
    width = math.ceil(right + max(map(text_width, [figures, *words])) + MARGIN)
    height = TOP + ROW * len(findings) + 12
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    root = ElementTree.Element(
        "{http://www.w3.org/2000/svg}svg",
        {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height), "role": "img"},
    )

    def add(
        tag: str, text: str = "", cls: str = "", parent: ElementTree.Element = root, **attributes: object
    ) -> ElementTree.Element:
        values = {k.replace("_", "-"): f"{v:.1f}" if isinstance(v, float) else str(v) for k, v in attributes.items()}
        element = ElementTree.SubElement(parent, f"{{http://www.w3.org/2000/svg}}{tag}", values)
        if cls:
            element.set("class", cls)
        element.text = text or None
        return element

    add("title", f"{package}: measured intervals against the published bands")
    sentences = (f"{f.id}: {measured_words(f)}, published {f.published}, {VERDICTS[f.verdict].word}" for f in findings)
    add("desc", ". ".join(sentences) + ".")
    add("style", _STYLE)
    add("text", names, cls="cb-t cb-q", x=MARGIN, y=20)
    add("text", "shaded: published band · line: 99 % interval", cls="cb-t cb-q", x=left, y=20)
    add("text", figures, cls="cb-t cb-q", x=right, y=20)
    plot = add("g", transform=f"translate({left} 0)")
    for index, (finding, figure) in enumerate(zip(findings, words, strict=True)):
        y = TOP + ROW * (index + 0.5)
        add("path", d=f"M0 {y - ROW / 2}H{width}", cls="cb-r")
        add("text", finding.id, cls="cb-t", x=MARGIN, y=y + 4)
        _draw_finding(partial(add, parent=plot), finding, y)
        add("text", figure, cls="cb-t", x=right, y=y + 4)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def packages_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """Import names of the packages that have findings, in their order."""
    return list(dict.fromkeys(finding.package for evaluation in evaluations for finding in evaluation.findings))
