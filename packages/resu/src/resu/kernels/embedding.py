"""The embedding of the resurrection parameters: phi puts theta into the pruned slots of a weight, phi inverse takes it.

With P the pruned coordinates in ascending flat order and p their number, phi: R^p -> R^shape has phi(theta)[P_j] =
theta_j and is 0 elsewhere, and phi_inverse(X)_j = X[P_j]. So phi_inverse(phi(theta)) = theta, and the two are adjoint,
<phi(theta), X> = <theta, phi_inverse(X)>: the derivative of each is the other.

On a GPU the moves are Triton kernels, which autograd does not see, and elsewhere they are plain torch. `phi_scatter`
and `phi_inverse_gather` give values only, on every device; `phi_scatter_grad` is phi with its derivative.

Sizes are checked by lengths and shapes alone: the index values are never fetched from the device. On a CPU torch
refuses an index out of range; on a GPU it is neither read nor written.
"""

from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

from resu.errors import MaskError
from resu.kernels.backend import resolve

__all__ = [
    "PhiInverseGatherFunction",
    "PhiScatterFunction",
    "phi_inverse_gather",
    "phi_scatter",
    "phi_scatter_grad",
    "resu_update_indexed",
    "resu_update_with_momentum",
]


@torch.no_grad()
def phi_scatter(
    theta: Float[Tensor, " pruned"], indices: Int[Tensor, " pruned"], shape: tuple[int, ...]
) -> Float[Tensor, "..."]:
    """Puts theta into the pruned slots of zeros, without a derivative.

    Args:
        theta: resurrection parameters.
        indices: their flat indices, ascending and without repeats; int32 or int64, used as they are.
        shape: the weight's.

    Returns:
        phi(theta), a new tensor.

    Raises:
        MaskError: lengths that do not fit each other or the shape.
        KernelError: a back end that RESU_BACKEND asks for and that cannot do it.

    >>> phi_scatter(torch.tensor([5.0, 7.0]), torch.tensor([1, 2]), (2, 2)).tolist()
    [[0.0, 5.0], [7.0, 0.0]]
    """
    _check(theta, indices, prod(shape))
    if resolve(device=theta.device, dtype=theta.dtype) == "triton":
        from resu.kernels import triton_embedding

        return triton_embedding.scatter(theta, indices, tuple(shape))
    out = theta.new_zeros(prod(shape))
    return out.index_put_((indices,), theta).view(shape)


@torch.no_grad()
def phi_inverse_gather(x: Float[Tensor, "..."], indices: Int[Tensor, " pruned"]) -> Float[Tensor, " pruned"]:
    """Takes the pruned slots of a weight or its gradient, without a derivative.

    Args:
        x: any shape and strides.
        indices: flat indices in row-major order; int32 or int64, used as they are.

    Returns:
        phi_inverse(x), a new vector.

    Raises:
        MaskError: more indices than elements, or indices that are no vector of integers beside x.
        KernelError: a back end that RESU_BACKEND asks for and that cannot do it.

    >>> phi_inverse_gather(torch.tensor([[0.0, 5.0], [7.0, 0.0]]), torch.tensor([1, 2])).tolist()
    [5.0, 7.0]
    """
    _check(None, indices, x.numel(), x.device)
    if resolve(device=x.device, dtype=x.dtype) == "triton":
        from resu.kernels import triton_embedding

        return triton_embedding.gather(x, indices)
    return x.reshape(-1).index_select(0, indices)


class PhiScatterFunction(Function):
    """phi for autograd: forward scatters, backward gathers, and so on to any order.

    >>> theta = torch.tensor([5.0, 7.0], requires_grad=True)
    >>> matrix = PhiScatterFunction.apply(theta, torch.tensor([1, 2]), (2, 2))
    >>> (matrix * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    >>> theta.grad.tolist()
    [2.0, 3.0]
    """

    @staticmethod
    def forward(theta: Tensor, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Scatters."""
        return phi_scatter(theta, indices, shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, tuple[int, ...]], output: Tensor) -> None:
        """Keeps the indices, which is all that the derivative needs."""
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        """Gathers."""
        (indices,) = ctx.saved_tensors
        return PhiInverseGatherFunction.apply(grad_outputs[0], indices), None, None


class PhiInverseGatherFunction(Function):
    """phi inverse for autograd: forward gathers, backward scatters, and so on to any order.

    >>> x = torch.ones(2, 2, requires_grad=True)
    >>> PhiInverseGatherFunction.apply(x, torch.tensor([1, 2])).sum().backward()
    >>> x.grad.tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    @staticmethod
    def forward(x: Tensor, indices: Tensor) -> Tensor:
        """Gathers."""
        return phi_inverse_gather(x, indices)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keeps the indices and the shape, which is all that the derivative needs."""
        ctx.save_for_backward(inputs[1])
        ctx.shape = tuple(inputs[0].shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """Scatters."""
        (indices,) = ctx.saved_tensors
        return PhiScatterFunction.apply(grad_outputs[0], indices, ctx.shape), None


def phi_scatter_grad(
    theta: Float[Tensor, " pruned"], indices: Int[Tensor, " pruned"], shape: tuple[int, ...]
) -> Float[Tensor, "..."]:
    """Puts theta into the pruned slots of zeros, with the derivative: dL/dtheta = phi_inverse(dL/dphi).

    Args:
        theta: resurrection parameters.
        indices: their flat indices, ascending and without repeats; int32 or int64, used as they are.
        shape: the weight's.

    Returns:
        phi(theta), a new tensor.

    Raises:
        MaskError: lengths that do not fit each other or the shape.
        KernelError: a back end that RESU_BACKEND asks for and that cannot do it.

    >>> theta = torch.tensor([5.0, 7.0], requires_grad=True)
    >>> phi_scatter_grad(theta, torch.tensor([1, 2]), (2, 2)).square().sum().backward()
    >>> theta.grad.tolist()
    [10.0, 14.0]
    """
    return PhiScatterFunction.apply(theta, indices, tuple(shape))


@torch.no_grad()
def resu_update_indexed(
    target: Float[Tensor, "..."], gradient: Float[Tensor, "..."], indices: Int[Tensor, " pruned"], lr: float
) -> None:
    """The plain step, theta <- theta - lr * phi_inverse(G), in place; other coordinates keep every bit.

    Args:
        target: theta, one value an index, or the weight that holds theta in its pruned slots.
        gradient: G, of the whole weight; any strides.
        indices: flat indices of the pruned coordinates.
        lr: learning rate.

    Raises:
        MaskError: a target that is neither, or indices that do not fit the gradient.
        KernelError: a back end that RESU_BACKEND asks for and that cannot do it.

    >>> theta = torch.tensor([5.0, 7.0])
    >>> resu_update_indexed(theta, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 2]), lr=0.5)
    >>> theta.tolist()
    [4.0, 5.5]
    """
    _update(target, gradient, None, indices, lr, 0.0)


@torch.no_grad()
def resu_update_with_momentum(
    target: Float[Tensor, "..."],
    gradient: Float[Tensor, "..."],
    momentum: Float[Tensor, " pruned"],
    indices: Int[Tensor, " pruned"],
    lr: float,
    beta: float = 0.9,
) -> None:
    """The step with momentum, m <- beta * m + (1 - beta) * phi_inverse(G), theta <- theta - lr * m, in place.

    Args:
        target: theta, one value an index, or the weight that holds theta in its pruned slots.
        gradient: G, of the whole weight; any strides.
        momentum: m, one value an index.
        indices: flat indices of the pruned coordinates.
        lr: learning rate.
        beta: decay of the momentum, from 0 to 1.

    Raises:
        MaskError: a target or a momentum that does not fit, or indices that do not fit the gradient.
        KernelError: a back end that RESU_BACKEND asks for and that cannot do it.

    >>> theta, m = torch.tensor([5.0, 7.0]), torch.zeros(2)
    >>> gradient = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> resu_update_with_momentum(theta, gradient, m, torch.tensor([1, 2]), lr=1.0, beta=0.5)
    >>> theta.tolist(), m.tolist()
    ([4.0, 5.5], [1.0, 1.5])
    """
    if momentum.shape != indices.shape:
        raise MaskError(
            f"the momentum has one value an index; it is {tuple(momentum.shape)} and the indices are "
            f"{tuple(indices.shape)}. Start it from zeros of the indices' length when the mask changes."
        )
    _update(target, gradient, momentum, indices, lr, beta)


def _update(target: Tensor, gradient: Tensor, momentum: Tensor | None, indices: Tensor, lr: float, beta: float) -> None:
    _check(None, indices, gradient.numel(), gradient.device)
    in_place = target.shape != indices.shape
    if in_place and target.shape != gradient.shape:
        raise MaskError(
            "what is updated is theta, one value an index, or the weight itself, of the gradient's shape; it is "
            f"{tuple(target.shape)}, the indices {tuple(indices.shape)} and the gradient {tuple(gradient.shape)}. "
            "Pass one of the two."
        )
    if not target.is_contiguous():
        raise MaskError(
            "flat indices count in row-major order, so what is updated must be contiguous; its shape is "
            f"{tuple(target.shape)} with strides {target.stride()}. Make the weight contiguous before training."
        )
    if resolve(device=target.device, dtype=target.dtype) == "triton":
        from resu.kernels import triton_embedding

        triton_embedding.update(target, gradient, momentum, indices, lr=lr, beta=beta, in_place=in_place)
        return
    step = gradient.reshape(-1).index_select(0, indices).to(target.dtype)
    if momentum is not None:
        step = momentum.mul_(beta).add_(step, alpha=1 - beta)
    if in_place:
        target.view(-1).index_add_(0, indices, step.to(target.dtype), alpha=-lr)
    else:
        target.add_(step, alpha=-lr)


def _check(theta: Tensor | None, indices: Tensor, numel: int, device: torch.device | None = None) -> None:
    """Refuses what lengths, shapes, dtypes and devices alone show to be wrong."""
    if indices.dim() != 1 or indices.dtype not in (torch.int32, torch.int64):
        raise MaskError(
            f"indices are a vector of int32 or int64; they are {indices.dtype} of shape {tuple(indices.shape)}. "
            "Take them from mask.pruned_indices."
        )
    if theta is not None and theta.shape != indices.shape:
        raise MaskError(
            f"theta has one value an index; it is {tuple(theta.shape)} and the indices are {tuple(indices.shape)}. "
            "Make both from the same mask."
        )
    if indices.shape[0] > numel:
        raise MaskError(
            f"a weight of {numel} elements has no more pruned coordinates than that; there are {indices.shape[0]} "
            "indices. Pass the shape of the weight that the mask was made for."
        )
    if indices.dtype == torch.int32 and numel > 1 << 31:
        raise MaskError(
            f"int32 reaches 2**31 elements; the weight has {numel}. Use int64 indices for it: indices.long()."
        )
    place = device if theta is None else theta.device
    if indices.device != place:
        raise MaskError(
            f"indices must be where the values are; these are on {place} and the indices on {indices.device}. Move the "
            f"indices with indices.to({str(place)!r})."
        )
