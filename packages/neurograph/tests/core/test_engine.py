"""The engine against the oracle, back ends against each other, batches against singles, gradients against limits."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, build_static_graph, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.modular_cell import ModularPhaseCell, phase_similarity, routing_strength
from neurograph.core.node_store import Leaves, NodeStore
from neurograph.core.phasors import own_phasors, phase_index, superpose
from neurograph.errors import ConfigError, DataError
from neurograph.reference.engine import ReferenceEngine

BINS = (64, 96)
TABLES = HighResolutionLookupTables(*BINS)
DOUBLE = HighResolutionLookupTables(*BINS, dtype=torch.float64)
GRAPHS = {
    "layers": layered_graph([5, 7, 6, 3], cardinality=3),
    "blocks": build_static_graph(6, 14, 3, cardinality=4, blocks=3, seed=1),
}


def _samples(n: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("backend", ["dense", "sparse", "gather"])
def test_states_are_those_of_the_reference_before_snapping(graph: str, backend) -> None:
    topology = Topology.from_frame(GRAPHS[graph])
    store = NodeStore.random(topology, 4, TABLES, seed=3)
    x = _samples(3, len(topology.inputs))
    state = ForwardEngine(topology, TABLES, backend=backend, snap=False)(x, store)
    expected = ReferenceEngine(topology, TABLES, snap=False)(x, store)
    torch.testing.assert_close(state.planar, expected.planar.float(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(state.readout, expected.readout.float(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("backend", ["dense", "sparse", "gather"])
def test_snapped_states_are_those_of_the_reference_but_at_edges_of_bins(graph: str, backend) -> None:
    topology = Topology.from_frame(GRAPHS[graph])
    store = NodeStore.random(topology, 4, TABLES, seed=3)
    x = _samples(40, len(topology.inputs))
    state = ForwardEngine(topology, TABLES, backend=backend)(x, store)
    expected = ReferenceEngine(topology, TABLES)(x, store)
    differ = ((state.planar - expected.planar).abs() > 1e-6).any(-1).any(-1).any(0)
    assert (expected.nearest[differ] < 1e-4).all(), "differs far from any edge"
    assert differ.sum() <= 2


@pytest.mark.parametrize("merge", ["superpose", "modular"])
@given(seed=st.integers(0, 50))
def test_a_batch_is_its_singles_and_back_ends_agree(merge, seed: int) -> None:
    topology = Topology.from_frame(GRAPHS["blocks"])
    store = NodeStore.random(topology, 3, TABLES, seed=seed)
    x = _samples(5, 6, seed)
    for snap in (False, True):
        engines = [
            ForwardEngine(topology, TABLES, backend=backend, merge=merge, snap=snap)
            for backend in ("dense", "sparse", "gather")
        ]
        states = [engine(x, store).planar for engine in engines]
        states.append(torch.cat([engines[0](one[None], store).planar for one in x], dim=1))
        for other in states[1:]:
            far = (other - states[0]).abs() > 1e-6
            # After snapping a sum that falls on an edge may go either way, and take those who listen to it along.
            assert not far.any() if not snap else far.double().mean() < 0.05


@pytest.mark.parametrize("backend", ["dense", "sparse", "gather"])
def test_modular_merging_adds_indices(backend) -> None:
    topology = Topology.from_frame(GRAPHS["blocks"])
    store = NodeStore.random(topology, 3, TABLES, seed=2)
    x = _samples(4, 6)
    state = ForwardEngine(topology, TABLES, backend=backend, merge="modular")(x, store)
    expected = ReferenceEngine(topology, TABLES, merge="modular")(x, store)
    torch.testing.assert_close(state.planar, expected.planar.float())


def test_gradients_of_the_cell_are_its_derivatives() -> None:
    w, s = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((3, 2, 4), (3, 5, 2, 4)))
    assert torch.autograd.gradcheck(lambda a, b: superpose(a, b, DOUBLE, snap=False), (w, s))


def test_snapping_is_passed_over_backward() -> None:
    w, s = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((3, 2, 4), (3, 5, 2, 4)))
    weights = torch.randn(3, 5, 2, 4, dtype=torch.float64)
    pairs = [torch.autograd.grad((superpose(w, s, DOUBLE, snap) * weights).sum(), (w, s)) for snap in (True, False)]
    for one, other in zip(*pairs, strict=True):
        assert torch.equal(one, other)


def test_gradients_of_indices_are_slopes_of_the_tables() -> None:
    # Between two neighbouring indices of fine tables the phasor changes as the gradient says.
    fine = HighResolutionLookupTables(1 << 14, 1 << 14, dtype=torch.float64)
    p, m = torch.tensor([[100.0, 9000.0]]).double(), torch.tensor([[5000.0, 12000.0]]).double()
    for part in range(2):
        weights = torch.tensor([[0.3, -1.2]]).double()
        leaves = [p.clone().requires_grad_(), m.clone().requires_grad_()]
        gradient = torch.autograd.grad((own_phasors(*leaves, fine)[part] * weights).sum(), leaves)
        for place, moved in enumerate([(p + 1, p - 1, m, m), (p, p, m + 1, m - 1)]):
            up, down = own_phasors(moved[0], moved[2], fine)[part], own_phasors(moved[1], moved[3], fine)[part]
            torch.testing.assert_close(gradient[place], (up - down) / 2 * weights, atol=1e-9, rtol=1e-5)


def test_a_whole_pass_has_the_gradient_of_its_unsnapped_map() -> None:
    # An index of a fine table is nearly continuous: a step of one index is a small step.
    tables = HighResolutionLookupTables(1 << 14, 1 << 14, dtype=torch.float64)
    topology = Topology.from_frame(GRAPHS["layers"])
    store, x = NodeStore.random(topology, 2, tables, seed=5), _samples(3, 5).double()
    engine = ForwardEngine(topology, tables, snap=False)
    weights = torch.randn(3, 6, dtype=torch.float64)

    def value(leaves: Leaves) -> Tensor:
        return (engine(x, leaves).readout * weights).sum()

    leaves = store.leaves()
    gradients = torch.autograd.grad(value(leaves), leaves)
    for part in range(2):
        for row, d in ((0, 0), (6, 1), (13, 0), (20, 1)):
            ends = []
            for step in (1, -1):
                moved = [leaf.detach().clone() for leaf in leaves]
                moved[part][row, d] += step
                ends.append(value(Leaves(*moved)))
            if part == 1 and row < 5:
                assert gradients[1][row, d] == 0  # an input's amplitude is the sample's
                continue
            slope = (ends[0] - ends[1]).item() / 2
            assert gradients[part][row, d].item() == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_phase_indices_come_back_from_states() -> None:
    p = torch.arange(64).view(2, 1, 32)
    planar = torch.stack([TABLES.cos[p], TABLES.sin[p]], dim=2) * 0.3
    assert torch.equal(phase_index(planar, TABLES), p)
    assert not phase_index(torch.tensor([[0.0, -0.0, -0.0], [-0.0, 0.0, -0.0]]), TABLES).any()


def test_the_cell_of_the_original() -> None:
    cell = ModularPhaseCell(HighResolutionLookupTables(8, 8))
    out = cell(*(torch.tensor([[i, 1]]) for i in (6, 7, 5, 3)))
    assert (out.phase.tolist(), out.mag.tolist()) == ([[3, 2]], [[2, 2]])
    torch.testing.assert_close(out.strength, out.signal.sum(-1))
    tables = HighResolutionLookupTables(8, 8)
    assert routing_strength(torch.tensor([0, 1, 0]), torch.tensor([0, 7, 4]), tables).tolist() == [1.0, 0.5, 0.0]
    assert phase_similarity(torch.tensor([0, 0]), torch.tensor([0, 4]), tables).item() == pytest.approx(0.5)


_HASHED = """
import torch
from neurograph.config import load_config
from neurograph.model import Model
from neurograph.train.trainer import Trainer
torch.set_num_threads(1)
config = load_config("digits-small", ["train.epochs=1", "graph.widths=[6, 12, 4]"])
model = Model.build(config, seed=1)
generator = torch.Generator().manual_seed(0)
Trainer(model, config.train).fit(torch.rand(64, 6, generator=generator), torch.randint(4, (64,), generator=generator))
print(model.store.phase.sum().item(), model.store.mag.sum().item(), model.store.phase.flatten()[:9].tolist())
"""


def test_results_do_not_depend_on_the_hash_seed(capsys: pytest.CaptureFixture[str]) -> None:
    exec(_HASHED, {})
    here = capsys.readouterr().out
    other = subprocess.run(
        [sys.executable, "-c", _HASHED], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )  # fmt: skip
    assert other.stdout == here


def test_what_an_engine_refuses() -> None:
    topology = Topology.from_frame(GRAPHS["layers"])
    engine, store = ForwardEngine(topology, TABLES), NodeStore.random(topology, 2, TABLES)
    with pytest.raises(DataError, match=r"each of 5 inputs; got \(3, 4\)"):
        engine(torch.rand(3, 4), store)
    with pytest.raises(ConfigError, match="merge='modular'"):
        ForwardEngine(topology, TABLES, merge="modular", radiation=lambda *_: None)
    with pytest.raises(ConfigError, match="got exp, half_open"):
        ReferenceEngine(topology, HighResolutionLookupTables(8, 8, magnitude="exp"))
