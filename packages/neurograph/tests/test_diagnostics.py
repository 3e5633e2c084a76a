import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurograph.config import Config, OptimizerConfig, TrainConfig
from neurograph.core.graph import Topology, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.diagnostics import (
    Alert,
    Limits,
    UpdateMonitor,
    alerts,
    bottlenecks,
    circular_change,
    diagnose,
    flow_class,
)
from neurograph.errors import DataError
from neurograph.model import Model
from neurograph.optim import DiscreteSGD


@pytest.mark.parametrize(
    ("norms", "word"),
    [
        ([1e-7, 1e-8], "vanishing"),
        ([11.0, 12.0], "exploding"),
        ([1.0, 1.1, 0.9], "uniform"),
        ([0.0, 0.0, 0.0, 1.0], "sparse"),
        ([1.0, 2.0, 3.0], "normal"),
    ],
)
def test_flows_have_their_names(norms: list[float], word: str) -> None:
    assert flow_class(torch.tensor(norms)) == word


def test_no_gradients_have_no_name() -> None:
    with pytest.raises(DataError, match="got none"):
        flow_class(torch.zeros(0))


def test_a_bottleneck_has_neither_gradient() -> None:
    rows = bottlenecks(torch.tensor([0.0, 0.0, 1.0, 1e-7]), torch.tensor([0.0, 1.0, 0.0, 1e-9]))
    assert rows.tolist() == [0, 3]


@given(bins=st.integers(2, 600), before=st.integers(0, 599), step=st.integers(-600, 600))
def test_changes_go_the_short_way_round(bins: int, before: int, step: int) -> None:
    old = torch.tensor(before % bins)
    new = (old + step).remainder(bins)
    change = int(circular_change(old, new, bins))
    assert abs(change) == min((int(new) - int(old)) % bins, (int(old) - int(new)) % bins)
    assert (int(old) + change) % bins == int(new)


def test_changes_that_do_not_wrap_are_differences() -> None:
    assert circular_change(torch.tensor([0, 9]), torch.tensor([9, 0]), 10, wraps=False).tolist() == [9, -9]


def _watched(updates: np.ndarray) -> UpdateMonitor:
    """Plain descent with residual carry under given updates (steps × indices), as a network's phases."""
    topology = Topology.from_frame(layered_graph([1, updates.shape[1] - 1]))
    store = NodeStore.random(topology, 1, HighResolutionLookupTables(512, 1024, dtype=torch.float64))
    optimizer, monitor = DiscreteSGD(store, 1.0, 1.0), UpdateMonitor(store.tables)
    for update in updates:
        wanted = torch.from_numpy(update)[:, None]
        before = (store.phase.clone(), store.mag.clone())
        optimizer.step(-wanted, torch.zeros_like(wanted))
        monitor.record(before, (store.phase, store.mag), (wanted, torch.zeros_like(wanted)))
    return monitor


def test_updates_that_keep_their_sign_are_fully_effective() -> None:
    updates = np.random.default_rng(0).uniform(0.0, 0.2, size=(400, 20))
    found = _watched(updates).effectiveness()
    assert found.phase == pytest.approx(1.0, abs=0.02)
    assert found.phase_cosine == pytest.approx(1.0, abs=1e-3)
    assert (found.mag, found.mag_cosine, found.steps) == (None, None, 400)


def test_updates_that_cancel_are_not() -> None:
    updates = np.where(np.arange(400)[:, None] % 2, 0.2, -0.2) * np.ones((1, 20))
    assert _watched(updates).effectiveness().phase == 0.0


def test_steps_that_overshoot_are_seen() -> None:
    """The original's: a whole step for each hundredth."""
    monitor = UpdateMonitor(HighResolutionLookupTables(64, 64))
    index = torch.zeros(3, 2, dtype=torch.long)
    for step in range(10):
        before, after = (index + step).remainder(64), (index + step + 1).remainder(64)
        monitor.record((before, index), (after, index), (torch.full((3, 2), 0.01), torch.zeros(3, 2)))
    assert monitor.effectiveness().phase == pytest.approx(100.0)


def test_alerts_are_raised_at_their_limits_and_only_there() -> None:
    fine = torch.ones(4)
    assert alerts(fine, [1.0, 0.9, 0.8], memory=10.0) == []
    assert [one.kind for one in alerts(fine * 20, [], memory=10.0)] == ["exploding"]
    assert [one.kind for one in alerts(fine * 1e-7, [], memory=10.0)] == ["vanishing"]
    assert [one.kind for one in alerts(fine, [1.0, 1.0, 1.0], memory=10.0)] == ["stagnation"]
    assert alerts(fine, [1.0, 2.5], memory=10.0) == [Alert("spike", 2.5, 2.0)]
    assert [one.kind for one in alerts(fine, [], memory=1001.0)] == ["memory"]
    assert [one.kind for one in alerts(fine, [], Limits(memory=0.001))] == ["memory"], "the process's own is read"


def test_alerts_are_sentences() -> None:
    assert (
        str(Alert("spike", 2.5, 2.0))
        == "the loss jumped to 2.5 times the one before, above 2; lower the learning rates"
    )


@pytest.fixture(scope="module")
def model() -> Model:
    config = Config.model_validate({"graph": {"widths": [8, 16, 16, 4], "cardinality": 4}})
    return Model.build(config, seed=0)


def _samples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(64, 8, generator=generator), torch.randint(4, (64,), generator=generator)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_diagnosis_looks_at_all_levels_and_leaves_the_network_alone(model: Model, kind: str) -> None:
    x, y = _samples()
    before, version = (model.store.phase.clone(), model.store.mag.clone()), model.store.version
    rates = {"lr_phase": 40.0, "lr_mag": 40.0} if kind == "sgd" else {}
    config = TrainConfig(batch_size=16, optimizer=OptimizerConfig(kind=kind, **rates))
    found = diagnose(model, x, y, config, steps=40)
    assert torch.equal(model.store.phase, before[0])
    assert torch.equal(model.store.mag, before[1])
    assert model.store.version == version
    frame = found.to_frame()
    assert frame["nodes"].tolist() == [8, 16, 16, 4]
    assert bool((frame["phase_gradient"] > 0).all())
    assert frame["mag_gradient"][1:].min() > 0
    assert frame["mag_gradient"][0] == 0, "the amplitude of an input is the sample's"
    assert len(found.losses) == found.effectiveness.steps == 40
    assert found.effectiveness.phase is not None
    assert 0.3 < found.effectiveness.phase < 1.5
    assert found.effectiveness.phase_cosine is not None
    assert found.effectiveness.phase_cosine > 0.9


def test_nodes_that_nothing_reaches_are_named() -> None:
    config = Config.model_validate({"graph": {"widths": [4, 8, 2], "cardinality": 1}})
    model = Model.build(config, seed=0)
    heard = {model.topology.ids[row] for row in model.topology.src.tolist()}
    deaf = [model.topology.ids[row] for row in range(4, 12) if model.topology.ids[row] not in heard]
    assert deaf
    x = torch.rand(16, 4, generator=torch.Generator().manual_seed(0))
    found = diagnose(model, x, torch.arange(16) % 2, steps=1)
    assert set(deaf) <= set(found.bottlenecks)


def test_blank_samples_make_silent_states_and_vanishing_gradients(model: Model) -> None:
    found = diagnose(model, torch.zeros(8, 8), torch.arange(8) % 4, steps=1)
    assert found.flow == "vanishing"
    assert [one.kind for one in found.alerts if one.kind != "memory"] == ["vanishing"]
    assert found.to_frame()["silent"].tolist() == [1.0] * 4
