"""Magnitude pruning: exact counts whatever the ties, in all three granularities."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resu.core.mask import SparseMask
from resu.errors import ConfigError, MaskError
from resu.pruning.magnitude import magnitude_mask, top_per_row

SHAPES = [(1, 1), (5, 7), (3, 2, 2, 2), (33,), (40, 70)]


def weight_of(shape: tuple[int, ...], seed: int, kind: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "equal":
        return np.full(shape, -2.5, dtype=np.float32)
    if kind == "zero":
        return np.zeros(shape, dtype=np.float32)
    values = rng.integers(-2, 3, shape) if kind == "ties" else rng.normal(size=shape)
    return values.astype(np.float32)


def kept(size: np.ndarray, sparsity: float) -> np.ndarray:
    """The first of a stable sort, as flags."""
    order = np.argsort(-size, kind="stable")
    flags = np.zeros(size.size, dtype=bool)
    flags[order[: size.size - round(sparsity * size.size)]] = True
    return flags


@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 1000),
    sparsity=st.sampled_from([0.0, 0.1, 0.5, 0.73, 0.9, 0.99]),
    kind=st.sampled_from(["normal", "ties", "equal", "zero"]),
)
def test_elements_are_those_of_a_stable_sort(shape: tuple[int, ...], seed: int, sparsity: float, kind: str) -> None:
    weight = weight_of(shape, seed, kind)
    mask = magnitude_mask(torch.from_numpy(weight), sparsity)
    np.testing.assert_array_equal(mask.to_bool().numpy().ravel(), kept(np.abs(weight).ravel(), sparsity))
    assert mask.n_pruned == round(sparsity * weight.size)


@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 1000),
    sparsity=st.sampled_from([0.0, 0.4, 0.9]),
    kind=st.sampled_from(["normal", "ties", "equal"]),
)
def test_rows_and_columns_go_as_a_whole(shape: tuple[int, ...], seed: int, sparsity: float, kind: str) -> None:
    weight = weight_of(shape, seed, kind)
    size = np.abs(weight.astype(float)).reshape(1 if weight.ndim == 1 else shape[0], -1)
    for granularity, axis in (("row", 1), ("column", 0)):
        lines = kept(size.sum(axis).astype(np.float32), sparsity)
        found = magnitude_mask(torch.from_numpy(weight), sparsity, granularity).to_bool().numpy().reshape(size.shape)
        expected = np.broadcast_to(lines[:, None] if axis else lines[None], size.shape)
        np.testing.assert_array_equal(found, expected)


def test_padding_bits_stay_zero_when_whole_rows_are_kept() -> None:
    mask = magnitude_mask(torch.ones(4, 37), 0.5, "row")
    assert mask.n_active == 2 * 37
    assert mask.bits[0, 1].item() == (1 << 5) - 1
    assert mask.bits[2].any().item() is False


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_and_strides_and_parameters(dtype: torch.dtype) -> None:
    weight = torch.nn.Parameter(torch.randn(20, 9, generator=torch.Generator().manual_seed(0)).to(dtype).T)
    before = weight.detach().clone()
    assert not weight.is_contiguous()
    mask = magnitude_mask(weight, 0.6)
    expected = kept(before.float().abs().numpy().ravel(), 0.6)
    np.testing.assert_array_equal(mask.to_bool().numpy().ravel(), expected)
    assert torch.equal(weight, before)


@given(rows=st.integers(1, 5), cols=st.integers(1, 12), keep=st.integers(0, 12), seed=st.integers(0, 100))
def test_the_top_of_each_row(rows: int, cols: int, keep: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, (rows, cols)).astype(np.float32)
    found = top_per_row(torch.from_numpy(scores), keep).numpy()
    for row, flags in zip(scores, found, strict=True):
        assert sorted(np.argsort(-row, kind="stable")[:keep]) == np.flatnonzero(flags).tolist()


def test_what_cannot_be_is_refused() -> None:
    for sparsity in (-0.1, 1.0, float("nan")):
        with pytest.raises(MaskError, match=re.escape(f"at least 0 and below 1; got {sparsity}")):
            magnitude_mask(torch.ones(2, 2), sparsity)
    for granularity in ("element", "row", "column"):
        with pytest.raises(MaskError, match="NaN"):
            magnitude_mask(torch.full((4, 4), float("nan")), 0.5, granularity)
    with pytest.raises(MaskError, match="at least one dimension"):
        magnitude_mask(torch.tensor(1.0), 0.5)
    unchecked: Any = magnitude_mask
    while hasattr(unchecked, "__wrapped__"):
        unchecked = unchecked.__wrapped__
    with pytest.raises(ConfigError, match=r"one of element, row, column; got 'block'. Use resu\.pruning\.nm"):
        unchecked(torch.ones(2, 2), 0.5, "block")


def test_masks_are_packed() -> None:
    mask = magnitude_mask(torch.ones(2, 40), 0.5)
    assert isinstance(mask, SparseMask)
    assert (mask.bits.dtype, mask.bits.shape) == (torch.int32, (2, 2))
