"""The training loop: batches in an order that depends on the seed and the epoch alone, gradients, whole steps."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurograph.config import TrainConfig
from neurograph.data import check_samples, shift_pictures
from neurograph.errors import CheckpointError, DivergenceError, NeuroGraphError
from neurograph.model import Model
from neurograph.optim import DiscreteAdam, DiscreteOptimizer, DiscreteSGD
from neurograph.train.credit import Credit, credit_named
from neurograph.train.gradient_accumulator import Accumulated, GradientAccumulator

__all__ = ["EpochRow", "Trainer"]


@dataclass(frozen=True)
class EpochRow:
    """What an epoch came to.

    Args:
        epoch: its number, from 1.
        loss: mean over its steps.
        accuracy: on the validation samples; None = there were none.
        moved: share of trained integers that changed during it.
    """

    epoch: int
    loss: float
    accuracy: float | None
    moved: float


@dataclass
class Trainer:
    """Trains the integers of a network.

    Args:
        model: the network; its store is changed.
        config: how.
        seed: of the order of samples and their shifts.
        credit: how gradients are found; None = as the settings name it.

    Attributes:
        epoch: epochs that are done.
        history: one row for each.
        optimizer: moves the integers.
        accumulator: collects the gradients of several batches; what is left at the end of an epoch is applied there.

    >>> from neurograph.config import Config
    >>> model = Model.build(Config.model_validate({"graph": {"widths": [4, 8, 2], "cardinality": 4}}), seed=0)
    >>> x = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))
    >>> trainer = Trainer(model, TrainConfig(epochs=2, batch_size=8))
    >>> trainer.fit(x, (x[:, 0] > 0.5).long())[-1].epoch
    2
    """

    model: Model
    config: TrainConfig = field(default_factory=TrainConfig)
    seed: int = 0
    credit: Credit | None = None
    epoch: int = 0
    history: list[EpochRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = self._optimizer()
        self.accumulator = GradientAccumulator(self.config.accumulation)
        self._credit = credit_named(self.config.credit, self.seed) if self.credit is None else self.credit

    def _optimizer(self) -> DiscreteOptimizer:
        o, store = self.config.optimizer, self.model.store
        if o.kind == "sgd":
            return DiscreteSGD(store, o.lr_phase, o.lr_mag)
        return DiscreteAdam(store, o.lr_phase, o.lr_mag, betas=o.betas)

    def step(self, x: Float[Tensor, "B I"], y: Int[Tensor, " B"]) -> Float[Tensor, ""]:
        """One batch: gradients, then whole steps of the integers once enough gradients have come together.

        Args:
            x: samples in [0, 1].
            y: labels.

        Returns:
            The loss before the step.
        """
        loss, phase, mag = self._credit(self.model, x, y, self.config)
        self._apply(self.accumulator.add(phase, mag))
        return loss

    def _apply(self, due: Accumulated | None) -> None:
        if due is not None:
            self.optimizer.step(due.phase, due.mag)

    def fit(
        self,
        x: Float[Tensor, "S I"],
        y: Int[Tensor, " S"],
        *,
        validation: tuple[Float[Tensor, "V I"], Int[Tensor, " V"]] | None = None,
        progress: Callable[[EpochRow], object] | None = None,
        until: int | None = None,
    ) -> list[EpochRow]:
        """Trains up to the settings' number of epochs, from wherever it stands.

        Args:
            x: samples in [0, 1].
            y: labels.
            validation: samples and labels whose accuracy is reported after each epoch.
            progress: told of each epoch.
            until: epochs after which to stop this time; the schedule is that of the whole.

        Returns:
            One row for each epoch so far.

        Raises:
            DataError: samples or labels that `neurograph.data.check_samples` refuses, for training or validation.
            DivergenceError: a loss that is not finite; the trainer is then as it was at the end of the last epoch.
        """
        x, y = self._checked(x, y)
        validation = None if validation is None else self._checked(*validation)
        last = self.config.epochs if until is None else min(until, self.config.epochs)
        while self.epoch < last:
            row = self._one_epoch(x, y, validation)
            self.history.append(row)
            if progress is not None:
                progress(row)
        return self.history

    def _checked(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        check_samples(x, y, n_features=len(self.model.topology.inputs), n_classes=self.model.n_classes)
        return x.to(self.model.codes), y.to(self.model.codes.device)

    def _one_epoch(self, x: Tensor, y: Tensor, validation: tuple[Tensor, Tensor] | None) -> EpochRow:
        store, size = self.model.store, self.config.batch_size
        before = self.state_dict()
        steps = math.ceil(x.shape[0] / size)
        total = torch.zeros((), device=x.device)
        # Order and shifts depend on seed and epoch alone, so that a run that goes on sees what it would have seen.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % (1 << 63))
        order = torch.randperm(x.shape[0], generator=generator).to(x.device)
        for number, chosen in enumerate(order.split(size)):
            self.optimizer.rate = self._rate((self.epoch + number / steps) / self.config.epochs)
            samples = x[chosen]
            if self.config.shift_augment:
                samples = shift_pictures(samples, generator=generator)
            total += self.step(samples, y[chosen])
        self._apply(self.accumulator.flush())
        loss = float(total) / steps
        if not math.isfinite(loss):
            self.load_state_dict(*before)
            raise DivergenceError(
                f"a loss is finite; that of epoch {self.epoch + 1} is {loss}. All is put back as it was before that "
                "epoch. Look at the rule of credit, or lower the learning rates."
            )
        self.epoch += 1
        changed = sum(int((now != before[0][name]).sum()) for name, now in (("phase", store.phase), ("mag", store.mag)))
        accuracy = None
        if validation is not None:
            samples, labels = validation
            accuracy = float((self.model.predict(samples) == labels).double().mean())
        return EpochRow(self.epoch, loss, accuracy, changed / store.n_trainable)

    def _rate(self, fraction: float) -> float:
        return 1.0 if self.config.optimizer.schedule == "constant" else (1 + math.cos(math.pi * fraction)) / 2

    # --- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a run needs to go on: tensors by name, and JSON values.

        Returns:
            Copies.
        """
        store = self.model.store
        tensors = {"phase": store.phase.clone(), "mag": store.mag.clone()}
        values: dict[str, Any] = {
            "epoch": self.epoch, "seed": self.seed, "history": [asdict(row) for row in self.history],
        }  # fmt: skip
        for part, holder in self._holders().items():
            kept, values[part] = holder.state_dict()
            tensors |= {f"{part}.{name}": value for name, value in kept.items()}
        return tensors, values

    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Goes on from a saved state.

        Args:
            tensors: from `state_dict`.
            numbers: from `state_dict`.

        Raises:
            CheckpointError: the state of another network or of other settings.
        """
        store = self.model.store
        for name, own in (("phase", store.phase), ("mag", store.mag)):
            found = tensors.get(name)
            if found is None or found.shape != own.shape:
                raise CheckpointError(
                    f"this network has {tuple(own.shape)} {name} indices; the saved state has "
                    f"{'none' if found is None else tuple(found.shape)}. Build the network it was saved from."
                )
        missing = [name for name in ("epoch", "seed", "history", *self._holders()) if name not in numbers]
        if missing:
            raise CheckpointError(
                f"a trainer's state has epoch, seed, history, {', '.join(self._holders())}; the saved one lacks "
                f"{', '.join(missing)}. Take another file."
            )
        try:
            store.set_(tensors["phase"].to(store.phase.device), tensors["mag"].to(store.mag.device))
        except NeuroGraphError as error:
            raise CheckpointError(
                f"saved indices are those of this network's tables; these are not: {error} Build the network they were "
                "saved from."
            ) from error
        for part, holder in self._holders().items():
            kept = {name.removeprefix(f"{part}."): value.to(store.phase.device) for name, value in tensors.items()
                    if name.startswith(f"{part}.")}  # fmt: skip
            holder.load_state_dict(kept, numbers[part])
        self.epoch, self.seed = int(numbers["epoch"]), int(numbers["seed"])
        self.history = [EpochRow(**row) for row in numbers["history"]]

    def _holders(self) -> dict[str, DiscreteOptimizer | GradientAccumulator]:
        return {"optimizer": self.optimizer, "accumulator": self.accumulator}
