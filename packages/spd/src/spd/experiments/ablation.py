"""A quick look at what each switch does to a training step on this machine.

Variants take turns, a block of steps each, so that whatever else the machine does falls on all of them; the ratio is
taken block by block. It says nothing of noise floors or of equality: claimbench does.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from spd.config.perf import PRESETS, PerfConfig
from spd.config.run import Config
from spd.data import batches
from spd.experiments.tasks import build_task
from spd.run_spd import start_trainer

_FIRST = 4

__all__ = ["AblationRow", "ablate", "single_switches"]


@dataclass(frozen=True)
class AblationRow:
    """One variant.

    Args:
        name: of the variant.
        first_ms: the first four steps, with everything that is compiled then.
        cpu_ms: process time of a step, median over blocks.
        wall_ms: time on the clock, median over blocks.
        ratio: how many times as fast as nothing switched on, median over pairs of blocks, by process time.
        low: the smallest of them.
        high: the largest.
    """

    name: str
    first_ms: float
    cpu_ms: float
    wall_ms: float
    ratio: float
    low: float
    high: float


def single_switches() -> dict[str, PerfConfig]:
    """Each switch of the preset "all" on its own.

    Returns:
        By name.
    """
    off, on = PRESETS["none"], PRESETS["all"]
    return {
        name: off.model_copy(update={name: value})
        for name in PerfConfig.model_fields
        if (value := getattr(on, name)) != getattr(off, name)
    }


def ablate(
    config: Config,
    variants: Mapping[str, PerfConfig],
    *,
    blocks: int = 5,
    steps: int = 10,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> list[AblationRow]:
    """Times training steps of each variant, in turns with nothing switched on.

    Args:
        config: the settings.
        variants: by name.
        blocks: turns.
        steps: of a block.
        device: where to run.
        progress: called with turns done, turns in all and the variant's name.

    Returns:
        A row a variant, "none" first.
    """
    task = build_task(config)
    everything = {"none": PRESETS["none"], **variants}
    runs, first = {}, {}
    for name, perf in everything.items():
        own = config.model_copy(update={"perf": perf, "faithfulness_warmup_steps": 0})
        trainer = start_trainer(build_task(own).target, own, device, output_attr=task.output_attr)
        stream = batches(task.train, device, perf)
        started = time.perf_counter()
        # What is compiled is so at the first steps that have each shape.
        for _ in range(_FIRST):
            trainer.step(stream)
        _wait(device)
        first[name] = 1e3 * (time.perf_counter() - started)
        runs[name] = (trainer, stream)
    cpu: dict[str, list[float]] = {name: [] for name in everything}
    wall: dict[str, list[float]] = {name: [] for name in everything}
    total = blocks * len(everything)
    for turn in range(blocks):
        order = list(everything) if turn % 2 == 0 else list(reversed(everything))
        for place, name in enumerate(order):
            if progress is not None:
                progress(turn * len(everything) + place, total, name)
            trainer, stream = runs[name]
            began, began_cpu = time.perf_counter(), time.process_time()
            for _ in range(steps):
                trainer.step(stream)
            _wait(device)
            cpu[name].append(1e3 * (time.process_time() - began_cpu) / steps)
            wall[name].append(1e3 * (time.perf_counter() - began) / steps)
    return [_row(name, first[name], cpu, wall) for name in everything]


def _row(
    name: str, first_ms: float, cpu: Mapping[str, Sequence[float]], wall: Mapping[str, Sequence[float]]
) -> AblationRow:
    ratios = [control / own for control, own in zip(cpu["none"], cpu[name], strict=True)]
    return AblationRow(
        name, first_ms, statistics.median(cpu[name]), statistics.median(wall[name]), statistics.median(ratios),
        min(ratios), max(ratios),
    )  # fmt: skip


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
