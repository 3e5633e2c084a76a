"""Triton kernels that find the k largest of float32 scores exactly: histograms of keys, no sort, no index vector.

A float32 score is turned into a 32-bit key of the same order, and the k-th largest key is found digit by digit, 11, 11
and 10 bits from the top: a histogram of the next digit among the keys that share the digits found so far, then the
highest digit at which the keys from the top reach k. What remains of k are ties, and the lowest flat indices get them.
Everything stays on the device: no pass waits for the host.

Ranks that hold parts of one score add up their histograms between `histogram` and `descend`, and find the global key.

The legend is that of `triton_bits`, and
    key      unsigned order in an int32's bits;  digit  11 or 10 bits of it;  found  the digits above, right-aligned
"""

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from jaxtyping import Float32, Int32, Int64
from torch import Tensor

from resu.errors import KernelError
from resu.kernels.backend import check_operands, on_device
from resu.kernels.triton_bits import (
    WORDS_A_TILE,
    as_int32,
    block_bits,
    check_words,
    coordinates,
    join_bits,
    tile_coordinates,
)

__all__ = ["BINS", "LEVELS", "Threshold", "descend", "find_threshold", "histogram", "kth_largest", "select_top"]

BINS = 2048
"""Bins of a histogram; the last digit, of 10 bits, uses half of them."""

LEVELS = (21, 10, 0)
"""How far each digit's lowest bit is from the key's."""

_BLOCK = 4096


@dataclass(frozen=True)
class Threshold:
    """How far the search for the k-th largest key has come; both tensors are scalars on the device.

    Attributes:
        found: the digits found, right-aligned in an int32; after the last level, the key itself.
        wanted: how many of the keys that share them are still to be taken.
    """

    found: Int32[Tensor, ""]
    wanted: Int64[Tensor, ""]


@triton.jit
@no_type_check
def _order_key(score):
    """Keys whose unsigned order is that of the scores; +0 and -0 are one score."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    # Negative: all bits flipped, so that the larger magnitude is the smaller key. Positive: the sign bit set.
    return bits ^ ((bits >> 31) | -2147483648)


@triton.jit
@no_type_check
def _histogram_kernel(
    score_ptr,
    words_ptr,
    found_ptr,
    counts_ptr,
    numel,
    cols,
    words,
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
    FOUND_MASK: tl.constexpr,
    PACKED: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at_N, live_N = coordinates(numel, BLOCK)
    if PACKED:
        live_N = live_N & (block_bits(words_ptr, live_N, cols, words, BLOCK) == 1)
    key_N = _order_key(tl.load(score_ptr + at_N, mask=live_N, other=0.0))
    if FOUND_MASK != 0:
        live_N = live_N & (((key_N >> (SHIFT + WIDTH)) & FOUND_MASK) == tl.load(found_ptr))
    digit_N = tl.where(live_N, (key_N >> SHIFT) & ((1 << WIDTH) - 1), 0)
    bin_B = tl.arange(0, BINS)
    count_B = tl.histogram(digit_N, BINS)
    # Whatever does not take part was counted as digit 0.
    count_B = as_int32(count_B - tl.where(bin_B == 0, tl.sum((live_N == 0).to(tl.int32), axis=0), 0))
    tl.atomic_add(counts_ptr + bin_B, count_B, mask=count_B > 0)


@triton.jit
@no_type_check
def _tile_keys(score_ptr, among_ptr, word_W, live_W, at_WB, live_WB, PACKED: tl.constexpr):
    key_WB = _order_key(tl.load(score_ptr + at_WB, mask=live_WB, other=0.0))
    if PACKED:
        among_W = tl.load(among_ptr + word_W, mask=live_W, other=0)
        live_WB = live_WB & (((among_W[:, None] >> tl.arange(0, 32)[None, :]) & 1) == 1)
    return key_WB, live_WB


@triton.jit
@no_type_check
def _ties_kernel(
    score_ptr, among_ptr, key_ptr, ties_ptr, total, cols, words, PACKED: tl.constexpr, WORDS: tl.constexpr
):
    word_W, live_W, at_WB, live_WB = tile_coordinates(total, cols, words, WORDS)
    key_WB, live_WB = _tile_keys(score_ptr, among_ptr, word_W, live_W, at_WB, live_WB, PACKED)
    tie_WB = (live_WB & (key_WB == tl.load(key_ptr))).to(tl.int32)
    tl.store(ties_ptr + tl.program_id(0), as_int32(tl.sum(tl.sum(tie_WB, axis=1), axis=0)))


@triton.jit
@no_type_check
def _choose_kernel(
    score_ptr,
    among_ptr,
    key_ptr,
    wanted_ptr,
    before_ptr,
    out_ptr,
    total,
    cols,
    words,
    PACKED: tl.constexpr,
    WORDS: tl.constexpr,
):
    word_W, live_W, at_WB, live_WB = tile_coordinates(total, cols, words, WORDS)
    key_WB, live_WB = _tile_keys(score_ptr, among_ptr, word_W, live_W, at_WB, live_WB, PACKED)
    key = tl.load(key_ptr)
    tie_WB = live_WB & (key_WB == key)
    # How many ties come up to here, in the order of flat indices.
    count_WB = tl.reshape(tl.cumsum(tl.reshape(tie_WB.to(tl.int32), [WORDS * 32]), axis=0), [WORDS, 32])
    early_WB = tl.load(before_ptr + tl.program_id(0)) + count_WB <= tl.load(wanted_ptr)
    # Flipping the top bit turns the unsigned order of keys into the order of int32.
    above_WB = live_WB & ((key_WB ^ -2147483648) > (key ^ -2147483648))
    tl.store(out_ptr + word_W, join_bits((above_WB | (tie_WB & early_WB)).to(tl.int32)), mask=live_W)


def histogram(
    scores: Float32[Tensor, "rows cols"],
    words: Int32[Tensor, "rows words"] | None,
    level: int,
    found: Int32[Tensor, ""],
    counts: Int32[Tensor, " bins"],
) -> None:
    """Adds the digits of one level to a histogram, of those keys that share the digits found above it.

    Args:
        scores: finite scores.
        words: packed bits of the coordinates that take part; None = all.
        level: 0, 1 or 2 from the top.
        found: the digits found so far; not read at level 0.
        counts: 2048 bins, added to in place.

    Raises:
        KernelError: operands that do not fit each other or that a kernel cannot take.
    """
    scores, words = _checked(scores, words)
    check_operands(scores=scores, found=found, counts=counts)
    if not scores.numel():
        return
    shift = LEVELS[level]
    width = (32 if level == 0 else LEVELS[level - 1]) - shift
    with on_device(scores):
        _histogram_kernel[(triton.cdiv(scores.numel(), _BLOCK),)](
            scores,
            scores if words is None else words,
            found,
            counts,
            scores.numel(),
            scores.shape[1],
            1 if words is None else words.shape[1],
            SHIFT=shift,
            WIDTH=width,
            FOUND_MASK=(1 << (32 - shift - width)) - 1,
            PACKED=words is not None,
            BINS=BINS,
            BLOCK=_BLOCK,
        )


def descend(counts: Int32[Tensor, " bins"] | Int64[Tensor, " bins"], level: int, threshold: Threshold) -> Threshold:
    """Takes one level's histogram to the next: the highest digit at which the keys from the top reach what is wanted.

    Args:
        counts: the histogram, added up over all ranks.
        level: whose it is.
        threshold: what the levels above found.

    Returns:
        One digit more, and the keys that share it still wanted.
    """
    width = (32 if level == 0 else LEVELS[level - 1]) - LEVELS[level]
    from_top = counts.flip(0).cumsum(0, dtype=torch.int64)
    digit = BINS - 1 - (from_top < threshold.wanted).sum()
    above = torch.where(torch.arange(BINS, device=counts.device) > digit, counts, 0).sum()
    found = (threshold.found.long() << width) | digit
    # The key fills 32 bits: the upper half of its range wraps to negative numbers.
    return Threshold(torch.where(found >= 1 << 31, found - (1 << 32), found).int(), threshold.wanted - above)


def find_threshold(
    scores: Float32[Tensor, "rows cols"], k: int, words: Int32[Tensor, "rows words"] | None = None
) -> Threshold:
    """Finds the key of the k-th largest score.

    Args:
        scores: finite scores, of any strides.
        k: from 1 to the number of coordinates that take part, which the caller must know: it is not counted here.
        words: packed bits of the coordinates that take part; None = all.

    Returns:
        The key, and how many of the coordinates that have it are among the k.

    Raises:
        KernelError: k out of range, or operands that do not fit each other or that a kernel cannot take.
    """
    if not 1 <= k <= scores.numel():
        raise KernelError(
            f"k must be from 1 to the {scores.numel()} coordinates; it is {k}. Leave out a selection of nothing."
        )
    scores, words = _checked(scores, words)
    device = scores.device
    threshold = Threshold(
        torch.zeros((), dtype=torch.int32, device=device), torch.full((), k, dtype=torch.int64, device=device)
    )
    for level in range(len(LEVELS)):
        counts = torch.zeros(BINS, dtype=torch.int32, device=device)
        histogram(scores, words, level, threshold.found, counts)
        threshold = descend(counts, level, threshold)
    return threshold


def kth_largest(
    scores: Float32[Tensor, "rows cols"], k: int, words: Int32[Tensor, "rows words"] | None = None
) -> Float32[Tensor, ""]:
    """Finds the k-th largest score, exactly.

    Args:
        scores: finite scores, of any strides.
        k: from 1 to the number of coordinates that take part.
        words: packed bits of the coordinates that take part; None = all.

    Returns:
        The score, on the device.

    Raises:
        KernelError: k out of range, or operands that do not fit each other or that a kernel cannot take.
    """
    key = find_threshold(scores, k, words).found
    return (key ^ ((~key >> 31) | -(1 << 31))).view(torch.float32)


def select_top(
    scores: Float32[Tensor, "rows cols"], k: int, words: Int32[Tensor, "rows words"] | None = None
) -> Int32[Tensor, "rows words"]:
    """Selects exactly the k largest scores; of equal ones those with the lowest flat indices.

    Args:
        scores: finite scores, of any strides.
        k: from 1 to the number of coordinates that take part.
        words: packed bits of the coordinates that take part; None = all.

    Returns:
        Packed bits, 1 for the selected.

    Raises:
        KernelError: k out of range, or operands that do not fit each other or that a kernel cannot take.
    """
    scores, words = _checked(scores, words)
    threshold = find_threshold(scores, k, words)
    rows, cols = scores.shape
    out = torch.empty((rows, -(-cols // 32)), dtype=torch.int32, device=scores.device)
    grid = (triton.cdiv(out.numel(), WORDS_A_TILE),)
    ties = torch.empty(grid, dtype=torch.int32, device=scores.device)
    among = scores if words is None else words
    sizes = (out.numel(), cols, out.shape[1])
    settings = {"PACKED": words is not None, "WORDS": WORDS_A_TILE}
    with on_device(scores):
        _ties_kernel[grid](scores, among, threshold.found, ties, *sizes, **settings)
        before = ties.cumsum(0, dtype=torch.int64) - ties
        _choose_kernel[grid](scores, among, threshold.found, threshold.wanted, before, out, *sizes, **settings)
    return out


def _checked(scores: Tensor, words: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if scores.dtype != torch.float32 or scores.dim() != 2:
        raise KernelError(
            "scores are float32 with rows and columns, since keys of other widths have other digits; these are "
            f"{scores.dtype} of shape {tuple(scores.shape)}. Pass scores.float() as (rows, cols)."
        )
    scores = scores.contiguous()
    check_operands(scores=scores)
    if words is not None:
        check_words(words, *scores.shape)
        check_operands(scores=scores, words=words)
    return scores, words
