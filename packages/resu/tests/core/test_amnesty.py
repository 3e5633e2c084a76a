"""Amnesty: the schedule, the tournament against a plain one, shortfalls, rates, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resu.core.amnesty import Amnesty, compute_mask_churn, compute_resurrection_rate
from resu.core.mask import SparseMask
from resu.core.select import Candidate
from resu.errors import ConfigError, MaskError


def plain_tournament(scores: np.ndarray, old: np.ndarray, sparsity: float, r: float) -> np.ndarray:
    """Two sorted pools, and the shortfall rule counted place by place."""
    flat, active = scores.ravel(), old.ravel()
    keep = flat.size - round(sparsity * flat.size)
    ranked = np.argsort(-flat, kind="stable")
    pools = {True: [i for i in ranked if active[i]], False: [i for i in ranked if not active[i]]}
    reserved = int(r * keep)
    chosen = pools[False][:reserved] + pools[True][: keep - reserved]
    spare = pools[False][reserved:] + pools[True][keep - reserved :]
    chosen += spare[: keep - len(chosen)]
    new = np.zeros(flat.size, dtype=bool)
    new[chosen] = True
    return new.reshape(scores.shape)


def test_the_budget_falls_linearly_and_stays() -> None:
    amnesty = Amnesty(r_start=0.10, r_end=0.02, total_cycles=5)
    assert [amnesty.resurrection_budget(c) for c in range(7)] == pytest.approx(
        [0.1, 0.084, 0.068, 0.052, 0.036, 0.02, 0.02]
    )


@given(
    shape=st.sampled_from([(1, 1), (5, 7), (3, 2, 2, 2), (33,), (2, 70)]),
    seed=st.integers(0, 1000),
    old=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
    new=st.sampled_from([0.0, 0.2, 0.5, 0.77, 0.9]),
    r=st.sampled_from([0.0, 0.1, 0.3, 0.95, 1.0]),
    ties=st.booleans(),
)
def test_the_tournament_equals_a_plain_one(
    shape: tuple[int, ...], seed: int, old: float, new: float, r: float, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, shape).astype(np.float32) if ties else rng.random(shape).astype(np.float32)
    mask = SparseMask.random(shape, old, seed=seed)
    result = Amnesty(r, r).relative_tournament(torch.from_numpy(scores), mask, new, cycle=0)
    before, after = mask.to_bool().numpy(), result.new_mask.to_bool().numpy()
    np.testing.assert_array_equal(after, plain_tournament(scores, before, new, r))
    assert after.sum() == after.size - round(new * after.size)
    assert result.n_active_kept == (before & after).sum()
    assert result.n_active_pruned == (before & ~after).sum()
    assert result.n_resurrected_kept == (~before & after).sum()
    assert result.n_resurrected_pruned == (~before & ~after).sum()
    assert result.resurrection_budget == r


def test_pruned_weights_are_protected_however_small_their_scores() -> None:
    mask = SparseMask(torch.arange(100).view(10, 10) < 50)
    scores = torch.where(mask.to_bool(), 100.0, torch.arange(100.0).view(10, 10) / 100)
    result = Amnesty(0.2, 0.2).relative_tournament(scores, mask, 0.5, cycle=0)
    assert result.new_mask.active_indices.tolist() == [*range(40), *range(90, 100)]


def test_places_that_a_pool_cannot_fill_go_to_the_other() -> None:
    scores = torch.arange(10.0).view(1, 10)
    few_active = SparseMask(torch.arange(10).view(1, 10) < 2)
    # Eight places, none reserved, two active: the six others come from the pruned pool.
    assert Amnesty(0.0, 0.0).relative_tournament(scores, few_active, 0.2, 0).new_mask.active_indices.tolist() == [
        0,
        1,
        *range(4, 10),
    ]
    few_pruned = SparseMask(torch.arange(10).view(1, 10) < 9)
    # Five places, all reserved, one pruned: four go back to the active pool.
    assert Amnesty(1.0, 1.0).relative_tournament(scores, few_pruned, 0.5, 0).new_mask.active_indices.tolist() == [
        5,
        6,
        7,
        8,
        9,
    ]


def test_equal_scores_go_by_flat_index() -> None:
    mask = SparseMask(torch.arange(8).view(2, 4) % 2 == 0)
    result = Amnesty(0.5, 0.5).relative_tournament(torch.zeros(2, 4), mask, 0.5, 0)
    assert result.new_mask.active_indices.tolist() == [0, 1, 2, 3]


def test_a_commit_scores_by_slices_and_leaves_the_weight_alone() -> None:
    weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    mask, before = SparseMask.random((64, 48), 0.7), weight.clone()
    amnesty = Amnesty(0.3, 0.1, total_cycles=4)
    new, result = amnesty.commit_with_amnesty(weight, mask, 0.8, cycle=2)
    assert torch.equal(weight, before)
    np.testing.assert_array_equal(
        new.to_bool().numpy(), plain_tournament(weight.abs().numpy(), mask.to_bool().numpy(), 0.8, 0.2)
    )
    assert result.n_resurrected_kept == int(0.2 * new.n_active)


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 2)])
def test_the_three_scores(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    w, g, x = rng.normal(size=shape), rng.normal(size=shape), rng.random(6)
    weight, grad, norms = (torch.from_numpy(a).float() for a in (w, g, x))
    amnesty = Amnesty()
    np.testing.assert_allclose(amnesty.compute_scores(weight), np.abs(w), rtol=1e-6)
    np.testing.assert_allclose(amnesty.compute_scores(weight, "gradient", gradients=grad), np.abs(w * g), rtol=1e-6)
    wanda = (np.abs(w).reshape(4, 6) * x).reshape(shape)
    np.testing.assert_allclose(
        Amnesty(score_type="wanda").compute_scores(weight, activation_norms=norms), wanda, rtol=1e-6
    )
    mask = SparseMask.random(shape, 0.5)
    new, _ = amnesty.commit_with_amnesty(weight, mask, 0.5, 0, "wanda", norms)
    np.testing.assert_array_equal(
        new.to_bool().numpy(), plain_tournament(wanda.astype(np.float32), mask.to_bool().numpy(), 0.5, 0.1)
    )


def test_rate_and_churn_are_counts_of_bits() -> None:
    old, new = SparseMask.random((30, 41), 0.6, seed=1), SparseMask.random((30, 41), 0.7, seed=2)
    a, b = old.to_bool().numpy(), new.to_bool().numpy()
    assert compute_resurrection_rate(old, new) == pytest.approx((~a & b).sum() / (~a).sum())
    churn = compute_mask_churn(old, new)
    assert churn == pytest.approx(
        {
            "stable_active": (a & b).mean(),
            "stable_pruned": (~a & ~b).mean(),
            "changed": (a ^ b).mean(),
            "jaccard": (a & b).sum() / (a | b).sum(),
        }
    )
    assert compute_mask_churn(old, old)["changed"] == 0
    assert compute_resurrection_rate(SparseMask.ones((2, 2)), SparseMask.ones((2, 2))) == 0
    assert compute_mask_churn(SparseMask.zeros((2, 2)), SparseMask.zeros((2, 2)))["jaccard"] == 1


def test_what_cannot_be_is_refused() -> None:
    for name in ("r_start", "r_end"):
        with pytest.raises(ConfigError, match=rf"{name} is a share of the places, from 0 to 1; got 1\.5"):
            Amnesty(**{name: 1.5})
    with pytest.raises(ConfigError, match="total_cycles is at least 1; got 0"):
        Amnesty(total_cycles=0)
    with pytest.raises(ConfigError, match="cycles are counted from 0; got -1"):
        Amnesty().resurrection_budget(-1)
    weight, mask = torch.ones(2, 3), SparseMask.ones((2, 3))
    with pytest.raises(ConfigError, match=r"needs gradients; got none"):
        Amnesty().compute_scores(weight, "gradient")
    with pytest.raises(MaskError, match=r"gradients have the weight's shape, \(2, 3\); these have \(3, 2\)"):
        Amnesty().compute_scores(weight, "gradient", gradients=torch.ones(3, 2))
    with pytest.raises(ConfigError, match=r"needs activation_norms; got none"):
        Amnesty().compute_scores(weight, "wanda")
    with pytest.raises(MaskError, match=r"one a column, 3 here; these have shape \(2,\)"):
        Amnesty().compute_scores(weight, "wanda", activation_norms=torch.ones(2))
    with pytest.raises(MaskError, match=r"the tensor of scores has shape \(3, 2\)"):
        Amnesty().relative_tournament(torch.ones(3, 2), mask, 0.5, 0)
    with pytest.raises(MaskError, match=r"the weight has shape \(3, 2\)"):
        Amnesty().commit_with_amnesty(torch.ones(3, 2), mask, 0.5, 0)
    with pytest.raises(MaskError, match=r"at least 0 and below 1; got 1"):
        Amnesty().commit_with_amnesty(weight, mask, 1.0, 0)
    with pytest.raises(MaskError, match="NaN"):
        Amnesty().commit_with_amnesty(weight * float("nan"), mask, 0.5, 0)


def test_an_unknown_score_is_refused_where_types_are_not_checked() -> None:
    unchecked: Any = Amnesty.__init__
    while hasattr(unchecked, "__wrapped__"):
        unchecked = unchecked.__wrapped__
    with pytest.raises(ConfigError, match=r"one of magnitude, gradient, wanda; got 'size'"):
        unchecked(Amnesty.__new__(Amnesty), score_type="size")


def test_ranks_that_hold_the_rows_count_places_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shards of four and five rows; how a selection spans ranks is the selection's own matter."""
    mask = SparseMask.random((9, 20), 0.6, seed=3).to_bool()
    shards = [SparseMask(mask[:4]), SparseMask(mask[4:])]
    sums: dict[int, int] = {}
    for pick in (lambda shard: shard.numel, lambda shard: shard.n_active):
        sums |= {pick(shard): sum(pick(each) for each in shards) for shard in shards}
    asked: list[tuple[bool, int]] = []

    def select(candidates: list[Candidate], k: int, *, group: object) -> list[SparseMask]:
        asked.append((candidates[0].pruned, k))
        return [SparseMask.zeros(candidates[0].shape)]

    monkeypatch.setattr("resu.core.amnesty.sum_over_ranks", lambda count, group: sums[count])
    monkeypatch.setattr("resu.core.amnesty.select_top", select)
    for shard in shards:
        Amnesty(0.3, 0.3).relative_tournament(torch.ones(shard.shape), shard, 0.7, 0)
    # 180 coordinates, 54 places, a share of 0.3 of them for the pruned pool, on each rank alike.
    assert asked == [(False, 38), (True, 16)] * 2
