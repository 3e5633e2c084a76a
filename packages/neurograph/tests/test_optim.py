"""Integer optimizers: nothing is lost to rounding, and Adam is Adam."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurograph.core.graph import Topology, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.errors import CheckpointError, ConfigError
from neurograph.optim import DiscreteAdam, DiscreteSGD

TABLES = HighResolutionLookupTables(512, 1024)
TOPOLOGY = Topology.from_frame(layered_graph([2, 3, 1], cardinality=2))


def _store() -> NodeStore:
    return NodeStore.random(TOPOLOGY, 3, TABLES, seed=4)


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=30))
def test_moves_add_up_to_the_updates_within_half_a_step(gradients: list[float]) -> None:
    store = _store()
    before = store.phase[3, 1].item()
    optimizer = DiscreteSGD(store, 0.25, 0.25)
    for gradient in gradients:
        optimizer.step(torch.full((6, 3), gradient), torch.zeros(6, 3))
    wanted = -0.25 * sum(gradients)
    moved = (store.phase[3, 1].item() - before - wanted + 256) % 512 - 256 + wanted
    assert moved == pytest.approx(wanted, abs=0.5 + 1e-4)


def _moved(after: torch.Tensor, before: torch.Tensor, wanted: float, bins: int) -> np.ndarray:
    """Steps that an index made, the whole turns that lie nearest to what was wanted among them."""
    difference = after.double().numpy() - before.double().numpy()
    return difference + bins * np.round((wanted - difference) / bins)


@given(
    exponent=st.floats(-9, 2), gradient=st.sampled_from([1.0, -1.0, 0.37]), place=st.sampled_from([0, 1, 510, 511]),
    steps=st.integers(1, 400),
)  # fmt: skip
def test_constant_gradients_have_no_drift_whatever_the_rate(
    exponent: float, gradient: float, place: int, steps: int
) -> None:
    """Within half a step and float32's rounding, at the ends of the tables too."""
    rate, store = 10**exponent, _store()
    start = torch.full_like(store.phase, place)
    store.set_(start, 2 * start)
    optimizer = DiscreteSGD(store, rate, rate)
    given_ = torch.full((6, 3), gradient)
    for _ in range(steps):
        optimizer.step(given_, given_)
    wanted = -rate * float(given_[0, 0]) * steps
    rounding = 2.0**-24 * steps * (1 + 2 * rate)
    for after, before, bins, rows in ((store.phase, start, 512, 6), (store.mag, 2 * start, 1024, 4)):
        moved = _moved(after, before, wanted, bins)[-rows:]  # magnitudes of the two inputs are not trained
        assert np.abs(moved - wanted).max() <= 0.5 + rounding
    residual = optimizer.residual[0].double().numpy()
    assert np.abs(_moved(store.phase, start, wanted, 512) + residual - wanted).max() <= rounding
    assert torch.equal(store.mag[:2], 2 * start[:2])


def test_a_rate_of_a_thousandth_moves_at_its_pace() -> None:
    store = _store()
    before, optimizer = store.phase.clone(), DiscreteSGD(store, 2.0**-10, 1.0)
    for _ in range(1 << 11):
        optimizer.step(torch.full((6, 3), -33.0), torch.zeros(6, 3))
    assert torch.equal(store.phase, ((before.long() + 33 * 2) % 512).short())  # exact in binary


def test_adam_takes_the_steps_of_adam() -> None:
    store = _store()
    optimizer = DiscreteAdam(store, 4.0, 6.0)
    generator = np.random.default_rng(0)
    m = v = total = np.zeros((6, 3))
    for step in range(1, 40):
        g = generator.normal(size=(6, 3)) + 0.5
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        total = total - 6.0 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-12)
        optimizer.step(torch.zeros(6, 3), torch.from_numpy(g).float())
    moved = store.mag.long().numpy() - _store().mag.long().numpy()
    rows = [2, 3, 4, 5]
    difference = (moved - total + 512) % 1024 - 512
    assert np.abs(difference[rows]).max() <= 0.5 + 1e-2
    assert not moved[:2].any()  # magnitudes of inputs


def test_inclusive_magnitudes_stop_at_the_ends() -> None:
    tables = HighResolutionLookupTables(8, 16, grid="inclusive")
    store = NodeStore.random(TOPOLOGY, 1, tables)
    optimizer = DiscreteSGD(store, 1.0, 1.0)
    for _ in range(40):
        optimizer.step(torch.zeros(6, 1), torch.full((6, 1), -1.0))
    assert store.mag[2:].unique().tolist() == [15]
    # What led beyond the end is forgotten: the way back begins at the end.
    optimizer.step(torch.zeros(6, 1), torch.full((6, 1), 2.0))
    assert store.mag[2:].unique().tolist() == [13]


@pytest.mark.parametrize("kind", [DiscreteSGD, DiscreteAdam])
def test_a_saved_optimizer_goes_on_to_the_same_bits(kind) -> None:
    def run(store: NodeStore, optimizer, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            optimizer.step(*(torch.randn(6, 3, generator=generator) for _ in range(2)))

    whole = _store()
    one = kind(whole, 0.3, 0.3)
    run(whole, one, range(10))
    one.rate = 0.25
    run(whole, one, range(10, 20))
    store = _store()
    optimizer = kind(store, 0.3, 0.3)
    run(store, optimizer, range(10))
    optimizer.rate = 0.25
    again = kind(store, 0.3, 0.3)
    again.load_state_dict(*optimizer.state_dict())
    run(store, again, range(10, 20))
    assert torch.equal(store.phase, whole.phase)
    assert torch.equal(store.mag, whole.mag)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lr_mag = 0\.0"):
        DiscreteSGD(_store(), 1.0, 0.0)
    for rate in (float("inf"), float("nan"), -1.0):
        with pytest.raises(ConfigError, match="lr_phase"):
            DiscreteSGD(_store(), rate, 1.0)
    with pytest.raises(ConfigError, match="eps is positive"):
        DiscreteAdam(_store(), eps=0.0)
    with pytest.raises(ConfigError, match="betas"):
        DiscreteAdam(_store(), betas=(0.9, 1.0))
    with pytest.raises(CheckpointError, match="residual_phase"):
        DiscreteAdam(_store()).load_state_dict({}, {"steps": 1, "rate": 1.0})
    adam, sgd = DiscreteAdam(_store()), DiscreteSGD(_store(), 1.0, 1.0)
    with pytest.raises(CheckpointError, match="has m_mag, m_phase, v_mag, v_phase beside them"):
        sgd.load_state_dict(*adam.state_dict())
    with pytest.raises(CheckpointError, match="lacks steps"):
        adam.load_state_dict(*sgd.state_dict())
