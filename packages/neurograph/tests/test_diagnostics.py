import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurograph import diagnostics
from neurograph.config import Config, OptimizerConfig, TrainConfig
from neurograph.diagnostics import Alert, Limits, alerts, bottlenecks, diagnose, flow_class
from neurograph.errors import DataError
from neurograph.model import Model
from neurograph.train.credit import Credit, Gradients, credit_named, exact_credit


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


@given(power=st.floats(-8, 2), spread=st.floats(0, 2), n=st.integers(1, 30))
def test_flows_are_the_thresholds_of_mean_and_variation(power: float, spread: float, n: int) -> None:
    values = 10**power * np.exp(spread * np.random.default_rng(n).normal(size=n))
    mean, variation = values.mean(), values.std() / values.mean()
    word = "vanishing" if mean < 1e-6 else "exploding" if mean > 10 else "uniform" if variation < 0.3 else "normal"
    assert flow_class(torch.from_numpy(values)) == ("sparse" if word == "normal" and variation > 1 else word)


@pytest.mark.parametrize(("norms", "said"), [([], "got none"), ([1.0, math.nan], "got nan")])
def test_no_gradients_and_no_numbers_have_no_name(norms: list[float], said: str) -> None:
    for look in (flow_class, lambda given: alerts(given, [])):
        with pytest.raises(DataError, match=said):
            look(torch.tensor(norms))


def test_a_bottleneck_has_neither_gradient() -> None:
    rows = bottlenecks(torch.tensor([0.0, 0.0, 1.0, 1e-7]), torch.tensor([0.0, 1.0, 0.0, 1e-9]))
    assert rows.tolist() == [0, 3]


def test_alerts_are_raised_at_their_limits_and_only_there() -> None:
    fine = torch.ones(4)
    assert alerts(fine, [1.0, 0.9, 0.8], memory=10.0) == []
    assert [one.kind for one in alerts(fine * 20, [], memory=10.0)] == ["exploding"]
    assert [one.kind for one in alerts(fine * 1e-7, [], memory=10.0)] == ["vanishing"]
    assert [one.kind for one in alerts(fine, [1.0, 1.0, 1.0], memory=10.0)] == ["stagnation"]
    assert alerts(fine, [1.0, 2.5], memory=10.0) == [Alert("spike", 2.5, 2.0)]
    assert alerts(fine, [1.0, math.nan], memory=10.0) == [Alert("spike", math.inf, 2.0)]
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


def test_states_and_gradients_are_those_of_all_samples_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 NumPy, from one pass over everything; `diagnose` makes several, of unequal sizes."""
    x, y = _samples()
    sizes: list[int] = []

    def watched(rule: Credit) -> Credit:
        def credit(model: Model, x: Any, y: Any, config: TrainConfig) -> Any:
            sizes.append(len(x))
            return rule(model, x, y, config)

        return credit

    monkeypatch.setattr(diagnostics, "_BATCH", 24)
    for rule in (exact_credit, credit_named("contrastive"), credit_named("cosine")):
        config = TrainConfig(label_smoothing=0.1)
        whole = rule(model, x, y, config)
        found = diagnose(model, x, y, config, credit=watched(rule), steps=0).to_frame()
        for part, width, name in (
            (whole.phase, 2 * np.pi / 512, "phase_gradient"),
            (whole.mag, 2 * np.pi / 1024, "mag_gradient"),
        ):
            norms = np.linalg.norm(part.double().numpy(), axis=1) / width
            expected = [norms[rows.numpy()].mean() for rows in model.topology.levels]
            np.testing.assert_allclose(found[name], expected, rtol=1e-4)
        planar = model.state(x).planar.double().numpy()
        seen = np.hypot(planar[:, :, 0], planar[:, :, 1])
        for name, values in (("amplitude", seen), ("silent", seen == 0), ("saturated", seen > 0.99)):
            expected = [values[rows.numpy()].mean() for rows in model.topology.levels]
            np.testing.assert_allclose(found[name], expected, rtol=1e-6)
    assert sizes == [24, 24, 16] * 3


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_indices_at_the_end_of_a_grid_are_asked_in_vain(kind: Literal["adam", "sgd"]) -> None:
    """Two steps of an index are asked for, five times; from 5 of 0 to 7 there is room for two."""
    config = Config.model_validate(
        {"graph": {"widths": [4, 8, 2], "cardinality": 4}, "tables": {"mag_bins": 8, "grid": "inclusive"}}
    )
    model = Model.build(config, seed=0)
    model.store.set_(mag=torch.full_like(model.store.mag, 5))

    def upwards(model: Model, x: torch.Tensor, y: torch.Tensor, config: TrainConfig) -> Gradients:
        shape = model.store.mag.shape
        return Gradients(torch.tensor(1.0), torch.zeros(shape), -torch.ones(shape))

    train = TrainConfig(optimizer=OptimizerConfig(kind=kind, lr_mag=2.0))
    found = diagnose(model, torch.rand(6, 4), torch.arange(6) % 2, train, credit=upwards, steps=5).effectiveness
    assert found.mag == pytest.approx(2 / 10, rel=1e-5)
    assert found.mag_cosine == pytest.approx(1.0)
    assert found.phase is None


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (torch.full((2, 8), torch.nan), torch.tensor([0, 1]), "samples are finite"),
        (torch.rand(2, 8), torch.tensor([0, 4]), "below 4"),
        (torch.rand(2, 7), torch.tensor([0, 1]), "got 7 numbers for 8 input nodes"),
        (torch.rand(0, 8), torch.tensor([], dtype=torch.int64), "at least one sample"),
    ],
)
def test_samples_that_do_not_fit_are_refused(model: Model, x: torch.Tensor, y: torch.Tensor, said: str) -> None:
    with pytest.raises(DataError, match=said):
        diagnose(model, x, y)
