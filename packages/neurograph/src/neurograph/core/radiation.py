"""Radiation: the nodes whose own phases resonate most with a context, found at run time and not by an edge.

The score of a node c for a context a is Σ_d cos((a_d + p_c,d) 2π/P): the largest where the node's phases are the
context's conjugate, so that what the cell emits has phase 0. Candidates are all nodes but the source itself and those
that listen to it anyway. See `neurograph.core.resonance` for why scores are exact, and
`neurograph.core.radiation_cache` for what is remembered.

>>> from neurograph.core.graph import Topology, build_static_graph
>>> from neurograph.core.high_res_tables import HighResolutionLookupTables
>>> from neurograph.core.node_store import NodeStore
>>> frame, tables = build_static_graph(4, 8, 2, cardinality=3), HighResolutionLookupTables(16, 8)
>>> store = NodeStore.random(Topology.from_frame(frame), 3, tables)
>>> conjugate = (-store.phase_of("n9")) % 16
>>> get_radiation_neighbors("n0", conjugate, store, frame, tables, 1)
['n9']
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from neurograph.core.graph import Topology
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.core.radiation_cache import KnownGraph, RadiationCache, StaticLists, digest
from neurograph.core.resonance import UNIT, best, unit_scores
from neurograph.errors import GraphError, TableError

__all__ = [
    "Radiation", "RadiationCache", "candidate_mask", "clear_radiation_cache", "get_cache_stats",
    "get_radiation_neighbors", "optimize_cache_settings", "print_cache_performance", "radiate",
]  # fmt: skip

_shared = RadiationCache()
"""Of `get_radiation_neighbors`, where it is given none."""


@dataclass(frozen=True)
class Radiation:
    """Chosen nodes, best first.

    Args:
        index: rows; −1 where fewer than k nodes may be chosen.
        score: Σ_d cos(…), exact up to the number's type; −inf where there is no node.
    """

    index: Int64[Tensor, "B S k"]
    score: Float[Tensor, "B S k"]


def candidate_mask(
    sources: Int[Tensor, " S"],
    lists: StaticLists,
    candidates: Bool[Tensor, "*#S N"] | None = None,
) -> Bool[Tensor, "S N"]:
    """Which nodes each source may choose: not itself, not its static listeners, and of `candidates` alone.

    Args:
        sources: rows.
        lists: who listens to whom.
        candidates: one mask, or one for each source; None = all nodes.

    Returns:
        True = may be chosen.
    """
    start, target = (part.to(sources.device).long() for part in (lists.start, lists.target))
    n = len(start) - 1
    mask = torch.ones((len(sources), n), dtype=torch.bool, device=sources.device)
    if candidates is not None:
        mask &= candidates
    first, count = start[sources.long()], start.diff()[sources.long()]
    place = torch.arange(len(sources), device=sources.device)
    mask[place, sources.long()] = False
    row = place.repeat_interleave(count)
    offset = torch.arange(len(row), device=sources.device) - (count.cumsum(0) - count).repeat_interleave(count)
    mask[row, target[first.repeat_interleave(count) + offset]] = False
    return mask


def radiate(
    ctx_phase: Int[Tensor, "B S D"],
    sources: Int[Tensor, " _"],
    store: NodeStore,
    topology: Topology,
    k: int,
    *,
    candidates: Bool[Tensor, "*S N"] | None = None,
    cache: RadiationCache | None = None,
) -> Radiation:
    """The k candidates of highest score for each context, ties by node number.

    Args:
        ctx_phase: phase indices of the sources' states; they are taken modulo P.
        sources: rows of the nodes that radiate.
        store: own phases of all nodes.
        topology: whose static listeners are no candidates.
        k: how many.
        candidates: further limits, one mask or one for each source; None = none.
        cache: where to remember whole answers; None = nowhere.

    Returns:
        Rows and scores; no gradients.

    Raises:
        ConfigError: k < 1.
        TableError: contexts of another length than the nodes' own phases, or not integers.
        GraphError: a store of other nodes or in another order, or sources that are no rows, one for each context.
    """
    if topology.n_nodes != len(store.phase) or len(sources) != ctx_phase.shape[1]:
        raise GraphError(
            f"{len(store.phase)} nodes need a graph of as many, and one source for each of {ctx_phase.shape[1]} "
            f"contexts; got {topology.n_nodes} nodes and {len(sources)} sources. Use the store of this graph."
        )
    _check_order(topology.ids, store)
    if len(sources) and not 0 <= int(sources.min()) <= int(sources.max()) < topology.n_nodes:
        raise GraphError(
            f"sources are rows from 0 to {topology.n_nodes - 1}; got some from {int(sources.min())} to "
            f"{int(sources.max())}. Correct them."
        )
    if cache is None:
        return _radiated(ctx_phase, sources, store, KnownGraph.of(topology), k, candidates, None, fresh=True)
    graph, there = cache.known(topology)
    return _radiated(ctx_phase, sources, store, graph, k, candidates, cache, fresh=not there)


def _check_order(ids: tuple[str, ...], store: NodeStore) -> None:
    """Rows of a graph mean rows of its store; a store without names has none to compare."""
    if store.ids and ids != store.ids:
        row = next(row for row, (name, other) in enumerate(zip(ids, store.ids, strict=True)) if name != other)
        raise GraphError(
            f"a graph and its store name their rows alike; row {row} is {ids[row]!r} here and {store.ids[row]!r} "
            "there. Use the frame that the store was made for, in its order."
        )


def _radiated(
    ctx_phase: Tensor, sources: Tensor, store: NodeStore, graph: KnownGraph, k: int, candidates: Tensor | None,
    cache: RadiationCache | None, *, fresh: bool,
) -> Radiation:  # fmt: skip
    bins = store.tables.phase_bins
    own = store.phase.long().remainder(bins)  # a caller may have written past the ends; engines wrap as well
    if ctx_phase.is_floating_point() or ctx_phase.dim() != 3 or ctx_phase.shape[-1] != own.shape[1]:
        raise TableError(
            f"contexts are {own.shape[1]} phase indices each; got {ctx_phase.dtype} of {tuple(ctx_phase.shape)}. "
            "Quantise states to phases first."
        )
    context = ctx_phase.long().remainder(bins)
    if cache is None or not cache.enabled:
        index = best(context, own, bins, k, allowed=candidate_mask(sources, graph.lists, candidates)).index
    else:
        index = _remembered(cache, context, sources, own, bins, k, graph, candidates, fresh=fresh)
    units = unit_scores(context[:, :, None], own[index.clamp(min=0)], bins)
    score = (units.double() * UNIT).to(store.tables.cos.dtype)
    return Radiation(index, score.masked_fill_(index < 0, -torch.inf))


def _remembered(
    cache: RadiationCache, context: Tensor, sources: Tensor, own: Tensor, bins: int, k: int, graph: KnownGraph,
    candidates: Tensor | None, *, fresh: bool,
) -> Tensor:  # fmt: skip
    """Rows by way of the three levels; they are kept in as few bytes as they need."""
    small = torch.int16 if max(len(own), bins) <= 1 << 15 else torch.int32
    limits: Hashable = (graph.lists.name, digest(sources) if candidates is None else digest(sources, candidates))
    place = str(context.device)

    def allowed() -> Tensor:
        if not fresh:
            cache.reused()
        return candidate_mask(sources, graph.lists, candidates)

    def search(mask: Tensor) -> Tensor:
        return best(context, own, bins, k, allowed=mask).index.to(small)

    return cache.answer(
        (digest(context.to(small), own.to(small)), limits, k, bins, place),
        lambda: search(cache.allowed((limits, place), allowed)),
        afresh=lambda: search(candidate_mask(sources, graph.lists, candidates)),
    ).long()


def get_radiation_neighbors(
    current_node_id: str,
    ctx_phase_idx: Int[Tensor, " D"],
    node_store: NodeStore,
    graph_df: Any,
    tables: HighResolutionLookupTables,
    top_k: int,
    *,
    cache: RadiationCache | None = None,
) -> list[str]:
    """The nodes that a node radiates to, best first.

    Args:
        current_node_id: the source.
        ctx_phase_idx: phase indices of its state; they are taken modulo P.
        node_store: own phases of all nodes.
        graph_df: a frame, or a `Topology`, which is checked and laid out already.
        tables: for P.
        top_k: how many.
        cache: where to remember answers; None = the process's own, which `get_cache_stats` tells of and
            `optimize_cache_settings(enabled=False)` switches off.

    Returns:
        Identifiers; fewer than k if there are not as many candidates.

    Raises:
        ConfigError: k < 1.
        GraphError: a node that the graph does not have, a frame that is no graph, or one of other nodes than the
            store's or in another order.
        TableError: tables of another P than the store's, or a context of another length.
    """
    cache = _shared if cache is None else cache
    if tables.phase_bins != node_store.tables.phase_bins:
        raise TableError(
            f"the nodes' phases are of {node_store.tables.phase_bins} bins; got tables of {tables.phase_bins}. "
            "Use the store's tables."
        )
    graph, there = cache.known(graph_df)
    if current_node_id not in graph.rows:
        raise GraphError(
            f"a source is a node of the graph; {current_node_id!r} is none of its {len(graph.rows)}. Correct it."
        )
    if len(graph.rows) != len(node_store.phase):
        raise GraphError(
            f"{len(node_store.phase)} nodes need a graph of as many; got one of {len(graph.rows)}. Use this store's."
        )
    _check_order(graph.ids, node_store)
    source = torch.tensor([graph.rows[current_node_id]], device=node_store.phase.device)
    found = _radiated(ctx_phase_idx[None, None], source, node_store, graph, top_k, None, cache, fresh=not there)
    return [graph.ids[row] for row in found.index.flatten().tolist() if row >= 0]


# --- the cache that is shared -----------------------------------------------------------------------------------------


def get_cache_stats(cache: RadiationCache | None = None) -> dict[str, Any]:
    """Counters of a cache.

    Args:
        cache: which; None = the process's own.

    Returns:
        `overall_hit_rate` over the three levels together, as in the note; `hits`, `misses`, `entries`, `bytes`
        (of tensors, as they lie in memory), `evicted`; settings; `audited` and `wrong`; and under `levels` the same
        for each of its levels, with its own `hit_rate`. That of level 1, `pattern`, says how many searches were saved.

    >>> get_cache_stats(RadiationCache())["overall_hit_rate"]
    0.0
    """
    return (_shared if cache is None else cache).stats()


def print_cache_performance(cache: RadiationCache | None = None) -> None:
    """Prints what `get_cache_stats` says.

    Args:
        cache: which; None = the process's own.
    """
    stats = get_cache_stats(cache)
    state = "on" if stats["enabled"] else "off"
    lines = [
        f"radiation cache ({state}, {stats['capacity']} entries a level at most)",
        f"{'level':12}{'hits':>9}{'misses':>9}{'rate':>8}{'entries':>9}{'evicted':>9}{'bytes':>12}",
    ]
    for name, level in [*stats["levels"].items(), ("all", {**stats, "hit_rate": stats["overall_hit_rate"]})]:
        lines.append(
            f"{name:12}{level['hits']:9d}{level['misses']:9d}{level['hit_rate']:8.1%}{level['entries']:9d}"
            f"{level['evicted']:9d}{level['bytes']:12d}"
        )
    if stats["audited"]:
        lines.append(f"audited {stats['audited']} hits, {stats['wrong']} wrong")
    print("\n".join(lines))  # noqa: T201  (what the function is for)


def clear_radiation_cache(cache: RadiationCache | None = None) -> None:
    """Forgets all entries and all counters.

    Args:
        cache: which; None = the process's own.
    """
    (_shared if cache is None else cache).clear()


def optimize_cache_settings(
    *,
    capacity: int | None = None,
    evict_fraction: float | None = None,
    enabled: bool | None = None,
    cache: RadiationCache | None = None,
) -> dict[str, Any]:
    """Sets a cache up for a workload: as many entries as samples come back, or off where parameters move at each step.

    Args:
        capacity: entries at levels 1 and 3, each; None = as it is, like the others.
        evict_fraction: share that goes when a level is full.
        enabled: whether the cache is used.
        cache: which; None = the process's own.

    Returns:
        The settings now.

    Raises:
        ConfigError: a capacity below 1, or a share outside (0, 1].

    >>> optimize_cache_settings(capacity=50, cache=RadiationCache())
    {'capacity': 50, 'evict_fraction': 0.2, 'enabled': True}
    """
    chosen = _shared if cache is None else cache
    chosen.configure(capacity=capacity, evict_fraction=evict_fraction, enabled=enabled)
    return {name: getattr(chosen, name) for name in ("capacity", "evict_fraction", "enabled")}
