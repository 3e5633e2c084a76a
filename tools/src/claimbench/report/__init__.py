"""The report of a run: one HTML file that needs no network, made from a record and its evaluation alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from claimbench.errors import RecordError
from claimbench.findings import Evaluation
from claimbench.ledger import Claim, load_claims
from claimbench.record import Record
from claimbench.report.view import duration_words, page_of, speed_words
from claimbench.tables import VERDICTS, floor_words, interval_words, measured_words, number, span_words, verdict_words

__all__ = ["render_report", "write_report"]


def _ticks(text: str) -> Markup:
    """Reasons and warnings mark code by backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def render_report(
    evaluations: Sequence[Evaluation], records: Sequence[Record], claims: Iterable[Claim] | None = None
) -> str:
    """The report as a string of HTML.

    Args:
        evaluations: What was found, one evaluation a machine or run; several stand side by side.
        records: The record behind each evaluation, in the same order.
        claims: The ledger that the evaluations were made with; None reads the one that claimbench carries.

    Returns:
        A whole HTML document with its style, its script and its numbers inside.

    Raises:
        RecordError: When there is no evaluation, or not one record for each.
    """
    if not evaluations or len(evaluations) != len(records):
        raise RecordError(
            f"a report needs one record for each evaluation and at least one; got {len(evaluations)} evaluations and "
            f"{len(records)} records; pass them in the same order"
        )
    environment = Environment(
        loader=PackageLoader("claimbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"verdicts": VERDICTS, "plotly_js": Markup(get_plotlyjs())}
    environment.filters |= {
        "number": number,
        "measured": measured_words,
        "interval": interval_words,
        "floor": floor_words,
        "duration": duration_words,
        "speed": speed_words,
        "span": span_words,
        "words": verdict_words,
        "ticks": _ticks,
    }
    page = page_of(evaluations, records, tuple(load_claims() if claims is None else claims))
    return environment.get_template("report.html").render(page=page)


def write_report(
    evaluations: Sequence[Evaluation],
    records: Sequence[Record],
    path: Path,
    claims: Iterable[Claim] | None = None,
) -> Path:
    """Write the report, whole or not at all.

    Args:
        evaluations: What was found, one evaluation a machine or run.
        records: The record behind each evaluation, in the same order.
        path: The HTML file; its folder must exist.
        claims: The ledger that the evaluations were made with; None reads the one that claimbench carries.

    Returns:
        The path.

    Raises:
        RecordError: When there is no evaluation, or not one record for each.
    """
    text = render_report(evaluations, records, claims)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)  # noqa: PTH105 – Path.replace is the same call; os.replace says what it promises
    return path
