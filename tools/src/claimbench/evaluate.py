"""From a record to verdicts: pure functions of what was measured and what was claimed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from claimbench import statistics
from claimbench.ledger import Claim, Figure, claim_ids, figure_of_log_ratio
from claimbench.record import (
    CONTROL,
    Compile,
    Environment,
    Failure,
    Gate,
    Memory,
    Params,
    Probe,
    Record,
    Samples,
    Start,
    Value,
    point_name,
)
from claimbench.verdict import Judged, Measured, Verdict, combine, judge

__all__ = ["Evaluation", "FidelityFinding", "Finding", "RowFinding", "evaluate", "noise_floor"]

PRECISION_DRAWS = 2000


class RowFinding(BaseModel):
    """What one row of a claim's grid showed, in the figure's own unit."""

    label: str
    estimate: float
    low: float
    high: float
    verdict: Verdict
    reason: str
    pairs: list[list[float]] = []  # figures of single pairs, one list a process; empty where nothing was timed
    baseline_ns: float | None = None  # median time of one call of the baseline
    candidate_ns: float | None = None
    unit: str = ""
    band: str = ""  # only where the row has a band of its own


class FidelityFinding(BaseModel):
    """Whether a rebuilt variant carries a figure of the original."""

    label: str
    estimate: float
    low: float
    high: float
    faithful: bool
    source: str


class Finding(BaseModel):
    """A claim, what was measured for it, and the verdict."""

    id: str
    title: str
    package: str
    published: str
    unit: str
    band: str
    band_low: float
    band_high: float
    provenance: str
    note: str
    plain: str
    kind: str
    ours: bool
    verdict: Verdict
    reason: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None  # noise floor as a share: 0.02 means that identical code seemed to differ by 2 %
    other_reading: str = ""  # the second reading of an ambiguous figure
    other_clock: str = ""  # the same figure by the clock that does not decide
    processes: int = 0
    rows: list[RowFinding] = []
    fidelity: list[FidelityFinding] = []
    gates: list[Gate] = []
    failures: list[Failure] = []
    answered_by: str = ""
    clock: str = ""
    transform: str = ""
    from_record: str = ""  # for a claim not run here: the committed record that is shown


class Evaluation(BaseModel):
    """All findings of a record, with what a reader needs to weigh them."""

    start: Start
    complete: bool
    findings: list[Finding]
    missing: list[str]  # ids of the ledger that no claim is written for yet
    environments: list[Environment]
    probes: list[Probe]
    warnings: list[str]

    def counts(self) -> dict[str, int]:
        """How many claims got each verdict, in the order of `Verdict`."""
        found = [finding.verdict for finding in self.findings]
        return {verdict.value: found.count(verdict) for verdict in Verdict if verdict in found}


def _matches(params: Params, where: dict[str, str | int | float]) -> bool:
    return all(params.get(key) == value for key, value in where.items())


def _pairs(sample: Samples, candidate: str, baseline: str, clock: str) -> np.ndarray:
    series = sample.clocks.get(clock) or sample.clocks["wall"]
    return np.log(np.asarray(series[candidate], float)) - np.log(np.asarray(series[baseline], float))


class _Timed:
    """Timed rows of one case, grouped by point and then by process."""

    def __init__(self, record: Record, figure: Figure) -> None:
        needed = {figure.candidate, figure.baseline, figure.minus} - {""}
        groups: dict[str, dict[int, Samples]] = defaultdict(dict)
        self.params: dict[str, Params] = {}
        for sample in record.of(Samples):
            # A process in which one of the variants broke has its failure row; the others still count.
            if sample.case == figure.case and _matches(sample.params, figure.where) and needed <= set(sample.calls):
                groups[point_name(sample.params)].setdefault(sample.process, sample)
                self.params[point_name(sample.params)] = sample.params
        self.points = {point: list(samples.values()) for point, samples in groups.items()}

    def log_ratios(self, candidate: str, baseline: str, clock: str) -> list[list[np.ndarray]]:
        return [[_pairs(sample, candidate, baseline, clock) for sample in samples] for samples in self.points.values()]

    def median_ns(self, point: str, variant: str, clock: str) -> float:
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


def _aggregate(values: np.ndarray, figure: Figure, groups: list[str]) -> np.ndarray:
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


def _time_replicates(timed: _Timed, figure: Figure, clock: str, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
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
    timed = _Timed(record, figure)
    if not timed.points:
        return None
    estimate, draws, processes = _time_replicates(timed, figure, figure.clock, seed)
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

    total, total_draws = _aggregate(estimate, figure, groups), _aggregate(draws, figure, groups)
    low, high = statistics.interval(np.asarray(total_draws))
    return Measured(float(total), low, high, floor=floor, processes=processes, timed=True), rows


def _plain_rows(
    claim: Claim, figure: Figure, found: dict[str, list[float]], details: dict[str, str], groups: dict[str, str]
) -> tuple[Measured, list[RowFinding]]:
    """Rows of figures that were counted: no bootstrap, the interval is the range of repetitions."""
    rows: list[RowFinding] = []
    for label, values in found.items():
        middle, low, high = float(np.median(values)), min(values), max(values)
        judged = judge(claim, Measured(middle, low, high), row=True)
        reason = judged.reason + (f" ({details[label]})" if details.get(label) else "")
        rows.append(RowFinding(label=label, estimate=middle, low=low, high=high, verdict=judged.verdict, reason=reason))
    if figure.aggregate == "each":
        # One figure stands for the rows in a table: the one farthest from the band.
        ends = claim.limits()
        worst = max(rows, key=lambda row: abs(row.estimate - min(max(row.estimate, ends[0]), ends[1])))
        return Measured(worst.estimate, worst.low, worst.high), rows
    estimates = np.array([[row.estimate, row.low, row.high] for row in rows]).T
    total = _aggregate(estimates, figure, [groups[row.label] for row in rows])
    return Measured(float(total[0]), float(total.min()), float(total.max())), rows


def _ratio_as(figure: Figure, top: float, bottom: float) -> float:
    """A ratio of counts as a figure; a count may be 0, and then the figure may not be finite."""
    if bottom <= 0 or top < 0:
        return math.nan
    return figure_of_log_ratio(math.log(top / bottom) if top else -math.inf, figure.transform)


def _measure_values(record: Record, claim: Claim, figure: Figure) -> tuple[Measured, list[RowFinding]] | None:
    by_variant: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    details: dict[str, str] = {}
    groups: dict[str, str] = {}
    for row in record.of({"memory": Memory, "compile": Compile}.get(figure.quantity, Value)):
        named = not isinstance(row, Value) or row.name == figure.quantity
        if row.case == figure.case and named and _matches(row.params, figure.where):
            label = point_name(row.params)
            groups[label] = _group_of(row.params, figure)
            if isinstance(row, Value):
                by_variant[row.variant][label].append(row.value)
                details |= {label: row.detail} if row.detail else {}
            else:
                by_variant[row.variant][label].append(row.peak_bytes if isinstance(row, Memory) else row.seconds)
    if figure.transform == "value":
        found = dict(by_variant.get(figure.candidate, {}))
    else:
        top, bottom = by_variant.get(figure.candidate, {}), by_variant.get(figure.baseline, {})
        found = {}
        for label in top:
            if label in bottom:
                found[label] = [_ratio_as(figure, a, b) for a in top[label] for b in bottom[label]]
    return _plain_rows(claim, figure, found, details, groups) if found else None


def _measure(record: Record, claim: Claim, figure: Figure, seed: int) -> tuple[Measured, list[RowFinding]] | None:
    if figure.quantity == "time":
        return _measure_time(record, claim, figure, seed)
    return _measure_values(record, claim, figure)


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


def _measure_parts(record: Record, claim: Claim, seed: int) -> tuple[Measured, list[RowFinding]] | None:
    """Several figures of one claim: each judged by its own band, as a row."""
    rows: list[RowFinding] = []
    first: Measured | None = None
    for label, part in _part_claims(claim):
        assert part.figure is not None
        measured = _measure(record, part, part.figure, seed)
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


def _fidelity(record: Record, claim: Claim, seed: int) -> list[FidelityFinding]:
    findings = []
    for demand in claim.fidelity:
        figure = demand.figure
        if figure.quantity == "time":
            timed = _Timed(record, figure)
            if not timed.points:
                continue
            values, _, _ = _time_replicates(timed, figure, figure.clock, seed)
            value = float(_aggregate(values, figure, [""] * len(values)))
        else:
            measured = _measure_values(record, claim, figure)
            if measured is None:
                continue
            value = measured[0].estimate
        low, high = demand.bounds()
        findings.append(
            FidelityFinding(
                label=f"{figure.candidate} over {figure.baseline}" if figure.baseline else figure.quantity,
                estimate=value,
                low=demand.low,
                high=demand.high,
                faithful=low <= value <= high,
                source=demand.source,
            )
        )
    return findings


def _blank(claim: Claim, verdict: Verdict, reason: str) -> Finding:
    low, high = claim.limits()
    figure = claim.figure
    return Finding(
        id=claim.id,
        title=claim.title,
        package=claim.package,
        published=claim.published,
        unit=claim.unit,
        band=claim.band.words(claim.unit) if figure else "answered by a test",
        band_low=low,
        band_high=high,
        provenance=claim.source.provenance,
        note=claim.source.note,
        plain=claim.plain,
        kind=claim.kind,
        ours=claim.ours,
        verdict=verdict,
        reason=reason,
        answered_by=claim.answered_by,
        clock=figure.clock if figure and figure.quantity == "time" else "",
        transform=figure.transform if figure else "",
    )


def _involved(claim: Claim, gate: Gate) -> bool:
    figures: list[Figure | None] = [part.figure for part in claim.parts] or [claim.figure]
    return any(
        figure is not None
        and gate.case == figure.case
        and _matches(gate.params, figure.where)
        and gate.variant in {figure.candidate, figure.baseline, figure.minus}
        for figure in figures
    )


def _concerns(failure: Failure, claim: Claim, figures: Sequence[Figure]) -> bool:
    """Whether what failed could have been part of a claim's figure."""
    if not failure.case:
        return failure.stage in {"import", "worker"} and failure.package in {"", claim.package}

    def part_of(figure: Figure) -> bool:
        stage = figure.quantity if figure.quantity in {"time", "memory", "compile"} else "values"
        return (
            failure.case == figure.case
            and failure.stage in {stage, "gate"}
            and _matches(failure.params, figure.where)
            and failure.variant in {"", figure.candidate, figure.baseline, figure.minus}
        )

    return any(map(part_of, figures))


@dataclass
class _Unmeasured:
    """A row of which there is nothing but its name."""

    label: str
    verdict: Verdict


def _unmeasured(
    claim: Claim, figure: Figure, rows: Sequence[RowFinding], failures: Sequence[Failure]
) -> list[_Unmeasured]:
    """Parts, or points of the grid, that should have a row and have none: never dropped in silence."""
    measured = {row.label for row in rows}
    if claim.parts:
        verdict = Verdict.ERROR if failures else Verdict.NOT_RUN_HERE
        return [_Unmeasured(part.label, verdict) for part in claim.parts if part.label not in measured]
    if figure.aggregate == "each" and figure.group:
        points = {str(failure.params.get(figure.group, "")) for failure in failures if failure.params}
    else:
        points = {point_name(failure.params) for failure in failures if failure.params}
    return [_Unmeasured(point, Verdict.ERROR) for point in sorted(points - measured)]


def _other_reading(figure: Figure, estimate: float) -> str:
    if figure.transform == "less_time" and not figure.minus and estimate < 100 and figure.aggregate != "spread":
        return f"the other reading of “faster”, before ÷ after − 1: {100 / (1 - estimate / 100) - 100:.0f} %"
    return ""


def _find(record: Record, claim: Claim, seed: int) -> Finding:
    if claim.figure is None:
        return _blank(claim, Verdict.STATED, f"a statement, not a measurement; `{claim.answered_by}` answers it")
    figure = claim.figure
    figures: list[Figure] = [part.figure for part in claim.parts] or [figure]
    failures = [f for f in record.of(Failure) if _concerns(f, claim, figures)]
    gates = [gate for gate in record.of(Gate) if _involved(claim, gate)]
    measured = _measure_parts(record, claim, seed) if claim.parts else _measure(record, claim, figure, seed)
    if measured is None:
        if claim.needs == "cuda" and record.start.device != "cuda":
            return _blank(
                claim,
                Verdict.HARDWARE_MISSING,
                f"needs a CUDA device; `claimbench run {claim.id} --device cuda` on one would settle it",
            )
        if failures:
            finding = _blank(claim, Verdict.ERROR, f"{failures[0].stage} failed: {failures[0].reason}")
            return finding.model_copy(update={"failures": failures, "gates": gates})
        return _blank(claim, Verdict.NOT_RUN_HERE, "this record holds no measurement of it")

    total, rows = measured
    missing = _unmeasured(claim, figure, rows, failures)
    judged = combine([*rows, *missing]) if claim.parts or figure.aggregate == "each" else judge(claim, total)
    if claim.parts:
        listing = [f"{row.label} {row.estimate:.3g}{row.unit} ({row.verdict.value.replace('_', ' ')})" for row in rows]
        listing += [f"{row.label} (not measured)" for row in missing]
        judged = Judged(judged.verdict, "; ".join(listing))
    fidelity = _fidelity(record, claim, seed)
    wrong = [gate for gate in gates if not gate.equal]
    unfaithful = [f for f in fidelity if not f.faithful]
    conclusive = judged.verdict in {Verdict.REPRODUCED, Verdict.EXCEEDED, Verdict.NOT_REPRODUCED, Verdict.PARTLY}
    if claim.needs == "cuda" and record.start.device != "cuda":
        judged = Judged(Verdict.HARDWARE_MISSING, f"needs a CUDA device; on {record.start.device}: {judged.reason}")
    elif wrong:
        where = f"{wrong[0].variant} at {point_name(wrong[0].params)}" if wrong[0].params else wrong[0].variant
        judged = Judged(Verdict.INCORRECT, f"{where} is wrong: {wrong[0].reason}; timed all the same: {judged.reason}")
    elif unfaithful:
        bad = unfaithful[0]
        judged = Judged(
            Verdict.INCORRECT,
            f"the rebuilt {bad.label} shows {bad.estimate:.3g}, the original {bad.low:g} to {bad.high:g} "
            f"({bad.source}): not faithful enough to judge; timed all the same: {judged.reason}",
        )
    elif conclusive and len(fidelity) < len(claim.fidelity):
        judged = Judged(
            Verdict.INCONCLUSIVE, f"whether what was rebuilt is faithful could not be measured; {judged.reason}"
        )
    elif conclusive and missing:
        names = ", ".join(row.label for row in missing)
        judged = Judged(Verdict.INCONCLUSIVE, f"{judged.reason}; not all of it was measured ({names} failed)")
    elif failures and judged.verdict is not Verdict.ERROR:
        judged = Judged(
            judged.verdict, f"{judged.reason}; {len(failures)} rows failed, the first: {failures[0].reason}"
        )

    finding = _blank(claim, judged.verdict, judged.reason)
    other = ""
    if figure.quantity == "time" and not claim.parts:
        clock = "wall" if figure.clock == "process" else "process"
        again = _measure_time(record, claim, figure.model_copy(update={"clock": clock}), seed)
        if again is not None:
            other = f"{clock} clock: {again[0].estimate:.4g}{claim.unit} [{again[0].low:.4g}, {again[0].high:.4g}]"
    return finding.model_copy(
        update={
            "estimate": total.estimate,
            "low": total.low,
            "high": total.high,
            "floor": total.floor,
            "processes": total.processes,
            "rows": rows,
            "fidelity": fidelity,
            "gates": gates,
            "failures": failures,
            "other_reading": "" if claim.parts else _other_reading(figure, total.estimate),
            "other_clock": other,
        }
    )


def _warnings(record: Record) -> list[str]:
    warnings = []
    if record.start.quick:
        warnings.append("quick run: one process, so the spread between processes is unknown and no winner is declared")
    if not record.complete:
        warnings.append("the run did not come to its end; `--resume` goes on from here")
    if record.broken:
        warnings.append(f"{len(record.broken)} lines of the record could not be read and were left out")
    slow = [s for s in record.of(Samples) if not s.reached_precision]
    if slow:
        names = sorted({s.case for s in slow})
        warnings.append(f"{len(slow)} measurements used up their budget before their precision ({', '.join(names)})")
    busy = [s.load[0] for s in record.of(Samples) if s.load and s.load[0] > 1.5]
    if busy:
        warnings.append(f"other work ran beside {len(busy)} measurements (load average up to {max(busy):.1f})")
    return warnings


def evaluate(record: Record, claims: Iterable[Claim], *, committed: Sequence[Record] = (), seed: int = 0) -> Evaluation:
    """Judge claims by a record.

    Args:
        record: What was measured.
        claims: The claims to judge.
        committed: Older records, newest first: a long claim that was not run here is shown from the first that has it.
        seed: Seed of the resampling, so that the same record gives the same intervals.

    Returns:
        Findings in the order of the claims.
    """
    claims = tuple(claims)
    findings = []
    for claim in claims:
        finding = _find(record, claim, seed)
        if finding.verdict is Verdict.NOT_RUN_HERE:
            for older in committed:
                shown = _find(older, claim, seed)
                if shown.estimate is not None:
                    device = older.start.device
                    reason = f"not run here; {older.start.created[:10]} on {device}: {shown.verdict} – {shown.reason}"
                    finding = shown.model_copy(
                        update={
                            "verdict": Verdict.NOT_RUN_HERE,
                            "reason": reason,
                            "from_record": older.path.parent.name,
                        }
                    )
                    break
        findings.append(finding)
    written = {claim.id for claim in claims}
    return Evaluation(
        start=record.start,
        complete=record.complete,
        findings=findings,
        missing=[name for name in claim_ids() if name not in written],
        environments=list(record.of(Environment)),
        probes=list(record.of(Probe)),
        warnings=_warnings(record),
    )
