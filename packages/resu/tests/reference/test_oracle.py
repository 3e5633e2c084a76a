"""The plain forms themselves, on numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resu.reference import oracle

MASK = np.array([[True, False, True], [False, False, True]])


def test_phi_by_hand() -> None:
    theta = np.array([5.0, 6.0, 7.0])
    dense = oracle.phi(theta, MASK)
    assert dense.tolist() == [[0, 5, 0], [6, 7, 0]]
    assert oracle.phi_inverse(dense, MASK).tolist() == [5, 6, 7]
    weight = np.array([[1.0, 9.0, 2.0], [9.0, 9.0, 3.0]])
    assert oracle.effective_weight(weight, theta, MASK).tolist() == [[1, 5, 2], [6, 7, 3]]
    grad = np.arange(6.0).reshape(2, 3)
    frozen, grad_theta = oracle.effective_weight_gradients(grad, MASK, True)
    assert (frozen, grad_theta.tolist()) == (None, [1, 3, 4])
    assert oracle.effective_weight_gradients(grad, MASK, False)[0].tolist() == [[0, 0, 2], [0, 0, 5]]


def test_gradients_are_those_of_finite_differences() -> None:
    rng = np.random.default_rng(0)
    weight, theta, upstream = rng.normal(size=(2, 3)), rng.normal(size=3), rng.normal(size=(2, 3))

    def loss(w: np.ndarray, t: np.ndarray) -> float:
        return float((oracle.effective_weight(w, t, MASK) ** 3 * upstream).sum())

    outer = 3 * oracle.effective_weight(weight, theta, MASK) ** 2 * upstream
    grad_weight, grad_theta = oracle.effective_weight_gradients(outer, MASK, False)
    for index in np.ndindex(2, 3):
        step = np.zeros((2, 3))
        step[index] = 1e-6
        assert (loss(weight + step, theta) - loss(weight - step, theta)) / 2e-6 == pytest.approx(
            grad_weight[index], abs=1e-7
        )
    for j in range(3):
        step = np.eye(3)[j] * 1e-6
        assert (loss(weight, theta + step) - loss(weight, theta - step)) / 2e-6 == pytest.approx(
            grad_theta[j], abs=1e-7
        )


def test_standard_deviation_by_hand() -> None:
    assert oracle.active_std(np.array([1.0, 2.0, 4.0, 50.0]), np.array([True, True, True, False])) == pytest.approx(
        math.sqrt(7 / 3)
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_with_everything_writable_is_torchs(weight_decay: float) -> None:
    rng = np.random.default_rng(1)
    w = rng.normal(size=(3, 4))
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    stock = torch.optim.AdamW([parameter], lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=weight_decay)
    m, v, everything = np.zeros_like(w), np.zeros_like(w), np.ones_like(w, bool)
    for step in range(1, 6):
        gradient = rng.normal(size=(3, 4))
        parameter.grad = torch.from_numpy(gradient)
        stock.step()
        w, m, v = oracle.masked_adamw_step(w, gradient, m, v, everything, step, 0.05, (0.8, 0.95), 1e-6, weight_decay)
    np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(m, stock.state[parameter]["exp_avg"].numpy(), rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_everything_writable_is_torchs(nesterov: bool) -> None:
    rng = np.random.default_rng(2)
    w = rng.normal(size=5)
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    stock = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.2, nesterov=nesterov)
    b = np.zeros(5)
    for _ in range(5):
        gradient = rng.normal(size=5)
        parameter.grad = torch.from_numpy(gradient)
        stock.step()
        w, b = oracle.masked_sgd_step(w, gradient, b, np.ones(5, bool), 0.1, 0.9, 0.2, nesterov)
    np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=1e-12)


def test_frozen_coordinates_stay_and_written_ones_step_as_if_alone() -> None:
    rng = np.random.default_rng(3)
    w, g, m, v = rng.normal(size=(4, 2, 3))
    v = abs(v)
    found = oracle.masked_adamw_step(w, g, m, v, MASK, 2, 0.1, weight_decay=0.5)
    alone = oracle.adam_theta_step(w[MASK], g[MASK], m[MASK], v[MASK], 2, 0.1, weight_decay=0.5)
    for before, after, own in zip((w, m, v), found, alone, strict=True):
        np.testing.assert_array_equal(after[~MASK], before[~MASK])
        np.testing.assert_array_equal(after[MASK], own)
    moved, momentum = oracle.masked_sgd_step(w, g, m, MASK, 0.1, 0.9, 0.5)
    np.testing.assert_array_equal(moved[~MASK], w[~MASK])
    np.testing.assert_array_equal(momentum[~MASK], m[~MASK])
    assert (moved[MASK] != w[MASK]).all()


# --- selection --------------------------------------------------------------------------------------------------------


def test_top_k_with_ties_by_hand() -> None:
    scores = np.array([[2.0, 1.0, 2.0], [2.0, 3.0, 0.0]])
    assert oracle.top_k(scores, 3).tolist() == [[True, False, True], [False, True, False]]
    assert oracle.top_k(scores, 2, MASK).tolist() == [[True, False, True], [False, False, False]]
    assert not oracle.top_k(scores, 0).any()
    first, second = oracle.top_k_over([np.zeros(2), np.zeros(2)], 3)
    assert (first.tolist(), second.tolist()) == ([True, True], [True, False])


@given(scores=st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0]), min_size=1, max_size=20), data=st.data())
def test_top_k_keeps_exactly_k_and_nothing_better_is_left_out(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(scores)))
    values = np.array(scores)
    chosen = oracle.top_k(values, k)
    assert chosen.sum() == k
    if 0 < k < len(scores):
        assert values[chosen].min() >= values[~chosen].max()
        tied = np.flatnonzero(values == values[chosen].min())
        inside = chosen[tied]
        assert not (np.diff(inside.astype(int)) > 0).any(), "of equals the first stay"


def test_a_selective_step_by_hand() -> None:
    # p = 5: at most ⌊2.5⌋ = 2 pass by size, at most 1 moves.
    theta, grad = np.zeros(5), np.array([4.0, -3.0, 1.0, 0.5, 0.25])
    mean, mean_abs = np.array([-4.0, -1.0, 0.0, 0.0, 0.0]), np.array([4.0, 1.0, 1.0, 1.0, 1.0])
    step = oracle.selective_step(theta, grad, mean, mean_abs, lr=0.5, beta=0.5, delta=0.0)
    np.testing.assert_allclose(step.mean, [0.0, -2.0, 0.5, 0.25, 0.125])
    np.testing.assert_allclose(step.mean_abs, [4.0, 2.0, 1.0, 0.75, 0.625])
    np.testing.assert_allclose(step.consistency, [0.0, 1.0, 0.5, 1 / 3, 0.2])
    assert step.selected.tolist() == [False, True, False, False, False]
    np.testing.assert_allclose(step.theta, [0.0, 1.5, 0.0, 0.0, 0.0])


def test_a_threshold_is_strict_and_decay_reaches_all_of_theta() -> None:
    grad = np.array([1.0, 1.0])
    step = oracle.selective_step(np.ones(2), grad, -grad / 3, grad, lr=0.5, beta=0.5, delta=0.0, tau=1 / 3)
    assert step.consistency.tolist() == pytest.approx([1 / 3, 1 / 3])
    half = oracle.selective_step(
        np.ones(2), grad, np.zeros(2), grad, lr=0.5, beta=0.5, delta=0.0, tau=0.5, weight_decay=0.5
    )
    assert half.consistency.tolist() == [0.5, 0.5]
    assert not half.selected.any()
    assert half.theta.tolist() == [0.75, 0.75]


# --- amnesty ----------------------------------------------------------------------------------------------------------


def test_budgets_and_places_by_hand() -> None:
    assert [oracle.amnesty_ratio(c, 4, 0.10, 0.02) for c in range(6)] == [0.10, 0.08, 0.06, 0.04, 0.02, 0.02]
    assert oracle.amnesty_counts(100, 0.9, 0.1) == (9, 1)
    assert oracle.amnesty_counts(10, 0.9, 0.1) == (1, 0)
    assert oracle.amnesty_counts(1000, 0.29, 0.3) == (497, 213)


def test_pools_never_meet_and_shortfalls_are_filled_from_the_pruned_first() -> None:
    scores = np.array([9.0, 8.0, 7.0, 3.0, 2.0, 1.0])
    mask = np.array([True, True, True, False, False, False])
    assert oracle.amnesty_tournament(scores, mask, 2, 1).tolist() == [True, True, False, True, False, False]
    assert oracle.amnesty_tournament(scores, ~mask, 2, 1).tolist() == [True, False, False, True, True, False]
    few = np.array([True, False, False, False, False, False])
    assert oracle.amnesty_tournament(scores, few, 3, 1).tolist() == [True, True, True, True, False, False]
    many = ~few
    assert oracle.amnesty_tournament(scores, many, 1, 3).tolist() == [True, True, True, True, False, False]


@given(
    n=st.integers(2, 30),
    sparsity=st.floats(0, 0.99),
    share=st.floats(0, 1),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_tournament_gives_exactly_its_places(n: int, sparsity: float, share: float, ratio: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(n) < share
    places = oracle.amnesty_counts(n, sparsity, ratio)
    chosen = oracle.amnesty_tournament(rng.integers(0, 4, n).astype(float), mask, *places)
    assert chosen.sum() == sum(places)
    assert (chosen & ~mask).sum() >= min(places[1], (~mask).sum())
