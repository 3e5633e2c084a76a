"""The original's mask, the way of θ into the matrix, and the effective weight in its three forms.

How the published code ran its RESU phase is rebuilt here, in `original_layers`, `original_training` and
`original_memory`, defects included, for comparison only: from "Complete Performance Fix" (the note), whose code blocks
it follows, and from what was found in the original's source. Only tests and measurements import these modules.

Three ways of forming the effective weight are told apart (`Forward`), which are the note's fixes #2 and #3. How many
dense operations the form without a cache dispatched is not known to the last one; here it is one product M ⊙ W more
than the cached form, and one autograd node less, which is what the note's words say and what its measured times bear
out.

Defects kept on purpose, because they are what the figures are about, each named where it stands:

- THREE COPIES OF THE MASK: float32 M, int64 indices of A and int64 indices of P take 3 |W| beside the weight.
- TIES PRUNED: the magnitude threshold is the k-th smallest, and only what is strictly larger stays.
- HOST SYNC IN THE SCATTER: each call reads the largest index back, and casts the indices to int64.
- PLAIN SCATTER: without an autograd function, θ gets no gradient at all.
- CACHE OF M ⊙ W: another |W|, and the cached forward still runs the whole blend M ⊙ x + (1 − M) ⊙ φ.
"""

from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd import Function

__all__ = [
    "BlendFunction",
    "EffectiveWeightFunction",
    "Forward",
    "PhiScatterFunction",
    "SparseMask",
    "phi_inverse_gather",
    "phi_scatter",
]


class Forward(StrEnum):
    """How the effective weight is formed in each forward pass.

    RECOMPUTE is the state before the cache: M ⊙ W anew, then the blend, in one autograd node. CACHED_PLAIN is the first
    cached form, whose scatter breaks the flow of the gradient. CACHED is the published one.
    """

    RECOMPUTE = "recompute"
    CACHED_PLAIN = "cached, plain scatter"
    CACHED = "cached"


class SparseMask:
    """THREE COPIES OF THE MASK: float32, and both index vectors, all alive as long as the mask.

    Args:
        mask: float32, 1 = active.
    """

    def __init__(self, mask: Float[Tensor, "out in"]) -> None:
        self.mask = mask
        self.shape = tuple(mask.shape)
        flat = mask.flatten()
        self.active_indices: Int64[Tensor, " active"] = (flat > 0.5).nonzero().flatten()
        self.pruned_indices: Int64[Tensor, " pruned"] = (flat <= 0.5).nonzero().flatten()

    @classmethod
    def from_magnitude(cls, weight: Float[Tensor, "out in"], sparsity: float) -> "SparseMask":
        """TIES PRUNED: keeps what is strictly larger than the k-th smallest |w|, k = ⌊s N⌋.

        Args:
            weight: W.
            sparsity: s.

        Returns:
            The mask.

        >>> SparseMask.from_magnitude(torch.ones(2, 2), 0.25).mask.sum().item()
        0.0
        """
        magnitude = weight.detach().abs().flatten()
        k = int(sparsity * magnitude.numel())
        if k == 0:
            return cls(torch.ones_like(weight.detach()))
        threshold = torch.kthvalue(magnitude, k).values
        return cls((weight.detach().abs() > threshold).float())


def phi_scatter(
    theta: Float[Tensor, " pruned"], indices: Int64[Tensor, " pruned"], shape: tuple[int, ...]
) -> Float[Tensor, "..."]:
    """PLAIN SCATTER of θ into a dense matrix, with the HOST SYNC IN THE SCATTER.

    Args:
        theta: θ.
        indices: flat indices of P.
        shape: the matrix's shape.

    Returns:
        φ(θ), cut off from autograd as a kernel's output is.

    Raises:
        IndexError: an index beyond the matrix.
    """
    with torch.no_grad():
        out = torch.zeros(shape, dtype=theta.dtype, device=theta.device)
        if indices.numel() and int(indices.max()) >= out.numel():
            raise IndexError("an index is larger than the matrix")
        out.view(-1)[indices.to(torch.int64)] = theta
        return out


def phi_inverse_gather(dense: Float[Tensor, "..."], indices: Int64[Tensor, " pruned"]) -> Float[Tensor, " pruned"]:
    """φ⁻¹: the pruned coordinates of a dense matrix.

    Args:
        dense: any matrix of W's shape.
        indices: flat indices of P.

    Returns:
        One value a pruned coordinate.
    """
    with torch.no_grad():
        return dense.contiguous().view(-1)[indices.to(torch.int64)]


class PhiScatterFunction(Function):
    """The note's fix #2: autograd for φ(θ), whose backward is the gather."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Scatters."""
        ctx.save_for_backward(indices)
        return phi_scatter(theta, indices, shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        """Gathers."""
        (indices,) = ctx.saved_tensors
        return phi_inverse_gather(grad_outputs[0], indices), None, None


def _blend(mask: Tensor, active: Tensor, phi_theta: Tensor) -> Tensor:
    """Four passes over dense matrices: M ⊙ x + (1 − M) ⊙ φ."""
    return mask * active + (1 - mask) * phi_theta


class BlendFunction(Function):
    """CACHE OF M ⊙ W: the blend in full, although x is 0 at P and φ is 0 at A; a second autograd node."""

    @staticmethod
    def forward(ctx: Any, active: Tensor, phi_theta: Tensor, mask: Tensor, freeze_active: bool) -> Tensor:
        """Blends."""
        ctx.save_for_backward(mask)
        ctx.freeze_active = freeze_active
        return _blend(mask, active, phi_theta)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """Two more dense products, and a third where A is not frozen."""
        (mask,) = ctx.saved_tensors
        grad = grad_outputs[0]
        return None if ctx.freeze_active else mask * grad, (1 - mask) * grad, None, None


class EffectiveWeightFunction(Function):
    """The form without a cache: M ⊙ W anew in each forward, then the blend, in one node whose backward gathers."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, theta: Tensor, mask: Tensor, indices: Tensor, freeze_active: bool) -> Tensor:
        """M ⊙ W, scatter, blend."""
        ctx.save_for_backward(mask, indices)
        ctx.freeze_active = freeze_active
        return _blend(mask, mask * weight, phi_scatter(theta, indices, tuple(weight.shape)))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        """Gathers."""
        mask, indices = ctx.saved_tensors
        grad = grad_outputs[0]
        grad_weight = None if ctx.freeze_active else mask * grad
        return grad_weight, phi_inverse_gather(grad, indices), None, None, None
