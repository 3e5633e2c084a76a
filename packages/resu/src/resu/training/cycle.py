"""Training in cycles: the trainer, and what belongs to a cycle.

The clock of the phases is `RESUCycle`; `RESUTrainer` puts a training loop around it.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from resu.checkpoint import Checkpoint, load, restore, save
from resu.config import CycleConfig
from resu.errors import CheckpointError, ConfigError
from resu.optim.masked import MaskedAdamW
from resu.optim.stock import Attachment
from resu.pruning.wanda import ColumnStatistics, calibrate
from resu.sparsifier import Sparsifier
from resu.training.clock import RESUCycle, heed_masks, stepped
from resu.training.densification import DensificationPlan, Pause
from resu.training.position import LoaderPosition
from resu.training.prune import Pruner, Stabilizer
from resu.training.stats import CyclePhase, CycleStats

__all__ = [
    "CyclePhase",
    "CycleStats",
    "EvalFn",
    "Logger",
    "Pruner",
    "RESUCycle",
    "RESUTrainer",
    "Stabilizer",
    "TrainFn",
]

TrainFn = Callable[[nn.Module, Any], Float[Tensor, ""]]
"""Gets the model and a batch, returns the loss."""
EvalFn = Callable[[nn.Module], float | Mapping[str, float]]
"""Gets the model, returns one number or several by name."""
Logger = Callable[[Mapping[str, Any]], None]
"""Gets what there is to say, by name; always with `step`."""

_log = logging.getLogger(__name__)


class RESUTrainer:
    """Trains a model in cycles: batches, steps, logs, evaluations and checkpoints around a `RESUCycle`.

    Args:
        model: the model; its modules and parameters stay the same objects.
        config: the settings; a plan changes cycles and sparsities.
        optimizer: `MaskedAdamW`, `MaskedSGD`, a stock coordinate-wise optimizer, or what `attach` returned; None makes
            a `MaskedAdamW` from the settings, with their warm-up.
        train_fn: gets the model and a batch, returns the loss.
        pruner: gives the masks of PRUNE; None prunes by `config.pruning`.
        stabilizer: called after each PRUNE; may give better masks.
        eval_fn: gets the model, returns one number or several by name.
        logger: gets what there is to say, by name; log lines go to `logging` in any case.
        scheduler: of the learning rate, stepped after each optimizer step.
        sparsifier: masks made elsewhere; None puts masks on all linear, convolution and embedding weights.
        plan: sparsities and pauses of a densification.
        checkpoint: the file to write to; one that is there already is gone on from.

    Attributes:
        cycle: the clock.
        pause: the pause at which the last `train` stopped.
        evaluations: steps and what was measured there.

    Raises:
        ConfigError: settings that cannot be run with this optimizer or sparsifier.
        OptimizerError: an optimizer that cannot keep weights frozen, or does not hold them.
        MaskError: weights that have masks of another sparsifier.

    >>> model = nn.Linear(8, 2)
    >>> config = CycleConfig.preset("quick", num_cycles=1, steps_per_cycle=10)
    >>> optimizer = MaskedAdamW(model.parameters(), backend="eager")
    >>> trainer = RESUTrainer(model, config, optimizer, lambda model, x: model(x).square().mean())
    >>> [round(stats.sparsity, 2) for stats in trainer.train([torch.ones(4, 8)])]
    [0.5]
    """

    def __init__(
        self,
        model: nn.Module,
        config: CycleConfig,
        optimizer: Optimizer | Attachment | None,
        train_fn: TrainFn,
        pruner: Pruner | None = None,
        stabilizer: Stabilizer | None = None,
        eval_fn: EvalFn | None = None,
        logger: Logger | None = None,
        *,
        scheduler: LRScheduler | None = None,
        sparsifier: Sparsifier | None = None,
        plan: DensificationPlan | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        config = config if plan is None else plan.configure(config)
        if optimizer is None:
            optimizer = MaskedAdamW(model.parameters(), lr=config.base_lr, weight_decay=config.weight_decay)
            if scheduler is None and config.warmup_steps:
                scheduler = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / config.warmup_steps))
        known = None if sparsifier is None else sparsifier.optimizer
        masked = (
            known if isinstance(known, Attachment) and known.optimizer is optimizer else heed_masks(model, optimizer)
        )
        if sparsifier is None:
            sparsifier = Sparsifier(
                model, config.target_sparsity, distribution=config.distribution, optimizer=masked, seed=config.seed
            )
        self.model, self.config, self.train_fn, self.plan = model, config, train_fn, plan
        self.eval_fn, self.logger, self.scheduler, self.sparsifier = eval_fn, logger, scheduler, sparsifier
        self.optimizer = stepped(masked)
        self.cycle = RESUCycle(
            sparsifier, config, masked, pruner=pruner, stabilizer=stabilizer, calibration=self._calibrate
        )
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.pause: Pause | None = None
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self._position = LoaderPosition()
        self._loader: Iterable[Any] = ()

    def train(
        self, loader: Iterable[Any], *, max_steps: int | None = None, until_pause: bool = False, resume: bool = True
    ) -> list[CycleStats]:
        """Trains until all steps are done, or as far as is asked for; a further call goes on from there.

        Args:
            loader: gives the batches of an epoch each time it is iterated over.
            max_steps: steps of this call at most.
            until_pause: stop where the plan has a pause, and show it in `pause`.
            resume: go on from the checkpoint's file, where there is one and nothing has been trained yet.

        Returns:
            The cycles that are over, from the first on.

        Raises:
            ConfigError: a loader that can be read only once, or is empty; a `train_fn` that returns no loss.
            CheckpointError: a file that cannot be trusted, or of another training.
        """
        if resume and self.checkpoint is not None and self.checkpoint.is_file() and not self.cycle.step:
            self.load(self.checkpoint)
        self._loader, self.pause = loader, None
        self.model.train()
        self.cycle.start()
        last = None if max_steps is None else self.cycle.step + max_steps
        while not self.cycle.done and (last is None or self.cycle.step < last):
            finished = self._train_step(self._position.next_batch(loader))
            if finished is not None and self._end_cycle(finished) and until_pause:
                break
        return list(self.cycle.history)

    def _train_step(self, batch: Any) -> CycleStats | None:
        phase = self.cycle.phase
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.train_fn(self.model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise ConfigError(
                f"train_fn returns the loss, one number with a gradient; it returned {_described(loss)}. Return "
                "loss_function(model(inputs), targets)."
            )
        loss.backward()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        finished = self.cycle.advance(loss.detach())
        config, step = self.config, self.cycle.step
        if step % config.log_every == 0:
            self._tell({"step": step, "cycle": self.cycle.cycle, "phase": str(phase), "loss": float(loss.detach())})
        if self.eval_fn is not None and (step % config.eval_every == 0 or self.cycle.done):
            self._evaluate(self.eval_fn)
        due = config.checkpoint_steps is not None and step % config.checkpoint_steps == 0
        if self.checkpoint is not None and finished is None and (due or self.cycle.done):
            self.save(self.checkpoint)
        return finished

    def _end_cycle(self, stats: CycleStats) -> bool:
        """What comes after a commit; whether there is a pause."""
        self._tell({"step": self.cycle.step, **asdict(stats)})
        if self.plan is not None:
            self.pause = self.plan.pause_after(stats.cycle)
            if self.plan.run_callbacks(self.model, stats.cycle):
                self.model.train()
                self.sparsifier.apply_masks()  # whoever trained meanwhile may know nothing of masks
        if self.checkpoint is not None and ((stats.cycle + 1) % self.config.checkpoint_every == 0 or self.cycle.done):
            self.save(self.checkpoint)
        return self.pause is not None

    def _evaluate(self, eval_fn: EvalFn) -> None:
        self.model.eval()
        with torch.no_grad():
            found = eval_fn(self.model)
        self.model.train()
        values = dict(found) if isinstance(found, Mapping) else {"eval": float(found)}
        self.evaluations.append((self.cycle.step, values))
        self._tell({"step": self.cycle.step, **values})

    def _tell(self, facts: Mapping[str, Any]) -> None:
        _log.info("%s", ", ".join(f"{name} {value}" for name, value in facts.items()))
        if self.logger is not None:
            self.logger(facts)

    def _calibrate(self) -> dict[str, ColumnStatistics]:
        return calibrate(self.model, islice(iter(self._loader), self.config.calibration_batches), forward=self.train_fn)

    # --- keeping ------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes everything that the training needs to go on bit for bit, at any step of any phase.

        Args:
            path: the file.

        Returns:
            The path.
        """
        return save(
            path,
            Checkpoint(
                model=self.model.state_dict(),
                sparsifier=self.sparsifier.state_dict(),
                optimizer=self.optimizer.state_dict(),
                cycle={"clock": self.cycle.state_dict(), "evaluations": self.evaluations},
                scheduler=None if self.scheduler is None else self.scheduler.state_dict(),
                loader=self._position.state_dict(),
                settings=self.config.model_dump(mode="json"),
                about={
                    "step": self.cycle.step,
                    "cycle": self.cycle.cycle,
                    "phase": str(self.cycle.phase),
                    "sparsity": self.sparsifier.sparsity,
                },
            ),
        )

    def load(self, path: str | os.PathLike[str]) -> None:
        """Goes back to a checkpoint.

        Args:
            path: the file.

        Raises:
            CheckpointError: a file that cannot be trusted, or of another training.
        """
        checkpoint = load(path)
        if checkpoint.cycle is None or checkpoint.loader is None:
            raise CheckpointError(
                f"a training goes on from a checkpoint of a training; {path} holds a model only. Load it with "
                "resu.checkpoint.restore, and start a training from it."
            )
        self.cycle.check_settings(checkpoint.settings)
        if (checkpoint.scheduler is None) != (self.scheduler is None):
            raise CheckpointError(
                f"a training goes on with its scheduler; {path} has {_count(checkpoint.scheduler)} and this training "
                f"{_count(self.scheduler)}. Give the trainer what it had."
            )
        restore(checkpoint, self.model, self.sparsifier, self.optimizer, source=path)
        self.cycle.load_state_dict(checkpoint.cycle["clock"])
        self.evaluations = list(checkpoint.cycle["evaluations"])
        if self.scheduler is not None and checkpoint.scheduler is not None:
            self.scheduler.load_state_dict(dict(checkpoint.scheduler))
        self._position.load_state_dict(checkpoint.loader)


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of shape {tuple(value.shape)} {'with' if value.requires_grad else 'without'} a gradient"


def _count(thing: object) -> str:
    return "none" if thing is None else "one"
