"""Every switch of execution, alone and together, changes neither losses nor gradients of any of three small tasks."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from spd.config.perf import PRESETS, PerfConfig, PgdSchedule
from spd.sampling import SourceSampler
from spd.training import StepResult, Trainer

INLINE = {"site_backend": "inline"}

NEUTRAL: dict[str, Sequence[dict[str, Any]]] = {
    "pin_memory": [{"pin_memory": True}],
    "num_workers": [{"num_workers": 1}],
    "non_blocking": [{"non_blocking": True}],
    "device_prefetch": [{"device_prefetch": True}],
    "site_backend": [{"site_backend": "persistent_hooks"}, INLINE],
    "cache_target_weights": [{"cache_target_weights": True}],
    "fused_unmasked": [{"fused_unmasked": True}],
    "ordered_sites": [{"ordered_sites": True}, {"ordered_sites": True, **INLINE}],
    "pgd_detach": [{"pgd_detach": True}],
    "async_checkpoint": [{"async_checkpoint": True}],
    "async_logging": [{"async_logging": True}],
    "skip_range_checks": [{"skip_range_checks": True}],
    "lazy_metrics": [{"lazy_metrics": True}],
    "gc_policy": [{"gc_policy": "every_n"}, {"gc_policy": "on_oom"}, {"gc_policy": "never"}],
    "gc_every_n": [{"gc_policy": "every_n", "gc_every_n": 1}],
    "grad_checkpointing": [{"grad_checkpointing": True}],
    "free_intermediates": [{"free_intermediates": True}, {"free_intermediates": True, **INLINE}],
    "delta_mode": [{"delta_mode": "folded"}, {"delta_mode": "folded", **INLINE}],
    "ci_kernel": [{"ci_kernel": "broadcast"}, {"ci_kernel": "recompute"}],
    "reuse_prefix": [{"reuse_prefix": True, **INLINE}],
    "reuse_inner_acts": [{"reuse_inner_acts": True, **INLINE}],
    "row_dedup": [{"row_dedup": True}, {"row_dedup": True, "delta_mode": "folded", **INLINE}],
    "optimizer": [{"optimizer": "foreach"}, {"optimizer": "fused"}],
}
"""Settings to try for each switch, on top of none."""

ELSEWHERE = {
    "amp": "changes results: tests/perf/test_precision.py",
    "cuda_graph": "needs a GPU: tests/perf/test_cuda_graph.py",
    **{
        f"compile_{name}": "needs a process without the shape checker: tests/perf/test_compiling.py"
        for name in ("ci_fns", "components", "target", "losses", "step", "mode")
    },
    "pgd_schedule": "changes results: tests of the adversary",
    "pgd_batch_fraction": "changes results: tests of the adversary",
}

OUTSIDE = {
    "pin_memory", "num_workers", "non_blocking", "device_prefetch", "async_checkpoint", "async_logging", "gc_policy",
    "gc_every_n",
}  # fmt: skip
"""Switches of what is done between steps: one task is enough."""

TASKS = ("tms", "resid_mlp", "lm")


class PaddedSampler(SourceSampler):
    """The same numbers for the rows of a batch whether rows of zeros are among them or not.

    Draws are made for all rows; a draw for fewer gets those of the rows that were kept.
    """

    def __init__(self, kept: Tensor) -> None:
        super().__init__(3)
        self._kept = kept

    def _fitted(self, shape: Sequence[int], draw: Callable[[Sequence[int]], Tensor]) -> Tensor:
        rows, kept = self._kept.numel(), int(self._kept.sum())
        places = [place for place, size in enumerate(shape) if size == kept]
        if kept == rows or not places:
            return draw(shape)
        (place,) = places
        return draw([*shape[:place], rows, *shape[place + 1 :]]).index_select(place, self._kept.nonzero().squeeze(1))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self._fitted(shape, super().uniform)

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        return self._fitted(shape, lambda full: super(PaddedSampler, self).integers(high, full))


def _step(trainer: Trainer, batches: Sequence[Tensor]) -> tuple[StepResult, list[Tensor]]:
    """One step; parameters are put back, so that the next is compared from the same ones."""
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    result = trainer.step(iter(batches))
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    with torch.no_grad():
        for p, value in zip(parameters, before, strict=True):
            p.copy_(value)
    return result, gradients


def _same(one: tuple[StepResult, list[Tensor]], two: tuple[StepResult, list[Tensor]]) -> None:
    for name, value in one[0].losses.items():
        assert two[0].losses[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-9), name
    assert two[0].total.item() == pytest.approx(one[0].total.item(), rel=1e-5)
    whole = sum(float(gradient.norm()) for gradient in one[1])
    for a, b in zip(one[1], two[1], strict=True):
        assert float((a - b).norm()) <= 1e-4 * float(a.norm()) + 1e-7 * whole


def _leave_the_edge(trainer: Trainer) -> None:
    """A row of zeros has z = 0 before training, where the slope of a clamp is a matter of convention."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in trainer.model._ci_fns.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.1)


_CONTROLS: dict[tuple[str, int, bool], list[tuple[StepResult, list[Tensor]]]] = {}
"""Steps without switches, computed once."""


def _compare(
    small: SimpleNamespace, task: str, changes: dict[str, Any], parts: int = 1, *, zeros: bool = False
) -> None:
    batch = small.batch_of(task, zeros=zeros)
    kept = batch.any(-1) if zeros and task != "lm" else torch.ones(batch.shape[0], dtype=torch.bool)

    def steps(perf: PerfConfig) -> Iterator[tuple[StepResult, list[Tensor]]]:
        sampler = PaddedSampler(kept) if zeros else SourceSampler(3)
        trainer = small.trainer_of(task, perf, sampler, gradient_accumulation_steps=parts)
        _leave_the_edge(trainer)
        for _ in range(2):
            yield _step(trainer, batch.chunk(parts))

    key = (task, parts, zeros)
    if key not in _CONTROLS:
        _CONTROLS[key] = list(steps(PerfConfig()))
    for one, two in zip(_CONTROLS[key], steps(PerfConfig(**changes)), strict=True):
        _same(one, two)


def test_every_switch_has_a_row() -> None:
    assert NEUTRAL.keys() | ELSEWHERE.keys() == PerfConfig.model_fields.keys()
    for name, settings in NEUTRAL.items():
        for changes in settings:
            assert getattr(PerfConfig(**changes), name) != getattr(PerfConfig(), name), name


@pytest.mark.parametrize(
    ("name", "task"), [(name, task) for name in NEUTRAL for task in (TASKS[:1] if name in OUTSIDE else TASKS)]
)
def test_a_switch_alone_changes_nothing(small: SimpleNamespace, name: str, task: str) -> None:
    for changes in NEUTRAL[name]:
        _compare(small, task, changes)


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("task", TASKS)
def test_all_switches_together_change_nothing(small: SimpleNamespace, task: str, parts: int) -> None:
    _compare(small, task, PRESETS["all"].model_dump(), parts)


def test_rows_of_zeros_change_nothing(small: SimpleNamespace) -> None:
    """The toy model's target has a bias in its second layer, whose input is zero for a row of zeros."""
    for changes in ({"row_dedup": True}, PRESETS["all"].model_dump()):
        _compare(small, "tms", changes, zeros=True)


def test_a_switch_of_method_is_none_of_execution(small: SimpleNamespace) -> None:
    """The comparison can fail: fewer steps of the adversary change the loss."""
    with pytest.raises(AssertionError, match="PGDReconSubsetLoss"):
        _compare(small, "lm", {"pgd_schedule": PgdSchedule(n_steps_start=1)})
