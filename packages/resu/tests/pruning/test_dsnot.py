"""DSNoT: the rule row by row in float64, what it must keep, what it must gain, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from resu.core.mask import SparseMask
from resu.errors import CalibrationError, MaskError
from resu.pruning.dsnot import dsnot, dsnot_mask, mean_error
from resu.pruning.wanda import ColumnStatistics, calibrate, wanda


def plain(
    w: np.ndarray, active: np.ndarray, x: np.ndarray, iterations: int, tolerance: float, gamma: float, any_drop: bool
) -> np.ndarray:
    """Swap after swap, row after row."""
    mean, variance, norm = x.mean(0), x.var(0), np.linalg.norm(x, axis=0)
    active, rests = active.copy(), np.zeros(len(w), dtype=bool)
    error = np.array([sum(w[r, k] * mean[k] for k in range(w.shape[1]) if not active[r, k]) for r in range(len(w))])
    for _ in range(iterations):
        moved = 0.0
        for r in range(len(w)):
            kept, pruned = np.flatnonzero(active[r]), np.flatnonzero(~active[r])
            if not any_drop:
                kept = [k for k in kept if np.sign(error[r]) * w[r, k] * mean[k] < 0]
            if rests[r] or not len(kept) or not pruned.size:
                rests[r] = True
                continue
            grow = max(pruned, key=lambda k: np.sign(error[r]) * w[r, k] * mean[k] / variance[k] ** gamma)
            drop = min(kept, key=lambda k: abs(w[r, k]) * norm[k])
            change = w[r, drop] * mean[drop] - w[r, grow] * mean[grow]
            if abs(error[r] + change) < abs(error[r]):
                active[r, [grow, drop]] = True, False
                error[r] += change
                moved += abs(change)
            else:
                rests[r] = True
        if moved / len(w) < tolerance:
            break
    return active


def data(rows: int, cols: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, cols)) * (0.2 + rng.random(cols)) + rng.normal(size=cols)
    return rng.normal(size=(rows, cols)).astype(np.float32), rng.random((rows, cols)) < 0.5, x


def statistics_of(x: np.ndarray) -> ColumnStatistics:
    squares = ((x - x.mean(0)) ** 2).sum(0)
    return ColumnStatistics(len(x), torch.from_numpy(x.mean(0))[None], torch.from_numpy(squares)[None])


@given(
    rows=st.integers(1, 5),
    cols=st.integers(1, 70),
    seed=st.integers(0, 10_000),
    gamma=st.sampled_from([0.0, 0.5, 1.0]),
    tolerance=st.sampled_from([0.0, 0.01, 0.5]),
    any_drop=st.booleans(),
)
def test_swaps_equal_a_plain_loop(
    rows: int, cols: int, seed: int, gamma: float, tolerance: float, any_drop: bool
) -> None:
    w, active, x = data(rows, cols, seed)
    mask = SparseMask(torch.from_numpy(active))
    statistics = statistics_of(x)
    new = dsnot_mask(torch.from_numpy(w), mask, statistics, gamma=gamma, tolerance=tolerance, any_drop=any_drop)
    expected = plain(w.astype(float), active, x, 50, tolerance, gamma, any_drop)
    np.testing.assert_array_equal(new.to_bool().numpy(), expected)


@given(rows=st.integers(1, 6), cols=st.integers(2, 80), seed=st.integers(0, 10_000))
def test_rows_keep_their_number_and_never_end_worse(rows: int, cols: int, seed: int) -> None:
    w, active, x = data(rows, cols, seed)
    weight, mask, statistics = torch.from_numpy(w), SparseMask(torch.from_numpy(active)), statistics_of(x)
    before = mask.clone()
    new = dsnot_mask(weight, mask, statistics)
    assert mask == before
    np.testing.assert_array_equal(new.to_bool().sum(1), active.sum(1))
    old_error, new_error = (mean_error(weight, each, statistics).abs() for each in (mask, new))
    assert (new_error <= old_error + 1e-5).all()


def test_the_mean_error_is_that_of_the_outputs() -> None:
    w, active, x = data(6, 33, 0)
    expected = (x @ w.astype(float).T - x @ (w * active).astype(float).T).mean(0)
    found = mean_error(torch.from_numpy(w), SparseMask(torch.from_numpy(active)), statistics_of(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_after_wanda_it_brings_the_mean_output_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 16))
    batches = [torch.randn(64, 40) + 0.5 for _ in range(4)]
    statistics, masks = calibrate(model, batches), wanda(model, batches, 0.7)
    tuned, loose = (dsnot(model, masks, statistics, any_drop=any_drop) for any_drop in (False, True))
    for name, weight in (("0.weight", model[0].weight), ("2.weight", model[2].weight)):
        before, after, original = (
            mean_error(weight, m[name], statistics[name]).abs().mean() for m in (masks, tuned, loose)
        )
        assert after < 0.4 * before
        assert after < original < before
        assert tuned[name].n_active == masks[name].n_active


def test_iterations_bound_the_swaps() -> None:
    w, active, x = data(4, 60, 1)
    mask, statistics = SparseMask(torch.from_numpy(active)), statistics_of(x)
    assert dsnot_mask(torch.from_numpy(w), mask, statistics, iterations=0) == mask
    once = dsnot_mask(torch.from_numpy(w), mask, statistics, iterations=1)
    assert (once.difference(mask).to_bool().sum(1) <= 1).all()
    assert once != mask


def test_the_last_bit_of_a_word_can_be_swapped() -> None:
    w = torch.zeros(1, 64)
    w[0, 31], w[0, 63] = 4.0, -1.0
    mask = SparseMask(torch.arange(64)[None] == 63)
    ones = torch.ones(1, 64).double()
    assert dsnot_mask(w, mask, ColumnStatistics(4, ones, ones.clone())).active_indices.tolist() == [31]


def test_columns_that_never_vary_are_trusted_most_and_break_nothing() -> None:
    w, mask = torch.tensor([[-1.0, 2.0, 2.5]]), SparseMask(torch.tensor([[True, False, False]]))
    statistics = ColumnStatistics(4, torch.ones(1, 3).double(), torch.tensor([[4.0, 4.0, 0.0]]).double())
    assert dsnot_mask(w, mask, statistics).active_indices.tolist() == [2]


def test_convolutions_with_groups_use_the_columns_of_their_group() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv1d(4, 6, 3, groups=2, bias=False), torch.randn(20, 4, 9) + 1
    statistics, masks = calibrate(conv, [x]), wanda(conv, [x], 0.5)
    expected = (conv(x) - nn.functional.conv1d(x, masks["weight"].apply(conv.weight), groups=2)).mean((0, 2))
    torch.testing.assert_close(mean_error(conv.weight, masks["weight"], statistics["weight"]), expected.detach())
    tuned = dsnot(conv, masks, statistics)["weight"]
    after = mean_error(conv.weight, tuned, statistics["weight"]).abs()
    assert after.mean() < expected.abs().mean()


@pytest.mark.parametrize("mask", [SparseMask.ones((2, 5)), SparseMask.zeros((2, 5))])
def test_nothing_to_swap_is_no_error(mask: SparseMask) -> None:
    _, _, x = data(2, 5, 0)
    assert dsnot_mask(torch.randn(2, 5), mask, statistics_of(x)) == mask


def test_what_cannot_be_is_refused() -> None:
    w, active, x = data(3, 5, 0)
    weight, mask, statistics = torch.from_numpy(w), SparseMask(torch.from_numpy(active)), statistics_of(x)
    with pytest.raises(CalibrationError, match=r"those of layer are all 0. Run it before masks are put into force"):
        dsnot_mask(mask.apply(weight), mask, statistics, name="layer")
    with pytest.raises(MaskError, match=r"the weight has shape \(3, 4\)"):
        dsnot_mask(weight[:, :4], mask, statistics)
    with pytest.raises(CalibrationError, match=r"weight has 3 rows of 5 columns; .* 1 group\(s\) of 4 columns"):
        dsnot_mask(weight, mask, statistics_of(x[:, :4]))
    with pytest.raises(CalibrationError, match=r"at least 0; got -1"):
        dsnot_mask(weight, mask, statistics, iterations=-1)
    with pytest.raises(CalibrationError, match=r"other\.weight lacks one"):
        dsnot(nn.Linear(5, 3), {"other.weight": mask}, {"other.weight": statistics})
