"""Triton kernels of masked AdamW: the moments dense, with the mask in a sign bit, or compact.

A step writes the writable coordinates and no others: every store is predicated, so that a frozen weight keeps every bit
whatever the weight decay and the momentum. Per writable coordinate, with t the number of steps of its set,

    w <- w * (1 - lr * wd)
    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g^2
    w <- w - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps),

as Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, arXiv:1711.05101, in torch's order of operations
and in float32 whatever is stored. In a SHADOW step the others' free moments take statistics of their gradient instead,

    m <- b * m + (1 - b) * g,    v <- b * v + (1 - b) * |g|.

The sign-bit layout needs no mask beside the state: v is never negative, so that its sign is free, and set where a
coordinate is pruned (a new state, all +0, is all active). The compact layout keeps m and v of writable coordinates
only, in ascending flat order; a block finds its own from the number of writable coordinates before it.

Legend, beside that of `triton_bits`:
    _1, _0   for coordinates whose bit is 1 and 0: the active and the pruned, each with its rate and its step count
    decay    1 - lr * wd;  rate  lr / (1 - b1^t);  root  sqrt(1 - b2^t);  rest  one minus a coefficient
"""

import math
from typing import no_type_check

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from jaxtyping import Float, Int32
from torch import Tensor

from resu.errors import KernelError
from resu.kernels.backend import check_operands, on_device
from resu.kernels.triton_bits import BLOCK, block_bits, check_packed, check_shapes, coordinates

__all__ = ["launch", "launch_compact", "round_stochastically", "sign_bits", "with_sign"]


@triton.jit
@no_type_check
def round_stochastically(value_N, random_N):
    """Rounds float32 to a value of bfloat16, up with the probability of the part that is cut off."""
    bits_N = value_N.to(tl.int32, bitcast=True) + (random_N & 0xFFFF)
    return (bits_N & -65536).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def sign_bits(value_N):
    """The sign bit of float32 values, in its place in an int32."""
    return value_N.to(tl.int32, bitcast=True) & -2147483648


@triton.jit
@no_type_check
def with_sign(value_N, sign_N):
    """Values that are not negative, with the sign bits of `sign_bits` put back; zero has a sign too."""
    return (value_N.to(tl.int32, bitcast=True) | sign_N).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["seed"])
@no_type_check
def _adam_kernel(
    w_ptr,
    g_ptr,
    m_ptr,
    v_ptr,
    words_ptr,
    subset_ptr,
    offsets_ptr,
    numel,
    cols,
    words,
    seed,
    decay_1,
    decay_0,
    rate_1,
    rate_0,
    root_1,
    root_0,
    beta1,
    rest1,
    beta2,
    rest2,
    eps,
    shadow_beta,
    shadow_rest,
    WRITTEN: tl.constexpr,
    EVERYTHING: tl.constexpr,
    SHADOW: tl.constexpr,
    SUBSET: tl.constexpr,
    SIGNBIT: tl.constexpr,
    COMPACT: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at_N, live_N = coordinates(numel, BLOCK)
    if SIGNBIT:
        sign_N = sign_bits(tl.load(v_ptr + at_N, mask=live_N, other=0.0).to(tl.float32))
        bit_N = (sign_N == 0).to(tl.int32)
    else:
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
    if COMPACT:
        before = tl.load(offsets_ptr + tl.program_id(0))
        slot_N = before + tl.cumsum(writable_N.to(tl.int32), axis=0) - 1
    else:
        slot_N = at_N

    w_N = tl.load(w_ptr + at_N, mask=writable_N, other=0.0).to(tl.float32)
    g_N = tl.load(g_ptr + at_N, mask=touched_N, other=0.0).to(tl.float32)
    m_N = tl.load(m_ptr + slot_N, mask=touched_N, other=0.0).to(tl.float32)
    v_N = tl.abs(tl.load(v_ptr + slot_N, mask=touched_N, other=0.0).to(tl.float32))

    if SHADOW:
        m_N = tl.where(writable_N, beta1 * m_N + rest1 * g_N, shadow_beta * m_N + shadow_rest * g_N)
        v_N = tl.where(writable_N, beta2 * v_N + rest2 * g_N * g_N, shadow_beta * v_N + shadow_rest * tl.abs(g_N))
    else:
        m_N = beta1 * m_N + rest1 * g_N
        v_N = beta2 * v_N + rest2 * g_N * g_N
    active_N = bit_N == 1
    root_N = tl.where(active_N, root_1, root_0)
    step_N = tl.where(active_N, rate_1, rate_0) * tl.div_rn(m_N, tl.div_rn(tl.sqrt_rn(v_N), root_N) + eps)
    w_N = w_N * tl.where(active_N, decay_1, decay_0) - step_N

    if STOCHASTIC:
        w_N = round_stochastically(w_N, tl.randint(seed, at_N.to(tl.int32)).to(tl.int32, bitcast=True))
    if SIGNBIT:
        v_N = with_sign(v_N, sign_N)
    tl.store(w_ptr + at_N, w_N, mask=writable_N)
    tl.store(m_ptr + slot_N, m_N, mask=touched_N)
    tl.store(v_ptr + slot_N, v_N, mask=touched_N)


def launch(
    w: Float[Tensor, "rows cols"],
    g: Float[Tensor, "rows cols"],
    m: Float[Tensor, "rows cols"],
    v: Float[Tensor, "rows cols"],
    words: Int32[Tensor, "rows words"] | None,
    *,
    invert: bool,
    everything: bool,
    shadow: bool,
    lr: float,
    lr_pruned: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step_active: int,
    step_pruned: int,
    shadow_beta: float,
    signbit: bool,
    subset: Int32[Tensor, "rows words"] | None = None,
    seed: int | None = None,
) -> None:
    """One step of masked AdamW in place, the moments in W's own layout.

    Args:
        w: weights; float32, bfloat16 or float16.
        g: their gradient, of any strides (made contiguous here: a kernel goes by storage order).
        m: first moments.
        v: second moments; in the sign-bit layout the sign is set where a coordinate is pruned.
        words: the packed mask, 1 for active coordinates; None in the sign-bit layout.
        invert: pruned coordinates are written, not active ones.
        everything: all are written, each at its set's rate.
        shadow: those that are not written take gradient statistics into m and v.
        lr: learning rate of active coordinates.
        lr_pruned: of pruned ones.
        beta1: decay of the first moments.
        beta2: of the second.
        eps: added to the root of the second moment.
        weight_decay: decoupled.
        step_active: steps of the active set, this one included; not read where the set is not written.
        step_pruned: of the pruned set.
        shadow_beta: decay of the statistics.
        signbit: the mask is in the sign of v, and is kept there.
        subset: with `invert`, packed bits of the only pruned coordinates that are written; else not read.
        seed: round weights stored as bfloat16 up or down at random, without bias; give each step another. None rounds
            to the nearest, which loses steps below 1/256 of a weight.

    Raises:
        KernelError: operands that do not fit each other or that a kernel cannot take.
    """
    check_shapes(w, g=g, m=m, v=v)
    if (words is None) != signbit:
        raise KernelError(
            "the mask is in packed words or in the sign of v, one of the two; words is "
            f"{'None' if words is None else 'given'} and signbit {signbit}. Pass words, or signbit=True without them."
        )
    if shadow and (everything or invert):
        raise KernelError(
            "statistics are of pruned coordinates while active ones are written; shadow was asked for together with "
            f"invert={invert} and everything={everything}. Ask for it alone."
        )
    scalars = {
        **_rates("1", lr, step_active, beta1, beta2, weight_decay, written=everything or not invert),
        **_rates("0", lr_pruned, step_pruned, beta1, beta2, weight_decay, written=everything or invert),
        **_coefficients(beta1, beta2, eps, shadow_beta),
    }
    flags = {"WRITTEN": int(not invert), "EVERYTHING": everything, "SHADOW": shadow}
    _launch(w, g, m, v, words, subset if invert else None, None, scalars, flags, seed)


def launch_compact(
    w: Float[Tensor, "rows cols"],
    g: Float[Tensor, "rows cols"],
    m: Float[Tensor, " written"],
    v: Float[Tensor, " written"],
    words: Int32[Tensor, "rows words"],
    block_offsets: Int32[Tensor, " blocks"],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    seed: int | None = None,
) -> None:
    """The same step with moments of the written coordinates only, in ascending flat order.

    Args:
        w: weights; float32, bfloat16 or float16.
        g: their gradient, of any strides.
        m: first moments of written coordinates.
        v: their second moments.
        words: packed bits, 1 for coordinates that are written.
        block_offsets: written coordinates before each block of 1024 coordinates, from `triton_bits.block_offsets`.
        lr: learning rate.
        beta1: decay of the first moments.
        beta2: of the second.
        eps: added to the root of the second moment.
        weight_decay: decoupled.
        step: steps of the written set, this one included.
        seed: as in `launch`.

    Raises:
        KernelError: operands that do not fit each other or that a kernel cannot take.
    """
    check_shapes(w, g=g)
    blocks = triton.cdiv(w.numel(), BLOCK)
    if m.dim() != 1 or m.shape != v.shape or tuple(block_offsets.shape) != (blocks,):
        raise KernelError(
            "compact moments are two vectors of one length with a count for each block of 1024 coordinates, here "
            f"{blocks}; m is {tuple(m.shape)}, v {tuple(v.shape)} and block_offsets {tuple(block_offsets.shape)}. "
            "Take block_offsets from triton_bits.block_offsets with the same words."
        )
    check_operands(w=w, block_offsets=block_offsets)
    scalars = {
        **_rates("1", lr, step, beta1, beta2, weight_decay, written=True),
        **_rates("0", lr, step, beta1, beta2, weight_decay, written=False),
        **_coefficients(beta1, beta2, eps, shadow_beta=0.0),
    }
    flags = {"WRITTEN": 1, "EVERYTHING": False, "SHADOW": False}
    _launch(w, g, m, v, words, None, block_offsets, scalars, flags, seed)


def _launch(
    w: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    words: Tensor | None,
    subset: Tensor | None,
    offsets: Tensor | None,
    scalars: dict[str, float],
    flags: dict[str, int],
    seed: int | None,
) -> None:
    if seed is not None and w.dtype != torch.bfloat16:
        raise KernelError(
            f"rounding at random is for weights stored as bfloat16; w is {w.dtype}. Leave seed None for it."
        )
    g = g.contiguous()
    check_operands(w=w, g=g, m=m, v=v)
    check_packed(w, words, subset)
    if not w.numel():
        return
    with on_device(w):
        _adam_kernel[(triton.cdiv(w.numel(), BLOCK),)](
            w,
            g,
            m,
            v,
            # A kernel wants an address even where it reads nothing.
            w if words is None else words,
            w if subset is None else subset,
            w if offsets is None else offsets,
            w.numel(),
            w.shape[1],
            triton.cdiv(w.shape[1], 32),
            0 if seed is None else seed & 0x7FFFFFFF,
            **scalars,
            **flags,
            SUBSET=subset is not None,
            SIGNBIT=words is None,
            COMPACT=offsets is not None,
            STOCHASTIC=seed is not None,
            BLOCK=BLOCK,
        )


def _coefficients(beta1: float, beta2: float, eps: float, shadow_beta: float) -> dict[str, float]:
    # One minus a coefficient is taken in float64: in float32, 1 - 0.999 has lost four digits.
    return {
        "beta1": beta1,
        "rest1": 1 - beta1,
        "beta2": beta2,
        "rest2": 1 - beta2,
        "eps": eps,
        "shadow_beta": shadow_beta,
        "shadow_rest": 1 - shadow_beta,
    }


def _rates(
    bit: str, lr: float, step: int, beta1: float, beta2: float, weight_decay: float, written: bool
) -> dict[str, float]:
    """Decay, rate and root of the coordinates with one bit, in float64; those that are not written need none."""
    if not written:
        return {f"decay_{bit}": 1.0, f"rate_{bit}": 0.0, f"root_{bit}": 1.0}
    if step < 1:
        raise KernelError(
            f"a set's steps are counted from 1, this one included; the count of a set that is written is {step}. "
            "Count it up before the step, and from 1 again where its moments were cleared."
        )
    return {
        f"decay_{bit}": 1 - lr * weight_decay,
        f"rate_{bit}": lr / (1 - beta1**step),
        f"root_{bit}": math.sqrt(1 - beta2**step),
    }
