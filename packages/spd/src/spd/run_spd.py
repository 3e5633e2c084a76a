"""Runs a decomposition from its settings: trains, writes down, evaluates, saves, and goes on where it was stopped.

A run's folder holds `config.yaml`, `metrics.jsonl`, `evaluation.json` and `checkpoints/step_<n>.safetensors`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spd import checkpoint
from spd.background import Background
from spd.config.run import Config, write_config
from spd.data import BatchStream, batches, extract_batch_data, to_device
from spd.distributed import Distributed, gathered, shard, share
from spd.errors import CheckpointError, DataError
from spd.eval import Evaluation, evaluate, write_evaluation
from spd.models.component_model import ComponentModel
from spd.run_log import METRICS, RunLog
from spd.training import StepResult, Trainer, build_model, faithfulness_warmup

__all__ = ["CHECKPOINTS", "CONFIG", "RunResult", "evaluate_run", "optimize", "start_trainer"]

CONFIG, CHECKPOINTS = "config.yaml", "checkpoints"
Progress = Callable[[int, int, dict[str, float]], None]
Loader = BatchStream | Iterable[Any]


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Args:
        model: the decomposed network.
        trainer: after its last step.
        evaluation: the last one.
        folder: the run's.
        files: what was written.
    """

    model: ComponentModel
    trainer: Trainer
    evaluation: Evaluation
    folder: Path
    files: list[Path] = field(default_factory=list)


def optimize(
    target_model: nn.Module,
    config: Config,
    device: torch.device | str,
    train_loader: Loader,
    eval_loader: Loader,
    n_eval_steps: int | None,
    out_dir: Path,
    *,
    tied_weights: Sequence[tuple[str, str]] | None = None,
    output_attr: str | None = None,
    resume_from: Path | None = None,
    distributed: Distributed | None = None,
    sharded: bool = False,
    callbacks: Sequence[Callable[[Trainer, StepResult], None]] = (),
    progress: Progress | None = None,
) -> RunResult:
    """Decomposes a network.

    Args:
        target_model: the trained network. It is frozen, and identities are inserted where the settings ask for them.
        config: the settings.
        device: where to run.
        train_loader: batches by index, or any iterable of batches, which is begun anew when it ends. Of an iterable, a
            run that goes on skips the batches it has seen; it must give the same ones again.
        eval_loader: the same for evaluations, which begin it anew each time.
        n_eval_steps: batches of an evaluation; None = as the settings say.
        out_dir: the run's folder.
        tied_weights: pairs of sites that are each other's transposes; None = those of the settings.
        output_attr: of what the target returns: None = itself, an attribute's name, or "idx_0" for an element.
        resume_from: a checkpoint of a run with the same settings.
        distributed: this process of several, each of which calls this with loaders that give its share of a batch; one
            of them writes.
        sharded: each process holds its share of the target and of what is trained; else all of both.
        callbacks: called after each step with the trainer and what the step computed.
        progress: called when figures are read: steps done, all steps, and the figures.

    Returns:
        The decomposed network, the trainer and the last evaluation.

    Raises:
        TargetError: patterns that cannot be meant, or modules that cannot be decomposed.
        CheckpointError: a checkpoint that is damaged or of other settings, or a folder that holds another run.
        DivergenceError: a loss that is not finite. The last checkpoint is whole.
    """
    if tied_weights is not None:
        config = config.model_copy(update={"tied_weights": tuple(tied_weights)})
    distributed = distributed or Distributed(device=torch.device(device))
    _refuse_another_run(out_dir, resume_from)
    trainer = start_trainer(
        target_model, config, device, output_attr=output_attr, resume_from=resume_from, distributed=distributed,
        sharded=sharded,
    )  # fmt: skip
    if distributed.is_main:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_config(config, out_dir / CONFIG)
    run = _Run(trainer, distributed, train_loader, eval_loader, n_eval_steps or config.n_eval_steps, out_dir)
    return run.to_the_end(callbacks, progress)


def start_trainer(
    target_model: nn.Module,
    config: Config,
    device: torch.device | str,
    *,
    output_attr: str | None = None,
    resume_from: Path | None = None,
    distributed: Distributed | None = None,
    sharded: bool = False,
) -> Trainer:
    """A trainer before its first step, or where a checkpoint was made.

    Args:
        target_model: the trained network.
        config: the settings.
        device: where to run.
        output_attr: of what the target returns.
        resume_from: a checkpoint.
        distributed: this process of several.
        sharded: each process holds its share of the target and of what is trained.

    Returns:
        The trainer; faithfulness was trained for already.

    Raises:
        TargetError: patterns that cannot be meant, or modules that cannot be decomposed.
        CheckpointError: a checkpoint that is damaged or of other settings.
    """
    distributed = distributed or Distributed(device=torch.device(device))
    model = build_model(target_model.to(device), config, output_attr=output_attr)
    trainer = Trainer(model, config, distributed.sampler(config.seed))
    if resume_from is None:
        faithfulness_warmup(model, config)
    else:
        checkpoint.restore(trainer, resume_from, distributed)
    (shard if sharded else share)(trainer, distributed)
    return trainer


def evaluate_run(
    trainer: Trainer,
    device: torch.device | str,
    loader: Loader,
    n_steps: int,
    *,
    slow: bool,
    distributed: Distributed | None = None,
) -> Evaluation:
    """Evaluates, with data and draws that are the same each time and nobody else's.

    Args:
        trainer: at any step.
        device: where to run.
        loader: batches of evaluation.
        n_steps: how many of them.
        slow: also what takes long, and what is drawn.
        distributed: this process of several, all of which take part.

    Returns:
        What was measured.
    """
    config, distributed = trainer.config, distributed or Distributed(device=torch.device(device))
    with gathered(trainer) as model:
        return evaluate(
            model, config, _stream(loader, device, config, 0), n_steps, distributed.sampler(config.eval_seed),
            slow=slow, fraction=min(1.0, trainer.step_count / config.steps),
            reduce_mean=distributed.mean if distributed.world_size > 1 else None, world_size=distributed.world_size,
        )  # fmt: skip


class _Run:
    """One run, from the trainer's present step to the last."""

    def __init__(
        self,
        trainer: Trainer,
        distributed: Distributed,
        train_loader: Loader,
        eval_loader: Loader,
        n_eval_steps: int,
        folder: Path,
    ) -> None:
        self.trainer, self.config, self.folder = trainer, trainer.config, folder
        self.distributed, self.device = distributed, distributed.device
        self.train_loader, self.eval_loader, self.n_eval_steps = train_loader, eval_loader, n_eval_steps
        self.saved: list[Path] = []
        self.log: RunLog | None = None

    def to_the_end(
        self, callbacks: Sequence[Callable[[Trainer, StepResult], None]], progress: Progress | None
    ) -> RunResult:
        config, trainer, perf = self.config, self.trainer, self.config.perf
        first = trainer.step_count
        stream = _stream(self.train_loader, self.device, config, first * config.gradient_accumulation_steps)
        with ExitStack() as stack:
            if self.distributed.is_main:
                self.log = stack.enter_context(self._open_log(first))
            self.saver = stack.enter_context(Background(threaded=perf.async_checkpoint, name="checkpoint"))
            if first == 0 and config.eval_freq is not None:
                self._evaluate(slow=config.slow_eval_on_first_step and config.slow_eval_freq is not None)
            while trainer.step_count < config.steps:
                following = trainer.step_count + 1
                logs = following in (1, config.steps) or _due(following, config.train_log_freq)
                result = trainer.step(stream, log=logs)
                if logs:
                    figures = self._figures(result)
                    self._write(figures)
                    if progress is not None:
                        progress(trainer.step_count, config.steps, figures)
                for callback in callbacks:
                    callback(trainer, result)
                self._between_steps()
            evaluation = self._evaluate(slow=True)
            self._save()
        files = [self.folder / CONFIG, self.folder / METRICS, *self.saved[-1:]]
        if self.distributed.is_main:
            files += write_evaluation(evaluation, self.folder)
        return RunResult(trainer.model, trainer, evaluation, self.folder, files)

    def _open_log(self, first: int) -> RunLog:
        config = self.config
        return RunLog(
            self.folder, start_step=first, asynchronous=config.perf.async_logging, project=config.wandb_project,
            name=config.wandb_run_name, settings=config.model_dump(mode="json"),
        )  # fmt: skip

    def _write(self, figures: Mapping[str, float]) -> None:
        if self.log is not None:
            self.log.write(self.trainer.step_count, figures)

    def _figures(self, result: StepResult) -> dict[str, float]:
        """Figures over all processes; a loss that is not finite stops all of them."""
        figures = self.trainer.figures(result)
        if self.distributed.world_size > 1:
            together = self.distributed.mean(torch.tensor(list(figures.values()), device=self.device))
            figures = dict(zip(figures, together.tolist(), strict=True))
        self.trainer.check(figures)
        return figures

    def _between_steps(self) -> None:
        config, done = self.config, self.trainer.step_count
        self.trainer.memory.after_step(done)
        if done == config.steps:
            return
        if config.eval_freq is not None and _due(done, config.eval_freq):
            self._evaluate(slow=config.slow_eval_freq is not None and _due(done, config.slow_eval_freq))
        if config.save_freq is not None and _due(done, config.save_freq):
            self._save()

    def _evaluate(self, *, slow: bool) -> Evaluation:
        found = evaluate_run(
            self.trainer, self.device, self.eval_loader, self.n_eval_steps, slow=slow, distributed=self.distributed
        )
        self._write({f"eval/{name}": value for name, value in found.numbers.items()})
        self.trainer.memory.after_evaluation()
        return found

    def _save(self) -> None:
        with gathered(self.trainer):
            self.trainer.check_parameters()
        self.saved.append(checkpoint.save(self.trainer, self.folder / CHECKPOINTS, self.saver, self.distributed))


def _due(step: int, every: int) -> bool:
    return step % every == 0


def _refuse_another_run(folder: Path, resume_from: Path | None) -> None:
    found = checkpoint.latest(folder / CHECKPOINTS)
    if found is not None and resume_from is None:
        raise CheckpointError(
            f"a run has a folder of its own; {folder} holds {found.name} of another. Go on with it (--resume), or name "
            "another folder (--out)."
        )


def _stream(loader: Loader, device: torch.device | str, config: Config, start: int) -> Iterator[Tensor]:
    """Batches on the device from an index on."""
    if isinstance(loader, BatchStream):
        return batches(loader, device, config.perf, start=start)
    non_blocking = config.perf.non_blocking
    return (
        to_device(extract_batch_data(item), device, non_blocking=non_blocking)
        for item in islice(_over_and_over(loader), start, None)
    )


def _over_and_over(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for item in loader:
            empty = False
            yield item
        if empty:
            raise DataError("a loader gives batches; this one gave none. Give it more data, or smaller batches.")
