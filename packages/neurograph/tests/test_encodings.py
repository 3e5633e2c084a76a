import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.encodings import (
    coherence,
    hadamard_codes,
    hadamard_matrix,
    orthogonal_codes,
    random_codes,
    structured_codes,
    welch_bound,
)
from neurograph.errors import ConfigError


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 44, 64, 128])
def test_hadamard_matrices_have_orthogonal_rows_of_signs(order: int) -> None:
    matrix = hadamard_matrix(order).numpy()
    np.testing.assert_array_equal(matrix @ matrix.T, order * np.eye(order))
    assert set(np.unique(matrix)) <= {-1.0, 1.0}


@pytest.mark.parametrize("order", [0, 3, 6, 36, 52])
def test_orders_without_a_construction_are_refused(order: int) -> None:
    with pytest.raises(ConfigError, match=f"got {order}"):
        hadamard_matrix(order)


@given(classes=st.integers(2, 12), length=st.integers(12, 100), seed=st.integers(0, 50))
def test_hadamard_codes_reach_the_least_coherence_that_signs_allow(classes: int, length: int, seed: int) -> None:
    """An inner product of two ±1 rows has the parity of L; three rows with all products 0 need 4 | L."""
    codes = hadamard_codes(classes, length, seed).numpy()
    assert codes.shape == (classes, length)
    assert set(np.unique(codes)) == {-1.0, 1.0}
    products = codes @ codes.T
    np.fill_diagonal(products, 0)
    if length % 2:
        least = 1
    elif length % 4 == 0 or classes == 2:
        least = 0
    else:
        least = 2
    if length >= 3 * classes or length % 4 == 0:
        assert np.abs(products).max() == least


@given(classes=st.integers(2, 100), blocks=st.integers(1, 3))
def test_codes_of_any_number_of_classes_are_orthogonal_at_powers_of_two(classes: int, blocks: int) -> None:
    length = blocks * (1 << (classes - 1).bit_length())
    assert coherence(hadamard_codes(classes, length)) == 0.0


@pytest.mark.parametrize("length", [80, 1024, 5000, 20_000])
def test_long_codes_are_orthogonal_too(length: int) -> None:
    assert coherence(hadamard_codes(10, length)) == 0.0


def test_the_shipped_codes_differ_with_the_seed_and_repeat_with_it() -> None:
    first, again, other = hadamard_codes(10, 80, 1), hadamard_codes(10, 80, 1), hadamard_codes(10, 80, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_codes_that_are_too_short_are_not_opposite_where_they_need_not_be() -> None:
    codes = hadamard_codes(10, 5)
    assert codes.shape == (10, 5)
    assert welch_bound(10, 5) <= coherence(codes) < 1


@given(length=st.integers(1, 8), share=st.floats(0, 1), seed=st.integers(0, 50))
def test_no_two_classes_have_one_code(length: int, share: float, seed: int) -> None:
    """Up to all 2^L codes that there are."""
    classes = max(2, round(share * 2**length))
    codes = hadamard_codes(classes, length, seed).numpy()
    assert len({tuple(code) for code in codes}) == classes
    assert set(np.unique(codes)) == {-1.0, 1.0}


@pytest.mark.parametrize("classes", [2, 3, 10, 13, 17, 25, 33])
def test_every_length_keeps_the_documented_bound(classes: int) -> None:
    """In whole numbers: 0, 1 or 2 where a sum of Hadamard orders is that near; fewer than half the length anyway."""
    known = [n for n in (1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 44, 48, 60, 64, 68, 72, 80, 84, 88, 96, 104, 108, 120)
             if n >= classes]  # fmt: skip
    sums = {0}
    for _ in range(121 // min(known)):
        sums |= {one + n for one in sums for n in known}
    for length in range(classes, 121):
        codes = hadamard_codes(classes, length, 1).numpy().astype(np.int64)
        worst = np.abs(codes @ codes.T - length * np.eye(classes, dtype=np.int64)).max()
        away = min(abs(length - one) for one in sums if one)
        assert worst <= (away if away <= 2 else length // 2), length
        assert (worst - length) % 2 == 0


@pytest.mark.parametrize(
    ("classes", "length", "said"), [(1, 8, "at least 2 classes; got 1"), (2, 0, "length 0"), (10, 3, "10 classes")]
)
def test_codes_that_cannot_be_are_refused(classes: int, length: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        hadamard_codes(classes, length)


def test_the_welch_bound_is_one_third_for_ten_classes_in_five_dimensions() -> None:
    assert welch_bound(10, 5) == pytest.approx(1 / 3)
    assert welch_bound(5, 5) == 0
    # Three unit vectors at 120° in the plane meet it.
    mercedes = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
    assert coherence(mercedes) == pytest.approx(welch_bound(3, 2))


@pytest.mark.parametrize("dim", [5, 16])
def test_the_originals_codes_lie_on_the_grid_and_none_beats_the_bound(dim: int) -> None:
    tables = HighResolutionLookupTables(64, 128)
    for codes in (orthogonal_codes(10, dim, tables), structured_codes(10, dim, tables), random_codes(10, dim, tables)):
        assert codes.phase.shape == codes.mag.shape == (10, dim)
        assert 0 <= int(codes.phase.min()) <= int(codes.phase.max()) < 64
        assert 0 <= int(codes.mag.min()) <= int(codes.mag.max()) < 128
        assert welch_bound(10, dim) <= coherence(codes.signals(tables)) <= 1


def test_hill_climbing_lowers_the_mean_overlap() -> None:
    tables = HighResolutionLookupTables(64, 128)

    def mean_overlap(sweeps: int) -> float:
        signals = orthogonal_codes(10, 5, tables, sweeps=sweeps).signals(tables).double().numpy()
        unit = signals / np.linalg.norm(signals, axis=1, keepdims=True)
        return float(np.abs(unit @ unit.T)[np.triu_indices(10, 1)].mean())

    assert mean_overlap(50) < mean_overlap(0) - 0.05


def test_structured_codes_are_their_formula() -> None:
    tables = HighResolutionLookupTables(512, 1024)
    codes = structured_codes(10, 5, tables)
    angle = (3 * np.pi / 10 + 2 * np.pi * 2 / 5) / (2 * np.pi) * 512
    assert abs(int(codes.phase[3, 2]) - angle) <= 1
    signals = codes.signals(tables).double().numpy()
    expected = np.cos(codes.phase.numpy() * 2 * np.pi / 512) * tables.mag.double().numpy()[codes.mag.numpy()]
    np.testing.assert_allclose(signals, expected, rtol=1e-6)


def test_random_codes_repeat_with_the_seed() -> None:
    tables = HighResolutionLookupTables(64, 128)
    first, again, other = (random_codes(10, 5, tables, seed) for seed in (1, 1, 2))
    assert torch.equal(first.phase, again.phase)
    assert not torch.equal(first.phase, other.phase)
