"""From a record to figures: what was timed, counted or weighed, as a claim's figure with its interval and rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from claimbench import statistics
from claimbench.findings import RowFinding
from claimbench.ledger import Claim, Figure, figure_of_log_ratio
from claimbench.record import CONTROL, Compile, Memory, Params, Record, Samples, Value, point_name
from claimbench.verdict import Measured, judge

__all__ = [
    "Timed",
    "aggregate",
    "matches",
    "measure",
    "measure_parts",
    "measure_values",
    "noise_floor",
    "time_replicates",
]

PRECISION_DRAWS = 2000


def matches(params: Params, where: dict[str, str | int | float]) -> bool:
    """Whether a point has all the parameters asked for."""
    return all(params.get(key) == value for key, value in where.items())


def _pairs(sample: Samples, candidate: str, baseline: str, clock: str) -> np.ndarray:
    series = sample.clocks.get(clock) or sample.clocks["wall"]
    return np.log(np.asarray(series[candidate], float)) - np.log(np.asarray(series[baseline], float))


class Timed:
    """Timed rows of one case, grouped by point and then by process."""

    def __init__(self, record: Record, figure: Figure) -> None:
        needed = {figure.candidate, figure.baseline, figure.minus} - {""}
        groups: dict[str, dict[int, Samples]] = defaultdict(dict)
        self.params: dict[str, Params] = {}
        for sample in record.of(Samples):
            # A process in which one of the variants broke has its failure row; the others still count.
            if sample.case == figure.case and matches(sample.params, figure.where) and needed <= set(sample.calls):
                groups[point_name(sample.params)].setdefault(sample.process, sample)
                self.params[point_name(sample.params)] = sample.params
        self.points = {point: list(samples.values()) for point, samples in groups.items()}

    def log_ratios(self, candidate: str, baseline: str, clock: str) -> list[list[np.ndarray]]:
        """Log ratios of two variants' pairs: for each point, for each process."""
        return [[_pairs(sample, candidate, baseline, clock) for sample in samples] for samples in self.points.values()]

    def median_ns(self, point: str, variant: str, clock: str) -> float:
        """Median time of one call, over all processes."""
        values = [v for s in self.points[point] for v in (s.clocks.get(clock) or s.clocks["wall"])[variant]]
        return float(np.median(values))


def noise_floor(rows: Sequence[Sequence[np.ndarray]], seed: int = 0) -> float:
    """How much identical code seemed to differ, as a share.

    √(m² + h²) of the control series against itself: m its mean log ratio, h the half width of its interval, averaged
    over the rows as the figure is.

    Args:
        rows: For each row, for each process, log ratios of the control's pairs.
        seed: Seed of the resampling.

    Returns:
        The floor: 0.02 means 2 %.
    """
    replicates = statistics.bootstrap(rows, draws=PRECISION_DRAWS, seed=seed)
    low, high = statistics.interval(replicates.draws.mean(axis=1))
    return math.expm1(math.hypot(float(replicates.estimate.mean()), (high - low) / 2))


def _figures(log_ratios: np.ndarray, figure: Figure) -> np.ndarray:
    return np.vectorize(lambda value: figure_of_log_ratio(value, figure.transform), otypes=[float])(log_ratios)


def aggregate(values: np.ndarray, figure: Figure, groups: list[str]) -> np.ndarray:
    """Reduce the last axis (rows) of figures as the claim asks."""
    if figure.aggregate == "worst":
        return values.max(axis=-1)
    if figure.aggregate == "spread":
        names = sorted(set(groups))
        means = np.stack(
            [values[..., [i for i, g in enumerate(groups) if g == name]].mean(axis=-1) for name in names], axis=-1
        )
        return np.abs(means - means.mean(axis=-1, keepdims=True)).max(axis=-1)
    return values.mean(axis=-1)


def time_replicates(timed: Timed, figure: Figure, clock: str, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Figures of each row: estimates (rows,), draws (draws, rows), fewest processes."""
    first = statistics.bootstrap(
        timed.log_ratios(figure.candidate, figure.baseline, clock), draws=PRECISION_DRAWS, seed=seed
    )
    estimate, draws = _figures(first.estimate, figure), _figures(first.draws, figure)
    if figure.minus:
        # The same seed draws the same processes and pairs, so that what both candidates share cancels.
        second = statistics.bootstrap(
            timed.log_ratios(figure.minus, figure.baseline, clock), draws=PRECISION_DRAWS, seed=seed
        )
        estimate, draws = estimate - _figures(second.estimate, figure), draws - _figures(second.draws, figure)
    return estimate, draws, first.processes


def _group_of(params: Params, figure: Figure) -> str:
    return str(params.get(figure.group, "")) if figure.group else ""


def _measure_time(record: Record, claim: Claim, figure: Figure, seed: int) -> tuple[Measured, list[RowFinding]] | None:
    timed = Timed(record, figure)
    if not timed.points:
        return None
    estimate, draws, processes = time_replicates(timed, figure, figure.clock, seed)
    groups = [_group_of(timed.params[point], figure) for point in timed.points]
    control = next(iter(timed.points.values()))[0].control
    floor = noise_floor(timed.log_ratios(control + CONTROL, control, figure.clock), seed)

    rows: list[RowFinding] = []
    by_row = zip(timed.points, estimate, draws.T, strict=True)
    if figure.aggregate == "each" and figure.group:
        by_row = zip(
            sorted(set(groups)),
            [float(estimate[[i for i, g in enumerate(groups) if g == n]].mean()) for n in sorted(set(groups))],
            [draws[:, [i for i, g in enumerate(groups) if g == n]].mean(axis=1) for n in sorted(set(groups))],
            strict=True,
        )
    for label, value, column in by_row:
        low, high = statistics.interval(np.asarray(column))
        measured = Measured(float(value), low, high, floor=floor, processes=processes, timed=True)
        judged = judge(claim, measured, row=True)
        row = RowFinding(
            label=label, estimate=float(value), low=low, high=high, verdict=judged.verdict, reason=judged.reason
        )
        if label in timed.points:
            if not figure.minus:
                row.pairs = [
                    _figures(pairs, figure).tolist()
                    for pairs in (
                        _pairs(s, figure.candidate, figure.baseline, figure.clock) for s in timed.points[label]
                    )
                ]
            row.baseline_ns = timed.median_ns(label, figure.baseline, figure.clock)
            row.candidate_ns = timed.median_ns(label, figure.candidate, figure.clock)
        rows.append(row)

    total, total_draws = aggregate(estimate, figure, groups), aggregate(draws, figure, groups)
    low, high = statistics.interval(np.asarray(total_draws))
    return Measured(float(total), low, high, floor=floor, processes=processes, timed=True), rows


def _plain_rows(
    claim: Claim,
    figure: Figure,
    found: dict[str, list[float]],
    details: dict[str, str],
    groups: dict[str, str],
    intervals: dict[str, tuple[float, float]],
) -> tuple[Measured, list[RowFinding]]:
    """Rows of figures that were counted: no bootstrap, the interval is that of the number, or of its repetitions."""
    rows: list[RowFinding] = []
    for label, values in found.items():
        middle, low, high = float(np.median(values)), min(values), max(values)
        if label in intervals:
            low, high = intervals[label]
        judged = judge(claim, Measured(middle, low, high), row=True)
        reason = judged.reason + (f" ({details[label]})" if details.get(label) else "")
        rows.append(RowFinding(label=label, estimate=middle, low=low, high=high, verdict=judged.verdict, reason=reason))
    if figure.aggregate == "each":
        # One figure stands for the rows in a table: the one farthest from the band.
        ends = claim.limits()
        worst = max(rows, key=lambda row: abs(row.estimate - min(max(row.estimate, ends[0]), ends[1])))
        return Measured(worst.estimate, worst.low, worst.high), rows
    estimates = np.array([[row.estimate, row.low, row.high] for row in rows]).T
    total = aggregate(estimates, figure, [groups[row.label] for row in rows])
    return Measured(float(total[0]), float(total.min()), float(total.max())), rows


def _ratio_as(figure: Figure, top: float, bottom: float) -> float:
    """A ratio of counts as a figure; a count may be 0, and then the figure may not be finite."""
    if bottom <= 0 or top < 0:
        return math.nan
    return figure_of_log_ratio(math.log(top / bottom) if top else -math.inf, figure.transform)


def measure_values(record: Record, claim: Claim, figure: Figure) -> tuple[Measured, list[RowFinding]] | None:
    """A figure that was counted, weighed or taken from first calls, with its rows; None where nothing was recorded."""
    by_variant: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    details: dict[str, str] = {}
    groups: dict[str, str] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for row in record.of({"memory": Memory, "compile": Compile}.get(figure.quantity, Value)):
        named = not isinstance(row, Value) or row.name == figure.quantity
        if row.case == figure.case and named and matches(row.params, figure.where):
            label = point_name(row.params)
            groups[label] = _group_of(row.params, figure)
            if isinstance(row, Value):
                by_variant[row.variant][label].append(row.value)
                details |= {label: row.detail} if row.detail else {}
                if row.variant == figure.candidate and row.low is not None and row.high is not None:
                    intervals[label] = (row.low, row.high)
            else:
                by_variant[row.variant][label].append(row.peak_bytes if isinstance(row, Memory) else row.seconds)
    if figure.transform == "value":
        found = dict(by_variant.get(figure.candidate, {}))
    else:
        intervals = {}  # a ratio's ends would need both numbers' seeds
        top, bottom = by_variant.get(figure.candidate, {}), by_variant.get(figure.baseline, {})
        found = {}
        for label in top:
            if label in bottom:
                found[label] = [_ratio_as(figure, a, b) for a in top[label] for b in bottom[label]]
    return _plain_rows(claim, figure, found, details, groups, intervals) if found else None


def measure(record: Record, claim: Claim, figure: Figure, seed: int) -> tuple[Measured, list[RowFinding]] | None:
    """A figure with its rows, whatever made it; None where nothing was recorded."""
    if figure.quantity == "time":
        return _measure_time(record, claim, figure, seed)
    return measure_values(record, claim, figure)


def _part_claims(claim: Claim) -> list[tuple[str, Claim]]:
    """Each part as a claim of its own, so that it is judged as one."""
    return [
        (
            part.label,
            claim.model_copy(
                update={
                    "figure": part.figure,
                    "band": part.band,
                    "unit": part.unit,
                    "better": part.better,
                    "parts": (),
                }
            ),
        )
        for part in claim.parts
    ]


def measure_parts(record: Record, claim: Claim, seed: int) -> tuple[Measured, list[RowFinding]] | None:
    """Several figures of one claim: each judged by its own band, as a row."""
    rows: list[RowFinding] = []
    first: Measured | None = None
    for label, part in _part_claims(claim):
        assert part.figure is not None
        measured = measure(record, part, part.figure, seed)
        if measured is None:
            continue
        total, inner = measured
        first = first or total
        judged = judge(part, total)
        rows.append(
            RowFinding(
                label=label,
                estimate=total.estimate,
                low=total.low,
                high=total.high,
                verdict=judged.verdict,
                reason=judged.reason,
                unit=part.unit,
                band=part.band.words(part.unit),
                pairs=[pairs for row in inner for pairs in row.pairs],
                baseline_ns=inner[0].baseline_ns if len(inner) == 1 else None,
                candidate_ns=inner[0].candidate_ns if len(inner) == 1 else None,
            )
        )
    return (first, rows) if first is not None else None
