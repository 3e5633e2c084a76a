import numpy as np
import pytest
import torch

from neurograph.config import Config, TrainConfig
from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, build_static_graph, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.encodings import coherence, hadamard_codes
from neurograph.errors import ConfigError
from neurograph.model import Model
from neurograph.reference.oracle_credit import credit_by_node
from neurograph.train.credit import LocalCredit, credit_named, exact_credit, local_groups, severed
from neurograph.train.trainer import Trainer


def _model(frame: object, *, dim: int = 4, classes: int = 3, snap: bool = True, merge: str = "superpose") -> Model:
    topology = Topology.from_frame(frame)
    tables = HighResolutionLookupTables(64, 128, dtype=torch.float64)
    engine = ForwardEngine(topology, tables, snap=snap, merge=merge)
    codes = hadamard_codes(classes, len(topology.outputs) * dim).double()
    return Model(topology, NodeStore.random(topology, dim, tables, 1), tables, engine, codes, 12.0)


_LAYERED = layered_graph([6, 8, 8, 3], cardinality=4)
_BLOCKS = build_static_graph(6, 16, 4, cardinality=3, blocks=3)


def _samples(model: Model, n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n, len(model.topology.inputs), generator=generator, dtype=torch.float64)
    return x, torch.randint(model.n_classes, (n,), generator=generator)


@pytest.mark.parametrize("frame", [_LAYERED, _BLOCKS], ids=["layers", "blocks"])
@pytest.mark.parametrize("snap", [True, False])
@pytest.mark.parametrize(("rule", "scope"), [("contrastive", "level"), ("contrastive", "node"), ("cosine", "level")])
def test_local_credit_is_that_of_the_loop_over_nodes(frame: object, snap: bool, rule: str, scope: str) -> None:
    model = _model(frame, snap=snap)
    x, y = _samples(model)
    credit = LocalCredit(rule, scope)
    found = credit(model, x, y, TrainConfig(label_smoothing=0.1))
    groups = [(group.rows.tolist(), group.codes.double().numpy()) for group in credit.groups(model)]
    phase, mag = credit_by_node(
        model.topology, model.store, x.numpy(), y.tolist(), groups, rule=rule, scope=scope, snap=snap,
        label_smoothing=0.1,
    )  # fmt: skip
    np.testing.assert_allclose(found.phase.numpy(), phase, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.mag.numpy(), mag, rtol=1e-6, atol=1e-9)
    trained = model.store.train_mag
    assert bool((found.mag[trained] != 0).any(1).all()), "every node above the inputs has a gradient"
    heard = model.topology.src.unique()
    heard = heard[heard < len(model.topology.inputs)]
    assert bool((found.phase[heard] != 0).any(1).all()), "and so has every input that is heard"


def test_the_exact_rule_is_the_slope_of_the_loss_where_states_are_not_snapped() -> None:
    """Directional derivative over all indices, by central differences on phases seen as angles of a finer table."""
    model = _model(_LAYERED, snap=False)
    x, y = _samples(model)
    _, phase, _ = exact_credit(model, x, y, TrainConfig())
    fine = HighResolutionLookupTables(64 * 128, 128, dtype=torch.float64)
    engine = ForwardEngine(model.topology, fine, snap=False)

    def loss(step: int) -> float:
        moved = (model.store.phase.long() * 128 + step * torch.sign(phase).long()).remainder(fine.phase_bins)
        store = NodeStore(moved.short(), model.store.mag, fine, model.store.train_phase, model.store.train_mag)
        found = Model(model.topology, store, fine, engine, model.codes, model.scale)
        return float(exact_credit(found, x, y, TrainConfig()).loss)

    slope = (loss(1) - loss(-1)) / 2 * 128
    assert slope == pytest.approx(float(phase.abs().sum()), rel=1e-4)


def test_messages_of_a_severed_engine_have_the_same_values_and_no_gradient_but_for_inputs() -> None:
    model = _model(_LAYERED)
    x, _ = _samples(model)
    leaves = model.store.leaves()
    state = severed(model.engine)(x, leaves)
    assert torch.equal(state.planar, model.engine(x, model.store).planar)
    (last,) = torch.autograd.grad(state.readout.sum(), [leaves.phase], retain_graph=True)
    assert last.abs().sum(1).nonzero().squeeze(1).tolist() == model.topology.outputs.tolist()
    level = model.topology.levels[1]
    (first,) = torch.autograd.grad(state.planar[level].sum(), [leaves.phase])
    assert first.abs().sum(1).nonzero().squeeze(1).tolist() == [*model.topology.inputs.tolist(), *level.tolist()]


def test_local_credit_of_the_modular_merge_moves_each_node_by_its_own_signal() -> None:
    """The sum of indices has slope 1, so a node's gradient is that of its own signal."""
    model = _model(_LAYERED, merge="modular")
    x, y = _samples(model, 1)
    credit = LocalCredit("cosine")
    found = credit(model, x, y, TrainConfig())
    state, group = model.state(x), credit.groups(model)[0]
    row, code = int(group.rows[2]), group.codes[int(y[0]), 2].numpy()
    re, im = state.planar[row, 0].numpy()
    cosine = re @ code / np.linalg.norm(re) / np.linalg.norm(code)
    pull = -(code / np.linalg.norm(code) - re * cosine / np.linalg.norm(re)) / np.linalg.norm(re)
    np.testing.assert_allclose(found.phase[row].numpy(), model.tables.phase_step * -im * pull, rtol=1e-9)


def test_groups_hold_each_node_above_the_inputs_once() -> None:
    model = _model(_BLOCKS)
    groups = local_groups(model.topology, model.codes)
    rows = torch.cat([group.rows for group in groups]).tolist()
    assert sorted(rows) == sorted(set(range(model.topology.n_nodes)) - set(model.topology.inputs.tolist()))
    assert groups[-1].rows.tolist() == model.topology.outputs.tolist()
    assert torch.equal(groups[-1].codes.flatten(1), model.codes)
    assert all(coherence(group.codes.flatten(1)) <= 2 / group.codes[0].numel() for group in groups)


def test_outputs_can_learn_from_the_classification_loss() -> None:
    model = _model(_LAYERED)
    x, y = _samples(model)
    found, aligned = (LocalCredit("cosine", outputs=rule)(model, x, y, TrainConfig()) for rule in ("loss", "same"))
    exact = exact_credit(model, x, y, TrainConfig())
    outputs = model.topology.outputs
    torch.testing.assert_close(found.phase[outputs], exact.phase[outputs])
    assert not torch.allclose(aligned.phase[outputs], exact.phase[outputs])
    assert float(found.loss) == pytest.approx(float(exact.loss))


def test_contrastive_credit_learns() -> None:
    model = Model.build(Config.model_validate({"graph": {"widths": [8, 16, 4], "cardinality": 8}}), n_classes=4)
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(4, 8, generator=generator)
    y = torch.randint(4, (256,), generator=generator)
    x = (centres[y] + 0.05 * torch.randn(256, 8, generator=generator)).clamp(0, 1)
    before = float((model.predict(x) == y).double().mean())
    Trainer(model, TrainConfig(epochs=10, batch_size=32), credit=credit_named("contrastive")).fit(x, y)
    assert float((model.predict(x) == y).double().mean()) > max(0.9, before + 0.2)


def test_rules_are_found_by_name() -> None:
    assert credit_named("exact") is exact_credit
    found = credit_named("cosine", seed=4)
    assert isinstance(found, LocalCredit)
    assert (found.rule, found.seed) == ("cosine", 4)


def test_rules_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 'hebbian'"):
        credit_named("hebbian")
    with pytest.raises(ConfigError, match="got 'layer'"):
        LocalCredit("contrastive", "layer")
