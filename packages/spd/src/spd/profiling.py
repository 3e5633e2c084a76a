"""Where the time of a training step goes, seen in three ways.

====== =============================================================================================================
mode   what it shows
====== =============================================================================================================
trace  operations, by PyTorch's profiler: one step is left out, one warms up, three are recorded with shapes, memory
       and stacks; a trace for a viewer is written beside the table
events parts of a step: the target's pass, importances, each loss, the backward pass, the optimizer
timer  whole steps, with the device synchronised before and after each
====== =============================================================================================================

These are the three of *Performance Optimization Opportunities*.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.profiler import ProfilerActivity, schedule, tensorboard_trace_handler
from torch.profiler import profile as torch_profile

from spd.errors import ConfigError
from spd.training import Trainer

__all__ = ["Profile", "ProfileMode", "profile"]

ProfileMode = Literal["trace", "events", "timer"]

_WAIT, _WARMUP, _ACTIVE = 1, 1, 3
_TOP = 25


@dataclass(frozen=True)
class Profile:
    """A table, and files that belong to it.

    Args:
        mode: how it was taken.
        columns: what the columns are.
        rows: the table.
        files: what was written.
    """

    mode: ProfileMode
    columns: tuple[str, ...]
    rows: list[tuple[str | int | float, ...]]
    files: list[Path] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"mode": self.mode, "rows": rows, "files": [str(path) for path in self.files]}


def profile(
    trainer: Trainer,
    batches: Iterator[Shaped[Tensor, "..."]],
    mode: ProfileMode = "events",
    steps: int = 20,
    out: Path | None = None,
) -> Profile:
    """Takes steps of training and says where their time went. The trainer is trained by them.

    Two steps are taken first that do not count: compilation and first allocations are in them.

    Args:
        trainer: whose steps.
        batches: for them.
        mode: how to look.
        steps: how many count; a trace has three.
        out: folder of a trace; it is made where it is missing.

    Returns:
        The table.

    Raises:
        ConfigError: no steps, or a trace without a folder.
    """
    if steps < 1:
        raise ConfigError(f"a profile is of at least one step; got {steps}. Raise steps.")
    for _ in range(2):
        trainer.step(batches)
    if mode == "trace":
        if out is None:
            raise ConfigError("a trace is written to a folder; none was named. Give out.")
        return _trace(trainer, batches, out)
    return _timer(trainer, batches, steps) if mode == "timer" else _events(trainer, batches, steps)


# --- whole steps ------------------------------------------------------------------------------------------------------


def _timer(trainer: Trainer, batches: Iterator[Tensor], steps: int) -> Profile:
    rows: list[tuple[str | int | float, ...]] = []
    for _ in range(steps):
        _synchronise(trainer)
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.step(batches)
        _synchronise(trainer)
        rows.append((
            str(trainer.step_count), 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)
        ))  # fmt: skip
    walls, cpus = ([float(row[place]) for row in rows] for place in (1, 2))
    rows.append(("median", statistics.median(walls), statistics.median(cpus)))
    return Profile("timer", ("step", "wall ms", "process ms"), rows)


def _synchronise(trainer: Trainer) -> None:
    if trainer.sampler.device.type == "cuda":
        torch.cuda.synchronize(trainer.sampler.device)


# --- parts of a step --------------------------------------------------------------------------------------------------


class _Clock:
    """Adds up the time of parts, on the GPU by events that nothing waits for until the end."""

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._events: list[tuple[str, Any, Any]] = []
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        begin = self._mark()
        try:
            yield
        finally:
            end = self._mark()
            if self._on_gpu:
                self._events.append((name, begin, end))
            else:
                self.wall[name] = self.wall.get(name, 0.0) + 1e3 * (time.perf_counter() - wall)
            self.cpu[name] = self.cpu.get(name, 0.0) + 1e3 * (time.process_time() - cpu)

    def _mark(self) -> Any:
        if not self._on_gpu:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def finish(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()
        for name, begin, end in self._events:
            self.wall[name] = self.wall.get(name, 0.0) + begin.elapsed_time(end)


def _events(trainer: Trainer, batches: Iterator[Tensor], steps: int) -> Profile:
    clock = _Clock(trainer.sampler.device.type == "cuda")
    before: Callable[[str], Any] | None = trainer.own_losses.phase
    trainer.own_losses.phase = clock.part
    try:
        for _ in range(steps):
            with clock.part("step"):
                trainer.step(batches)
    finally:
        trainer.own_losses.phase = before
    clock.finish()
    whole, whole_cpu = clock.wall.pop("step"), clock.cpu.pop("step")
    rows: list[tuple[str | int | float, ...]] = [
        (name, wall / steps, clock.cpu[name] / steps, 100 * wall / whole) for name, wall in clock.wall.items()
    ]
    rest, rest_cpu = whole - sum(clock.wall.values()), whole_cpu - sum(clock.cpu.values())
    rows.append(("rest", rest / steps, rest_cpu / steps, 100 * rest / whole))
    rows.append(("step", whole / steps, whole_cpu / steps, 100.0))
    return Profile("events", ("part", "wall ms", "process ms", "% of the step"), rows)


# --- operations -------------------------------------------------------------------------------------------------------


def _trace(trainer: Trainer, batches: Iterator[Tensor], out: Path) -> Profile:
    out.mkdir(parents=True, exist_ok=True)
    there = set(out.iterdir())
    on_gpu = trainer.sampler.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with torch_profile(
        activities=activities, schedule=schedule(wait=_WAIT, warmup=_WARMUP, active=_ACTIVE, repeat=1),
        on_trace_ready=tensorboard_trace_handler(str(out)), record_shapes=True, profile_memory=True, with_stack=True,
    ) as profiler:  # fmt: skip
        for _ in range(_WAIT + _WARMUP + _ACTIVE):
            trainer.step(batches)
            profiler.step()
    averages = profiler.key_averages()
    device_time = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    ordered = sorted(averages, key=lambda event: getattr(event, device_time), reverse=True)[:_TOP]
    rows: list[tuple[str | int | float, ...]] = [
        (
            event.key, event.count, event.self_cpu_time_total / 1e3,
            (event.self_device_time_total if on_gpu else 0) / 1e3,
            (event.self_device_memory_usage if on_gpu else event.self_cpu_memory_usage) / 2**20,
        )
        for event in ordered
    ]  # fmt: skip
    columns = ("operation", "calls", "own CPU ms", "own GPU ms", "own MiB")
    return Profile("trace", columns, rows, sorted(set(out.iterdir()) - there))
