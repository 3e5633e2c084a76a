"""The same network with numbers in place of integers: what the grid and its optimizer cost, or do not."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from neurograph.config import Config
from neurograph.core.phasors import superpose
from neurograph.data import shift_pictures
from neurograph.errors import ConfigError
from neurograph.losses import classification_loss, cosine_logits
from neurograph.model import Model

__all__ = ["FloatTwin"]


@dataclass
class FloatTwin:
    """Phases θ and log-magnitudes a as float32, w = exp(a + iθ), no snapping, Adam with PyTorch's own arithmetic.

    Graph, first values, codes, loss, batches and schedule are those of the network of integers with the same settings
    and seed.

    Args:
        config: settings; rates of indices are turned into rates of angles and magnitudes.
        seed: of the first values and the order of samples.
        rate: a factor over both learning rates.

    Raises:
        ConfigError: settings of a network that has no such twin: radiation, the modular merge, another credit than the
            exact one, another optimizer than Adam, or accumulation.

    >>> x, y = np.random.default_rng(0).random((64, 4), dtype=np.float32), np.arange(64) % 2
    >>> config = Config.model_validate({"graph": {"widths": (4, 8, 2), "cardinality": 2}, "train": {"epochs": 1}})
    >>> FloatTwin(config).fit(x, y).predict(x).shape
    (64,)
    """

    config: Config
    seed: int = 0
    rate: int | float = 1.0

    def __post_init__(self) -> None:
        c, train = self.config, self.config.train
        own = {
            "radiation": c.radiation is None, "model.merge": c.model.merge == "superpose",
            "train.credit": train.credit == "exact", "train.optimizer.kind": train.optimizer.kind == "adam",
            "train.accumulation": train.accumulation == 1,
        }  # fmt: skip
        if not all(own.values()):
            raise ConfigError(
                "a float twin superposes, and is trained with exact credit and Adam, a step a batch; "
                f"{', '.join(name for name, fits in own.items() if not fits)} differs. Leave it at its default."
            )
        self.model = Model.build(self.config, seed=self.seed)
        store, tables, topology = self.model.store, self.model.tables, self.model.topology
        self.angle = (store.phase * tables.phase_step).requires_grad_()
        self.log_magnitude = tables.mag[store.mag.long()].log().requires_grad_()
        self._levels = topology.levels
        degree, levels = topology.in_degree, self._levels
        self._sums: list[tuple[Tensor, list[int]]] = []
        for rows in levels[1:]:
            dense = torch.zeros(len(rows), topology.n_nodes, device=rows.device)
            for place, row in enumerate(rows.tolist()):
                dense[place, topology.src[topology.dst == row]] = float(degree[row]) ** -0.5
            used = [number for number, there in enumerate(levels) if bool(dense[:, there].any())]
            self._sums.append((dense[:, torch.cat([levels[number] for number in used])], used))
        self._outputs = torch.cat(levels).argsort()[topology.outputs]

    @property
    def n_parameters(self) -> int:
        """Numbers that are trained."""
        return self.model.store.n_trainable

    def logits(self, x: Float[Tensor, "B I"]) -> Float[Tensor, "B C"]:
        """Scores of the classes.

        Args:
            x: samples in [0, 1].

        Returns:
            Logits.
        """
        topology = self.model.topology
        unit = torch.stack([self.angle.cos(), self.angle.sin()], dim=1)
        w = unit * self.log_magnitude.exp()[:, None]
        fed = unit[topology.inputs, None] * x.t()[:, :, None, None]
        first = x.new_zeros(len(self._levels[0]), *fed.shape[1:])
        states = [first.index_copy(0, torch.searchsorted(self._levels[0], topology.inputs), fed)]
        for rows, (a, used) in zip(self._levels[1:], self._sums, strict=True):
            z = torch.cat([states[number] for number in used])
            s = (a @ z.flatten(1)).view(len(rows), *z.shape[1:])
            states.append(superpose(w[rows], s, self.model.tables, snap=False))
        readout = torch.cat(states).index_select(0, self._outputs)[:, :, 0].transpose(0, 1).flatten(1)
        return cosine_logits(readout, self.model.codes, self.model.scale)

    def fit(self, x: Float32[np.ndarray, "S I"], y: Int64[np.ndarray, " S"]) -> "FloatTwin":
        """Trains.

        Args:
            x: samples in [0, 1].
            y: class numbers.

        Returns:
            Itself.
        """
        train, tables = self.config.train, self.model.tables
        o = train.optimizer
        optimizer = torch.optim.Adam(
            [
                {"params": [self.angle], "lr": self.rate * o.lr_phase * tables.phase_step},
                {"params": [self.log_magnitude], "lr": self.rate * o.lr_mag * tables.mag_step},
            ],
            betas=o.betas,
        )
        samples, labels = (torch.from_numpy(part).to(self.angle.device) for part in (x, y))
        steps = train.epochs * -(-len(x) // train.batch_size)
        cosine = o.schedule == "cosine"
        decay = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2 if cosine else 1.0
        )
        for epoch in range(train.epochs):
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % (1 << 63))
            order = torch.randperm(len(x), generator=generator).to(samples.device)
            for chosen in order.split(train.batch_size):
                part = samples[chosen]
                if train.shift_augment:
                    part = shift_pictures(part, generator)
                loss = classification_loss(self.logits(part), labels[chosen], label_smoothing=train.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                decay.step()
        return self

    def predict(self, x: Float32[np.ndarray, "S I"]) -> Shaped[np.ndarray, " S"]:
        """The most probable classes.

        Args:
            x: samples in [0, 1].

        Returns:
            Class numbers.
        """
        with torch.no_grad():
            return self.logits(torch.from_numpy(x).to(self.angle.device)).argmax(1).cpu().numpy()
