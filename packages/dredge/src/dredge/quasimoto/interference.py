r"""The published basis of interfering fields under one window.

    E(x, t) = exp(−|z|² / 2) / ∏ σ_i √(2π),   z_i = (x_i − v_i t) / σ_i,   σ_i = max(exp(log_sigma_i), 10⁻³)
    ψ_j = A_j E sin(φ_j + ε_j cos(λ_j·x)) exp(i (k_j·x − ω_j t)),   output = W [Re ψ, Im ψ]

The published change replaced ∏ (σ_i √(2π)) by (∏ σ_i) (2π)^(D/2). Both products leave the range of single precision
where D is large and σ small, the second one earlier. Here the window is found as the exponential of its logarithm,
−|z|² / 2 − Σ log σ_i − (D / 2) log 2π, which does not.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dredge.errors import ModelError

__all__ = ["MIN_SIGMA", "QuasimotoInterferenceBasis"]

MIN_SIGMA = 1e-3
"""Smallest width; below it a width has no gradient."""


class QuasimotoInterferenceBasis(nn.Module):
    """Fields that share a window, and a linear head over their real and imaginary parts.

    Args:
        dim: D, spatial dimensions.
        num_fields: n.
        out_features: outputs.

    Raises:
        ModelError: a size below 1.

    >>> basis = QuasimotoInterferenceBasis(3, 8, 1)
    >>> sum(p.numel() for p in basis.parameters()), basis(torch.zeros(5, 3), torch.zeros(5)).shape
    (102, torch.Size([5, 1]))
    """

    def __init__(self, dim: int, num_fields: int, out_features: int = 1) -> None:
        super().__init__()
        if min(dim, num_fields, out_features) < 1:
            raise ModelError(
                f"a basis has dimensions, fields and outputs; got {dim}, {num_fields}, {out_features}. Take 1 or more."
            )
        self.dim, self.num_fields, self.out_features = dim, num_fields, out_features
        self.log_sigma, self.v = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.randn(dim))
        self.A = nn.Parameter(torch.ones(num_fields))
        self.k, self.omega = nn.Parameter(torch.randn(num_fields, dim)), nn.Parameter(torch.randn(num_fields))
        self.phi = nn.Parameter(torch.zeros(num_fields))
        self.epsilon = nn.Parameter(torch.full((num_fields,), 0.1))
        self.lmbda = nn.Parameter(torch.randn(num_fields, dim))
        self.head = nn.Linear(2 * num_fields, out_features, bias=False)

    def forward(self, x: Float[Tensor, "..."], t: Float[Tensor, "..."]) -> Float[Tensor, "N out"]:
        """Outputs at places and times.

        Args:
            x: places, N × D, or N numbers where D = 1.
            t: one time for all, or N of them, flat or as a column.

        Returns:
            N × outputs.

        Raises:
            ModelError: shapes that do not go together.
        """
        x = x[:, None] if x.dim() == 1 and self.dim == 1 else x
        if x.dim() != 2 or x.shape[1] != self.dim or t.numel() not in (1, x.shape[0]):
            raise ModelError(
                f"places are N × {self.dim}, times one or N; got {tuple(x.shape)} and {tuple(t.shape)}. Reshape them."
            )
        t = t.reshape(-1, 1)
        phase = x @ self.k.T - self.omega * t
        modulation = torch.sin(self.phi + self.epsilon * torch.cos(x @ self.lmbda.T))
        amplitude = self.A * self.envelope(x, t) * modulation
        found: Tensor = self.head(torch.cat([amplitude * phase.cos(), amplitude * phase.sin()], dim=-1))
        return found

    def envelope(self, x: Float[Tensor, "N D"], t: Float[Tensor, "T 1"]) -> Float[Tensor, "N 1"]:
        """The window: a Gaussian density about v t.

        Args:
            x: places.
            t: times, one or N.

        Returns:
            Densities.
        """
        log_sigma = self.log_sigma.clamp(min=math.log(MIN_SIGMA))
        z = (x - self.v * t) * torch.exp(-log_sigma)
        log_height = -log_sigma.sum() - self.dim / 2 * math.log(2 * math.pi)
        return torch.exp(log_height - 0.5 * z.square().sum(-1, keepdim=True))
