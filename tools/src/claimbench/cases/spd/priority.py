"""The note's ranking against what its items save here, each measured on the same transformer in one process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from claimbench import statistics
from claimbench.case import Case, Counted
from claimbench.cases.spd.problem import Started, inputs_of, not_timed, start
from claimbench.cases.spd.writing import EVALUATIONS
from claimbench.record import Params
from claimbench.turns import in_turns, seconds
from spd.config.perf import PerfConfig
from spd.reference import original

__all__ = ["CASES", "CLASSES", "agreement"]

CLASSES: dict[str, int] = {
    "compile ci_fns": 3, "async checkpointing": 3, "compile target": 3, "fewer gc.collect()": 3,
    "persistent hooks": 2, "less of the adversary": 1, "fused product": 1,
}  # fmt: skip
"""Impact as the note rates it: high, medium, and "profile first". Items that only a GPU has are left out."""

SAVES = 1000
"""Steps between two checkpoints."""

DRAWS = 400


def _variants(inputs: dict[str, Any]) -> dict[str, Started]:
    few: dict[str, Any] = {"loss_metrics": _losses(5)}
    many: dict[str, Any] = {"loss_metrics": _losses(20)}
    return {
        "before": start(inputs, "pgd_lm", own_draws=False, **many),
        "compile ci_fns": start(
            inputs, "pgd_lm", own_draws=False, prepare=lambda trainer: original.compile_ci_fns(trainer.model), **many
        ),
        "compile target": start(inputs, "pgd_lm", PerfConfig(compile_target=True), own_draws=False, **many),
        "persistent hooks": start(inputs, "pgd_lm", own_draws=False, kind=original.HookStateModel, **many),
        "less of the adversary": start(inputs, "pgd_lm", own_draws=False, **few),
        "fused product": start(inputs, "pgd_lm", PerfConfig(fused_unmasked=True), own_draws=False, **many),
    }


def _losses(steps: int) -> list[dict[str, Any]]:
    return [
        {"classname": "ImportanceMinimalityLoss", "coeff": 2e-3, "pnorm": 2.0},
        {"classname": "UnmaskedReconLoss", "coeff": 0.5},
        {"classname": "PGDReconSubsetLoss", "coeff": 0.5, "step_size": 0.1, "n_steps": steps},
    ]


def agreement(shares: dict[str, float]) -> float:
    """Kendall's τ-b between classes of impact and shares of time saved.

    Args:
        shares: By item.
    """
    return float(kendalltau([CLASSES[name] for name in shares], list(shares.values())).statistic)


def _measured(_params: Params) -> Iterable[Counted]:
    started = _variants(inputs_of("pgd_lm", 0))
    for one in started.values():
        one.step()
    saver = original.AsyncSaver()
    with tempfile.TemporaryDirectory(prefix="claimbench-spd-") as folder:
        path, model = Path(folder) / "model.pth", started["before"].trainer.model

        def handed_over() -> float:
            taken = seconds(lambda: saver.save(model.state_dict(), path))
            saver.queue.join()
            return taken

        calls: dict[str, Callable[[], float]] = {
            name: partial(seconds, one.step, time.process_time) for name, one in started.items()
        }  # fmt: skip
        calls |= {
            "save": lambda: seconds(lambda: original.save_at_once(model.state_dict(), path)),
            "hand over": handed_over,
            "collect": lambda: seconds(original.collect_before, time.process_time),
        }
        found = in_turns(calls, rounds=8)
    shares = _shares({name: np.log(values) for name, values in found.items()})
    for name, share in shares.items():
        yield Counted(f"share {name}", share, "after", "%", "of training time that it saves")
    generator = np.random.default_rng(0)
    taus = []
    for _ in range(DRAWS):
        rows = generator.integers(0, len(found["before"]), len(found["before"]))
        taus.append(agreement(_shares({name: np.log(values[rows]) for name, values in found.items()})))
    words = "; ".join(f"{name} {share:.2g} %" for name, share in sorted(shares.items(), key=lambda item: -item[1]))
    low, high = statistics.interval(np.asarray(taus))
    yield Counted(
        "tau", agreement(shares), "after", "", words, (min(low, agreement(shares)), max(high, agreement(shares)))
    )
    torch._dynamo.reset()


def _shares(logs: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of training time that each item saves, in per cent, from logarithms of times in the same rounds."""
    step = float(np.exp(statistics.winsorised_mean(logs["before"])))

    def saved(name: str) -> float:
        return 100 * (1 - float(np.exp(statistics.winsorised_mean(logs[name] - logs["before"]))))

    def every(steps: int, name: str, left: str | None = None) -> float:
        gone = float(np.exp(statistics.winsorised_mean(logs[name])))
        gone -= 0.0 if left is None else float(np.exp(statistics.winsorised_mean(logs[left])))
        return 100 * gone / (steps * step)

    found = {name: saved(name) for name in CLASSES if name in logs}
    found["async checkpointing"] = every(SAVES, "save", "hand over")
    found["fewer gc.collect()"] = every(EVALUATIONS, "collect")
    return {name: found[name] for name in CLASSES}


CASES = (
    Case(
        "spd.priority",
        "shares of training time that the items of the ranking save",
        "torch",
        not_timed,
        values=_measured,
        values_grid=({"items": len(CLASSES)},),
        original=(original.HookStateModel, original.compile_ci_fns),
    ),
)
