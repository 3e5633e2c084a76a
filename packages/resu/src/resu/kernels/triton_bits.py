"""Triton kernels over row-packed bits: pack, unpack, count, and the two loads on which the other kernels stand.

Bit j % 32 of word j // 32 of row r is coordinate (r, j) of a (rows, cols) array; bits of padding are 0.

Legend of the kernels here and in the modules beside this one:
    _N       a block of consecutive coordinates in row-major order, one program's share; rows may begin inside it
    _W       a tile of consecutive words; _WB the same words by their 32 bits, in the order of the coordinates
    _ptr     the address of a tensor's first element
    at       flat index of a coordinate;  live  whether it exists (the last block is ragged)
    bit      0 or 1, int32
"""

from typing import no_type_check

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from jaxtyping import Bool, Int32, Int64, Shaped
from torch import Tensor

from resu.errors import KernelError
from resu.kernels.backend import check_operands, on_device

__all__ = [
    "BLOCK",
    "WORDS_A_TILE",
    "as_int32",
    "block_bits",
    "block_offsets",
    "check_packed",
    "check_shapes",
    "check_words",
    "coordinates",
    "join_bits",
    "pack_rows",
    "popcount",
    "tile_coordinates",
    "unpack_rows",
]

BLOCK = 1024
"""Coordinates a program; the compact layout's block offsets count by it."""

WORDS_A_TILE = 32
"""Words a program, where a program writes words."""


@triton.jit
@no_type_check
def coordinates(numel, BLOCK: tl.constexpr):
    """The flat indices of a program's block, and which of them exist."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at_N = start + tl.arange(0, BLOCK)
    return at_N, at_N < numel


@triton.jit
@no_type_check
def block_bits(words_ptr, live_N, cols, words, BLOCK: tl.constexpr):
    """The bits of a program's block: `words` is the number of words a row."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    # Columns are counted on from the row in which the block begins: one division of 32 bits a coordinate, not of 64.
    ahead_N = (start % cols).to(tl.int32) + tl.arange(0, BLOCK)
    row_N = start // cols + ahead_N // cols
    col_N = ahead_N % cols
    word_N = tl.load(words_ptr + row_N * words + col_N // 32, mask=live_N, other=0)
    return (word_N >> (col_N % 32)) & 1


@triton.jit
@no_type_check
def tile_coordinates(total, cols, words, WORDS: tl.constexpr):
    """A program's words, which of them exist, and the coordinates of their bits with which of those exist."""
    word_W = tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    live_W = word_W < total
    row_W = word_W // words
    col_WB = ((word_W % words) * 32)[:, None] + tl.arange(0, 32)[None, :]
    at_WB = (row_W * cols)[:, None] + col_WB
    return word_W, live_W, at_WB, live_W[:, None] & (col_WB < cols)


@triton.jit
@no_type_check
def as_int32(sum_N):
    """Sums of int32, fit to be stored: the interpreter of Triton 3.2 keeps them 64 bits wide, and stores all 64.

    Compiled code has nothing left of it.
    """
    return sum_N.to(tl.int64).to(tl.int32)


@triton.jit
@no_type_check
def join_bits(bit_WB):
    """Words from their bits: a sum, since no two bits share a place."""
    return as_int32(tl.sum(bit_WB << tl.arange(0, 32)[None, :], axis=1))


@triton.jit
@no_type_check
def _pack_kernel(dense_ptr, words_ptr, total, cols, words, WORDS: tl.constexpr):
    word_W, live_W, at_WB, live_WB = tile_coordinates(total, cols, words, WORDS)
    value_WB = tl.load(dense_ptr + at_WB, mask=live_WB, other=0)
    tl.store(words_ptr + word_W, join_bits((value_WB != 0).to(tl.int32)), mask=live_W)


@triton.jit
@no_type_check
def _unpack_kernel(words_ptr, dense_ptr, numel, cols, words, BLOCK: tl.constexpr):
    at_N, live_N = coordinates(numel, BLOCK)
    bit_N = block_bits(words_ptr, live_N, cols, words, BLOCK)
    tl.store(dense_ptr + at_N, bit_N, mask=live_N)


@triton.jit
@no_type_check
def _popcount_kernel(words_ptr, counts_ptr, total, BLOCK: tl.constexpr):
    at_N, live_N = coordinates(total, BLOCK)
    # Sums of neighbouring bits, pairs, nibbles and bytes; the masks clear the sign that shifting draws in.
    x_N = tl.load(words_ptr + at_N, mask=live_N, other=0)
    x_N = x_N - ((x_N >> 1) & 0x55555555)
    x_N = (x_N & 0x33333333) + ((x_N >> 2) & 0x33333333)
    x_N = (x_N + (x_N >> 4)) & 0x0F0F0F0F
    x_N = (x_N + (x_N >> 8) + (x_N >> 16) + (x_N >> 24)) & 63
    tl.store(counts_ptr + tl.program_id(0), as_int32(tl.sum(x_N, axis=0)))


@triton.jit
@no_type_check
def _count_kernel(words_ptr, counts_ptr, numel, cols, words, COUNTED: tl.constexpr, BLOCK: tl.constexpr):
    _at_N, live_N = coordinates(numel, BLOCK)
    bit_N = block_bits(words_ptr, live_N, cols, words, BLOCK)
    counted_N = live_N & (bit_N == COUNTED)
    tl.store(counts_ptr + tl.program_id(0), as_int32(tl.sum(counted_N.to(tl.int32), axis=0)))


def check_words(words: Tensor, rows: int, cols: int) -> None:
    """Refuses words that are not the packed rows of a (rows, cols) array.

    Args:
        words: the packed bits.
        rows: of the array.
        cols: of the array.

    Raises:
        KernelError: a wrong shape or dtype.
    """
    expected = (rows, -(-cols // 32))
    if tuple(words.shape) != expected or words.dtype != torch.int32:
        raise KernelError(
            f"the packed bits of a ({rows}, {cols}) array are int32 words of shape {expected}; these are "
            f"{words.dtype} of shape {tuple(words.shape)}. Pack the mask of this very array."
        )


def check_shapes(w: Tensor, **others: Tensor) -> None:
    """Refuses operands that are not laid out as the weight is.

    Args:
        w: the weight, as rows and columns.
        **others: what must have its shape, by the names that messages should use.

    Raises:
        KernelError: another shape, or not two dimensions.
    """
    for name, tensor in others.items():
        if w.dim() != 2 or tensor.shape != w.shape:
            raise KernelError(
                f"{name} must have the two dimensions of w, rows and columns; w is {tuple(w.shape)} and {name} is "
                f"{tuple(tensor.shape)}. Reshape both to (rows, cols)."
            )


def check_packed(w: Tensor, *packed: Tensor | None) -> None:
    """Refuses packed bits that are not those of the weight's rows, or that a kernel cannot take.

    Args:
        w: the weight, as rows and columns.
        *packed: words, or None where there are none.

    Raises:
        KernelError: another shape, dtype or device.
    """
    for words in packed:
        if words is not None:
            check_words(words, *w.shape)
            check_operands(w=w, words=words)


def pack_rows(dense: Shaped[Tensor, "rows cols"]) -> Int32[Tensor, "rows words"]:
    """Packs a dense array by rows, one bit a coordinate.

    Args:
        dense: True or anything but 0 is bit 1; any strides.

    Returns:
        The words.

    Raises:
        KernelError: operands that a kernel cannot take.
    """
    rows, cols = dense.shape
    source = (dense.view(torch.uint8) if dense.dtype == torch.bool else dense).contiguous()
    words = torch.empty((rows, -(-cols // 32)), dtype=torch.int32, device=dense.device)
    check_operands(dense=source, words=words)
    if words.numel():
        with on_device(words):
            grid = (triton.cdiv(words.numel(), WORDS_A_TILE),)
            _pack_kernel[grid](source, words, words.numel(), cols, words.shape[1], WORDS=WORDS_A_TILE)
    return words


def unpack_rows(words: Int32[Tensor, "rows words"], cols: int) -> Bool[Tensor, "rows cols"]:
    """The inverse of `pack_rows`.

    Args:
        words: the packed bits.
        cols: how many of a row's bits are coordinates.

    Returns:
        The dense array.

    Raises:
        KernelError: words of another number of columns, or operands that a kernel cannot take.
    """
    rows = words.shape[0]
    check_words(words, rows, cols)
    dense = torch.empty((rows, cols), dtype=torch.uint8, device=words.device)
    check_operands(words=words, dense=dense)
    if dense.numel():
        with on_device(words):
            grid = (triton.cdiv(dense.numel(), BLOCK),)
            _unpack_kernel[grid](words, dense, dense.numel(), cols, words.shape[1], BLOCK=BLOCK)
    return dense.view(torch.bool)


def popcount(words: Int32[Tensor, "rows words"]) -> Int64[Tensor, ""]:
    """Counts the bits that are 1.

    Args:
        words: the packed bits, those of padding 0.

    Returns:
        The count, on the device: reading it is the caller's wait.

    Raises:
        KernelError: operands that a kernel cannot take.
    """
    check_operands(words=words)
    counts = torch.empty(triton.cdiv(words.numel(), BLOCK), dtype=torch.int32, device=words.device)
    if words.numel():
        with on_device(words):
            _popcount_kernel[(counts.numel(),)](words, counts, words.numel(), BLOCK=BLOCK)
    return counts.sum(dtype=torch.int64)


def block_offsets(words: Int32[Tensor, "rows words"], cols: int, *, invert: bool = False) -> Int32[Tensor, " blocks"]:
    """Counts, for every block of 1024 coordinates in row-major order, the bits that are 1 before it.

    Args:
        words: the packed bits.
        cols: columns of the array.
        invert: count the bits that are 0.

    Returns:
        One count a block, ceil(rows * cols / 1024) of them.

    Raises:
        KernelError: words of another number of columns, or operands that a kernel cannot take.
    """
    rows = words.shape[0]
    check_words(words, rows, cols)
    check_operands(words=words)
    counts = torch.empty(triton.cdiv(rows * cols, BLOCK), dtype=torch.int32, device=words.device)
    if counts.numel():
        with on_device(words):
            _count_kernel[(counts.numel(),)](
                words, counts, rows * cols, cols, words.shape[1], COUNTED=0 if invert else 1, BLOCK=BLOCK
            )
    return counts.cumsum(0, dtype=torch.int32) - counts
