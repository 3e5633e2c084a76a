"""Verdicts: two intervals compared, with the reason in words. A verdict is never forced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from claimbench.ledger import Claim, figure_of_log_ratio

__all__ = ["Judged", "Measured", "Verdict", "combine", "judge"]


class Verdict(StrEnum):
    """What a run says of a claim."""

    REPRODUCED = "reproduced"
    EXCEEDED = "exceeded"
    PARTLY = "partly"
    NOT_REPRODUCED = "not_reproduced"
    INCONCLUSIVE = "inconclusive"
    INCORRECT = "incorrect"
    STATED = "stated"
    HARDWARE_MISSING = "hardware_missing"
    NOT_RUN_HERE = "not_run_here"
    ERROR = "error"


@dataclass(frozen=True)
class Measured:
    """A figure with its interval.

    Attributes:
        estimate: The figure.
        low: Lower end of its interval.
        high: Upper end.
        floor: Noise floor as a share (0.02 is 2 %); 0 for a counted figure.
        processes: Processes behind a timed figure.
        timed: Whether a clock made it. Counted figures need no second process.
    """

    estimate: float
    low: float
    high: float
    floor: float = 0.0
    processes: int = 0
    timed: bool = False


@dataclass(frozen=True)
class Judged:
    """A verdict and its reason."""

    verdict: Verdict
    reason: str


class _HasVerdict(Protocol):
    label: str
    verdict: Verdict


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _span(claim: Claim, measured: Measured) -> str:
    if measured.low == measured.high:
        return f"{_number(measured.estimate)}{claim.unit}"
    return f"{_number(measured.estimate)}{claim.unit} [{_number(measured.low)}, {_number(measured.high)}]"


def _claims_a_difference(claim: Claim, low: float, high: float) -> bool:
    """Whether the band leaves out "no difference"."""
    if claim.figure is None or claim.figure.transform == "value" or claim.figure.aggregate == "spread":
        return False
    nothing = 0.0 if claim.figure.minus else figure_of_log_ratio(0.0, claim.figure.transform)
    # A band that begins or ends at "no difference" ("up to 30 %") claims one.
    return not low < nothing < high


def _floor_in_figures(claim: Claim, floor: float) -> float:
    """The noise floor in the figure's own unit: how far identical code could lie from "no difference"."""
    if claim.figure is None or claim.figure.transform == "value":
        return 0.0
    nothing = figure_of_log_ratio(0.0, claim.figure.transform)
    return abs(figure_of_log_ratio(math.log1p(floor), claim.figure.transform) - nothing)


def judge(claim: Claim, measured: Measured, *, row: bool = False) -> Judged:
    """Compare a measured interval with the band of a claim.

    Args:
        claim: The claim.
        measured: What a run found, in the figure's unit.
        row: Whether this is one row of a grid; the reason is then shorter.

    Returns:
        The verdict with its reason.
    """
    low, high = claim.limits()
    found = _span(claim, measured)
    band = claim.band.words(claim.unit)
    if not all(math.isfinite(v) for v in (measured.estimate, measured.low, measured.high)):
        return Judged(Verdict.ERROR, f"the figure is not finite: {found}")
    if measured.timed and measured.processes < 2:
        return Judged(
            Verdict.INCONCLUSIVE, f"{found} in one process: the spread between processes is unknown, no winner declared"
        )
    if measured.timed and math.isclose(measured.low, measured.high, rel_tol=1e-12, abs_tol=1e-12):
        return Judged(Verdict.INCONCLUSIVE, f"{found} with no spread between any two pairs: the clock is too coarse")
    floor = _floor_in_figures(claim, measured.floor)
    nothing = figure_of_log_ratio(0.0, claim.figure.transform) if claim.figure else 0.0
    if claim.figure is not None and claim.figure.minus:
        nothing = 0.0
    beyond_floor = abs(measured.estimate - nothing) > floor
    if claim.band.same is not None and measured.timed and floor > claim.band.same:
        return Judged(
            Verdict.INCONCLUSIVE,
            f"{found}; identical code seemed to differ by {_number(floor)}{claim.unit}, more than the claim's margin",
        )
    if claim.band.open:
        if measured.timed and not beyond_floor:
            return Judged(Verdict.INCONCLUSIVE, f"{found}, within the noise floor of {measured.floor:.1%}")
        return Judged(Verdict.REPRODUCED, f"{found}; no bar was set for it")
    if low <= measured.low and measured.high <= high:
        if measured.timed and not beyond_floor and _claims_a_difference(claim, low, high):
            return Judged(Verdict.INCONCLUSIVE, f"{found} lies within the noise floor of {measured.floor:.1%}")
        return Judged(Verdict.REPRODUCED, found if row else f"{found} lies inside the band ({band})")
    above, below = measured.low > high, measured.high < low
    if above or below:
        better = (above and claim.better == "higher") or (below and claim.better == "lower")
        if better:
            return Judged(Verdict.EXCEEDED, found if row else f"{found} is better than the band ({band})")
        return Judged(Verdict.NOT_REPRODUCED, found if row else f"{found} lies outside the band ({band})")
    return Judged(Verdict.INCONCLUSIVE, f"{found} reaches over an edge of the band ({band})")


def combine(rows: Sequence[_HasVerdict]) -> Judged:
    """One verdict from the verdicts of the rows of a grid.

    Args:
        rows: The rows, each judged.

    Returns:
        The common verdict; `partly` where some rows hold and others do not; `inconclusive` where none that is
        conclusive disagrees but some could not tell, and where there is no row at all.
    """
    if not rows:
        return Judged(Verdict.INCONCLUSIVE, "no row of it was measured")
    kinds = {row.verdict for row in rows}
    listing = "; ".join(f"{row.label}: {row.verdict.value.replace('_', ' ')}" for row in rows)
    if len(kinds) == 1:
        return Judged(next(iter(kinds)), listing)
    holds = {Verdict.REPRODUCED, Verdict.EXCEEDED}
    if kinds <= holds:
        return Judged(Verdict.REPRODUCED, listing)
    if kinds & holds and Verdict.NOT_REPRODUCED in kinds:
        return Judged(Verdict.PARTLY, listing)
    if Verdict.ERROR in kinds:
        return Judged(Verdict.ERROR, listing)
    return Judged(Verdict.INCONCLUSIVE, listing)
