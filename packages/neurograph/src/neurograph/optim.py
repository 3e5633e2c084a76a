"""Optimizers of integers: whole steps are taken, and what is left of a step is carried to the next.

An update u, a real number of index steps, is added to a residual r; the index moves by round(r), and r keeps the rest,
at most half a step. The sum of all moves stays within half a step of the sum of all updates, so that a small gradient
that lasts moves an index as far as it should. (The original moved a whole step whenever a hundredth had come together
and forgot the rest.)

That is exact but for rounding: residuals have the tables' type, and in float32 a sum r + u is rounded by up to 2⁻²⁴ of
itself. T updates that are small beside a step may so drift by T 2⁻²⁵ of a step, half a step in 17 million of them;
those below 2⁻²⁶ stop to add up at some residual. Where indices stop at the ends of an inclusive grid, moves beyond an
end are dropped, and what leads back starts from the end.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neurograph.core.node_store import NodeStore
from neurograph.errors import CheckpointError, ConfigError

__all__ = ["DiscreteAdam", "DiscreteOptimizer", "DiscreteSGD"]

Gradient = Float[Tensor, "N D"]


class DiscreteOptimizer:
    """What both optimizers share.

    Args:
        store: the indices.
        lr_phase: learning rate of phases, in steps of an index.
        lr_mag: learning rate of magnitudes.

    Attributes:
        rate: a factor over both rates, for a schedule.

    Raises:
        ConfigError: a rate that is not positive and finite.
    """

    def __init__(self, store: NodeStore, lr_phase: int | float, lr_mag: int | float) -> None:
        for name, rate in (("lr_phase", lr_phase), ("lr_mag", lr_mag)):
            if not 0 < rate < math.inf:
                raise ConfigError(f"a learning rate is positive and finite; got {name} = {rate}. Take another.")
        self.store, self.lr, self.rate = store, (float(lr_phase), float(lr_mag)), 1.0
        dtype = store.tables.cos.dtype
        self.residual = [torch.zeros_like(indices, dtype=dtype) for indices in (store.phase, store.mag)]
        self._trained = [mask[:, None].to(dtype) for mask in (store.train_phase, store.train_mag)]

    def step(self, grad_phase: Gradient, grad_mag: Gradient) -> None:
        """Moves indices down gradients that are per step of an index.

        Args:
            grad_phase: of phases.
            grad_mag: of magnitudes.
        """
        moves = []
        for part, update in enumerate(self._updates([grad_phase, grad_mag])):
            wanted = self.residual[part].add_(update.mul_(self._trained[part]), alpha=-self.rate * self.lr[part])
            move = wanted.round()
            wanted.sub_(move)
            moves.append(move.long())
        self.store.move_(moves[0], moves[1])

    def _updates(self, gradients: list[Tensor]) -> list[Tensor]:
        raise NotImplementedError

    def _numbers(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def _tensors(self) -> dict[str, Tensor]:
        return {"residual_phase": self.residual[0], "residual_mag": self.residual[1]}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and numbers.

        Returns:
            Copies.
        """
        return {name: value.clone() for name, value in self._tensors().items()}, self._numbers()

    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Goes on from a saved state.

        Args:
            tensors: from `state_dict`.
            numbers: from `state_dict`.

        Raises:
            CheckpointError: the state of another network or optimizer; nothing is changed then.
        """
        foreign, missing = sorted(set(tensors) - set(self._tensors())), sorted(set(self._numbers()) - set(numbers))
        if foreign or missing:
            raise CheckpointError(
                f"this optimizer keeps {', '.join(self._tensors())} and the numbers {', '.join(self._numbers())}; the "
                f"saved state has {', '.join(foreign) or 'nothing'} beside them and lacks "
                f"{', '.join(missing) or 'none'} of the numbers. Use the settings it was saved with."
            )
        for name, value in self._tensors().items():
            found = tensors.get(name)
            if found is None or found.shape != value.shape:
                raise CheckpointError(
                    f"this optimizer keeps {name} of shape {tuple(value.shape)}; the saved state has "
                    f"{'none' if found is None else tuple(found.shape)}. Use the settings it was saved with."
                )
        for name, value in self._tensors().items():
            value.copy_(tensors[name])
        self.rate = float(numbers["rate"])


class DiscreteSGD(DiscreteOptimizer):
    """u = lr g, g per step of an index.

    Args:
        store: the indices.
        lr_phase: learning rate of phases: steps of an index for a gradient of 1 a step.
        lr_mag: learning rate of magnitudes.

    >>> from neurograph.core.graph import Topology, layered_graph
    >>> from neurograph.core.high_res_tables import HighResolutionLookupTables
    >>> store = NodeStore.random(Topology.from_frame(layered_graph([1, 1])), 1, HighResolutionLookupTables())
    >>> before, optimizer = int(store.phase[1]), DiscreteSGD(store, 0.03, 0.03)
    >>> for _ in range(100):
    ...     optimizer.step(torch.ones(2, 1), torch.zeros(2, 1))
    >>> (before - int(store.phase[1])) % 512
    3
    """

    def _updates(self, gradients: list[Tensor]) -> list[Tensor]:
        return [gradient.clone() for gradient in gradients]


class DiscreteAdam(DiscreteOptimizer):
    """u = lr m̂ / (√v̂ + ε) with the moments of Adam.

    Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2015, arXiv:1412.6980.

    Args:
        store: the indices.
        lr_phase: learning rate of phases, in steps of an index; about P / 128 trains well.
        lr_mag: learning rate of magnitudes; about M / 170.
        betas: how much of each moment is kept.
        eps: ε, positive.

    Raises:
        ConfigError: a rate that is not positive and finite, moments outside [0, 1), or an ε that is not positive.
    """

    def __init__(
        self,
        store: NodeStore,
        lr_phase: int | float = 4.0,
        lr_mag: int | float = 6.0,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-12,
    ) -> None:
        super().__init__(store, lr_phase, lr_mag)
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"betas are from 0 to below 1; got {betas}. Correct them.")
        if not 0 < eps < math.inf:
            raise ConfigError(f"eps is positive: a gradient of 0 is divided by it; got {eps}. Take 1e-12.")
        self.betas, self.eps, self.steps = betas, eps, 0
        self.m = [torch.zeros_like(residual) for residual in self.residual]
        self.v = [torch.zeros_like(residual) for residual in self.residual]

    def _updates(self, gradients: list[Tensor]) -> list[Tensor]:
        self.steps += 1
        first, second = self.betas
        found = []
        for m, v, gradient in zip(self.m, self.v, gradients, strict=True):
            m.lerp_(gradient, 1 - first)
            v.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            root = (v / (1 - second**self.steps)).sqrt_().add_(self.eps)
            found.append((m / (1 - first**self.steps)).div_(root))
        return found

    def _tensors(self) -> dict[str, Tensor]:
        moments = {f"{name}_{part}": value for name, pair in (("m", self.m), ("v", self.v))
                   for part, value in zip(("phase", "mag"), pair, strict=True)}  # fmt: skip
        return super()._tensors() | moments

    def _numbers(self) -> dict[str, Any]:
        return super()._numbers() | {"steps": self.steps}

    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Goes on from a saved state; see `DiscreteOptimizer.load_state_dict`."""
        super().load_state_dict(tensors, numbers)
        self.steps = int(numbers["steps"])
