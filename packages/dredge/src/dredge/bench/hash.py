"""What remembering ids of texts is worth, by length of the text.

A server sees a new string object for each request, whose hash is not known yet: that is the `fresh` column. The `same`
column hands one object over again and again, whose hash CPython keeps; published figures were measured that way.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dredge.errors import ConfigError

__all__ = ["SIZES", "HashRow", "measure_hashes"]

SIZES = (20, 39, 100, 1_000, 10_000, 100_000, 1_000_000)
"""Bytes of the texts."""

_ENTRIES = 1024
_SMALLEST = 20
_HELD_BYTES = 16_000_000
"""Texts of one column take at most about this much memory."""


@dataclass(frozen=True)
class HashRow:
    """Microseconds a call, the best of several turns.

    Args:
        size: bytes of a text.
        plain: SHA-256 found anew.
        same: found in the cache by the same object.
        fresh: found in the cache by an equal object that is new.
        miss: not found in a full cache: SHA-256 and an entry put in place of another.
    """

    size: int
    plain: float
    same: float
    fresh: float
    miss: float

    @property
    def gain(self) -> float:
        """How many times faster a hit by a new object is."""
        return self.plain / self.fresh

    @property
    def loss(self) -> float:
        """How many times slower a miss is."""
        return self.miss / self.plain

    @property
    def break_even(self) -> float:
        """Share h of hits from which the cache pays: h · fresh + (1 − h) · miss = plain; above 1 it never does."""
        return max(0.0, (self.miss - self.plain) / (self.miss - self.fresh))


def _filled(size: int, number: int) -> str:
    words = "a note that is lifted again and again "
    return (f"{number:016d} " + words * (size // len(words) + 1))[:size]


def _best(function: Callable[[str], str], turns: Sequence[Sequence[str]]) -> float:
    best = float("inf")
    for texts in turns:
        start = time.perf_counter()
        for text in texts:
            function(text)
        best = min(best, (time.perf_counter() - start) / len(texts))
    return best * 1e6


def measure_hashes(sizes: Sequence[int] = SIZES, *, turns: int = 7) -> list[HashRow]:
    """Times SHA-256 and a cache of it at each size.

    Args:
        sizes: bytes of the texts, 20 or more.
        turns: the best of so many is taken.

    Returns:
        One row a size.

    Raises:
        ConfigError: a size or a number of turns that is too small.

    >>> [row.size for row in measure_hashes([20, 100], turns=1)]
    [20, 100]
    """
    if turns < 1 or min(sizes, default=_SMALLEST) < _SMALLEST:
        # Texts of fewer bytes could not all be different.
        raise ConfigError(
            f"texts have {_SMALLEST} bytes or more, and there is a turn; got {min(sizes, default=0)} and {turns}. Take "
            "more."
        )
    rows = []
    for size in sizes:
        n = max(4, min(2_000, _HELD_BYTES // (size * turns)))

        def plain(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        remembered = lru_cache(maxsize=max(2, min(_ENTRIES, _HELD_BYTES // size)))(plain)
        one = _filled(size, 0)
        # Encoding and decoding makes an equal string whose hash is not known yet.
        fresh = [[one.encode().decode() for _ in range(n)] for _ in range(turns)]
        new = [[_filled(size, 1 + turn * n + place) for place in range(n)] for turn in range(turns)]
        remembered(one)
        hit_same, hit_fresh = _best(remembered, [[one] * n] * turns), _best(remembered, fresh)
        for number in range(remembered.cache_info().maxsize or 0):
            remembered(_filled(size, 10_000_000 + number))
        rows.append(HashRow(size, _best(plain, fresh), hit_same, hit_fresh, _best(remembered, new)))
    return rows
