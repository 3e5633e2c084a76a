"""The effective weight W_eff = M ⊙ W + (1 − M) ⊙ φ(θ), where θ has a storage of its own, and where its gradient goes.

φ puts θ_j at the j-th pruned coordinate and zero elsewhere, so that with G = ∂L/∂W_eff

    ∂L/∂θ = φ⁻¹(G)            ∂L/∂W = M ⊙ G, or nothing where the active weights are frozen.

Both sets are disjoint, hence ⟨M ⊙ G, (1 − M) ⊙ G⟩ = 0: neither gradient reaches the other set. Where θ lives in the
pruned slots of W itself there is nothing to compute: W_eff is W.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

from resu.core.mask import SparseMask
from resu.errors import MaskError

__all__ = ["BlendFunction", "EffectiveWeightFunction", "effective_weight", "effective_weight_dense"]


class EffectiveWeightFunction(Function):
    """A copy of W into whose pruned slots θ ∈ R^p is written: one pass, one node, whatever W holds there.

    >>> weight, theta = torch.tensor([1.0, 9.0], requires_grad=True), torch.tensor([5.0], requires_grad=True)
    >>> effective = EffectiveWeightFunction.apply(weight, theta, torch.tensor([1], dtype=torch.int32), False)
    >>> (effective * torch.tensor([2.0, 3.0])).sum().backward()
    >>> effective.tolist(), weight.grad.tolist(), theta.grad.tolist()
    ([1.0, 5.0], [2.0, 0.0], [3.0])
    """

    @staticmethod
    def forward(weight: Tensor, theta: Tensor, indices: Tensor, freeze_active: bool) -> Tensor:
        """Copies and writes."""
        out = weight.clone(memory_format=torch.contiguous_format)
        out.view(-1).scatter_(0, indices.long(), theta)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        """Keeps the indices, which is all that the derivative needs."""
        ctx.save_for_backward(inputs[2])
        ctx.freeze_active = inputs[3]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gathers for θ; zeroes a copy at P for W."""
        (indices,) = ctx.saved_tensors
        flat = grad_outputs[0].reshape(-1)
        grad_theta = flat.index_select(0, indices) if ctx.needs_input_grad[1] else None
        if ctx.freeze_active or not ctx.needs_input_grad[0]:
            return None, grad_theta, None, None
        return flat.index_fill(0, indices.long(), 0).view(grad_outputs[0].shape), grad_theta, None, None


class BlendFunction(Function):
    """W at A and a matrix φ at P: a selection by the mask, or a plain sum where each is known to be 0 on the other set.

    The mask is kept packed for the backward pass.

    >>> weight, phi = torch.tensor([1.0, 9.0], requires_grad=True), torch.tensor([8.0, 5.0], requires_grad=True)
    >>> bits = SparseMask(torch.tensor([True, False])).bits
    >>> blend = BlendFunction.apply(weight, phi, bits, False, False)
    >>> (blend * torch.tensor([2.0, 3.0])).sum().backward()
    >>> blend.tolist(), weight.grad.tolist(), phi.grad.tolist()
    ([1.0, 5.0], [2.0, 0.0], [0.0, 3.0])
    """

    @staticmethod
    def forward(active: Tensor, phi_theta: Tensor, bits: Tensor, freeze_active: bool, disjoint: bool) -> Tensor:
        """Adds or selects."""
        if disjoint:
            return torch.add(active, phi_theta)
        return SparseMask.from_bits(bits, active.shape).where(active, phi_theta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool, bool], output: Tensor) -> None:
        """Keeps the packed mask, which is all that the derivative needs."""
        ctx.save_for_backward(inputs[2])
        ctx.freeze_active = inputs[3]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Masks the gradient for either side."""
        (bits,) = ctx.saved_tensors
        grad = grad_outputs[0]
        mask = SparseMask.from_bits(bits, grad.shape)
        grad_phi = mask.apply_inverse(grad) if ctx.needs_input_grad[1] else None
        if ctx.freeze_active or not ctx.needs_input_grad[0]:
            return None, grad_phi, None, None, None
        return mask.apply(grad), grad_phi, None, None, None


def effective_weight(
    weight: Float[Tensor, "..."],
    theta: Float[Tensor, "..."],
    mask: SparseMask,
    *,
    freeze_active: bool = True,
    indices: Int[Tensor, " pruned"] | None = None,
) -> Float[Tensor, "..."]:
    """W_eff from W and θ, differentiable in both.

    Args:
        weight: W; what it holds at P does not matter.
        theta: θ as a vector with one value a pruned coordinate, or as a matrix of W's shape, whose values at A do not
            matter.
        mask: which coordinates are active.
        freeze_active: whether W gets no gradient.
        indices: `mask.pruned_indices`, where the caller has them; only a vector needs them.

    Returns:
        A new tensor of W's shape.

    Raises:
        MaskError: θ or W of another shape.

    >>> mask = SparseMask(torch.tensor([[True, False], [False, True]]))
    >>> effective_weight(torch.ones(2, 2), torch.tensor([5.0, 7.0]), mask).tolist()
    [[1.0, 5.0], [7.0, 1.0]]
    """
    mask.check_shape(weight.shape, "weight")
    if theta.shape == weight.shape and theta.dim() > 1:
        return effective_weight_dense(weight, theta, mask, freeze_active=freeze_active)
    if theta.shape != (mask.n_pruned,):
        raise MaskError(
            f"θ has one value a pruned coordinate, {mask.n_pruned} here, or the weight's shape {tuple(weight.shape)}; "
            f"it has shape {tuple(theta.shape)}. Make it from this mask."
        )
    indices = mask.pruned_indices if indices is None else indices
    return cast(Tensor, EffectiveWeightFunction.apply(weight, theta, indices, freeze_active))


def effective_weight_dense(
    active: Float[Tensor, "..."],
    phi_theta: Float[Tensor, "..."],
    mask: SparseMask,
    freeze_active: bool = True,
    *,
    disjoint: bool = False,
) -> Float[Tensor, "..."]:
    """W_eff from W, or from a kept M ⊙ W, and the matrix φ(θ); differentiable in both.

    Args:
        active: W or M ⊙ W.
        phi_theta: φ(θ).
        mask: which coordinates are active.
        freeze_active: whether `active` gets no gradient.
        disjoint: the caller knows that `active` is 0 at P and φ(θ) is 0 at A. W_eff is then their plain sum, which
            reads no mask; otherwise each coordinate is selected by it.

    Returns:
        A new tensor of W's shape.

    Raises:
        MaskError: tensors of another shape than the mask's.

    >>> mask = SparseMask(torch.tensor([True, False]))
    >>> effective_weight_dense(torch.tensor([1.0, 9.0]), torch.tensor([0.0, 5.0]), mask).tolist()
    [1.0, 5.0]
    """
    mask.check_shape(active.shape, "weight")
    mask.check_shape(phi_theta.shape, "matrix φ(θ)")
    return cast(Tensor, BlendFunction.apply(active, phi_theta, mask.bits, freeze_active, disjoint))
