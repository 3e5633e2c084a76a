"""Triton kernels of gradient statistics: moving averages of g and |g|, and how consistent a gradient's direction is.

While pruned coordinates are not trained, their slots of the optimizer's moments are free, and hold

    m <- b * m + (1 - b) * g,    v <- b * v + (1 - b) * |g|,    C = |m| / (v + delta),

with 0 <= C <= 1: it is 1 where the gradient always pointed one way, and near 0 where it came and went. Growth by
averaged gradients is that of Dettmers and Zettlemoyer, Sparse Networks from Scratch, 2019, arXiv:1907.04840; C weighs
it. C is a function of m and v, so it is computed where it is asked for and never kept.

The legend is that of `triton_bits`.
"""

from typing import no_type_check

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from resu.errors import KernelError
from resu.kernels.backend import check_operands, on_device
from resu.kernels.triton_bits import BLOCK, block_bits, check_packed, check_shapes, coordinates
from resu.kernels.triton_masked_adam import sign_bits, with_sign

__all__ = ["consistency", "update"]


@triton.jit
@no_type_check
def _update_kernel(
    g_ptr,
    m_ptr,
    v_ptr,
    words_ptr,
    numel,
    cols,
    words,
    beta,
    rest,
    SIGNBIT: tl.constexpr,
    PACKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at_N, live_N = coordinates(numel, BLOCK)
    touched_N = live_N
    if SIGNBIT:
        sign_N = sign_bits(tl.load(v_ptr + at_N, mask=live_N, other=0.0).to(tl.float32))
        touched_N = live_N & (sign_N != 0)
    if PACKED:
        touched_N = live_N & (block_bits(words_ptr, live_N, cols, words, BLOCK) == 0)
    g_N = tl.load(g_ptr + at_N, mask=touched_N, other=0.0).to(tl.float32)
    m_N = tl.load(m_ptr + at_N, mask=touched_N, other=0.0).to(tl.float32)
    v_N = tl.abs(tl.load(v_ptr + at_N, mask=touched_N, other=0.0).to(tl.float32))
    m_N = beta * m_N + rest * g_N
    v_N = beta * v_N + rest * tl.abs(g_N)
    if SIGNBIT:
        v_N = with_sign(v_N, sign_N)
    tl.store(m_ptr + at_N, m_N, mask=touched_N)
    tl.store(v_ptr + at_N, v_N, mask=touched_N)


@triton.jit
@no_type_check
def _consistency_kernel(m_ptr, v_ptr, out_ptr, numel, delta, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr):
    at_N, live_N = coordinates(numel, BLOCK)
    m_N = tl.abs(tl.load(m_ptr + at_N, mask=live_N, other=0.0).to(tl.float32))
    v_N = tl.abs(tl.load(v_ptr + at_N, mask=live_N, other=0.0).to(tl.float32))
    c_N = tl.div_rn(m_N, v_N + delta)
    if WEIGHTED:
        c_N = c_N * m_N
    tl.store(out_ptr + at_N, c_N, mask=live_N)


def update(
    m: Float[Tensor, "rows cols"],
    v: Float[Tensor, "rows cols"],
    g: Float[Tensor, "rows cols"],
    words: Int32[Tensor, "rows words"] | None = None,
    *,
    beta: float,
    signbit: bool = False,
) -> None:
    """Takes one gradient into the averages at pruned coordinates, in place; those of the others keep every bit.

    Args:
        m: average of g.
        v: average of |g|; its sign is set where a coordinate is pruned in the sign-bit layout.
        g: the gradient, of any strides.
        words: packed bits, 0 for pruned. None takes the sign of v in the sign-bit layout, else every coordinate.
        beta: decay a step.
        signbit: the mask is in the sign of v, and is kept there.

    Raises:
        KernelError: operands that do not fit each other or that a kernel cannot take.
    """
    check_shapes(m, v=v, g=g)
    g = g.contiguous()
    check_operands(m=m, v=v, g=g)
    check_packed(m, words)
    if not m.numel():
        return
    with on_device(m):
        _update_kernel[(triton.cdiv(m.numel(), BLOCK),)](
            g,
            m,
            v,
            m if words is None else words,
            m.numel(),
            m.shape[1],
            1 if words is None else words.shape[1],
            beta,
            1 - beta,
            SIGNBIT=signbit,
            PACKED=words is not None,
            BLOCK=BLOCK,
        )


def consistency(
    m: Float[Tensor, "..."], v: Float[Tensor, "..."], *, delta: float = 1e-8, weighted: bool = False
) -> Float32[Tensor, "..."]:
    """Computes C = |m| / (v + delta) from the averages, the sign of v left out of it.

    Args:
        m: average of g, or some of its rows.
        v: average of |g|, the same rows.
        delta: keeps C at 0 where no gradient ever came.
        weighted: |m| * C instead, the score by which SHADOW grows.

    Returns:
        One value a coordinate.

    Raises:
        KernelError: operands that do not fit each other or that a kernel cannot take.
    """
    if m.shape != v.shape:
        raise KernelError(
            f"both averages are of the same coordinates; m is {tuple(m.shape)} and v {tuple(v.shape)}. Slice "
            "both alike."
        )
    check_operands(m=m, v=v)
    out = torch.empty(m.shape, dtype=torch.float32, device=m.device)
    if m.numel():
        with on_device(m):
            grid = (triton.cdiv(m.numel(), BLOCK),)
            _consistency_kernel[grid](m, v, out, m.numel(), delta, WEIGHTED=weighted, BLOCK=BLOCK)
    return out
