"""One decomposition from its settings alone, many with different seeds, and a run's folder opened again."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from spd import checkpoint
from spd.config.run import Config, read_config
from spd.distributed import Distributed
from spd.errors import CheckpointError
from spd.eval import Evaluation
from spd.experiments.task import Task
from spd.experiments.tasks import build_task
from spd.experiments.verdict import Check, checks_of
from spd.files import write_whole
from spd.run_spd import CHECKPOINTS, CONFIG, Progress, RunResult, evaluate_run, optimize, start_trainer
from spd.training import Trainer

__all__ = ["OpenedRun", "SeedRow", "decompose", "decompose_seeds", "evaluate_again", "open_run"]

SEEDS = "seeds.json"
SeedProgress = Callable[[int, int, dict[str, float], int], None]


def decompose(
    config: Config,
    out: Path,
    device: torch.device | str,
    *,
    resume: bool = False,
    distributed: Distributed | None = None,
    sharded: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Builds target and data as the settings say, and decomposes.

    Args:
        config: the settings, with a task.
        out: the run's folder.
        device: where to run.
        resume: go on from the last checkpoint in the folder, if there is one.
        distributed: this process of several, see `spd.run_spd.optimize`.
        sharded: see there.
        progress: see there.

    Returns:
        What the run came to.
    """
    distributed = distributed or Distributed(device=torch.device(device))
    task = build_task(config, rank=distributed.rank, world_size=distributed.world_size)
    return optimize(
        task.target, config, device, task.train, task.eval, config.n_eval_steps, out,
        output_attr=task.output_attr, resume_from=checkpoint.latest(out / CHECKPOINTS) if resume else None,
        distributed=distributed, sharded=sharded, progress=progress,
    )  # fmt: skip


@dataclass(frozen=True)
class OpenedRun:
    """A run that was done before.

    Args:
        trainer: where the checkpoint was made.
        task: its target and data.
        checkpoint: the file.
    """

    trainer: Trainer
    task: Task
    checkpoint: Path


def open_run(folder: Path, device: torch.device | str) -> OpenedRun:
    """Opens a run's folder.

    Args:
        folder: the run's.
        device: where to run.

    Returns:
        The run at its last checkpoint.

    Raises:
        CheckpointError: no run there.
    """
    found = checkpoint.latest(folder / CHECKPOINTS)
    if found is None or not (folder / CONFIG).exists():
        raise CheckpointError(
            f"a run's folder holds {CONFIG} and a checkpoint; {folder} does not. Name the folder that the run printed."
        )
    config = read_config(folder / CONFIG)
    task = build_task(config)
    trainer = start_trainer(task.target, config, device, output_attr=task.output_attr, resume_from=found)
    return OpenedRun(trainer, task, found)


def evaluate_again(run: OpenedRun, device: torch.device | str) -> Evaluation:
    """A slow evaluation of a run that was done before.

    Args:
        run: from `open_run`.
        device: where to run.

    Returns:
        What was measured: the same figures as at the run's end.
    """
    return evaluate_run(run.trainer, device, run.task.eval, run.trainer.config.n_eval_steps, slow=True)


@dataclass(frozen=True)
class SeedRow:
    """What a run with one seed came to.

    Args:
        seed: of components, data and masks.
        seconds: of the run, without building its target.
        checks: what should hold.
        numbers: all figures of the last evaluation.
    """

    seed: int
    seconds: float
    checks: list[Check]
    numbers: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether everything that should hold does, and something should."""
        return bool(self.checks) and all(check.passed for check in self.checks)


def decompose_seeds(
    config: Config,
    out: Path,
    seeds: Sequence[int],
    device: torch.device | str,
    *,
    resume: bool = False,
    distributed: Distributed | None = None,
    sharded: bool = False,
    progress: SeedProgress | None = None,
) -> list[SeedRow]:
    """Decomposes the same target with several seeds, each in a folder of its own, and writes the table.

    Args:
        config: the settings, whose own seed is replaced.
        out: where the runs' folders are, and `seeds.json`.
        seeds: the seeds.
        device: where to run.
        resume: go on with runs that were stopped; finished ones are evaluated only.
        distributed: this process of several, see `spd.run_spd.optimize`.
        sharded: see there.
        progress: as in `decompose`, with the seed.

    Returns:
        A row a seed.
    """
    rows = []
    for seed in seeds:
        started = time.perf_counter()
        own = None if progress is None else partial(_with_seed, progress, seed)
        result = decompose(
            config.model_copy(update={"seed": seed}), out / f"seed-{seed}", device, resume=resume,
            distributed=distributed, sharded=sharded,
            progress=own,
        )  # fmt: skip
        numbers = result.evaluation.numbers
        rows.append(SeedRow(seed, time.perf_counter() - started, checks_of(config, numbers), numbers))
        if distributed is None or distributed.is_main:
            _write_rows(out / SEEDS, rows)
    return rows


def _with_seed(progress: SeedProgress, seed: int, done: int, total: int, figures: dict[str, float]) -> None:
    progress(done, total, figures, seed)


def _write_rows(path: Path, rows: Sequence[SeedRow]) -> None:
    document = [
        {
            "seed": row.seed, "seconds": row.seconds, "passed": row.passed,
            "checks": [vars(check) for check in row.checks], "numbers": row.numbers,
        }
        for row in rows
    ]  # fmt: skip
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(document, indent=1), encoding="utf-8"))
