"""Incremental passes equal whole ones to the last bit, and compute what can have changed and no more."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, build_static_graph, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.incremental import IncrementalPass, propagate_stepwise
from neurograph.core.node_store import NodeStore
from neurograph.errors import ConfigError
from neurograph.reference.oracle import superposed_pass

TABLES = HighResolutionLookupTables(32, 64)
GRAPHS = [
    Topology.from_frame(build_static_graph(6, 20, 3, cardinality=2, seed=1)),
    Topology.from_frame(layered_graph([8, 10, 10, 4], cardinality=2, seed=2)),
]


def samples(topology, b, seed):
    return torch.rand(b, len(topology.inputs), generator=torch.Generator().manual_seed(seed))


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
    depth = int(topology.level.max()) + 1
    whole = ForwardEngine(topology, TABLES, backend="gather", snap=snap)(x, store).planar
    assert torch.equal(propagate_stepwise(x, store, topology, TABLES, snap=snap).planar, whole)
    assert torch.equal(propagate_stepwise(x, store, topology, TABLES, steps=depth + 2, snap=snap).planar, whole)
    early = propagate_stepwise(x, store, topology, TABLES, steps=2, snap=snap).planar
    assert torch.equal(early[topology.level <= 1], whole[topology.level <= 1])


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
