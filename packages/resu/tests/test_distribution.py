"""Layer densities: the formula worked by hand and in NumPy, exact totals for any shapes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resu.core.select import Candidate
from resu.distribution import active_counts, global_counts, layer_densities, total_active
from resu.errors import MaskError

SHAPES = st.dictionaries(
    st.sampled_from("abcdef"),
    st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple),
    min_size=1,
    max_size=6,
)


def erk_by_numpy(shapes: list[tuple[int, ...]], density: float) -> np.ndarray:
    """Densities ε (Σ dims) / (Π dims), layers over 1 made dense one round after the other, in float64."""
    sizes = np.array([math.prod(shape) for shape in shapes], dtype=np.float64)
    raw = np.array([sum(shape) for shape in shapes], dtype=np.float64) / sizes
    dense = np.zeros(len(shapes), bool)
    while True:
        epsilon = (density * sizes.sum() - sizes[dense].sum()) / (raw * sizes)[~dense].sum()
        found = np.where(dense, 1.0, epsilon * raw)
        if (found <= 1 + 1e-12).all():
            return found
        dense |= found > 1


def test_erk_of_the_digit_network_by_hand() -> None:
    # Sums 364, 400 and 110, together 874, share 1004 active weights of 50200.
    shapes = {"a": (300, 64), "b": (100, 300), "c": (10, 100)}
    counts = active_counts(shapes, 0.98)
    assert counts == {"a": 418, "b": 460, "c": 126}  # 418.14, 459.50, 126.36: one more for the largest remainder
    assert sum(counts.values()) == 1004


def test_erk_makes_small_layers_dense_and_shares_the_rest() -> None:
    # ε (20 + 110) = 110 would give "small" 16.9 of its 10 weights: it is dense, and "wide" has the other 100.
    assert active_counts({"small": (1, 10), "wide": (10, 100)}, 1 - 110 / 1010) == {"small": 10, "wide": 100}
    assert layer_densities({"small": (1, 10), "wide": (10, 100)}, 1 - 110 / 1010) == {"small": 1.0, "wide": 0.1}


def test_erk_counts_kernel_sizes() -> None:
    # (16 + 3 + 3 + 3) / 432 against (10 + 16) / 160 per weight.
    counts = active_counts({"conv": (16, 3, 3, 3), "linear": (10, 16)}, 0.8)
    total = 592 - round(0.8 * 592)
    assert counts == {"conv": round(total * 25 / 51), "linear": total - round(total * 25 / 51)}


@given(shapes=SHAPES, sparsity=st.floats(0, 0.999))
def test_counts_add_up_exactly_and_follow_the_formula(shapes: dict[str, tuple[int, ...]], sparsity: float) -> None:
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = sum(sizes.values()) - round(sparsity * sum(sizes.values()))
    for distribution in ("erk", "uniform"):
        counts = active_counts(shapes, sparsity, distribution)
        assert sum(counts.values()) == total == total_active(shapes, sparsity)
        assert all(0 <= counts[name] <= sizes[name] for name in shapes)
        if total >= len(shapes):
            assert min(counts.values()) >= 1
        densities = layer_densities(shapes, sparsity, distribution)
        assert {name: round(densities[name] * sizes[name]) for name in shapes} == counts
        if total == 0:
            continue
        wanted = total / sum(sizes.values())
        expected = (
            erk_by_numpy(list(shapes.values()), wanted) if distribution == "erk" else np.full(len(shapes), wanted)
        )
        # Rounding moves a layer by less than a weight; keeping a weight for each layer costs the others one apiece.
        for (name, count), density in zip(counts.items(), expected, strict=True):
            assert abs(count - density * sizes[name]) <= len(shapes)


def test_without_sparsity_everything_is_active() -> None:
    shapes = {"a": (7, 3), "b": (2, 5)}
    assert active_counts(shapes, 0.0) == active_counts(shapes, 0.0, "uniform") == {"a": 21, "b": 10}


def test_densities_fall_where_sparsity_rises() -> None:
    shapes = {"a": (30, 64), "b": (100, 30), "c": (10, 100)}
    rows = np.array([list(layer_densities(shapes, s).values()) for s in np.linspace(0, 0.99, 34)])
    assert (np.diff(rows, axis=0) <= 1e-3).all()  # a weight may change its layer by rounding
    assert (rows[0] == 1).all()


def test_global_shares_follow_the_scores() -> None:
    scores = {"a": torch.tensor([[5.0, 1.0, 9.0]]), "b": torch.tensor([[4.0], [8.0], [7.0]])}
    candidates = {name: Candidate(s.__getitem__, tuple(s.shape), s.device) for name, s in scores.items()}
    assert global_counts(candidates, 0.5) == {"a": 1, "b": 2}
    assert layer_densities({"a": (1, 3), "b": (3, 1)}, 0.5, "global") == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan])
def test_a_sparsity_is_a_share(sparsity: float) -> None:
    with pytest.raises(MaskError, match="at least 0 and below 1; got"):
        active_counts({"a": (2, 2)}, sparsity)


def test_unknown_distributions_are_refused() -> None:
    with pytest.raises(MaskError, match="global_counts"):
        active_counts({"a": (2, 2)}, 0.5, "global")
