"""torch.compile, where the note suggests it: what a step takes then, what the first one takes, and breaks in graphs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch._dynamo

from claimbench.case import Case, Counted, Workload
from claimbench.cases.spd.problem import OFF, Build, inputs_of, start, step_workload
from claimbench.record import Params
from spd.config.perf import PerfConfig
from spd.reference import original
from spd.step_losses import StepLosses
from spd.training import Trainer

__all__ = ["CASES", "COMPILED"]

COMPILED: dict[str, dict[str, Any]] = {
    "ci_fns": {"prepare": lambda trainer: original.compile_ci_fns(trainer.model)},
    "components": {"perf": PerfConfig(compile_components=True)},
    "target": {"perf": PerfConfig(compile_target=True)},
    "losses": {"perf": PerfConfig(compile_losses=True)},
    "full": {"perf": PerfConfig(compile_step=True)},
    "full_inline": {"perf": PerfConfig(compile_step=True, site_backend="inline")},
}
"""As published, and at the end the whole step on sites without hooks, which is ours."""


def _builds() -> dict[str, Build]:
    # Draws stay with one sampler: another one would be compiled for anew.
    how: dict[str, dict[str, Any]] = {"before": {"perf": OFF}, **COMPILED}
    return {name: partial(start, task="tms_5-2", own_draws=False, **given) for name, given in how.items()}


def _steps(_params: Params) -> Workload:
    return step_workload("tms_5-2", _builds())


def _first_calls(_params: Params) -> Iterable[Counted]:
    """The first steps of each: a whole step is compiled at its second.

    The process's caches are those of this run: cold, unless a run goes on.
    """
    inputs = inputs_of("tms_5-2", 1)
    for name, build in _builds().items():
        if name == "before":
            continue
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        began = time.perf_counter()
        started = build(inputs)
        for _ in range(2):
            started.step()
        taken = time.perf_counter() - began
        breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
        graphs = torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)
        yield Counted("first_call", taken, name, "s", "wall time until the third step is done")
        yield Counted("breaks", breaks, name, "", f"in {graphs} graphs of three steps")
    torch._dynamo.reset()


CASES = (
    Case(
        "spd.compile",
        "a step of TMS 5-2 with parts of it compiled",
        "torch",
        _steps,
        grid=({"task": "tms_5-2"},),
        variants=("before", *COMPILED),
        values=_first_calls,
        original=(Trainer, StepLosses),
        budget=5.0,
        precision=0.01,
        processes=3,
    ),
)
