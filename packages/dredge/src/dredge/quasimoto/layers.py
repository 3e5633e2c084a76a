"""The published rivals of the waves, as they were: a layer of sines, and fixed random frequencies under a linear head.

`dredge.quasimoto.baselines` holds whole networks to compare with fairly; these are for the published figures.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dredge.errors import ModelError

__all__ = ["RandomFourierFeatures", "SirenLayer"]


class SirenLayer(nn.Module):
    """sin(ω₀ (W x + b)).

    From: Sitzmann et al., Implicit Neural Representations with Periodic Activation Functions, 2020, arXiv:2006.09661.
    First weights are uniform in ±1 / in, others in ±√(6 / in) / ω₀.

    Args:
        in_features: inputs.
        out_features: outputs.
        is_first: whether it sees coordinates.
        omega_0: ω₀.

    Raises:
        ModelError: a size below 1, or an ω₀ that is not positive.

    >>> net = nn.Sequential(SirenLayer(1, 64, is_first=True), SirenLayer(64, 64), nn.Linear(64, 1))
    >>> sum(p.numel() for p in net.parameters())
    4353
    """

    def __init__(
        self, in_features: int, out_features: int, is_first: bool = False, omega_0: float | int = 30.0
    ) -> None:
        super().__init__()
        if min(in_features, out_features) < 1:
            raise ModelError(f"a layer has inputs and outputs; got {in_features}, {out_features}. Take 1 or more.")
        if not 0 < omega_0 < math.inf:
            raise ModelError(f"omega_0 is a positive number; got {omega_0}. Take 30 or so.")
        self.omega_0 = omega_0
        self.linear = nn.Linear(in_features, out_features)
        bound = 1 / in_features if is_first else math.sqrt(6 / in_features) / omega_0
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The layer.

        Args:
            x: inputs.

        Returns:
            Outputs in [−1, 1].
        """
        return torch.sin(self.omega_0 * self.linear(x))


class RandomFourierFeatures(nn.Module):
    """W [sin x B, cos x B] + b with B fixed, drawn from a normal distribution.

    From: Tancik et al., Fourier Features Let Networks Learn High Frequency Functions, 2020, arXiv:2006.10739.

    Args:
        in_features: inputs.
        num_features: n, frequencies.
        sigma: their standard deviation.

    Raises:
        ModelError: a size below 1.

    >>> sum(p.numel() for p in RandomFourierFeatures(1, 128, 5.0).parameters())
    257
    """

    B: Tensor

    def __init__(self, in_features: int, num_features: int = 256, sigma: float | int = 10.0) -> None:
        super().__init__()
        if min(in_features, num_features) < 1:
            raise ModelError(f"features have inputs and numbers; got {in_features}, {num_features}. Take 1 or more.")
        self.register_buffer("B", torch.randn(in_features, num_features) * sigma)
        self.linear = nn.Linear(2 * num_features, 1)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch 1"]:
        """The model.

        Args:
            x: inputs.

        Returns:
            One value each.
        """
        projected = x @ self.B
        found: Tensor = self.linear(torch.cat([projected.sin(), projected.cos()], dim=-1))
        return found
