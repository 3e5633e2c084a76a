"""The cache of hashes, kept to what it is good for.

On a text of up to 100 bytes a hit saves six sevenths of the hashing, which is under 1 % of a request. On longer texts a
hit has to compare, and a miss costs more than hashing alone; and the cache's keys hold the texts. So only texts of up
to 2 kB go through it.
"""

from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from dredge.insights.ids import insight_id

__all__ = ["CACHED_BYTES", "CachedHash", "IdCache", "ids_through"]

CACHED_BYTES = 2048


@runtime_checkable
class CachedHash(Protocol):
    """A function of `functools.lru_cache`."""

    def __call__(self, text: str, /) -> str:
        """The id of a text."""

    def cache_info(self) -> Any:
        """Its hits, misses, size and entries."""


class IdCache:
    """Ids of texts, the short ones remembered.

    Args:
        cached: computes and remembers an id; None = nothing is remembered.

    >>> cached = lru_cache(maxsize=2)(insight_id)
    >>> ids = IdCache(cached)
    >>> ids("note") == ids("note") == insight_id("note"), cached.cache_info().hits
    (True, 1)
    >>> len(ids("n" * 4096)), cached.cache_info().currsize
    (64, 1)
    """

    def __init__(self, cached: CachedHash | None) -> None:
        self._cached = cached

    def __call__(self, text: str) -> str:
        """The id of a text.

        Args:
            text: as received.

        Returns:
            Its SHA-256 in lower-case hexadecimal.

        Raises:
            InsightError: a text that UTF-8 cannot encode.
        """
        if self._cached is None or not _is_short(text):
            return insight_id(text)
        return self._cached(text)

    def counts(self) -> tuple[int, int]:
        """Hits and misses so far in this process; (0, 0) where nothing is remembered."""
        if self._cached is None:
            return 0, 0
        info = self._cached.cache_info()
        return info.hits, info.misses


def ids_through(size: int, shared: CachedHash, shared_size: int) -> IdCache:
    """The cache of a size.

    Args:
        size: entries; 0 = none.
        shared: the one of the process.
        shared_size: its entries.

    Returns:
        A cache over the shared one where the size is its own, else over a new one.
    """
    if size == 0:
        return IdCache(None)
    return IdCache(shared if size == shared_size else lru_cache(maxsize=size)(insight_id))


def _is_short(text: str) -> bool:
    count = len(text)
    # A character has at most four bytes; only between the bounds are they counted.
    if count * 4 <= CACHED_BYTES:
        return True
    if count > CACHED_BYTES:
        return False
    return text.isascii() or len(text.encode("utf-8", "surrogatepass")) <= CACHED_BYTES
