"""What a step dispatches, reads and throws away: figures that depend on no machine.

The original's figures are 613, 611 and 6976 "kernel-like" operations of aten a step, and 22 and 123 numbers read by
Python. What was counted as kernel-like was not written down. On TMS 5-2 all operations of aten, views among them, come
closest to 613, and that is the definition here; the other two tasks are then its test. For the transformer the number
of sites, widths and losses are known and its form is not. Of two forms that were tried, GPT-2's has the nearer count
and was taken, so that its agreement is weak evidence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import nn

from claimbench.case import Case, Counted
from claimbench.cases.spd.counting import operations
from claimbench.cases.spd.problem import OFF, TaskName, inputs_of, not_timed, start
from claimbench.record import Params
from spd.config.perf import PRESETS
from spd.models.component_model import ComponentModel
from spd.step_losses import StepLosses
from spd.training import Trainer

__all__ = ["CASES"]


def _counted(params: Params) -> Iterable[Counted]:
    task = cast(TaskName, params["task"])
    inputs = inputs_of(task, 0)
    for variant, perf in (("before", OFF), ("best", PRESETS["all"])):
        started = start(inputs, task, perf)
        model = started.trainer.model
        site = cast(nn.Linear, model.target_model.get_submodule(model.target_module_paths[0]))
        # A TMS model's second layer is a view of the first one's weight: told apart by an address of its own.
        site.weight = nn.Parameter(site.weight.detach().clone(), requires_grad=False)
        found = operations(started.step, site.weight)
        yield Counted("operations", found.all_aten, variant, detail="all operations of aten, views among them")
        yield Counted("reads", found.reads, variant, detail="numbers given to Python in a step that logs nothing")
        yield Counted("frozen_products", found.products, variant, detail="with the first site's weight")


CASES = (
    Case(
        "spd.counts",
        "operations, reads and frozen products of a training step",
        "torch",
        not_timed,
        values=_counted,
        values_grid=({"task": "tms_5-2"}, {"task": "resid_mlp1"}, {"task": "lm"}),
        quick_values=({"task": "tms_5-2"},),
        original=(Trainer, StepLosses, ComponentModel),
    ),
)
