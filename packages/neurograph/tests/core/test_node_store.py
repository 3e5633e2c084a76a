"""The store of integers: its versions, its leaves, and what it refuses."""

import pytest
import torch

from neurograph.core.graph import Topology, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.errors import GraphError, TableError

TABLES = HighResolutionLookupTables(16, 32)
TOPOLOGY = Topology.from_frame(layered_graph([3, 4, 2], cardinality=2))


def _store(seed: int = 0) -> NodeStore:
    return NodeStore.random(TOPOLOGY, 5, TABLES, seed)


def test_a_seed_gives_the_same_integers() -> None:
    assert torch.equal(_store().phase, _store().phase)
    assert not torch.equal(_store().phase, _store(1).phase)
    assert _store().phase.dtype == torch.int16


def test_magnitudes_of_inputs_are_not_trained() -> None:
    store = _store()
    assert store.n_trainable == 5 * (9 + 6)
    assert store.train_mag.tolist() == [False] * 3 + [True] * 6


def test_every_change_raises_the_version() -> None:
    store = _store()
    store.set_(phase=torch.zeros_like(store.phase))
    store.move_(torch.full_like(store.phase, -1), torch.zeros_like(store.mag))
    assert store.version == 2
    assert store.phase.unique().tolist() == [15]


def test_leaves_are_copies() -> None:
    store = _store()
    leaves = store.leaves()
    with torch.no_grad():
        leaves.phase.add_(1)
    assert torch.equal(store.phase, _store().phase)
    assert leaves.phase.requires_grad


def test_a_copy_has_integers_of_its_own() -> None:
    store = _store()
    other, third = store.clone(), store.to("cpu")
    store.move_(torch.ones_like(store.phase), torch.ones_like(store.mag))
    assert torch.equal(other.phase, _store().phase)
    assert torch.equal(third.mag, _store().mag)


def test_nodes_are_found_by_name() -> None:
    store = _store()
    assert torch.equal(store.phase_of("n3"), store.phase[3])
    assert torch.equal(store.mag_of("n8"), store.mag[8])
    with pytest.raises(GraphError, match="'n9'"):
        store.phase_of("n9")


@pytest.mark.parametrize(("value", "message"), [(16, "from 0 to 15; got some from 0 to 16"), (-1, "from -1")])
def test_indices_outside_the_tables_are_refused_and_nothing_changes(value: int, message: str) -> None:
    store = _store()
    wrong = torch.zeros_like(store.phase)
    wrong[2, 3] = value
    with pytest.raises(TableError, match=message):
        store.set_(phase=wrong)
    assert (store.version, torch.equal(store.phase, _store().phase)) == (0, True)


def test_shapes_and_types_are_looked_at() -> None:
    store = _store()
    with pytest.raises(TableError, match="Give all of them"):
        store.set_(phase=store.phase[:2])
    with pytest.raises(TableError, match=r"got torch\.float32"):
        store.set_(mag=store.mag.float())
    with pytest.raises(TableError, match="at least one phasor"):
        NodeStore.random(TOPOLOGY, 0, TABLES)
    with pytest.raises(TableError, match="16 bits"):
        NodeStore.random(TOPOLOGY, 1, HighResolutionLookupTables(40_000, 4))
