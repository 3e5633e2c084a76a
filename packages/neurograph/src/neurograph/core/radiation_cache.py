"""What radiation remembers between calls, and how well that serves.

Three levels, as in the note *NeuroGraph Performance Optimizations Summary*, and exact where it was not:

=============== ================================ =======================================================================
level           entry                            key
=============== ================================ =======================================================================
1 `pattern`     a whole query table [B, S, k]    digests of the contexts, the sources, the candidates, the graph and the
                                                 nodes' own phases; k, P, and the device
2 `static`      who listens to whom, as CSR      the topology object, or all that a frame says
3 `candidates`  allowed nodes of sources, bits   digests of the graph, the sources and the candidates
=============== ================================ =======================================================================

A key of level 1 holds all that its answer depends on, as digests of 160 bits of the contents (BLAKE2b). So an answer
cannot be stale: whoever changes an index, by whatever way, asks under another key. Contents are read at each call; that
is N · D numbers against the S · N · D products that a hit saves. Frames are compared by content too; a `Topology` is
frozen, and is known by its identity.

Where parameters move between calls, as in training, nothing is ever asked twice, and the cache is worth nothing. It
pays where inputs come back while parameters stand still.

Levels 2 and 3 are asked where level 1 has no answer. The digest of a graph, which level 1's keys need, is kept with its
static lists; a look-up for that alone is not counted.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from neurograph.core.graph import Topology
from neurograph.errors import ConfigError

__all__ = ["LEVELS", "KnownGraph", "RadiationCache", "StaticLists", "digest", "listeners"]

LEVELS = ("pattern", "static", "candidates")
"""Names of levels 1, 2 and 3."""

_GRAPHS = 16
"""Graphs remembered at level 2."""


def digest(*parts: Shaped[Tensor, "..."]) -> bytes:
    """160 bits of types, shapes and contents of tensors.

    Args:
        parts: on any device.

    Returns:
        20 bytes.

    >>> digest(torch.zeros(2)) == digest(torch.zeros(2, 1))
    False
    """
    found = blake2b(digest_size=20)
    for part in parts:
        found.update(f"{part.dtype}{tuple(part.shape)}".encode())
        found.update(part.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.digest()


@dataclass(frozen=True)
class StaticLists:
    """Who listens to each node, as compressed rows.

    Args:
        start: where each node's list begins; N + 1 numbers.
        target: the lists, one after another, ascending.
        name: digest of both.
    """

    start: Shaped[Tensor, " _"]
    target: Shaped[Tensor, " _"]
    name: bytes


def listeners(topology: Topology) -> StaticLists:
    """Static lists of a graph.

    Args:
        topology: the graph.

    Returns:
        Lists of 32-bit numbers on the topology's device.
    """
    order = (topology.src * topology.n_nodes + topology.dst).argsort()
    count = torch.bincount(topology.src, minlength=topology.n_nodes)
    start = torch.cat([count.new_zeros(1), count.cumsum(0)]).int()
    target = topology.dst[order].int()
    return StaticLists(start, target, digest(start, target))


@dataclass(frozen=True)
class KnownGraph:
    """A graph laid out for radiation.

    Args:
        ids: identifiers by row.
        rows: rows by identifier.
        lists: who listens to whom.
        whose: the topology it was made from, while that exists.
    """

    ids: tuple[str, ...]
    rows: dict[str, int]
    lists: StaticLists
    whose: Callable[[], Topology | None]

    @classmethod
    def of(cls, graph: Any) -> "KnownGraph":
        """Lays a graph out.

        Args:
            graph: a `Topology`, or a frame.

        Returns:
            What radiation needs of it; it does not keep a topology alive.

        Raises:
            GraphError: a frame that is no graph.
        """
        topology = graph if isinstance(graph, Topology) else Topology.from_frame(graph)
        return cls(topology.ids, topology.index, listeners(topology), weakref.ref(topology))


@dataclass
class _Level:
    """Entries in the order of their last use, the oldest first."""

    entries: OrderedDict[Hashable, tuple[Any, int]] = field(default_factory=OrderedDict)
    hits: int = 0
    misses: int = 0
    evicted: int = 0
    nbytes: int = 0

    def get(self, key: Hashable) -> Any:
        if key not in self.entries:
            self.misses += 1
            return None
        self.hits += 1
        self.entries.move_to_end(key)
        return self.entries[key][0]

    def put(self, key: Hashable, value: Any, nbytes: int, capacity: int, share: float) -> None:
        if key not in self.entries and len(self.entries) >= capacity:
            # A share of 0.29 of 100 is 28.999… in binary.
            self.drop(max(len(self.entries) - capacity + 1, int(share * capacity + 1e-9)))
        self.nbytes += nbytes - (self.entries[key][1] if key in self.entries else 0)
        self.entries[key] = value, nbytes
        self.entries.move_to_end(key)

    def drop(self, count: int) -> None:
        for _ in range(min(count, len(self.entries))):
            self.nbytes -= self.entries.popitem(last=False)[1][1]
            self.evicted += 1

    def stats(self) -> dict[str, Any]:
        asked = self.hits + self.misses
        return {
            "hits": self.hits, "misses": self.misses, "hit_rate": self.hits / asked if asked else 0.0,
            "entries": len(self.entries), "bytes": self.nbytes, "evicted": self.evicted,
        }  # fmt: skip


class RadiationCache:
    """Answers of radiation under keys of all that they depend on; safe to share between threads.

    Args:
        capacity: entries at levels 1 and 3, each.
        evict_fraction: share of the entries that goes when a level is full: those used least recently.
        enabled: whether anything is looked up or kept.
        audit: work out each answer that is found again, and count those that differ; for tests and measurements.

    Raises:
        ConfigError: a capacity below 1, or a share outside (0, 1].

    >>> cache = RadiationCache(capacity=2)
    >>> cache.answer("a", lambda: torch.zeros(3)).tolist(), cache.answer("a", lambda: torch.ones(3)).tolist()
    ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    >>> cache.stats()["levels"]["pattern"]["hits"]
    1
    """

    def __init__(
        self, capacity: int = 1000, evict_fraction: float = 0.2, *, enabled: bool = True, audit: bool = False
    ) -> None:
        self.configure(capacity=capacity, evict_fraction=evict_fraction, enabled=enabled)
        self.audit = audit
        self.audited = self.wrong = 0
        self._lock = threading.RLock()
        self._levels = {name: _Level() for name in LEVELS}

    def configure(
        self, *, capacity: int | None = None, evict_fraction: float | None = None, enabled: bool | None = None
    ) -> None:
        """Changes settings; entries that are too many go at the next one that is added.

        Args:
            capacity: entries at levels 1 and 3, each; None = as it is, like the others.
            evict_fraction: share that goes when a level is full.
            enabled: whether the cache is used.

        Raises:
            ConfigError: a capacity below 1, or a share outside (0, 1]; nothing is changed then.
        """
        if capacity is not None and capacity < 1:
            raise ConfigError(f"a cache holds at least one entry; got {capacity}. Use enabled=False for no cache.")
        if evict_fraction is not None and not 0 < evict_fraction <= 1:
            raise ConfigError(f"the share that is evicted is above 0 and at most 1; got {evict_fraction}. Take 0.2.")
        self.capacity = self.capacity if capacity is None else capacity
        self.evict_fraction = self.evict_fraction if evict_fraction is None else evict_fraction
        self.enabled = self.enabled if enabled is None else enabled

    capacity: int
    evict_fraction: float
    enabled: bool

    def __reduce__(self) -> tuple[Callable[[], "RadiationCache"], tuple[()]]:
        """What is copied, or sent to another process, has the same settings and nothing in it."""
        return partial(RadiationCache, self.capacity, self.evict_fraction, enabled=self.enabled, audit=self.audit), ()

    # --- levels -------------------------------------------------------------------------------------------------------

    def answer(
        self,
        key: Hashable,
        compute: Callable[[], Shaped[Tensor, "..."]],
        *,
        afresh: Callable[[], Shaped[Tensor, "..."]] | None = None,
    ) -> Shaped[Tensor, "..."]:
        """Level 1: what was answered under a key, or else what `compute` says.

        Args:
            key: all that the answer depends on.
            compute: works it out, with what other levels hold.
            afresh: works it out for an audit, without any level; None = as `compute` does.

        Returns:
            The tensor that is kept; not to be written to.
        """
        if not self.enabled:
            return compute()
        kept = self._get("pattern", key)
        if kept is None:
            kept = compute()
            self._put("pattern", key, kept, _nbytes(kept))
        elif self.audit:
            same = torch.equal(kept, (afresh or compute)())
            with self._lock:
                self.audited, self.wrong = self.audited + 1, self.wrong + (not same)
        return kept

    def known(self, graph: Any) -> tuple["KnownGraph", bool]:
        """A graph laid out, from level 2 where it is there; a hit is counted by `reused`, where the lists are used.

        Args:
            graph: a `Topology`, or a frame.

        Returns:
            The graph, not to be written to, and whether it was there.

        Raises:
            GraphError: a frame that is no graph.
        """
        if not self.enabled:
            return KnownGraph.of(graph), False
        is_frame = not isinstance(graph, Topology)
        key: Hashable = _content(graph) if is_frame else id(graph)
        with self._lock:
            level = self._levels["static"]
            if key in level.entries:
                kept: KnownGraph = level.entries[key][0]
                if is_frame or kept.whose() is graph:
                    level.entries.move_to_end(key)
                    return kept, True
                level.nbytes -= level.entries.pop(key)[1]
            level.misses += 1
        found = KnownGraph.of(graph)
        nbytes = _nbytes(found.lists.start) + _nbytes(found.lists.target)
        self._put("static", key, found, nbytes, _GRAPHS)
        return found, False

    def reused(self) -> None:
        """Counts a hit of level 2."""
        with self._lock:
            self._levels["static"].hits += self.enabled

    def allowed(self, key: Hashable, compute: Callable[[], Shaped[Tensor, "S N"]]) -> Shaped[Tensor, "S N"]:
        """Level 3: which nodes may be chosen, kept as one bit a node.

        Args:
            key: all that the answer depends on.
            compute: works it out.

        Returns:
            A mask of its own.
        """
        if not self.enabled:
            return compute()
        kept = self._get("candidates", key)
        if kept is None:
            mask = compute()
            bits = _packed(mask)
            self._put("candidates", key, (bits, mask.shape[1]), _nbytes(bits))
            return mask
        return _unpacked(*kept)

    # --- what it did --------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counters: see `neurograph.core.radiation.get_cache_stats`."""
        with self._lock:
            levels = {name: level.stats() for name, level in self._levels.items()}
        hits, misses, entries, nbytes, evicted = (
            sum(level[name] for level in levels.values()) for name in ("hits", "misses", "entries", "bytes", "evicted")
        )
        return {
            "overall_hit_rate": hits / (hits + misses) if hits + misses else 0.0,
            "hits": hits, "misses": misses, "entries": entries, "bytes": nbytes, "evicted": evicted,
            "capacity": self.capacity, "evict_fraction": self.evict_fraction, "enabled": self.enabled,
            "audited": self.audited, "wrong": self.wrong, "levels": levels,
        }  # fmt: skip

    def clear(self) -> None:
        """Forgets all entries and all counters."""
        with self._lock:
            self._levels = {name: _Level() for name in LEVELS}
            self.audited = self.wrong = 0

    def _get(self, name: str, key: Hashable) -> Any:
        with self._lock:
            return self._levels[name].get(key)

    def _put(self, name: str, key: Hashable, value: Any, nbytes: int, capacity: int | None = None) -> None:
        with self._lock:
            limit = self.capacity if capacity is None else capacity
            self._levels[name].put(key, value, nbytes, limit, self.evict_fraction)


def _content(frame: Any) -> Hashable:
    """All that a frame says, to be compared value by value; what is no frame of this kind is refused as a graph is.

    Identifiers are compared as the texts that a topology makes of them: 1 equals 1.0, and names another node.
    """
    try:
        found = (
            tuple(map(str, frame["node_id"])), tuple(map(tuple, frame["input_connections"])),
            tuple(frame["is_input"]), tuple(frame["is_output"]),
        )  # fmt: skip
        hash(found)
    except (KeyError, TypeError):
        Topology.from_frame(frame)
        raise
    return found


def _nbytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _packed(mask: Tensor) -> Tensor:
    n_s, n = mask.shape
    width = -(-n // 8)
    padded = torch.zeros((n_s, 8 * width), dtype=torch.uint8, device=mask.device)
    padded[:, :n] = mask
    weight = 2 ** torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (padded.view(n_s, width, 8) * weight).sum(-1, dtype=torch.uint8)


def _unpacked(bits: Tensor, n: int) -> Tensor:
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[..., None] >> places) & 1).bool().flatten(1)[:, :n]
