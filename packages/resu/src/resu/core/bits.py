"""Bits packed by rows: 32 coordinates a word, so that a mask costs one bit a weight and shards with its rows.

Bit j % 32 of word j // 32 of row r is coordinate (r, j); bits beyond the last column are 0. Words are int32, whose
bytes are read as uint8 for packing: on the little-endian machines that PyTorch runs on, byte j // 8 holds bits
8 (j // 8) to 8 (j // 8) + 7, which is also the form in which masks are saved.
"""

from functools import lru_cache

import torch
from jaxtyping import Bool, Int32, UInt8
from torch import Tensor

__all__ = ["pack_rows", "popcount", "unpack_rows", "words_per_row"]

_POPCOUNT_ROWS_BYTES = 1 << 10


def words_per_row(cols: int) -> int:
    """How many 32-bit words hold a row.

    Args:
        cols: coordinates in the row.

    Returns:
        The number of words.

    >>> words_per_row(32), words_per_row(33)
    (1, 2)
    """
    return -(-cols // 32)


def pack_rows(flags: Bool[Tensor, "rows cols"]) -> Int32[Tensor, "rows words"]:
    """Packs flags into words.

    Args:
        flags: one boolean a coordinate.

    Returns:
        The words; bits beyond the last column are 0.

    >>> pack_rows(torch.tensor([[True, False, True]])).tolist()
    [[5]]
    """
    rows, cols = flags.shape
    padded = torch.nn.functional.pad(flags, (0, words_per_row(cols) * 32 - cols)).view(torch.uint8)
    places = 1 << torch.arange(8, dtype=torch.uint8, device=flags.device)
    packed = (padded.view(rows, -1, 8) * places).sum(-1, dtype=torch.uint8)
    return packed.view(torch.int32)


def unpack_rows(words: Int32[Tensor, "rows words"], cols: int) -> Bool[Tensor, "rows cols"]:
    """The inverse of `pack_rows`.

    Args:
        words: packed rows.
        cols: coordinates in a row.

    Returns:
        One boolean a coordinate.

    >>> unpack_rows(torch.tensor([[5]], dtype=torch.int32), 3).tolist()
    [[True, False, True]]
    """
    octets: UInt8[Tensor, "rows octets"] = words.contiguous().view(torch.uint8)
    # Eight flags are the eight bytes of one table entry: looking an octet up is far cheaper than testing its bits.
    flags = torch.take(_flags_of_octets(words.device), octets.long())
    return flags.view(torch.bool)[:, :cols]


@lru_cache(maxsize=8)
def _flags_of_octets(device: torch.device) -> Tensor:
    """For each octet its bits, the lowest first, as the bytes of a 64-bit integer."""
    octet = torch.arange(256, dtype=torch.int64)
    bits = (octet.unsqueeze(-1) >> torch.arange(8)) & 1
    return bits.to(torch.uint8).view(torch.int64).flatten().to(device)


def popcount(words: Int32[Tensor, "rows words"]) -> int:
    """How many bits are 1, counted in parallel within each byte (Warren, *Hacker's Delight*, section 5-1).

    Args:
        words: packed rows.

    Returns:
        The count.

    >>> popcount(torch.tensor([[5, -1]], dtype=torch.int32))
    34
    """
    if not words.numel():
        return 0
    step = max(1, _POPCOUNT_ROWS_BYTES // (4 * words.shape[1]))
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for start in range(0, words.shape[0], step):
        octets = words[start : start + step].contiguous().view(torch.uint8)
        pairs = octets - ((octets >> 1) & 0x55)
        nibbles = (pairs & 0x33) + ((pairs >> 2) & 0x33)
        total += ((nibbles + (nibbles >> 4)) & 0x0F).sum(dtype=torch.int64)
    return int(total)
