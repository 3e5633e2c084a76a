"""Triton kernels of the compact resurrection parameters: scatter, gather, and updates through an index vector.

Indices are int32 or int64 and are read as they are; their values are never looked at on the host, and one that is out
of range is neither read nor written, so that a foreign index vector cannot reach other tensors' memory.

Legend, beside that of `triton_bits`:
    _P       a block of consecutive pruned coordinates, by their place in the index vector
    at       flat index in the weight;  slot  place in the tensor that is updated
"""

from typing import no_type_check

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from jaxtyping import Float, Int
from torch import Tensor

from resu.kernels.backend import check_operands, on_device
from resu.kernels.triton_bits import BLOCK, coordinates

__all__ = ["gather", "scatter", "update"]


@triton.jit
@no_type_check
def _indexed(indices_ptr, pruned, numel, BLOCK: tl.constexpr):
    """A program's places in the index vector, the flat indices there, and which of them may be touched."""
    place_P, live_P = coordinates(pruned, BLOCK)
    at_P = tl.load(indices_ptr + place_P, mask=live_P, other=0)
    return place_P, at_P, live_P & (at_P >= 0) & (at_P < numel)


@triton.jit
@no_type_check
def _scatter_kernel(theta_ptr, indices_ptr, out_ptr, pruned, numel, BLOCK: tl.constexpr):
    place_P, at_P, live_P = _indexed(indices_ptr, pruned, numel, BLOCK)
    theta_P = tl.load(theta_ptr + place_P, mask=live_P, other=0.0)
    tl.store(out_ptr + at_P, theta_P, mask=live_P)


@triton.jit
@no_type_check
def _gather_kernel(x_ptr, indices_ptr, out_ptr, pruned, numel, BLOCK: tl.constexpr):
    place_P, at_P, live_P = _indexed(indices_ptr, pruned, numel, BLOCK)
    x_P = tl.load(x_ptr + at_P, mask=live_P, other=0.0)
    tl.store(out_ptr + place_P, x_P, mask=place_P < pruned)


@triton.jit
@no_type_check
def _update_kernel(
    target_ptr,
    g_ptr,
    m_ptr,
    indices_ptr,
    pruned,
    numel,
    lr,
    beta,
    rest,
    MOMENTUM: tl.constexpr,
    IN_PLACE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place_P, at_P, live_P = _indexed(indices_ptr, pruned, numel, BLOCK)
    if IN_PLACE:
        slot_P = at_P
    else:
        slot_P = place_P
    step_P = tl.load(g_ptr + at_P, mask=live_P, other=0.0).to(tl.float32)
    if MOMENTUM:
        step_P = beta * tl.load(m_ptr + place_P, mask=live_P, other=0.0).to(tl.float32) + rest * step_P
        tl.store(m_ptr + place_P, step_P, mask=live_P)
    target_P = tl.load(target_ptr + slot_P, mask=live_P, other=0.0).to(tl.float32)
    tl.store(target_ptr + slot_P, target_P - lr * step_P, mask=live_P)


def scatter(
    theta: Float[Tensor, " pruned"], indices: Int[Tensor, " pruned"], shape: tuple[int, ...]
) -> Float[Tensor, "..."]:
    """Puts theta at its flat indices of a tensor of zeros.

    Args:
        theta: the values.
        indices: where they go; ascending and without repeats.
        shape: of the result.

    Returns:
        A new tensor.

    Raises:
        KernelError: operands that a kernel cannot take.
    """
    theta, indices = theta.contiguous(), indices.contiguous()
    out = torch.zeros(shape, dtype=theta.dtype, device=theta.device)
    check_operands(theta=theta, indices=indices, out=out)
    if theta.numel():
        with on_device(theta):
            grid = (triton.cdiv(theta.numel(), BLOCK),)
            _scatter_kernel[grid](theta, indices, out, theta.numel(), out.numel(), BLOCK=BLOCK)
    return out


def gather(x: Float[Tensor, "..."], indices: Int[Tensor, " pruned"]) -> Float[Tensor, " pruned"]:
    """Takes the values at flat indices.

    Args:
        x: any shape and strides.
        indices: which to take.

    Returns:
        A new vector.

    Raises:
        KernelError: operands that a kernel cannot take.
    """
    x, indices = x.contiguous(), indices.contiguous()
    out = torch.empty(indices.shape, dtype=x.dtype, device=x.device)
    check_operands(x=x, indices=indices, out=out)
    if indices.numel():
        with on_device(x):
            grid = (triton.cdiv(indices.numel(), BLOCK),)
            _gather_kernel[grid](x, indices, out, indices.numel(), x.numel(), BLOCK=BLOCK)
    return out


def update(
    target: Float[Tensor, "..."],
    gradient: Float[Tensor, "..."],
    momentum: Float[Tensor, " pruned"] | None,
    indices: Int[Tensor, " pruned"],
    *,
    lr: float,
    beta: float = 0.0,
    in_place: bool,
) -> None:
    """Steps the values at flat indices down the gradient there, with or without a momentum.

    Args:
        target: theta by its place in the index vector, or with `in_place` the weight that holds it in its pruned slots.
        gradient: of the whole weight, any strides.
        momentum: one value an index, updated too; None without.
        indices: which coordinates.
        lr: learning rate.
        beta: decay of the momentum.
        in_place: which of the two the target is.

    Raises:
        KernelError: operands that a kernel cannot take.
    """
    gradient, indices = gradient.contiguous(), indices.contiguous()
    check_operands(target=target, gradient=gradient, indices=indices)
    if momentum is not None:
        check_operands(target=target, momentum=momentum)
    if not indices.numel():
        return
    with on_device(target):
        _update_kernel[(triton.cdiv(indices.numel(), BLOCK),)](
            target,
            gradient,
            target if momentum is None else momentum,
            indices,
            indices.numel(),
            gradient.numel(),
            lr,
            beta,
            1 - beta,
            MOMENTUM=momentum is not None,
            IN_PLACE=in_place,
            BLOCK=BLOCK,
        )
