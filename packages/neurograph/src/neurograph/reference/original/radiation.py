"""The original's radiation, and the note's three-level cache in front of it.

Radiation looks for the k nodes whose phases resonate most with a context:
score(c) = Σ_d cos(((ctx_d + p_c,d) mod P)·2π/P).

Defects kept, each with its name:

- COARSE SIGNATURE: two contexts whose indices fall into the same cells of width q share an entry of level 1, whatever
  their neighbours are.
- NEVER INVALID: an entry outlives a change of parameters, and another network with the same ids is answered from it.
  (The original's caches were global; here whoever shares a `RadiationCaches` has the same.)
- FIRST IN, FIRST OUT: what is thrown out is oldest by insertion; a hit does not refresh an entry. The note says LRU,
  which `policy="lru"` is.
- SET ORDER: the original went through Python sets of ids, so that ties, and with them everything that follows, hung on
  PYTHONHASHSEED. Here lists in the order of the frame stand for them: the same in every process.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from neurograph.reference.original.graph import OriginalNodeStore, row_connections
from neurograph.reference.original.tables import OriginalTables

__all__ = ["ALL_LEVELS", "CHUNK", "Audit", "Level", "RadiationCaches", "exact_neighbors", "get_radiation_neighbors"]

CHUNK = 128
"""Candidates that are scored together."""

Level = Literal["pattern", "static", "candidates"]
ALL_LEVELS: tuple[Level, ...] = ("pattern", "static", "candidates")


def _compute_phase_signature(ctx_phase_idx: Tensor, quantum: int = 4) -> int:
    """COARSE SIGNATURE: hash of the tuple ⌊ctx/q⌋·q."""
    return hash(tuple(torch.div(ctx_phase_idx, quantum, rounding_mode="floor").mul(quantum).tolist()))


@dataclass
class Audit:
    """What every hit of level 1 was worth.

    Attributes:
        hits: Hits looked at.
        wrong: Hits whose set of neighbours is not the exact one.
        overlap: Share of the exact neighbours that a hit returned, summed over hits.
    """

    hits: int = 0
    wrong: int = 0
    overlap: float = 0.0

    @property
    def mean_overlap(self) -> float:
        """Mean share of the exact neighbours among those returned; 1 where there was no hit."""
        return self.overlap / self.hits if self.hits else 1.0

    def look(self, served: list[str], exact: list[str]) -> None:
        """Compare what a hit served with what is right."""
        self.hits += 1
        self.wrong += set(served) != set(exact)
        self.overlap += len(set(served) & set(exact)) / max(1, len(exact))


@dataclass
class RadiationCaches:
    """The three dictionaries of the note, with counts.

    Attributes:
        levels: Levels that are in use.
        capacity: Entries of level 1 at which eviction starts.
        evict_fraction: Share that goes.
        quantum: q of the signature; 4 at P = 32.
        policy: `fifo` as coded, `lru` as the note says.
        audit: Recomputes the exact neighbours at each hit of level 1.
        hits: By level.
        misses: By level.
        evicted: Entries of level 1 thrown out so far.
    """

    levels: tuple[Level, ...] = ALL_LEVELS
    capacity: int = 1000
    evict_fraction: float = 0.2
    quantum: int = 4
    policy: Literal["fifo", "lru"] = "fifo"
    audit: Audit | None = None
    hits: dict[Level, int] = field(default_factory=lambda: dict.fromkeys(ALL_LEVELS, 0))
    misses: dict[Level, int] = field(default_factory=lambda: dict.fromkeys(ALL_LEVELS, 0))
    evicted: int = 0
    _radiation_pattern_cache: dict[tuple[str, int, int], list[str]] = field(default_factory=dict)
    _static_neighbors_cache: dict[str, list[str]] = field(default_factory=dict)
    _candidate_nodes_cache: dict[str, list[str]] = field(default_factory=dict)

    @property
    def _stores(self) -> dict[Level, dict[str, list[str]] | dict[tuple[str, int, int], list[str]]]:
        return {
            "pattern": self._radiation_pattern_cache,
            "static": self._static_neighbors_cache,
            "candidates": self._candidate_nodes_cache,
        }

    @property
    def entries(self) -> dict[Level, int]:
        """Entries by level."""
        return {level: len(store) for level, store in self._stores.items()}

    @property
    def estimated_bytes(self) -> dict[Level, int]:
        """The note's own count by level: 8 bytes a list element."""
        return {level: 8 * sum(map(len, store.values())) for level, store in self._stores.items()}

    @property
    def held_bytes(self) -> int:
        """Dictionaries, keys and lists as Python counts them; the ids themselves belong to the graph."""
        total = 0
        for store in self._stores.values():
            total += sys.getsizeof(store) + sum(map(sys.getsizeof, store.values()))
        return total + sum(sys.getsizeof(key) + sys.getsizeof(key[1]) for key in self._radiation_pattern_cache)

    def hit_rate(self, level: Level | None = None) -> float:
        """Share of lookups that hit, of one level or, as the note's "overall", of all three pooled."""
        levels = ALL_LEVELS if level is None else (level,)
        hits, misses = sum(self.hits[name] for name in levels), sum(self.misses[name] for name in levels)
        return hits / (hits + misses) if hits + misses else 0.0

    def _get(self, key: tuple[str, int, int]) -> list[str] | None:
        found = self._radiation_pattern_cache.get(key)
        if found is None:
            self.misses["pattern"] += 1
            return None
        self.hits["pattern"] += 1
        if self.policy == "lru":
            self._radiation_pattern_cache[key] = self._radiation_pattern_cache.pop(key)
        return found.copy()

    def _put(self, key: tuple[str, int, int], neighbors: list[str]) -> None:
        """FIRST IN, FIRST OUT: a full level 1 loses the entries that stand first in the dictionary."""
        if len(self._radiation_pattern_cache) >= self.capacity:
            for old in list(self._radiation_pattern_cache)[: int(self.capacity * self.evict_fraction)]:
                del self._radiation_pattern_cache[old]
                self.evicted += 1
        self._radiation_pattern_cache[key] = neighbors.copy()

    def _static(self, node_id: str, frame: pd.DataFrame) -> list[str]:
        if "static" not in self.levels:
            return row_connections(frame, node_id)
        if node_id not in self._static_neighbors_cache:
            self.misses["static"] += 1
            self._static_neighbors_cache[node_id] = row_connections(frame, node_id)
        else:
            self.hits["static"] += 1
        return self._static_neighbors_cache[node_id]

    def _candidates(self, node_id: str, static: list[str], store: OriginalNodeStore) -> list[str]:
        if "candidates" not in self.levels:
            return _all_but(node_id, static, store)
        if node_id not in self._candidate_nodes_cache:
            self.misses["candidates"] += 1
            self._candidate_nodes_cache[node_id] = _all_but(node_id, static, store)
        else:
            self.hits["candidates"] += 1
        return self._candidate_nodes_cache[node_id]


def _all_but(node_id: str, static: list[str], store: OriginalNodeStore) -> list[str]:
    excluded = {*static, node_id}
    return [name for name in store.ids if name not in excluded]


def _best(
    ctx_phase_idx: Tensor, candidates: list[str], store: OriginalNodeStore, tables: OriginalTables, top_k: int
) -> list[str]:
    """The k best candidates, scored in chunks; each chunk stacks its nodes' parameters anew."""
    scores = []
    for start in range(0, len(candidates), CHUNK):
        phases = torch.stack([store.get_phase(name) for name in candidates[start : start + CHUNK]])
        total = (ctx_phase_idx.unsqueeze(0) + phases) % tables.phase_bins
        scores.append(tables.lookup_phase(total).sum(dim=1))
    if not scores:
        return []
    found = torch.topk(torch.cat(scores), min(top_k, len(candidates)))
    return [candidates[place] for place in found.indices.tolist()]


def exact_neighbors(
    node_id: str,
    ctx_phase_idx: Tensor,
    store: OriginalNodeStore,
    frame: pd.DataFrame,
    tables: OriginalTables,
    top_k: int,
) -> list[str]:
    """What radiation is without any cache.

    Args:
        node_id: The source; it and its static list are no candidates.
        ctx_phase_idx: (D,) phase indices of its context.
        store: Parameters.
        frame: The graph.
        tables: Lookup tables.
        top_k: k.

    Returns:
        Ids by falling score.
    """
    candidates = _all_but(node_id, row_connections(frame, node_id), store)
    return _best(ctx_phase_idx, candidates, store, tables, top_k)


def get_radiation_neighbors(
    current_node_id: str,
    ctx_phase_idx: Tensor,
    store: OriginalNodeStore,
    frame: pd.DataFrame,
    tables: OriginalTables,
    top_k: int,
    caches: RadiationCaches | None = None,
) -> list[str]:
    """The note's function: level 1, level 2, level 3, and the search where they do not help.

    Args:
        current_node_id: The source.
        ctx_phase_idx: (D,) phase indices of its context.
        store: Parameters.
        frame: The graph.
        tables: Lookup tables.
        top_k: k.
        caches: The three levels; None is the state before them.

    Returns:
        Ids by falling score; from level 1, whatever was stored under the signature.
    """
    if caches is None:
        return exact_neighbors(current_node_id, ctx_phase_idx, store, frame, tables, top_k)
    key = (current_node_id, 0, top_k)
    if "pattern" in caches.levels:
        key = (current_node_id, _compute_phase_signature(ctx_phase_idx, caches.quantum), top_k)
        served = caches._get(key)
        if served is not None:
            if caches.audit is not None:
                exact = exact_neighbors(current_node_id, ctx_phase_idx, store, frame, tables, top_k)
                caches.audit.look(served, exact)
            return served
    static = caches._static(current_node_id, frame)
    candidates = caches._candidates(current_node_id, static, store)
    neighbors = _best(ctx_phase_idx, candidates, store, tables, top_k)
    if "pattern" in caches.levels:
        caches._put(key, neighbors)
    return neighbors
