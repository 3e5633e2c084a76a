"""What an evaluation says: a finding a claim, its rows, its fidelity, and what a reader needs to weigh them."""

from __future__ import annotations

from pydantic import BaseModel

from claimbench.record import Environment, Failure, Gate, Probe, Start
from claimbench.verdict import Verdict

__all__ = ["Evaluation", "FidelityFinding", "Finding", "RowFinding"]


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
