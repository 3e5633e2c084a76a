"""The numbers behind each chart: pair figures of every process against the band and the noise floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from claimbench.findings import Finding, RowFinding
from claimbench.ledger import Transform, figure_of_log_ratio

__all__ = ["POINTS_IN_ALL", "Chart", "chart_of", "points_a_process", "thin"]

POINTS_IN_ALL = 60_000
"""Points that a report draws over all its charts, so that the file stays near six megabytes at worst."""

MOST_POINTS, FEWEST_POINTS = 60, 8

Chart = dict[str, Any]
"""What the page's script draws: plain numbers, no infinities."""


def thin(values: Sequence[float], most: int) -> list[float]:
    """At most so many of the values, evenly spaced in rank: the shape and both extremes stay.

    Args:
        values: Any numbers.
        most: How many to keep, at least 2.

    Returns:
        Kept values in rising order; every one of them was measured, none is interpolated.

    Example:
        >>> thin([5.0, 1.0, 4.0, 2.0, 3.0], 3)
        [1.0, 3.0, 5.0]
    """
    ordered = sorted(value for value in values if math.isfinite(value))
    if len(ordered) <= most:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)]


def points_a_process(findings: Sequence[Finding]) -> int:
    """How many points each process may draw so that all charts together keep to `POINTS_IN_ALL`."""
    series = sum(len(row.pairs) for finding in findings for row in finding.rows)
    return max(FEWEST_POINTS, min(MOST_POINTS, POINTS_IN_ALL // max(series, 1)))


def _short(value: float | None, digits: int = 5) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def _view(rows: Sequence[RowFinding], marks: Sequence[float | None]) -> tuple[float, float]:
    """The part of the axis that is shown first: intervals, marks and the middle 96 % of the pairs."""
    pairs = np.array([value for row in rows for process in row.pairs for value in process if math.isfinite(value)])
    ends = [value for row in rows for value in (row.low, row.high, row.estimate) if math.isfinite(value)]
    ends += [value for value in marks if value is not None]
    if pairs.size:
        ends += [float(value) for value in np.quantile(pairs, [0.02, 0.98])]
    low, high = min(ends), max(ends)
    edge = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - edge, high + edge


def chart_of(finding: Finding, most: int) -> Chart | None:
    """What to draw for a finding.

    Args:
        finding: A finding whose rows carry pair figures.
        most: Points drawn for each process of a row.

    Returns:
        Rows with their points, the band, the noise floor and the first view; None where no pair was timed.
    """
    rows = [row for row in finding.rows if row.pairs]
    if not rows:
        return None
    transform = cast(Transform, finding.transform or "value")
    nothing = None if transform == "value" else figure_of_log_ratio(0.0, transform)
    floor = None
    if nothing is not None and finding.floor:
        ends = [figure_of_log_ratio(sign * math.log1p(finding.floor), transform) for sign in (-1, 1)]
        floor = [_short(min(ends)), _short(max(ends))]
    band = [_short(finding.band_low), _short(finding.band_high)]
    view = _view(rows, [*band, nothing])
    beyond = sum(not view[0] <= value <= view[1] for row in rows for process in row.pairs for value in process)
    total = sum(len(process) for row in rows for process in row.pairs)
    points = [[[_short(value, 4) for value in thin(process, most)] for process in row.pairs] for row in rows]
    drawn_rows = [
        {
            "label": row.label or "all",
            "points": row_points,
            "estimate": _short(row.estimate),
            "low": _short(row.low),
            "high": _short(row.high),
        }
        for row, row_points in zip(rows, points, strict=True)
    ]
    return {
        "unit": finding.unit,
        "rows": drawn_rows,
        "band": None if band == [None, None] else band,
        "nothing": _short(nothing),
        "floor": floor,
        "view": [_short(view[0]), _short(view[1])],
        "beyond": beyond,
        "pairs": total,
        "drawn": sum(len(process) for row_points in points for process in row_points),
    }
