"""Proof that the tool itself is right, on this machine: known truths are planted, and what it finds is compared.

Bars: a winner in at most 1 % of simulated A/A runs; a planted 1.05 found in at least 95 % of simulated runs; a real
slowdown found on the real machine; every wrong, crashing, hanging, lying or killed variant named, and the rest
measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from claimbench import simulate
from claimbench.cases.planted import SLOWDOWN
from claimbench.evaluate import evaluate
from claimbench.findings import Finding
from claimbench.ledger import Band, Claim, Figure, Source
from claimbench.record import Failure, Gate, Record, Samples, read_record
from claimbench.run import RunOptions, measure
from claimbench.verdict import Verdict

__all__ = ["FALSE_WINNERS", "FOUND", "Check", "planted_claims", "run_selftest", "simulated"]

FALSE_WINNERS, FOUND = 0.01, 0.95
"""Bars: share of A/A runs that may name a winner; share of runs in which a planted 1.05 must be found."""

PLANTED = 1.05


@dataclass(frozen=True)
class Check:
    """One thing that was proved, or not.

    Attributes:
        name: What it is.
        passed: Whether it held.
        found: What was seen, in words.
    """

    name: str
    passed: bool
    found: str


def simulated(runs: int, seed: int = 20, *, found_in: int | None = None) -> list[Check]:
    """False winners and found slowdowns on simulated noise.

    Args:
        runs: A/A runs.
        seed: Seed of the noise.
        found_in: Runs with a planted slowdown; as many as A/A runs where it is None.

    Returns:
        Two checks.
    """

    def share(effect: float, count: int) -> float:
        generator = np.random.default_rng(seed)
        found = [simulate.finds_a_winner(*simulate.run(generator, effect), seed=index) for index in range(count)]
        return float(np.mean(found))

    planted = runs if found_in is None else found_in
    false, found = share(1.0, runs), share(PLANTED, planted)
    return [
        Check(f"false winners in {runs} simulated A/A runs", false <= FALSE_WINNERS, f"{false:.2%}, at most 1 %"),
        Check(
            f"a planted {PLANTED} in {planted} simulated runs", found >= FOUND, f"found in {found:.1%}, at least 95 %"
        ),
    ]


def planted_claims() -> tuple[Claim, ...]:
    """Claims about the planted cases whose verdicts are known beforehand."""

    def claim(name: str, band: Band, figure: Figure) -> Claim:
        return Claim(
            id=f"planted.{name}", title=name, published=band.words(""), kind="ratio", band=band, figure=figure,
            source=Source(note="", where="", provenance="ours"), plain="Planted, to prove the tool.",
        )  # fmt: skip

    matmul = {"case": "planted.matmul", "baseline": "before", "transform": "ratio"}
    exact = {"points": 0.1, "tolerance_reason": "planted: the truth is known"}
    return (
        claim("slowdown", Band(about=SLOWDOWN, **exact), Figure(candidate="after", **matmul)),
        claim("sleep", Band(about=1.9, points=0.4, tolerance_reason="a sleep also wakes up late"),
              Figure(case="planted.sleep", candidate="after", baseline="before", clock="wall")),
        claim("same", Band(same=0.1), Figure(candidate="same", **matmul)),
        claim("denied", Band(at_least=2.0), Figure(candidate="after", **matmul)),
        claim("counted", Band(exact=1.25), Figure(quantity="products", candidate="after", **matmul)),
        claim("memory", Band(about=2.0, points=0.2, tolerance_reason="two buffers against one"),
              Figure(case="planted.memory", quantity="memory", candidate="after", baseline="before")),
        claim("off", Band(open=True), Figure(case="planted.wrong", candidate="off", baseline="before")),
    )  # fmt: skip


EXPECTED = {
    "planted.slowdown": Verdict.REPRODUCED,
    "planted.sleep": Verdict.REPRODUCED,
    "planted.same": Verdict.REPRODUCED,
    "planted.denied": Verdict.NOT_REPRODUCED,
    "planted.counted": Verdict.REPRODUCED,
    "planted.memory": Verdict.REPRODUCED,
    "planted.off": Verdict.INCORRECT,
}


def _measured(folder: Path, names: list[str], *, quick: bool = False) -> Record:
    options = RunOptions(out=folder, device="cpu", quick=quick)
    return read_record(measure(options, (), {"claimbench.cases.planted": names}))


def real(folder: Path) -> list[Check]:
    """Planted slowdowns, counts and memory on this machine, judged by the same code as every claim.

    Args:
        folder: Where the record goes.
    """
    record = _measured(folder, ["planted.matmul", "planted.sleep", "planted.memory", "planted.wrong"])
    findings: list[Finding] = evaluate(record, planted_claims()).findings
    checks = [
        Check(f"{f.id} is {EXPECTED[f.id].value.replace('_', ' ')}", f.verdict is EXPECTED[f.id], f.reason)
        for f in findings
    ]
    wrong = {row.variant for row in record.of(Gate) if row.case == "planted.wrong" and not row.equal}
    truth = {"nan", "shape", "parts", "off", "mutates", "too_rough"}
    checks.append(Check("wrong variants are named", wrong == truth, ", ".join(sorted(wrong))))
    raised = [row for row in record.of(Failure) if row.variant == "raises"]
    checks.append(
        Check(
            "an exception is a row", bool(raised), raised[0].reason if raised else "no row for the variant that raises"
        )
    )
    return checks


DEATHS = {
    "planted.segfault": "SIGSEGV",
    "planted.killed": "SIGKILL",
    "planted.hang": "hung",
    "planted.leaves": "stopped early",
    "planted.setup": "always fails",
}


def survival(folder: Path, limit: float) -> list[Check]:
    """Crashing, hanging, lying and killed workers: each a failure row, and the rest is measured.

    Args:
        folder: Where the record goes.
        limit: Seconds after which a worker counts as hanging.
    """
    options = RunOptions(out=folder, device="cpu", quick=True)
    names = [*DEATHS, "planted.prints", "planted.sleep"]
    record = read_record(measure(options, (), {"claimbench.cases.planted": names}, limit=limit))
    checks = []
    for name, word in DEATHS.items():
        reasons = [row.reason for row in record.of(Failure) if row.case == name]
        checks.append(
            Check(f"{name} is an error row", any(word in reason for reason in reasons), "; ".join(reasons) or "no row")
        )
    measured = {row.case for row in record.of(Samples)}
    rest = {"planted.prints", "planted.sleep"} <= measured and record.complete
    checks.append(Check("the rest was measured", rest, f"measured: {', '.join(sorted(measured))}"))
    return checks


def run_selftest(
    *, runs: int = 2000, limit: float = 15.0, report: Callable[[Check], None] = lambda _check: None
) -> bool:
    """Prove the tool on this machine.

    Args:
        runs: Simulated runs of each kind.
        limit: Seconds after which a worker counts as hanging.
        report: Told of each check as it is done.

    Returns:
        Whether every check passed.
    """
    passed = True
    with tempfile.TemporaryDirectory(prefix="claimbench-selftest-") as folder:
        steps: tuple[Callable[[], list[Check]], ...] = (
            lambda: simulated(runs),
            lambda: survival(Path(folder) / "survival", limit),
            lambda: real(Path(folder) / "real"),
        )
        for step in steps:
            for check in step():
                report(check)
                passed &= check.passed
    return passed
