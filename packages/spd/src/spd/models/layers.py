"""Layers of causal-importance functions, and how they begin."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spd.errors import ConfigError

__all__ = ["ParallelLinear", "SharedLinear", "gains", "widths"]


class ParallelLinear(nn.Module):
    """C affine maps side by side, one for each component.

    Args:
        c: components.
        d_in: inputs of each.
        d_out: outputs of each.
        gain: of the initialisation N(0, gain² / d_in) (He et al., *Delving Deep into Rectifiers*, 2015,
            arXiv:1502.01852); biases start at 0.
        generator: draws the weights.
    """

    def __init__(self, c: int, d_in: int, d_out: int, gain: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(c, d_in, d_out, generator=generator) * (gain / math.sqrt(d_in)))
        self.b = nn.Parameter(torch.zeros(c, d_out))

    def forward(self, x: Float[Tensor, "... #C d_in"]) -> Float[Tensor, "... C d_out"]:
        """For each component x_c W_c + b_c; one x for all of them is given as a single one."""
        return torch.einsum("...ci,cio->...co", x, self.W) + self.b


class SharedLinear(nn.Module):
    """An affine map with the initialisation of `ParallelLinear`.

    Args:
        d_in: inputs.
        d_out: outputs.
        gain: of the initialisation.
        generator: draws the weights.
    """

    def __init__(self, d_in: int, d_out: int, gain: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(d_in, d_out, generator=generator) * (gain / math.sqrt(d_in)))
        self.b = nn.Parameter(torch.zeros(d_out))

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """The map x W + b."""
        return x @ self.W + self.b


_HIDDEN_GAIN, _OUTPUT_GAIN = math.sqrt(2), 1.0


def gains(hidden_dims: Sequence[int]) -> list[float]:
    """Gain of each layer's initialisation: √2 where a non-linearity follows, 1 at the end.

    Args:
        hidden_dims: widths of the hidden layers.

    Returns:
        One gain a layer.

    >>> [round(gain, 3) for gain in gains([8])]
    [1.414, 1.0]
    """
    return [_HIDDEN_GAIN] * len(hidden_dims) + [_OUTPUT_GAIN]


def widths(d_in: int, hidden_dims: Sequence[int], d_out: int) -> list[tuple[int, int]]:
    """Inputs and outputs of each layer.

    Args:
        d_in: inputs of the first.
        hidden_dims: widths of the hidden layers.
        d_out: outputs of the last.

    Returns:
        One pair a layer.

    Raises:
        ConfigError: a hidden layer without units.

    >>> widths(3, [8], 2)
    [(3, 8), (8, 2)]
    """
    if any(width < 1 for width in hidden_dims):
        raise ConfigError(f"a hidden layer has at least one unit; got {list(hidden_dims)}. Remove it or widen it.")
    sizes = [d_in, *hidden_dims, d_out]
    return list(pairwise(sizes))
