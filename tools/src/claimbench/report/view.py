"""What the page shows, worked out before the template: no arithmetic in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from claimbench.findings import Evaluation, Finding, RowFinding
from claimbench.ledger import Claim
from claimbench.record import Compile, Failure, Gate, Memory, Record, Samples, point_name
from claimbench.report.charts import Chart, chart_of, points_a_process
from claimbench.report.roofline import Roof, roofs
from claimbench.tables import machine_name, number, packages_of, summary_svg
from claimbench.verdict import Verdict

__all__ = ["Page", "duration_words", "page_of", "speed_words"]

DEFAULT_PROCESSES = 7
"""More processes than these were asked for with `--careful`."""


def duration_words(nanoseconds: float) -> str:
    """A duration with the unit that fits it.

    Args:
        nanoseconds: Duration in nanoseconds.

    Example:
        >>> duration_words(1530.0), duration_words(2.5e9)
        ('1.53 µs', '2.50 s')
    """
    for unit, size in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if nanoseconds < 1000 * size:
            return f"{number(nanoseconds / size)} {unit}"
    return f"{number(nanoseconds / 1e9)} s"


def speed_words(value: float, unit: str) -> str:
    """A speed with the prefix that fits it.

    Args:
        value: Speed in `unit`.
        unit: For example `B/s` or `flop/s`.

    Example:
        >>> speed_words(12.3e9, "B/s")
        '12.3 GB/s'
    """
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{number(value / size)} {prefix}{unit}"
    return f"{number(value)} {unit}"


def _bytes_words(amount: float) -> str:
    for unit, size in (("B", 1.0), ("KiB", 2.0**10), ("MiB", 2.0**20)):
        if abs(amount) < 1024 * size:
            return f"{number(amount / size)} {unit}"
    return f"{number(amount / 2.0**30)} GiB"


@dataclass(frozen=True)
class Machine:
    """One run on one machine: a column of the page."""

    key: str
    name: str
    evaluation: Evaluation
    command: str
    environments: list[tuple[str, list[tuple[str, str]]]]


@dataclass(frozen=True)
class ProcessRow:
    """The numbers of one process behind a chart."""

    process: int
    pairs: int
    low: str
    median: str
    high: str


@dataclass(frozen=True)
class Shown:
    """One claim as one machine found it."""

    machine: Machine
    finding: Finding
    chart: Chart | None
    chart_words: str
    processes: list[tuple[str, list[ProcessRow]]]
    gates: str
    wrong: list[Gate]
    times: list[tuple[str, str]]
    command: str


@dataclass(frozen=True)
class ClaimView:
    """One claim over all machines."""

    id: str
    first: Finding
    claim: Claim | None
    case: str
    verdicts: str
    shown: list[Shown]


@dataclass(frozen=True)
class CaseView:
    """What was measured underneath the claims of one case, on one machine."""

    machine: Machine
    name: str
    gates: list[Gate]
    roofs: list[Roof]
    memory: list[tuple[str, str, str, str, str]]
    compiles: list[tuple[str, str, str, str]]
    failures: list[Failure]
    timed: list[tuple[str, str, str, str, str]]


@dataclass(frozen=True)
class PackageView:
    """One package: its picture, its claims, its cases."""

    name: str
    pictures: list[tuple[Machine, str]]
    claims: list[ClaimView]
    cases: list[CaseView]


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    machines: list[Machine]
    counts: list[tuple[Verdict, int]]
    packages: list[PackageView]
    stray: list[CaseView] = field(default_factory=list)

    @property
    def claims(self) -> list[ClaimView]:
        """Every claim, in the order of the packages."""
        return [claim for package in self.packages for claim in package.claims]


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            rows.append((prefix + key, ", ".join(map(str, value))))
        else:
            rows.append((prefix + key, str(value)))
    return rows


def _command(evaluation: Evaluation, ids: Sequence[str]) -> str:
    start = evaluation.start
    options = [*ids, "--device", start.device, *(["--quick"] if start.quick else [])]
    options += ["--careful"] if start.processes > DEFAULT_PROCESSES else []
    return " ".join(["claimbench run", *options, "--seed", str(start.seed)])


def _whole_command(evaluation: Evaluation, ledger: Sequence[Claim]) -> str:
    """The command of a run: by package where it was about all claims of its packages, else by id."""
    start = evaluation.start
    own = [claim for claim in ledger if claim.package in start.packages]
    packages = [word for name in start.packages for word in ("--package", name)]
    if set(start.claims) == {claim.id for claim in own if claim.duration != "long"}:
        return _command(evaluation, packages)
    if set(start.claims) == {claim.id for claim in own}:
        return _command(evaluation, [*packages, "--long"])
    return _command(evaluation, _short_ids(start.claims, ledger))


def _short_ids(asked: Sequence[str], ledger: Sequence[Claim]) -> list[str]:
    """Ids, or the beginning that they share where every claim under it was asked for."""
    found = []
    for name in asked:
        beginning = ".".join(name.split(".")[:2])
        under = {claim.id for claim in ledger if claim.id.startswith(beginning + ".")}
        found.append(beginning if len(under) > 1 and under <= set(asked) else name)
    return list(dict.fromkeys(found))


def _machines(evaluations: Sequence[Evaluation], ledger: Sequence[Claim]) -> list[Machine]:
    machines = []
    for index, evaluation in enumerate(evaluations):
        environments = [(e.where, _flat(e.facts)) for e in evaluation.environments]
        # Workers of one package report the same facts in every process; each set of facts is shown once.
        environments = [entry for i, entry in enumerate(environments) if entry not in environments[:i]]
        machines.append(
            Machine(
                key=chr(ord("A") + index) if index < 26 else str(index + 1),
                name=machine_name(evaluation),
                evaluation=evaluation,
                command=_whole_command(evaluation, ledger),
                environments=environments,
            )
        )
    return machines


def _process_rows(rows: Sequence[RowFinding]) -> list[tuple[str, list[ProcessRow]]]:
    """For each row of the grid, its label and the numbers of its processes."""
    found = []
    for row in rows:
        quantiles = [np.quantile(process, [0.05, 0.5, 0.95]).tolist() for process in row.pairs]
        words = [[number(value) for value in values] for values in quantiles]
        lines = [
            ProcessRow(index + 1, len(process), *word)
            for index, (process, word) in enumerate(zip(row.pairs, words, strict=True))
        ]
        found.append((row.label or "all", lines))
    return [entry for entry in found if entry[1]]


def _chart_words(finding: Finding, chart: Chart | None) -> str:
    if chart is None:
        return ""
    processes = f"{finding.processes} process" + ("" if finding.processes == 1 else "es")
    words = [f"Figures of {chart['pairs']:,} pairs in {processes}"]
    if chart["drawn"] < chart["pairs"]:
        words.append(f"{chart['drawn']:,} drawn, evenly spaced in rank")
    if chart["beyond"]:
        words.append(f"{chart['beyond']:,} lie beyond the edges (drag to zoom, double-click for all)")
    return "; ".join(words) + "."


def _gate_words(gates: Sequence[Gate]) -> str:
    if not gates:
        return ""
    wrong = sum(not gate.equal for gate in gates)
    largest = [
        max((v for v in (getattr(g, name) for g in gates) if v is not None), default=None)
        for name in ("max_abs", "max_rel")
    ]
    worst = ", ".join(
        f"{name} {number(value)}"
        for name, value in zip(("absolute", "relative"), largest, strict=True)
        if value is not None
    )
    verdict = "all equal" if not wrong else f"{wrong} not equal"
    return f"{len(gates)} checks before the clock, {verdict}" + (f"; largest difference: {worst}" if worst else "")


def _times(rows: Sequence[RowFinding]) -> list[tuple[str, str]]:
    return [
        (
            "" if row.baseline_ns is None else duration_words(row.baseline_ns),
            "" if row.candidate_ns is None else duration_words(row.candidate_ns),
        )
        for row in rows
    ]


def _shown(machine: Machine, finding: Finding, most: int) -> Shown:
    chart = chart_of(finding, most)
    return Shown(
        machine=machine,
        finding=finding,
        chart=chart,
        chart_words=_chart_words(finding, chart),
        processes=_process_rows(finding.rows),
        gates=_gate_words(finding.gates),
        wrong=[gate for gate in finding.gates if not gate.equal],
        times=_times(finding.rows),
        command=_command(machine.evaluation, [finding.id]),
    )


def _span(values: Sequence[float], words: Any) -> tuple[str, str]:
    low, high = words(min(values)), words(max(values))
    return words(float(np.median(values))), "–" if low == high else f"{low} to {high}"


def _grouped(rows: Sequence[Any]) -> list[tuple[tuple[str, str], list[Any]]]:
    def key(row: Any) -> tuple[str, str]:
        return point_name(row.params) or "all", row.variant

    # Sorted stably by first appearance, so that the grid keeps its order.
    order = {name: i for i, name in enumerate(dict.fromkeys(map(key, rows)))}
    return [(name, list(group)) for name, group in groupby(sorted(rows, key=lambda row: order[key(row)]), key=key)]


def _case(machine: Machine, record: Record, name: str, found: Sequence[Roof]) -> CaseView:
    def rows(row_type: type[Any]) -> list[Any]:
        return [row for row in record.of(row_type) if row.case == name]

    memory = [
        (*key, *_span([row.peak_bytes for row in group], _bytes_words), group[0].method)
        for key, group in _grouped(rows(Memory))
    ]
    compiles = [
        (*key, *_span([1e9 * row.seconds for row in group], duration_words)) for key, group in _grouped(rows(Compile))
    ]
    timed = []
    points: dict[str, list[Samples]] = {}
    for sample in rows(Samples):
        points.setdefault(point_name(sample.params) or "all", []).append(sample)
    for point, samples in points.items():
        short = sum(not sample.reached_precision for sample in samples)
        timed.append(
            (
                point,
                str(len(samples)),
                str(sum(2 * sample.rounds for sample in samples)),
                f"{number(sum(sample.seconds for sample in samples))} s",
                f"{100 * max(sample.precision for sample in samples):.2g} %"
                + (f" (budget used up in {short} of {len(samples)})" if short else ""),
            )
        )
    return CaseView(
        machine=machine,
        name=name,
        gates=rows(Gate),
        roofs=[roof for roof in found if roof.case == name],
        memory=memory,
        compiles=compiles,
        failures=rows(Failure),
        timed=timed,
    )


def _cases(machines: Sequence[Machine], records: Sequence[Record], owner: dict[str, str]) -> dict[str, list[CaseView]]:
    """Views of cases by the package that owns them; "" holds what no known claim owns."""
    views: dict[str, list[CaseView]] = {}
    for machine, record in zip(machines, records, strict=True):
        found = roofs(record)
        names = dict.fromkeys(row.case for kind in (Samples, Gate, Memory, Compile, Failure) for row in record.of(kind))
        for name in names:
            views.setdefault(owner.get(name, ""), []).append(_case(machine, record, name, found))
    return views


def page_of(evaluations: Sequence[Evaluation], records: Sequence[Record], claims: Sequence[Claim]) -> Page:
    """Everything that the template prints.

    Args:
        evaluations: What was found, one evaluation a machine.
        records: The record behind each.
        claims: The ledger; it tells the case of each claim and where its figure was published.

    Returns:
        The page.
    """
    machines = _machines(evaluations, claims)
    ledger = {claim.id: claim for claim in claims}
    owner = {claim.figure.case: claim.package for claim in claims if claim.figure is not None}
    most = points_a_process([finding for evaluation in evaluations for finding in evaluation.findings])
    cases = _cases(machines, records, owner)

    packages = []
    for package in packages_of(evaluations):
        ids = dict.fromkeys(f.id for e in evaluations for f in e.findings if f.package == package)
        views = []
        for name in ids:
            shown = [
                _shown(machine, finding, most)
                for machine in machines
                for finding in machine.evaluation.findings
                if finding.id == name
            ]
            claim = ledger.get(name)
            views.append(
                ClaimView(
                    id=name,
                    first=shown[0].finding,
                    claim=claim,
                    case=claim.figure.case if claim is not None and claim.figure is not None else "",
                    verdicts=" ".join(dict.fromkeys(entry.finding.verdict.value for entry in shown)),
                    shown=shown,
                )
            )
        pictures = [(machine, summary_svg(machine.evaluation, package)) for machine in machines]
        packages.append(PackageView(name=package, pictures=pictures, claims=views, cases=cases.pop(package, [])))

    counts = [
        (verdict, sum(verdict.value in claim.verdicts.split() for package in packages for claim in package.claims))
        for verdict in Verdict
    ]
    names = ", ".join(package.name for package in packages)
    return Page(
        title=f"Performance claims of {names}" if len(packages) == 1 else "Performance claims, held to account",
        machines=machines,
        counts=[(verdict, count) for verdict, count in counts if count],
        packages=packages,
        stray=[view for views in cases.values() for view in views],
    )
