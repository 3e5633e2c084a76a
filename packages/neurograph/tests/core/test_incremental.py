"""Incremental passes equal whole ones away from edges of bins, and compute what can have changed and no more."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given

from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, build_static_graph, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.incremental import IncrementalPass, propagate_stepwise
from neurograph.core.node_store import NodeStore
from neurograph.errors import ConfigError, DataError
from neurograph.reference.engine import ReferenceEngine
from neurograph.reference.oracle import superposed_pass

TABLES = HighResolutionLookupTables(32, 64)
GRAPHS = [
    Topology.from_frame(build_static_graph(6, 20, 3, cardinality=2, seed=1)),
    Topology.from_frame(layered_graph([8, 10, 10, 4], cardinality=2, seed=2)),
]


def samples(topology, b, seed):
    return torch.rand(b, len(topology.inputs), generator=torch.Generator().manual_seed(seed))


def clear_of_edges(x, store, topology):
    """No unsnapped state of the oracle's lies so near to an edge of a bin that rounding decides where it goes."""
    return float(ReferenceEngine(topology, TABLES)(x, store).nearest.min()) > 1e-5


def reached(topology, rows):
    """Nodes behind some rows, those rows apart."""
    found, front = set(), set(rows)
    edges = list(zip(topology.src.tolist(), topology.dst.tolist(), strict=True))
    while front:
        front = {dst for src, dst in edges if src in front} - found
        found |= front
    return found


@given(st.integers(0, 1), st.integers(0, 999), st.booleans(), st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_any_sequence_of_changes_gives_what_a_whole_pass_gives(graph, seed, snap, acts):
    topology = GRAPHS[graph]
    store, one = NodeStore.random(topology, 3, TABLES, seed), IncrementalPass(topology, TABLES, snap=snap)
    whole = ForwardEngine(topology, TABLES, backend="gather", snap=snap)
    x, b = samples(topology, 2, seed), 2
    for number, act in enumerate([9, *acts]):
        generator = torch.Generator().manual_seed(seed + number)
        if act == 0:  # one input of one sample
            x = x.clone()
            x[0, number % x.shape[1]] = torch.rand(1, generator=generator)
        elif act == 1:  # an index, behind the store's back
            store.phase[torch.randint(topology.n_nodes, (1,), generator=generator)] += 1
            store.phase.remainder_(32)
        elif act == 2:
            mag = store.mag.clone()
            mag[torch.randint(topology.n_nodes, (1,), generator=generator)] = number
            store.set_(mag=mag)
        elif act == 3:
            b = 3 - b
            x = samples(topology, b, seed + number)
        assume(not snap or clear_of_edges(x, store, topology))
        assert torch.equal(one(x, store).planar, whole(x, store).planar)
        if act == 4:
            assert (one.work.recomputed, one.work.changed) == (0, 0)


@pytest.mark.parametrize("topology", GRAPHS)
def test_only_what_is_reached_is_computed(topology):
    store, one = NodeStore.random(topology, 3, TABLES, 0), IncrementalPass(topology, TABLES)
    x = samples(topology, 1, 0) * 0.5
    one(x, store)
    assert one.work.recomputed == one.work.nodes == topology.n_nodes - len(topology.inputs)
    fewer = 0
    for place, row in enumerate(topology.inputs.tolist()):
        one.forget()
        before = one(x, store).planar
        y = x.clone()
        y[0, place] += 0.4
        after = one(y, store).planar
        changed = set((before != after).flatten(1).any(1).nonzero().flatten().tolist()) - {row}
        # Computed are the listeners of what changed: at least the changed, at most the reached.
        heard = {
            dst for src, dst in zip(topology.src.tolist(), topology.dst.tolist(), strict=True) if src in changed | {row}
        }
        assert one.work.recomputed == len(heard) <= len(reached(topology, [row]))
        assert one.work.changed == len(changed)
        fewer += one.work.recomputed < one.work.nodes
    assert fewer


def test_a_change_that_snapping_swallows_ends_there():
    topology, coarse = GRAPHS[1], HighResolutionLookupTables(2, 2)
    store, one = NodeStore.random(topology, 3, coarse, 0), IncrementalPass(topology, coarse)
    x = torch.full((1, 8), 0.9)
    one(x, store)
    y = x.clone()
    y[0, 0] = 0.7
    one(y, store)
    assert one.work.recomputed == 0  # the amplitude itself is the same level
    y[0, 0] = 0.2
    one(y, store)
    assert one.work.changed < len(reached(topology, [0]))


def test_states_are_copies():
    topology = GRAPHS[0]
    store, one, x = (
        NodeStore.random(topology, 3, TABLES, 0),
        IncrementalPass(topology, TABLES),
        samples(GRAPHS[0], 2, 0),
    )
    first = one(x, store).planar
    kept = first.clone()
    first.zero_()
    assert torch.equal(one(x, store).planar, kept)


@given(st.integers(0, 1), st.integers(0, 999), st.booleans())
def test_time_steps_end_in_what_a_pass_by_levels_finds(graph, seed, snap):
    topology = GRAPHS[graph]
    store, x = NodeStore.random(topology, 3, TABLES, seed), samples(topology, 2, seed)
    assume(not snap or clear_of_edges(x, store, topology))
    depth = int(topology.level.max()) + 1
    whole = ForwardEngine(topology, TABLES, backend="gather", snap=snap)(x, store).planar
    assert torch.equal(propagate_stepwise(x, store, topology, TABLES, snap=snap).planar, whole)
    assert torch.equal(propagate_stepwise(x, store, topology, TABLES, steps=depth + 2, snap=snap).planar, whole)
    early = propagate_stepwise(x, store, topology, TABLES, steps=2, snap=snap).planar
    assert torch.equal(early[topology.level <= 1], whole[topology.level <= 1])


def test_only_states_on_edges_of_bins_come_out_otherwise():
    topology, differ = GRAPHS[1], 0
    whole = ForwardEngine(topology, TABLES, backend="gather")
    for seed in range(300, 360):
        store, x = NodeStore.random(topology, 3, TABLES, seed), samples(topology, 2, seed)
        same = torch.equal(propagate_stepwise(x, store, topology, TABLES).planar, whole(x, store).planar)
        assert same or not clear_of_edges(x, store, topology)
        differ += not same
    assert differ <= 6


def test_time_steps_agree_with_the_oracle():
    topology = GRAPHS[0]
    store, x = NodeStore.random(topology, 3, TABLES, 4), samples(topology, 1, 4)
    sources = {row: topology.src[topology.dst == row].tolist() for row in range(topology.n_nodes)}
    order = topology.level.argsort(stable=True).tolist()
    fed = dict(zip(topology.inputs.tolist(), x[0].double().tolist(), strict=True))
    states, _ = superposed_pass(order, sources, fed, store.phase.tolist(), store.mag.tolist(), (32, 64), snap=False)
    found = propagate_stepwise(x, store, topology, TABLES, snap=False).planar[:, 0]
    for row, expected in states.items():
        for d, z in enumerate(expected):
            assert abs(complex(found[row, 0, d], found[row, 1, d]) - z) < 1e-5


def test_no_step_at_all_is_refused():
    topology = GRAPHS[0]
    with pytest.raises(ConfigError, match="got 0"):
        propagate_stepwise(samples(topology, 1, 0), NodeStore.random(topology, 3, TABLES), topology, TABLES, steps=0)


@pytest.mark.parametrize("width", [1, 5, 7])
def test_samples_of_another_width_are_refused(width):
    # A width of 1 would be spread over all inputs.
    topology = GRAPHS[0]
    store, x = NodeStore.random(topology, 3, TABLES), torch.rand(2, width)
    with pytest.raises(DataError, match=rf"each of 6 inputs; got \(2, {width}\)"):
        IncrementalPass(topology, TABLES)(x, store)
    with pytest.raises(DataError, match="each of 6 inputs"):
        propagate_stepwise(x, store, topology, TABLES)


def test_no_samples_at_all():
    topology = GRAPHS[0]
    store, one = NodeStore.random(topology, 3, TABLES), IncrementalPass(topology, TABLES)
    for b in (0, 2, 0):
        assert one(samples(topology, b, 0), store).planar.shape == (topology.n_nodes, b, 2, 3)
    assert propagate_stepwise(samples(topology, 0, 0), store, topology, TABLES).planar.shape[1] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_double_precision_equals_a_whole_pass_too(dtype):
    topology, tables = GRAPHS[1], HighResolutionLookupTables(32, 64, dtype=dtype)
    store, one = NodeStore.random(topology, 3, tables), IncrementalPass(topology, tables)
    whole = ForwardEngine(topology, tables, backend="gather")
    for seed in (0, 1, 1):
        x = samples(topology, 2, seed).to(dtype)
        found = one(x, store).planar
        assert found.dtype == dtype
        assert torch.equal(found, whole(x, store).planar)
        assert torch.equal(found, propagate_stepwise(x, store, topology, tables).planar)
