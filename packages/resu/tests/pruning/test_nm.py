"""N:M: exact groups, partial groups and what fills them, commits, verification."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resu.core.mask import SparseMask
from resu.errors import MaskError
from resu.pruning.magnitude import magnitude_mask
from resu.pruning.nm import commit_nm, fill_nm, nm_mask, partial_nm_mask, verify_nm

PATTERNS = [(2, 4), (1, 4), (4, 8), (3, 3), (1, 1), (1, 10)]


def weight_of(rows: int, groups: int, m: int, seed: int, ties: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (rows, groups * m)
    return (rng.integers(-1, 2, shape) if ties else rng.normal(size=shape)).astype(np.float32)


def best(size: np.ndarray, n: int, m: int) -> np.ndarray:
    flags = np.zeros(size.size, dtype=bool).reshape(-1, m)
    for group, line in zip(size.reshape(-1, m), flags, strict=True):
        line[np.argsort(-group, kind="stable")[:n]] = True
    return flags.reshape(size.shape)


@given(
    pattern=st.sampled_from(PATTERNS),
    rows=st.integers(1, 5),
    groups=st.integers(1, 9),
    seed=st.integers(0, 1000),
    ties=st.booleans(),
)
def test_every_group_keeps_exactly_n(pattern: tuple[int, int], rows: int, groups: int, seed: int, ties: bool) -> None:
    n, m = pattern
    w = weight_of(rows, groups, m, seed, ties)
    mask = nm_mask(torch.from_numpy(w), n, m)
    np.testing.assert_array_equal(mask.to_bool().numpy(), best(np.abs(w), n, m))
    report = verify_nm(mask, n, m)
    assert (report.groups, report.full, report.under, report.over) == (rows * groups, rows * groups, 0, 0)
    assert report.holds
    assert report.exact
    assert mask.n_active == rows * groups * n


@given(pattern=st.sampled_from([(2, 4), (1, 4)]), seed=st.integers(0, 1000), sparsity=st.sampled_from([0.3, 0.5, 0.8]))
def test_partial_filled_and_committed(pattern: tuple[int, int], seed: int, sparsity: float) -> None:
    n, m = pattern
    w = weight_of(6, 10, m, seed)
    weight = torch.from_numpy(w)
    partial = partial_nm_mask(weight, sparsity, n, m)
    expected = magnitude_mask(weight, sparsity).to_bool().numpy() & best(np.abs(w), n, m)
    active = partial.to_bool().numpy()
    np.testing.assert_array_equal(active, expected)
    assert verify_nm(partial, n, m).holds
    subset = fill_nm(partial, n, m)
    assert partial.overlap_with(subset) == 0
    assert verify_nm(partial | subset, n, m).exact
    for group, filled in zip(active.reshape(-1, m), subset.to_bool().numpy().reshape(-1, m), strict=True):
        assert np.flatnonzero(filled).tolist() == np.flatnonzero(~group)[: n - group.sum()].tolist()
    trained = torch.randn(w.shape, generator=torch.Generator().manual_seed(seed))
    merged = commit_nm(trained, partial, subset, n, m)
    assert merged == partial | subset
    open_commit = commit_nm(trained, partial, None, n, m)
    np.testing.assert_array_equal(open_commit.to_bool().numpy(), best(trained.abs().numpy(), n, m))


def test_a_commit_ranks_old_weights_and_theta_together() -> None:
    mask = SparseMask(torch.tensor([[True, True, False, False]]))
    subset = SparseMask(torch.tensor([[False, False, True, False]]))
    assert commit_nm(torch.tensor([[3.0, 1.0, -2.0, 9.0]]), mask, subset).active_indices.tolist() == [0, 2]
    one = SparseMask(torch.tensor([[True, False, False, False]]))
    assert commit_nm(torch.tensor([[3.0, 1.0, 2.0, 9.0]]), one, SparseMask.zeros((1, 4))).active_indices.tolist() == [0]


def test_groups_that_are_already_too_full_get_nothing() -> None:
    assert fill_nm(SparseMask(torch.tensor([[True, True, True, False]]))).n_active == 0


def test_verification_reads_masks_and_weights() -> None:
    w = torch.tensor([[1.0, 0, 2, 0, 1, 1, 1, 0, 0, 0, 0, 5]])
    for what in (w, SparseMask(w), w.view(1, 3, 2, 2), w[0]):
        report = verify_nm(what)
        assert (report.groups, report.full, report.under, report.over) == (3, 1, 1, 1)
        assert not report.holds
        assert not report.exact


@pytest.mark.parametrize("shape", [(3, 2, 2, 2), (16,)])
def test_convolutions_and_vectors_have_groups_along_their_columns(shape: tuple[int, ...]) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = nm_mask(w, 2, 4)
    assert mask.shape == shape
    rows = w.abs().reshape(1 if len(shape) == 1 else shape[0], -1).numpy()
    np.testing.assert_array_equal(mask.to_bool().numpy().reshape(rows.shape), best(rows, 2, 4))


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4)])
def test_patterns_that_are_none_are_refused(n: int, m: int) -> None:
    mask = SparseMask.ones((2, 8))
    for call in (
        lambda: nm_mask(torch.ones(2, 8), n, m),
        lambda: partial_nm_mask(torch.ones(2, 8), 0.5, n, m),
        lambda: fill_nm(mask, n, m),
        lambda: commit_nm(torch.ones(2, 8), mask, None, n, m),
        lambda: verify_nm(mask, n, m),
    ):
        with pytest.raises(MaskError, match=rf"1 ≤ n ≤ m; got n = {n}, m = {m}"):
            call()


def test_columns_that_m_does_not_divide_are_refused() -> None:
    with pytest.raises(
        MaskError, match=r"columns of a weight, 6 here, which 4 does not divide; the shape is \(2, 3, 2\)"
    ):
        nm_mask(torch.ones(2, 3, 2))
    with pytest.raises(MaskError, match=r"the weight has shape \(2, 8\)"):
        commit_nm(torch.ones(2, 8), SparseMask.ones((4, 4)))
