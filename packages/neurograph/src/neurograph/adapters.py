"""From samples of any width to the amplitudes of input nodes, numbers in [0, 1].

==================  =======================  ==========================================================
adapter             state                    amplitudes
==================  =======================  ==========================================================
IntensityAdapter    none                     (x − low) / (high − low), one node a feature
FixedProjection     signs, from a seed       (1 + tanh(g (2x − 1) R / √F)) / 2, R of ±1
LinearAdapter       **trained floats**       (1 + tanh(W x + b)) / 2
==================  =======================  ==========================================================

The first is the default. A network whose input goes through the last has trained floating-point state besides its
integers; nothing in this package chooses it by itself.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.errors import ConfigError, DataError

__all__ = ["Adapter", "FixedProjection", "IntensityAdapter", "LinearAdapter", "indices_of"]


@runtime_checkable
class Adapter(Protocol):
    """Anything that makes amplitudes of samples."""

    def __call__(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch inputs"]:
        """Amplitudes of the input nodes.

        Args:
            x: samples.

        Returns:
            Numbers in [0, 1].
        """
        ...


class IntensityAdapter:
    """One input node a feature; its amplitude is the feature's place between a lowest and a highest value.

    Args:
        n_features: features, and input nodes.
        low: the value of amplitude 0.
        high: the value of amplitude 1; values outside are cut off.

    Raises:
        ConfigError: no features, or high not above low.

    >>> IntensityAdapter(3, 0, 16)(torch.tensor([[0.0, 4.0, 20.0]]))
    tensor([[0.0000, 0.2500, 1.0000]])
    """

    def __init__(self, n_features: int, low: int | float = 0.0, high: int | float = 1.0) -> None:
        _check_sizes(n_features, n_features)
        if not (high > low and math.isfinite(high - low)):
            raise ConfigError(
                f"high is above low, both finite; got low {low} and high {high}. Give the range of the features."
            )
        self.n_features, self.n_inputs = n_features, n_features
        self.low, self.high = float(low), float(high)

    def __call__(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch inputs"]:
        """Amplitudes of the input nodes.

        Args:
            x: samples.

        Returns:
            Numbers in [0, 1].

        Raises:
            DataError: samples of another width.
        """
        _check_width(x, self.n_features)
        return ((x - self.low) / (self.high - self.low)).clamp(0, 1)


class FixedProjection:
    """A projection on random signs that are drawn once and never trained: any number of features, any number of nodes.

    a = (1 + tanh(g u)) / 2,  u = (2x − 1) R / √F, with R of ±1. On average over R, inner products of u are those of
    2x − 1 times nodes / F: distances keep their order, up to the tanh
    (D. Achlioptas, "Database-friendly random projections", J. Comput. Syst. Sci. 66 (2003)).

    Args:
        n_features: F.
        n_inputs: input nodes.
        gain: g, how soon amplitudes reach 0 and 1.
        seed: of the signs.
        device: where they lie.

    Raises:
        ConfigError: no features or nodes, or a gain that is not positive.

    >>> amplitudes = FixedProjection(784, 64)(torch.rand(5, 784))
    >>> amplitudes.shape, bool((amplitudes >= 0).all() and (amplitudes <= 1).all())
    (torch.Size([5, 64]), True)
    """

    def __init__(
        self,
        n_features: int,
        n_inputs: int,
        *,
        gain: int | float = 1.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_sizes(n_features, n_inputs)
        if not (gain > 0 and math.isfinite(gain)):
            raise ConfigError(f"a gain is a positive number; got {gain}. Take 1.")
        self.n_features, self.n_inputs, self.gain = n_features, n_inputs, float(gain)
        drawn = torch.randint(0, 2, (n_features, n_inputs), generator=torch.Generator().manual_seed(seed))
        self.signs = (2 * drawn - 1).to(device=device, dtype=torch.int8)

    def __call__(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch inputs"]:
        """Amplitudes of the input nodes.

        Args:
            x: samples in [0, 1].

        Returns:
            Numbers in [0, 1].

        Raises:
            DataError: samples of another width.
        """
        _check_width(x, self.n_features)
        u = (2 * x - 1) @ self.signs.to(x) / self.n_features**0.5
        return (1 + torch.tanh(self.gain * u)) / 2


class LinearAdapter(nn.Module):
    """A trained layer of **floats** in front of the integers, as the original had it: linear, then tanh.

    Its weights are trained by a torch optimiser of the caller's, with the gradient that reaches the amplitudes.
    The original meant its adapter to be trained too, but no gradient ever reached it.

    Args:
        n_features: F.
        n_inputs: input nodes.
        seed: of the first weights (Glorot and Bengio's uniform draw).
        device: where they lie.

    Raises:
        ConfigError: no features or nodes.

    >>> LinearAdapter(10, 4)(torch.rand(2, 10)).shape
    torch.Size([2, 4])
    """

    def __init__(self, n_features: int, n_inputs: int, *, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__()
        _check_sizes(n_features, n_inputs)
        self.n_features, self.n_inputs = n_features, n_inputs
        bound = (6 / (n_features + n_inputs)) ** 0.5
        drawn = torch.rand(n_inputs, n_features, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(((2 * drawn - 1) * bound).to(device))
        self.bias = nn.Parameter(torch.zeros(n_inputs, device=device))

    def values(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch inputs"]:
        """Values v = tanh(W x + b), before it becomes an amplitude or indices.

        Args:
            x: samples.

        Returns:
            Numbers in (−1, 1).

        Raises:
            DataError: samples of another width.
        """
        _check_width(x, self.n_features)
        return torch.tanh(x @ self.weight.T + self.bias)

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch inputs"]:
        """Amplitudes (1 + v) / 2 of the input nodes.

        Args:
            x: samples.

        Returns:
            Numbers in [0, 1], differentiable to the weights.

        Raises:
            DataError: samples of another width.
        """
        return (1 + self.values(x)) / 2


def indices_of(
    values: Float[Tensor, "*shape"], tables: HighResolutionLookupTables
) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"]]:
    """The original's way from numbers in [−1, 1] to indices: ⌊(v + 1)/2 · P⌋ and ⌊(v + 1)/2 · M⌋, both clamped.

    Args:
        values: v.
        tables: the grid.

    Returns:
        Phase and magnitude indices.

    >>> p, m = indices_of(torch.tensor([-1.0, 0.0, 1.0]), HighResolutionLookupTables(8, 16))
    >>> p.tolist(), m.tolist()
    ([0, 4, 7], [0, 8, 15])
    """
    part = (values + 1) / 2
    phase = (part * tables.phase_bins).floor().long().clamp(0, tables.phase_bins - 1)
    return phase, (part * tables.mag_bins).floor().long().clamp(0, tables.mag_bins - 1)


def _check_sizes(n_features: int, n_inputs: int) -> None:
    if n_features < 1 or n_inputs < 1:
        raise ConfigError(
            f"an adapter goes from at least 1 feature to at least 1 node; got {n_features} features and {n_inputs} "
            f"nodes. Check the data and the graph."
        )


def _check_width(x: Tensor, n_features: int) -> None:
    if x.ndim != 2 or x.shape[1] != n_features:
        raise DataError(
            f"samples are rows of the {n_features} features that the adapter was built for; got {tuple(x.shape)}. "
            f"Build an adapter for this width."
        )
