"""The Triton kernel of masked SGD: one pass that writes the coordinates that it may, and no others.

The legend is that of `triton_bits`; _1 and _0 are for coordinates whose bit is 1 and 0, the active and the pruned.
"""

from typing import no_type_check

import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from jaxtyping import Float, Int32
from torch import Tensor

from resu.errors import KernelError
from resu.kernels.backend import check_operands, on_device
from resu.kernels.triton_bits import BLOCK, block_bits, check_packed, check_shapes, coordinates

__all__ = ["launch"]


@triton.jit
@no_type_check
def _sgd_kernel(
    w_ptr,
    g_ptr,
    m_ptr,
    words_ptr,
    subset_ptr,
    numel,
    cols,
    words,
    lr_1,
    lr_0,
    momentum,
    momentum_kept,
    weight_decay,
    shadow_beta,
    shadow_rest,
    WRITTEN: tl.constexpr,
    EVERYTHING: tl.constexpr,
    SHADOW: tl.constexpr,
    SUBSET: tl.constexpr,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at_N, live_N = coordinates(numel, BLOCK)
    bit_N = block_bits(words_ptr, live_N, cols, words, BLOCK)
    if EVERYTHING:
        writable_N = live_N
    elif SUBSET:
        writable_N = live_N & (block_bits(subset_ptr, live_N, cols, words, BLOCK) == 1)
    else:
        writable_N = live_N & (bit_N == WRITTEN)
    if SHADOW:
        touched_N = live_N
    else:
        touched_N = writable_N

    w_N = tl.load(w_ptr + at_N, mask=writable_N, other=0.0).to(tl.float32)
    g_N = tl.load(g_ptr + at_N, mask=touched_N, other=0.0).to(tl.float32)
    step_N = g_N + weight_decay * w_N
    if MOMENTUM:
        m_N = tl.load(m_ptr + at_N, mask=touched_N, other=0.0).to(tl.float32)
        moved_N = momentum_kept * m_N + step_N
        if SHADOW:
            m_N = tl.where(writable_N, moved_N, shadow_beta * m_N + shadow_rest * g_N)
        else:
            m_N = moved_N
        tl.store(m_ptr + at_N, m_N, mask=touched_N)
        if NESTEROV:
            step_N = step_N + momentum * moved_N
        else:
            step_N = moved_N
    tl.store(w_ptr + at_N, w_N - tl.where(bit_N == 1, lr_1, lr_0) * step_N, mask=writable_N)


def launch(
    w: Float[Tensor, "rows cols"],
    g: Float[Tensor, "rows cols"],
    m: Float[Tensor, "rows cols"] | None,
    words: Int32[Tensor, "rows words"],
    *,
    invert: bool,
    everything: bool,
    shadow: bool,
    lr: float,
    lr_pruned: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
    shadow_beta: float,
    subset: Int32[Tensor, "rows words"] | None = None,
) -> None:
    """One step of masked SGD in place: g <- g + wd * w, m <- mu * m + g, w <- w - lr * m, as torch has it.

    Args:
        w: weights; float32, bfloat16 or float16.
        g: their gradient, of any strides.
        m: the momentum, or None without.
        words: the packed mask.
        invert: pruned coordinates are written, not active ones.
        everything: all are written, each at its set's rate.
        shadow: those that are not written take the mean of their gradient into m.
        lr: learning rate of active coordinates.
        lr_pruned: of pruned ones.
        momentum: mu.
        weight_decay: part of the gradient, not decoupled.
        nesterov: w <- w - lr * (g + mu * m) instead.
        first: m becomes g, whatever it held.
        shadow_beta: decay of the mean.
        subset: with `invert`, packed bits of the only pruned coordinates that are written; else not read.

    Raises:
        KernelError: operands that do not fit each other or that a kernel cannot take.
    """
    buffer = w if m is None else m
    check_shapes(w, g=g, m=buffer)
    if shadow and (everything or invert):
        raise KernelError(
            "the mean is of pruned coordinates while active ones are written; shadow was asked for together with "
            f"invert={invert} and everything={everything}. Ask for it alone."
        )
    g = g.contiguous()
    check_operands(w=w, g=g, m=buffer)
    check_packed(w, words, subset)
    if not w.numel():
        return
    with on_device(w):
        _sgd_kernel[(triton.cdiv(w.numel(), BLOCK),)](
            w,
            g,
            buffer,
            words,
            words if subset is None else subset,
            w.numel(),
            w.shape[1],
            words.shape[1],
            lr,
            lr_pruned,
            momentum,
            0.0 if first else momentum,
            weight_decay,
            shadow_beta,
            1 - shadow_beta,
            WRITTEN=int(not invert),
            EVERYTHING=everything,
            SHADOW=shadow,
            SUBSET=invert and subset is not None,
            MOMENTUM=m is not None,
            NESTEROV=nesterov,
            BLOCK=BLOCK,
        )
