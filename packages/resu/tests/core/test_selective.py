"""RESU-Selective: against float64, in every place where θ may live, with ties, decay, bad gradients and resumption."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resu.config import SelectionConfig
from resu.core.mask import SparseMask
from resu.core.selective import (
    RESUSelective,
    compute_consistency,
    select_coordinates,
    update_ema,
    update_ema_and_consistency,
)
from resu.errors import CheckpointError, ConfigError, MaskError


def plain_selection(g: np.ndarray, c: np.ndarray, config: SelectionConfig) -> np.ndarray:
    order = np.argsort(-np.abs(g), kind="stable")
    large = np.zeros(g.size, dtype=bool)
    large[order[: max(1, math.floor(config.screen * g.size))]] = True
    both, most = large & (c > config.tau), max(1, math.floor(config.select * g.size))
    if both.sum() > most:
        keep = [i for i in order if both[i]][:most]
        both = np.zeros_like(both)
        both[keep] = True
    return both


class Plain:
    """The rule in float64, coordinate by coordinate."""

    def __init__(self, theta: np.ndarray, config: SelectionConfig, lr: float, decay: float) -> None:
        self.theta, self.config, self.lr, self.decay = theta.copy(), config, lr, decay
        self.m, self.v = np.zeros_like(theta), np.zeros_like(theta)

    def step(self, g: np.ndarray) -> np.ndarray:
        beta = self.config.beta
        self.m = beta * self.m + (1 - beta) * g
        self.v = beta * self.v + (1 - beta) * np.abs(g)
        c = np.abs(self.m) / (self.v + self.config.delta)
        chosen = plain_selection(g, c, self.config)
        self.theta = self.theta * (1 - self.lr * self.decay)
        self.theta[chosen] -= self.lr * c[chosen] * g[chosen]
        return chosen


def gradients(shape: tuple[int, ...], steps: int, seed: int = 0) -> list[torch.Tensor]:
    """A part of them keeps its direction, so that something passes τ."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(size=shape)
    return [torch.from_numpy(drift + rng.normal(size=shape)).float() for _ in range(steps)]


@pytest.mark.parametrize("place", ["vector", "matrix"])
@pytest.mark.parametrize("shape", [(8, 11), (4, 3, 2, 2), (40,)])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_steps_equal_the_rule_in_float64(shape: tuple[int, ...], place: str, decay: float) -> None:
    mask = SparseMask.random(shape, 0.6, seed=1)
    pruned = ~mask.to_bool()
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    theta = start[pruned].clone() if place == "vector" else start.clone()
    config = SelectionConfig(screen=0.6, select=0.3, tau=0.4)
    selective = RESUSelective(theta, mask, config, lr=0.1, weight_decay=decay)
    plain = Plain(start[pruned].double().numpy(), config, 0.1, decay)
    for grad in gradients(shape, 12):
        chosen = plain.step(grad[pruned].double().numpy())
        stats = selective.step(grad)
        assert stats["n_selected"] == chosen.sum()
        found = theta if place == "vector" else theta[pruned]
        np.testing.assert_allclose(found, plain.theta, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(selective.m, plain.m, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(selective.v, plain.v, rtol=1e-5, atol=1e-6)
    if place == "matrix":
        assert torch.equal(theta[~pruned], start[~pruned])


def test_gradients_may_come_as_the_vector_itself() -> None:
    mask = SparseMask.random((6, 7), 0.5)
    pruned, (one, other) = ~mask.to_bool(), (torch.zeros(21), torch.zeros(21))
    for grad in gradients((6, 7), 3):
        RESUSelective(one, mask, lr=0.1).step(grad)
        RESUSelective(other, mask, lr=0.1).step(grad[pruned])
    assert torch.equal(one, other)
    assert one.any()


def test_consistency_is_one_on_the_first_step_so_that_tau_filters_nothing() -> None:
    mask = SparseMask.zeros((1, 10))
    selective = RESUSelective(torch.zeros(10), mask, SelectionConfig(tau=0.99, screen=1.0, select=1.0))
    stats = selective.step(torch.arange(1.0, 11.0).view(1, 10))
    assert stats["n_consistent"] == stats["n_selected"] == 10
    assert stats["min_consistency"] == pytest.approx(1, abs=1e-6)


@given(seed=st.integers(0, 10_000), steps=st.integers(1, 20), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_consistency_stays_between_zero_and_one(seed: int, steps: int, scale: float) -> None:
    m, v = torch.zeros(20), torch.zeros(20)
    for grad in gradients((20,), steps, seed):
        c = update_ema_and_consistency(m, v, grad * scale, 0.9)
        assert 0 <= c.min() <= c.max() <= 1


def test_fused_and_separate_forms_agree_and_write_where_asked() -> None:
    m, v, g = torch.randn(9), torch.rand(9), torch.randn(9)
    m2, v2, out = m.clone(), v.clone(), torch.empty(9)
    update_ema(m, v, g, 0.9)
    c = update_ema_and_consistency(m2, v2, g, 0.9, consistency_out=out)
    assert c.data_ptr() == out.data_ptr()
    assert torch.equal(m, m2)
    assert torch.equal(v, v2)
    assert torch.equal(compute_consistency(m, v), c)


@given(
    p=st.integers(1, 70),
    seed=st.integers(0, 1000),
    screen=st.sampled_from([0.01, 0.5, 1.0]),
    select=st.sampled_from([0.01, 0.2, 1.0]),
    ties=st.booleans(),
)
def test_selection_equals_a_plain_one(p: int, seed: int, screen: float, select: float, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    g = (rng.integers(-2, 3, p) if ties else rng.normal(size=p)).astype(np.float32)
    c = rng.random(p).astype(np.float32)
    config = SelectionConfig(screen=screen, select=select)
    result = select_coordinates(torch.from_numpy(g), torch.from_numpy(c), config)
    np.testing.assert_array_equal(result.mask, plain_selection(g, c, config))
    assert result.n_selected == int(result.mask.sum()) <= max(1, int(select * p))
    assert int(result.p_mag.sum()) == max(1, int(screen * p))
    assert torch.equal(result.p_con, torch.from_numpy(c) > config.tau)
    assert not (result.mask & ~(result.p_mag & result.p_con)).any()


def test_long_vectors_are_cut_into_rows_and_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resu.core.selective._ROW", 16)
    rng = np.random.default_rng(0)
    for p in (15, 16, 48, 50):
        g, c = rng.integers(0, 4, p).astype(np.float32), rng.random(p).astype(np.float32)
        result = select_coordinates(torch.from_numpy(g), torch.from_numpy(c))
        np.testing.assert_array_equal(result.mask, plain_selection(g, c, SelectionConfig()))


def test_only_two_vectors_are_kept() -> None:
    mask = SparseMask.random((10, 10), 0.5)
    selective = RESUSelective(torch.zeros(50), mask)
    selective.step(torch.randn(10, 10))
    kept = [name for name, value in vars(selective).items() if isinstance(value, torch.Tensor)]
    assert sorted(kept) == ["_theta", "m", "v"]
    assert torch.equal(selective.consistency, compute_consistency(selective.m, selective.v))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_are_skipped_and_counted(bad: float) -> None:
    mask = SparseMask(torch.tensor([[True, False, False]]))
    theta = torch.tensor([1.0, 2.0])
    selective = RESUSelective(theta, mask, lr=0.1, weight_decay=0.1)
    stats = selective.step(torch.tensor([[0.0, bad, 1.0]]))
    assert (stats["skipped"], selective.skipped_steps, selective.step_count) == (1, 1, 0)
    assert theta.tolist() == [1.0, 2.0]
    assert not selective.m.any()
    # What happens at active coordinates is none of its business.
    assert selective.step(torch.tensor([[bad, 1.0, 1.0]]))["skipped"] == 0


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    mask, grads = SparseMask.random((5, 9), 0.5), gradients((5, 9), 8)
    theta = torch.zeros(mask.n_pruned)
    whole = RESUSelective(theta, mask, lr=0.1)
    for grad in grads[:4]:
        whole.step(grad)
    state, copy = whole.state_dict(), theta.clone()
    resumed = RESUSelective(copy, mask, lr=0.1)
    resumed.load_state_dict(state)
    for grad in grads[4:]:
        whole.step(grad)
        resumed.step(grad)
    assert torch.equal(theta, copy)
    assert resumed.step_count == 8
    resumed.reset()
    assert resumed.step_count == 0
    assert not resumed.m.any()


def test_nothing_pruned_is_nothing_to_do() -> None:
    stats = RESUSelective(torch.zeros(0), SparseMask.ones((2, 2))).step(torch.ones(2, 2))
    assert stats["n_selected"] == stats["skipped"] == 0


def test_what_does_not_fit_is_refused() -> None:
    mask = SparseMask.random((4, 4), 0.5)
    with pytest.raises(
        MaskError, match=r"vector of the 8 pruned coordinates or has the weight's shape \(4, 4\); got \(9,\)"
    ):
        RESUSelective(torch.zeros(9), mask)
    with pytest.raises(ConfigError, match=r"at least 0; got -1"):
        RESUSelective(torch.zeros(8), mask, lr=-1.0)
    selective = RESUSelective(torch.zeros(8), mask)
    with pytest.raises(MaskError, match=r"the gradient has shape \(4, 5\)"):
        selective.step(torch.ones(4, 5))
    with pytest.raises(CheckpointError, match=r"\['v'\] are missing"):
        selective.load_state_dict({"m": torch.zeros(8), "step_count": 1, "skipped_steps": 0})
    with pytest.raises(CheckpointError, match=r"8 pruned coordinates here; m has shape \(7,\)"):
        selective.load_state_dict({"m": torch.zeros(7), "v": torch.zeros(8), "step_count": 1, "skipped_steps": 0})
