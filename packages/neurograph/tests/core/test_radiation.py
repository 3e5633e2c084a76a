"""Radiation by name and by batch, against a plain loop."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from neurograph.core.graph import Topology, build_static_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.core.radiation import (
    RadiationCache,
    clear_radiation_cache,
    get_cache_stats,
    get_radiation_neighbors,
    optimize_cache_settings,
    print_cache_performance,
    radiate,
)
from neurograph.errors import ConfigError, GraphError, TableError

BINS = 16


def world(seed=0, dim=3, bins=BINS):
    frame = build_static_graph(5, 14, 3, cardinality=4, seed=seed)
    topology, tables = Topology.from_frame(frame), HighResolutionLookupTables(bins, 8)
    return frame, topology, NodeStore.random(topology, dim, tables, seed), tables


def loop(frame, store, node, context, k, bins=BINS):
    """Names by float64 scores of every candidate, rounded at 1e-9 so that equal scores are equal."""
    static = {row.node_id for row in frame.itertuples() if node in row.input_connections}
    scores = []
    for place, name in enumerate(frame["node_id"]):
        if name != node and name not in static:
            own = store.phase_of(name).tolist()
            total = math.fsum(
                math.cos(2 * math.pi * ((a + b) % bins) / bins) for a, b in zip(context, own, strict=True)
            )
            scores.append((-round(total, 9), place, name))
    return [name for *_, name in sorted(scores)[:k]]


@given(st.integers(0, 50), st.integers(0, 21), st.integers(1, 25), st.booleans(), st.data())
def test_neighbours_are_those_of_a_loop(seed, node, k, by_frame, data):
    frame, topology, store, tables = world(seed % 5)
    context = data.draw(st.lists(st.integers(0, BINS - 1), min_size=3, max_size=3))
    found = get_radiation_neighbors(
        f"n{node}", torch.tensor(context), store, frame if by_frame else topology, tables, k, cache=RadiationCache()
    )
    assert found == loop(frame, store, f"n{node}", context, k)


def test_contexts_go_round():
    frame, _, store, tables = world()
    context = torch.tensor([3, 15, 8])
    near = get_radiation_neighbors("n2", context, store, frame, tables, 5, cache=RadiationCache())
    far = get_radiation_neighbors("n2", context - 3 * BINS, store, frame, tables, 5, cache=RadiationCache())
    assert near == far


@settings(max_examples=8)
@given(st.integers(0, 1000), st.booleans())
def test_batches_equal_single_questions(seed, cached):
    frame, topology, store, _ = world()
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randperm(22, generator=generator)[:6]
    context = torch.randint(BINS, (3, 6, 3), generator=generator)
    cache = RadiationCache() if cached else None
    for _ in range(2):
        found = radiate(context, sources, store, topology, 4, cache=cache)
        for b in range(3):
            for s, source in enumerate(sources.tolist()):
                names = [f"n{row}" for row in found.index[b, s].tolist()]
                assert names == loop(frame, store, f"n{source}", context[b, s].tolist(), 4)


def test_scores_are_the_formula():
    _, topology, store, _ = world()
    context = torch.randint(BINS, (2, 3, 3))
    found = radiate(context, torch.tensor([0, 7, 7]), store, topology, 3)
    own = store.phase.double()[found.index]
    expected = ((context[:, :, None] + own) * (2 * math.pi / BINS)).cos().sum(-1)
    assert torch.allclose(found.score.double(), expected, atol=1e-6)
    assert bool((found.score.diff(dim=-1) <= 0).all())


def test_candidates_limit_the_choice_and_missing_ones_are_minus_one():
    _, topology, store, _ = world()
    may = torch.zeros(22, dtype=torch.bool)
    may[[3, 20]] = True
    sources = torch.tensor([3, 0])
    each = torch.stack([may, torch.zeros(22, dtype=torch.bool)])
    for cache in (None, RadiationCache()):
        one = radiate(torch.zeros(1, 2, 3, dtype=torch.long), sources, store, topology, 3, candidates=may, cache=cache)
        assert set(one.index[0, 0].tolist()) <= {20, -1}
        assert (one.index[0, 0] == -1).sum() >= 2
        two = radiate(torch.zeros(1, 2, 3, dtype=torch.long), sources, store, topology, 3, candidates=each, cache=cache)
        assert two.index[0, 1].tolist() == [-1, -1, -1]
        assert two.score[0, 1].tolist() == [-math.inf] * 3
        assert torch.equal(two.index[0, 0], one.index[0, 0])


def test_what_does_not_fit_is_refused():
    frame, topology, store, tables = world()
    context = torch.tensor([1, 2, 3])
    with pytest.raises(GraphError, match="'n99' is none"):
        get_radiation_neighbors("n99", context, store, frame, tables, 2)
    with pytest.raises(TableError, match=r"got torch\.int64 of \(1, 1, 2\)"):
        get_radiation_neighbors("n1", context[:2], store, frame, tables, 2)
    with pytest.raises(TableError, match="16 bins; got tables of 32"):
        get_radiation_neighbors("n1", context, store, frame, HighResolutionLookupTables(32, 8), 2)
    with pytest.raises(ConfigError, match="k = 0"):
        get_radiation_neighbors("n1", context, store, frame, tables, 0)
    with pytest.raises(GraphError, match="22 nodes need a graph of as many"):
        get_radiation_neighbors("n1", context, store, build_static_graph(4, 4, 2), tables, 2)
    with pytest.raises(GraphError, match="one source for each of 2"):
        radiate(torch.zeros(1, 2, 3, dtype=torch.long), torch.tensor([0]), store, topology, 2)
    for sources in ([0, 22], [-1, 0]):
        with pytest.raises(GraphError, match=f"from 0 to 21; got some from {min(sources)} to {max(sources)}"):
            radiate(torch.zeros(1, 2, 3, dtype=torch.long), torch.tensor(sources), store, topology, 2)


def test_a_frame_in_another_order_than_the_store_is_refused():
    frame, _, store, tables = world()
    turned = frame.iloc[::-1].reset_index(drop=True)
    context = torch.tensor([1, 2, 3])
    with pytest.raises(GraphError, match="row 0 is 'n21' here and 'n0' there"):
        get_radiation_neighbors("n1", context, store, turned, tables, 2, cache=RadiationCache())
    with pytest.raises(GraphError, match="row 0 is 'n21'"):
        radiate(context[None, None], torch.tensor([0]), store, Topology.from_frame(turned), 2)
    own = NodeStore.random(Topology.from_frame(turned), 3, tables, 0)
    assert len(get_radiation_neighbors("n1", context, own, turned, tables, 2, cache=RadiationCache())) == 2


@pytest.mark.parametrize(("b", "s"), [(0, 2), (2, 0)])
@pytest.mark.parametrize("cached", [False, True])
def test_nothing_asked_is_nothing_answered(b, s, cached):
    _, topology, store, _ = world()
    cache = RadiationCache() if cached else None
    for _ in range(2):
        found = radiate(torch.zeros(b, s, 3, dtype=torch.long), torch.arange(s), store, topology, 4, cache=cache)
        assert found.index.shape == found.score.shape == (b, s, 4)


def test_the_notes_monitoring_runs(capsys):
    clear_radiation_cache()
    frame, _, store, tables = world()
    for _ in range(4):
        get_radiation_neighbors("n1", torch.tensor([1, 2, 3]), store, frame, tables, 2)

    from neurograph.core.radiation import get_cache_stats, print_cache_performance

    # Print detailed cache report
    print_cache_performance()

    # Get programmatic statistics
    stats = get_cache_stats()
    print(f"Overall hit rate: {stats['overall_hit_rate']:.1%}")

    said = capsys.readouterr().out
    # One question asked four times: three hits at level 1, and one miss at each level.
    assert "Overall hit rate: 50.0%" in said
    assert {name: (level["hits"], level["misses"]) for name, level in stats["levels"].items()} == {
        "pattern": (3, 1), "static": (0, 1), "candidates": (0, 1),
    }  # fmt: skip
    assert "pattern" in said
    clear_radiation_cache()
    assert get_cache_stats()["entries"] == 0


def test_the_shared_cache_can_be_switched_off():
    clear_radiation_cache()
    frame, _, store, tables = world()
    try:
        optimize_cache_settings(enabled=False)
        for _ in range(2):
            found = get_radiation_neighbors("n1", torch.tensor([1, 2, 3]), store, frame, tables, 2)
        assert found == loop(frame, store, "n1", [1, 2, 3], 2)
        stats = get_cache_stats()
        assert (stats["hits"], stats["misses"], stats["entries"]) == (0, 0, 0)
    finally:
        optimize_cache_settings(enabled=True)


def test_a_report_of_an_audit(capsys):
    frame, _, store, tables = world()
    cache = RadiationCache(audit=True)
    for _ in range(2):
        get_radiation_neighbors("n1", torch.tensor([1, 2, 3]), store, frame, tables, 2, cache=cache)
    print_cache_performance(cache)
    assert "audited 1 hits, 0 wrong" in capsys.readouterr().out
