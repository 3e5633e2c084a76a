"""How often a step waits for the device: never with fused AdamW and lazy figures; as often as the original without."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spd.config.perf import PRESETS, PerfConfig
from spd.perf.counting import OperationCounter

QUIET = {"lazy_metrics": True, "optimizer": "fused", "skip_range_checks": True}


def _reads(small: SimpleNamespace, task: str, perf: PerfConfig) -> tuple[OperationCounter, Any]:
    trainer = small.trainer_of(task, perf, gradient_accumulation_steps=2)
    trainer.step(iter(small.batch_of(task).chunk(2)))
    batches = iter(small.batch_of(task, 1).chunk(2))
    with OperationCounter() as counter:
        trainer.step(batches)
    return counter, trainer


@pytest.mark.parametrize("task", ["tms", "resid_mlp", "lm"])
def test_nothing_is_read_on_steps_that_do_not_log(small: SimpleNamespace, task: str) -> None:
    counter, _ = _reads(small, task, PerfConfig(**QUIET))
    assert not counter.reads
    assert counter.n_kernels > 100


@pytest.mark.parametrize("task", ["tms", "resid_mlp", "lm"])
def test_all_switches_read_only_which_rows_are_zeros(small: SimpleNamespace, task: str) -> None:
    perf = PRESETS["all"].model_copy(update={"row_dedup": False})
    counter, _ = _reads(small, task, perf)
    assert not counter.reads


@pytest.mark.parametrize("task", ["tms", "resid_mlp", "lm"])
def test_without_switches_every_figure_is_read(small: SimpleNamespace, task: str) -> None:
    perf = PerfConfig(skip_range_checks=True)
    counter, trainer = _reads(small, task, perf)
    # The count of steps of each parameter, by AdamW; each loss and the total; L0 of each site.
    parameters = sum(p.requires_grad for p in trainer.model.parameters())
    figures = len(trainer.config.loss_metrics) + 1 + len(trainer.model.target_module_paths)
    assert counter.reads["aten::_local_scalar_dense"] == parameters + figures
    assert counter.n_reads == parameters + figures


def test_figures_are_the_same_read_at_once_or_one_by_one(small: SimpleNamespace) -> None:
    found = []
    for lazy in (False, True):
        trainer = small.trainer_of("lm", PerfConfig(lazy_metrics=lazy))
        result = trainer.step(iter([small.batch_of("lm")]), log=True)
        found.append(trainer.figures(result))
        assert found[-1]["loss/FaithfulnessLoss"] == pytest.approx(result.losses["FaithfulnessLoss"].item())
        g = result.importances["up"]
        assert found[-1]["L0/up"] == pytest.approx((g > 0).sum().item() / (32 * 6))
    assert found[0] == pytest.approx(found[1])


def test_reads_and_flags_are_told_from_other_operations() -> None:
    x = torch.ones(4)
    with OperationCounter() as counter:
        _ = x[x > 0], x[torch.tensor([1])], bool(x.any()), x.nonzero(), x + 1
    assert counter.reads == {"aten::index": 1, "aten::_local_scalar_dense": 1, "aten::nonzero": 1}
