from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resu.core.bits import pack_rows, popcount, unpack_rows
from resu.core.mask import SparseMask, chunk_rows, row_shape
from resu.core.signs import SignBitMask
from resu.errors import MaskError

SHAPES = st.sampled_from([(1,), (7,), (1, 1), (3, 31), (3, 32), (4, 33), (5, 100), (2, 3, 3, 3), (70, 129)])


def flags_of(shape: tuple[int, ...], seed: int, density: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


@given(SHAPES, st.integers(0, 99), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_a_mask_is_the_set_that_it_was_made_from(shape: tuple[int, ...], seed: int, density: float) -> None:
    flags = flags_of(shape, seed, density)
    mask = SparseMask(torch.from_numpy(flags))
    assert np.array_equal(mask.to_bool().numpy(), flags)
    assert mask.n_active == flags.sum()
    assert mask.n_pruned == flags.size - flags.sum()
    assert np.array_equal(mask.active_indices.numpy(), np.flatnonzero(flags))
    assert np.array_equal(mask.pruned_indices.numpy(), np.flatnonzero(~flags))
    assert mask.sparsity + mask.density == pytest.approx(1)
    assert SparseMask.from_state_dict(mask.state_dict()) == mask


@given(SHAPES, st.integers(0, 99))
def test_set_algebra_is_numpys(shape: tuple[int, ...], seed: int) -> None:
    a, b = flags_of(shape, seed), flags_of(shape, seed + 1000, 0.3)
    x, y = SparseMask(torch.from_numpy(a)), SparseMask(torch.from_numpy(b))
    for mask, expected in ((x & y, a & b), (x | y, a | b), (~x, ~a), (x.difference(y), a & ~b)):
        assert np.array_equal(mask.to_bool().numpy(), expected)
        assert mask.n_active == expected.sum()  # no bit beyond the last column
    assert x.overlap_with(y) == (a & b).sum()
    union = (a | b).sum()
    assert x.jaccard_similarity(y) == pytest.approx((a & b).sum() / union if union else 1.0)


def test_the_layout_of_bits_is_the_documented_one() -> None:
    mask = SparseMask.zeros((2, 40))
    flags = mask.to_bool()
    flags[1, 33] = flags[0, 31] = True
    words = SparseMask(flags).bits
    assert words.dtype == torch.int32
    assert words.tolist() == [[-(1 << 31), 0], [0, 2]]
    assert SparseMask(flags).state_dict()["bits"].tolist() == [[0, 0, 0, 128, 0], [0, 0, 0, 0, 2]]


def test_packing_is_its_own_inverse_and_counts() -> None:
    flags = torch.from_numpy(flags_of((129, 95), 3))
    words = pack_rows(flags)
    assert torch.equal(unpack_rows(words, 95), flags)
    assert popcount(words) == int(flags.sum())
    assert popcount(torch.full((3000, 7), -1, dtype=torch.int32)) == 3000 * 7 * 32


@given(SHAPES, st.integers(0, 99))
def test_both_parts_add_up_and_stop_what_is_not_finite(shape: tuple[int, ...], seed: int) -> None:
    mask = SparseMask(torch.from_numpy(flags_of(shape, seed)))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(mask.apply(x) + mask.apply_inverse(x), x)
    assert torch.equal(mask.where(x, 2 * x), torch.where(mask.to_bool(), x, 2 * x))
    poisoned = mask.where(x, torch.full_like(x, torch.nan))
    assert torch.isfinite(mask.apply(poisoned)).all()
    inplace = x.clone()
    assert torch.equal(mask.apply_(inplace), mask.apply(x))
    assert torch.equal(mask.apply_(x.clone(), inverse=True), mask.apply_inverse(x))


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_random_masks_are_exact_and_repeatable(sparsity: float) -> None:
    mask = SparseMask.random((37, 41), sparsity, seed=5)
    assert mask.n_pruned == round(sparsity * 37 * 41)
    assert mask == SparseMask.random((37, 41), sparsity, seed=5)
    if 0 < sparsity < 0.999:
        assert mask != SparseMask.random((37, 41), sparsity, seed=6)


def test_a_mask_in_signs_is_the_same_mask() -> None:
    flags = torch.from_numpy(flags_of((9, 33), 1))
    second = torch.rand(9, 33)
    second[0] = 0
    carried = SignBitMask(second, (9, 33))
    before = second.clone()
    carried.update_inplace(SparseMask(flags))
    assert carried == SparseMask(flags)
    assert carried.n_active == int(flags.sum())
    assert carried.nbytes == 0
    assert torch.equal(second.abs(), before)
    carried.update_inplace(SparseMask(~flags))
    assert torch.equal(carried.to_bool(), ~flags)


def test_in_place_changes_are_counted_anew() -> None:
    mask = SparseMask.ones((4, 40))
    assert mask.n_active == 160
    words = mask.bits
    mask.update_inplace(SparseMask.random((4, 40), 0.5))
    assert mask.n_active == 80
    assert mask.bits is words
    mask.set_rows(slice(0, 1), torch.zeros(1, 40, dtype=torch.bool))
    assert mask.n_active == int(mask.to_bool().sum())


def test_chunks_cover_everything_and_stay_small() -> None:
    parts = list(chunk_rows(1024, 1024))
    assert parts[0].start == 0
    assert parts[-1].stop == 1024
    assert all(a.stop == b.start for a, b in pairwise(parts))
    assert max(p.stop - p.start for p in parts) * 1024 <= 1024 * 1024 // 256
    assert len(list(chunk_rows(300, 64))) == 1


def test_bad_input_is_refused() -> None:
    with pytest.raises(MaskError, match=r"at least one dimension and one element"):
        SparseMask(torch.tensor(1.0))
    with pytest.raises(MaskError, match=r"at least one dimension and one element"):
        row_shape((0, 3))
    with pytest.raises(MaskError, match=r"at least 0 and below 1; got 1.0"):
        SparseMask.random((3, 3), 1.0)
    with pytest.raises(MaskError, match=r"below 1; got -0.1"):
        SparseMask.random((3, 3), -0.1)
    with pytest.raises(MaskError, match=r"of shape \(3, 3\); the tensor has shape \(3, 4\)"):
        SparseMask.ones((3, 3)).apply(torch.ones(3, 4))
    with pytest.raises(MaskError, match=r"int32 words of shape"):
        SparseMask.from_bits(torch.zeros(3, 2, dtype=torch.int32), (3, 3))
    with pytest.raises(MaskError, match=r"contiguous"):
        SparseMask.ones((3, 4)).apply_(torch.ones(4, 3).T)
    state = SparseMask.ones((3, 3)).state_dict()
    with pytest.raises(MaskError, match=r"another weight, or is damaged"):
        SparseMask.from_state_dict(state | {"bits": state["bits"][:2]})
