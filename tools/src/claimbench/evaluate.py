"""From a record to verdicts: pure functions of what was measured and what was claimed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from claimbench.figures import Timed, aggregate, matches, measure, measure_parts, measure_values, time_replicates
from claimbench.findings import Evaluation, FidelityFinding, Finding, RowFinding
from claimbench.ledger import Claim, Figure, claim_ids
from claimbench.record import Environment, Failure, Gate, Probe, Record, Samples, point_name
from claimbench.verdict import Judged, Verdict, combine, judge

__all__ = ["evaluate"]


def _fidelity(record: Record, claim: Claim, seed: int) -> list[FidelityFinding]:
    findings = []
    for demand in claim.fidelity:
        figure = demand.figure
        if figure.quantity == "time":
            timed = Timed(record, figure)
            if not timed.points:
                continue
            values, _, _ = time_replicates(timed, figure, figure.clock, seed)
            value = float(aggregate(values, figure, [""] * len(values)))
        else:
            measured = measure_values(record, claim, figure)
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
        and matches(gate.params, figure.where)
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
            and matches(failure.params, figure.where)
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
    measured = measure_parts(record, claim, seed) if claim.parts else measure(record, claim, figure, seed)
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
        again = measure(record, claim, figure.model_copy(update={"clock": clock}), seed)
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
