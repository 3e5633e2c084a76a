"""Numbers as bits: of one width, by Golomb–Rice codes, and sets of numbers by their rank.

============ =========================================================================================================
fixed        a number below n has ⌈log2 n⌉ bits, the highest first
Golomb–Rice  x is ⌊x / 2ᵏ⌋ ones, a zero and the k lowest bits of x: short for numbers that are about 2ᵏ, as the gaps of
             a sorted list are. Golomb, *Run-length encodings*, 1966; Rice and Plaunt, *Adaptive variable-length coding
             for efficient compression of spacecraft television data*, 1971
rank         a set s_1 < … < s_K of numbers below W is number Σ_i C(s_i, i) of all C(W, K) such sets: no code of sets
             that are equally likely is shorter. Cover, *Enumerative source encoding*, 1973
============ =========================================================================================================
"""

from collections.abc import Iterable, Sequence
from math import comb

import numpy as np
from jaxtyping import UInt8

__all__ = ["BitReader", "fixed_bits", "packed", "rank_of", "rice_bits", "rice_parameter", "subset_of", "width_of"]


def width_of(choices: int) -> int:
    """Bits that tell so many choices apart: ⌈log2 n⌉.

    Args:
        choices: n, at least 1.

    Returns:
        Bits.

    >>> [width_of(n) for n in (1, 2, 512, 513)]
    [0, 1, 9, 10]
    """
    return (choices - 1).bit_length()


def fixed_bits(values: Iterable[int], width: int) -> str:
    """Numbers of one width.

    Args:
        values: from 0 to below 2 to the power of the width.
        width: bits of each.

    Returns:
        Zeros and ones.

    >>> fixed_bits([1, 6], 3)
    '001110'
    """
    return "".join(f"{value:0{width}b}" for value in values) if width else ""


def rice_bits(values: Iterable[int], k: int) -> str:
    """Golomb–Rice codes.

    Args:
        values: from 0.
        k: how many of the lowest bits stand as they are.

    Returns:
        Zeros and ones.

    >>> rice_bits([0, 5], 1)  # 0·0, 110·1
    '001101'
    """
    return "".join("1" * (value >> k) + "0" + fixed_bits([value & ((1 << k) - 1)], k) for value in values)


def rice_parameter(values: Sequence[int]) -> int:
    """The k with which Golomb–Rice codes are shortest; the smallest of several.

    Args:
        values: at least one, from 0.

    Returns:
        k.

    >>> rice_parameter([5, 6, 7])
    2
    """
    return min(range(max(values).bit_length() + 1), key=lambda k: sum(value >> k for value in values) + k * len(values))


def packed(bits: str) -> UInt8[np.ndarray, " bytes"]:
    """Bits in bytes, the highest of a byte first; the last byte is filled with zeros.

    Args:
        bits: zeros and ones.

    Returns:
        Bytes.

    >>> packed("100000011").tolist()
    [129, 128]
    """
    return np.packbits(np.frombuffer(bits.encode("ascii"), dtype=np.uint8) - ord("0"))


class BitReader:
    """Reads numbers off packed bits, one after another.

    Args:
        content: from `packed`.

    >>> reader = BitReader(packed(fixed_bits([5], 3) + rice_bits([0, 5], 1)))
    >>> reader.fixed(1, 3), reader.rice(2, 1)
    ([5], [0, 5])
    """

    def __init__(self, content: UInt8[np.ndarray, " bytes"]) -> None:
        self._bits = (np.unpackbits(content) + ord("0")).tobytes().decode("ascii")
        self._at = 0

    def fixed(self, n: int, width: int) -> list[int]:
        """Numbers of one width.

        Args:
            n: how many.
            width: bits of each.

        Returns:
            Numbers.

        Raises:
            ValueError: fewer bits are left.
        """
        bits = self._take(n * width)
        return [int(bits[at : at + width], 2) for at in range(0, n * width, width)] if width else [0] * n

    def rice(self, n: int, k: int) -> list[int]:
        """Numbers in Golomb–Rice codes.

        Args:
            n: how many.
            k: their parameter.

        Returns:
            Numbers.

        Raises:
            ValueError: fewer bits are left.
        """
        found = []
        for _ in range(n):
            ones = self._bits.index("0", self._at) - self._at
            self._at += ones + 1
            found.append(ones << k | int(self._take(k) or "0", 2))
        return found

    def end(self) -> None:
        """Makes sure that all was read, but for the zeros that fill the last byte.

        Raises:
            ValueError: more is there.
        """
        rest = self._bits[self._at :]
        if len(rest) >= 8 or "1" in rest:
            raise ValueError(f"bits {self._at} to {len(self._bits)} belong to nothing")

    def _take(self, n: int) -> str:
        end = self._at + n
        if not self._at <= end <= len(self._bits):
            raise ValueError(f"bits {self._at} to {end} are needed and {len(self._bits)} are there")
        found = self._bits[self._at : end]
        self._at = end
        return found


def rank_of(members: Sequence[int]) -> int:
    """The number of a set among all sets of its size: Σ_i C(s_i, i).

    Sets of one size that are sorted by their largest member, then the next, are sorted by rank.

    Args:
        members: rising, from 0.

    Returns:
        The rank.

    >>> [rank_of(members) for members in ((0, 1), (0, 2), (1, 2), (0, 3))]
    [0, 1, 2, 3]
    """
    return sum(comb(member, place) for place, member in enumerate(members, start=1))


def subset_of(rank: int, size: int, window: int) -> list[int]:
    """The set that has a rank.

    Args:
        rank: from 0 to below C(W, K).
        size: K.
        window: W; members are below it.

    Returns:
        Members, rising.

    Raises:
        ValueError: no such set.

    >>> subset_of(3, 2, 4)
    [0, 3]
    """
    if not 0 <= rank < comb(window, size):
        raise ValueError(f"there are {comb(window, size)} sets of {size} of {window}; none has the rank {rank}")
    found, member, below = [], window - 1, comb(window - 1, size) if window else 0
    for place in range(size, 0, -1):
        # The largest member with C(member, place) ≤ rank; the binomial is carried along from step to step.
        while below > rank:
            below = below * (member - place) // member
            member -= 1
        found.append(member)
        rank -= below
        below = below * place // member if member else 0
        member -= 1
    return found[::-1]
