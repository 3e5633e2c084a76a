"""Whole steps of training: each switch alone on TMS 5-2, and all of them together on five tasks.

Before the clock, losses and gradients of the first step are compared: parameters, data and draws are the same.
"""

from __future__ import annotations

from functools import partial
from typing import cast

from claimbench.case import Case, Workload
from claimbench.cases.spd.problem import OFF, Build, TaskName, start, step_workload
from claimbench.record import Params
from spd.config.perf import PRESETS, PerfConfig
from spd.models.component_model import ComponentModel
from spd.reference import original
from spd.step_losses import StepLosses
from spd.training import Trainer

__all__ = ["CASES", "SWITCHES"]

SWITCHES: dict[str, PerfConfig] = {
    "inline": PerfConfig(site_backend="inline"),
    "ordered": PerfConfig(site_backend="inline", ordered_sites=True),
    "folded": PerfConfig(delta_mode="folded"),
    "reuse": PerfConfig(site_backend="inline", reuse_prefix=True, reuse_inner_acts=True),
    "dedup": PerfConfig(row_dedup=True),
    "kernel": PerfConfig(ci_kernel="recompute"),
}
"""Ours, each alone; what a pass hands on needs sites that can be told to leave a product out."""


def _switches(params: Params) -> Workload:
    task = cast(TaskName, params["task"])
    builds: dict[str, Build] = {
        "before": partial(start, task=task),
        "hooks": partial(start, task=task, kind=original.HookStateModel),
        "weights": partial(start, task=task, kind=original.CachedWeightsModel),
        **{name: partial(start, task=task, perf=perf) for name, perf in SWITCHES.items()},
    }
    return step_workload(task, builds)


def _all(params: Params) -> Workload:
    task = cast(TaskName, params["task"])
    return step_workload(
        task, {"before": partial(start, task=task, perf=OFF), "best": partial(start, task=task, perf=PRESETS["all"])}
    )


ORIGINAL = (Trainer, StepLosses, ComponentModel)

CASES = (
    Case(
        "spd.all",
        "a training step with everything that is exact switched on",
        "torch",
        _all,
        grid=({"task": "tms_5-2"},),
        variants=("before", "best"),
        original=ORIGINAL,
        budget=2.5,
        precision=0.005,
    ),
    Case(
        "spd.switches",
        "a training step of TMS 5-2 with each switch alone",
        "torch",
        _switches,
        grid=({"task": "tms_5-2"},),
        variants=("before", "hooks", "weights", *SWITCHES),
        original=ORIGINAL,
        budget=4.0,
        precision=0.003,
        slow_grid=({"task": "tms_5-2"},),
    ),
    Case(
        "spd.all_large",
        "the same on larger tasks",
        "torch",
        _all,
        grid=({"task": "resid_mlp1"}, {"task": "tms_40-10"}, {"task": "lm"}, {"task": "lm_mlp"}),
        variants=("before", "best"),
        original=ORIGINAL,
        quick_grid=({"task": "tms_5-2"},),  # steps of a third of a second and more are for full runs
        budget=12.0,
        precision=0.01,
        processes=3,
    ),
)
