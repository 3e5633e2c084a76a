"""The adversary with fewer steps, larger ones, and on a part of the batch: what it costs and what it still finds."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import t as student

from claimbench.case import Case, Counted, Lossy, Workload
from claimbench.cases.spd import problem
from claimbench.cases.spd.problem import OFF, SETTINGS, Build, inputs_of, start, step_workload
from claimbench.record import Params
from spd.config.perf import PerfConfig
from spd.metrics.pgd_recon import pgd_recon_subset_loss

__all__ = ["CASES"]

LOSS = "loss PGDReconSubsetLoss"

BOUND = 0.25
"""Share of the adversary's loss that may be lost on any batch before it is another method; claims ask for less."""

SEEDS = 5

ATTACKS: dict[str, tuple[int, float]] = {"steps": (5, 0.1), "step_size": (5, 0.4)}
"""Steps and step size, against 20 steps of 0.1."""


def _with(steps: int, size: float) -> dict[str, Any]:
    minimality = SETTINGS["pgd_lm"]["loss_metrics"][0]
    return {"loss_metrics": [minimality, problem.adversary(steps, size)]}


def _builds() -> dict[str, Build]:
    builds: dict[str, Build] = {"before": partial(start, task="pgd_lm", perf=OFF)}
    for name, attack in ATTACKS.items():
        builds[name] = partial(start, task="pgd_lm", **_with(*attack))  # type: ignore[arg-type]
    return builds | {"batches": partial(start, task="pgd_lm", perf=PerfConfig(pgd_batch_fraction=0.25))}


def _lost(result: Any, reference: Any) -> float:
    """Share of the loss at the sources that were found; leaves are ten times its logarithm."""
    return float(1 - np.exp((result[LOSS] - reference[LOSS]) / 10))


def _attacks(_params: Params) -> Workload:
    lossy = Lossy(_lost, BOUND, "share of the adversary's loss that is not found")
    return step_workload("pgd_lm", _builds(), lossy=dict.fromkeys((*ATTACKS, "batches"), lossy))


def _found(_params: Params) -> Iterable[Counted]:
    shares: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        inputs = inputs_of("pgd_lm", seed)
        firsts = {name: build(inputs).first for name, build in _builds().items()}
        for name in firsts.keys() - {"before"}:
            shares.setdefault(name, []).append(100 * (1 - _lost(firsts[name], firsts["before"])))
    for name in (*ATTACKS, "batches"):
        mean, error = float(np.mean(shares[name])), float(np.std(shares[name], ddof=1)) / SEEDS**0.5
        reach = float(student.ppf(0.975, SEEDS - 1)) * error
        words = f"of the loss that 20 steps of 0.1 find, at the first step; mean of {SEEDS} seeds"
        yield Counted("found", mean, name, "%", words, (mean - reach, mean + reach))


CASES = (
    Case(
        "spd.pgd",
        "a step with 20 steps of the adversary, and with less of it",
        "torch",
        _attacks,
        grid=({"task": "pgd_lm"},),
        variants=("before", *ATTACKS, "batches"),
        values=_found,
        quick_values=(),
        original=(pgd_recon_subset_loss,),
        budget=4.0,
        precision=0.01,
        processes=3,
    ),
)
