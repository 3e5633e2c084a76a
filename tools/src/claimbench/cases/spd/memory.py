"""Passes that are run again instead of kept, and tensors that are let go early: time against memory."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from claimbench.case import Case, Counted, Workload
from claimbench.cases.spd.problem import (
    OFF,
    Started,
    TaskName,
    default_device,
    inputs_of,
    not_timed,
    start,
    step_workload,
)
from claimbench.record import Params
from claimbench.runtimes.torch_memory import peak_bytes
from spd.config.perf import PerfConfig
from spd.perf.memory import measure_peak
from spd.reference import original
from spd.step_losses import StepLosses
from spd.training import Trainer

__all__ = ["CASES"]

TASK: TaskName = "recon_lm"
AGAIN = PerfConfig(grad_checkpointing=True)


def _checkpointing(_params: Params) -> Workload:
    return step_workload(
        TASK, {"before": partial(start, task=TASK, perf=OFF), "after": partial(start, task=TASK, perf=AGAIN)}
    )


def _started(perf: PerfConfig, batch: int) -> Started:
    inputs = inputs_of(TASK, 0)
    inputs["batches"] = [found.repeat(batch // len(found), 1) for found in inputs["batches"]]
    return start(inputs, TASK, perf, batch_size=batch)


def _peaks(_params: Params) -> Iterable[Counted]:
    """Peaks at two sizes of a batch; they grow by the same for each example, so that both give the largest batch."""
    lines: dict[str, tuple[float, float]] = {}
    for name, perf in (("before", OFF), ("after", AGAIN)):
        small, large = (peak_bytes(_started(perf, batch).step) for batch in (4, 8))
        yield Counted("peak", large / 2**20, name, "MiB", "of a step with 8 sequences, beyond what was there before it")
        kept = measure_peak(_started(perf, 8).step, default_device()).saved_for_backward
        yield Counted("kept", kept / 2**20, name, "MiB", "for the backward pass, at most at once")
        lines[name] = ((large - small) / 4, 2 * small - large)
    slope, fixed = lines["before"]
    budget = 16 * slope + fixed
    for name, (slope, fixed) in lines.items():
        largest = int((budget - fixed) / slope)
        yield Counted("largest", largest, name, "", f"sequences that fit into {budget / 2**20:.0f} MiB")


def _held(_params: Params) -> Iterable[Counted]:
    tasks: tuple[TaskName, ...] = ("tms_5-2", TASK)
    for task in tasks:
        for name, delete in (("before", False), ("after", True)):
            started = start(inputs_of(task, 0), task)
            two = partial(original.train_freely, started.trainer, started.batches, 2, delete=delete)
            yield Counted(f"peak {task}", peak_bytes(two) / 2**20, name, "MiB")
        for name, perf in (("off", OFF), ("best", PerfConfig(free_intermediates=True))):
            started = start(inputs_of(task, 0), task, perf)
            yield Counted(f"peak {task}", peak_bytes(partial(_two, started)) / 2**20, name, "MiB")


def _two(started: Started) -> None:
    kept: Any = None
    for _ in range(2):
        kept = started.trainer.step(started.batches)
    del kept


CASES = (
    Case(
        "spd.checkpointing",
        "a step of a small transformer whose masked passes are run again in the backward pass",
        "torch",
        _checkpointing,
        grid=({"task": TASK},),
        variants=("before", "after"),
        values=_peaks,
        quick_values=(),
        original=(Trainer, StepLosses),
        budget=2.5,
        precision=0.01,
        processes=3,
    ),
    Case(
        "spd.freeing",
        "peak of two steps with the last step's tensors held, and let go",
        "torch",
        not_timed,
        values=_held,
        values_grid=({"steps": 2},),
        quick_values=(),
        original=(original.train_freely,),
    ),
)
