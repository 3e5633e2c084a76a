import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resu.core.mask import SparseMask
from resu.core.select import Candidate, kth_largest, plan_top, select_top
from resu.errors import MaskError


def by_sorting(scores: list[np.ndarray], k: int, among: list[np.ndarray]) -> list[np.ndarray]:
    """The k largest by a stable sort: ties go to the first candidate, then the first index."""
    flat = np.concatenate([s.ravel() for s in scores]).astype(np.float64)
    allowed = np.concatenate([a.ravel() for a in among])
    order = [i for i in np.argsort(-flat, kind="stable") if allowed[i]]
    chosen = np.zeros(flat.size, bool)
    chosen[order[:k]] = True
    ends = np.cumsum([s.size for s in scores])
    return [part.reshape(s.shape) for part, s in zip(np.split(chosen, ends[:-1]), scores, strict=True)]


def candidate(scores: np.ndarray, among: np.ndarray | None = None, pruned: bool = False) -> Candidate:
    values = torch.from_numpy(scores)
    mask = None if among is None else SparseMask(torch.from_numpy(among))
    return Candidate(lambda part: values[part], values.shape, values.device, mask, pruned)


@given(
    st.integers(0, 10_000),
    st.sampled_from([(1, 5), (3, 31), (4, 33), (20, 50)]),
    st.sampled_from(["normal", "ties", "equal", "signed zeros", "tiny", "infinite"]),
    st.floats(0, 1),
    st.booleans(),
)
def test_the_selection_is_that_of_a_stable_sort(
    seed: int, shape: tuple[int, int], kind: str, share: float, pruned: bool
) -> None:
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(2):
        x = rng.normal(size=shape).astype(np.float32)
        match kind:
            case "ties":
                x = np.round(2 * x)
            case "equal":
                x = np.full_like(x, -1.5)
            case "signed zeros":
                x = np.where(x > 0, np.float32(0.0), np.float32(-0.0))
            case "tiny":
                x *= np.float32(1e-42)
            case "infinite":
                x[0, 0], x[-1, -1] = np.inf, -np.inf
        scores.append(x)
    among = [rng.random(shape) < 0.6, np.ones(shape, bool)]
    taking = [~among[0] if pruned else among[0], np.ones(shape, bool)]
    k = round(share * sum(t.sum() for t in taking))
    candidates = [candidate(scores[0], among[0], pruned), candidate(scores[1])]
    found = select_top(candidates, k)
    for mask, expected in zip(found, by_sorting(scores, k, taking), strict=True):
        assert np.array_equal(mask.to_bool().numpy(), expected)
    assert sum(mask.n_active for mask in found) == k


def test_many_slices_make_no_difference() -> None:
    """Large enough to be read by slices of rows, with ties across them."""
    scores = np.round(np.random.default_rng(0).normal(size=(700, 400)) * 3).astype(np.float32)
    (mask,) = select_top([candidate(scores)], 100_001)
    assert np.array_equal(mask.to_bool().numpy(), by_sorting([scores], 100_001, [np.ones(scores.shape, bool)])[0])


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50), st.integers(0, 10**6))
def test_the_kth_largest_is_exact(values: list[float], which: int) -> None:
    k = which % len(values) + 1
    found = kth_largest([candidate(np.array([values], np.float32))], k)
    assert found == sorted(values, reverse=True)[k - 1]


def test_a_walk_may_change_the_rows_that_have_come() -> None:
    scores = torch.rand(900, 500)
    expected = select_top([Candidate(lambda part: scores[part], (900, 500), scores.device)], 1000)[0]
    plan = plan_top([Candidate(lambda part: scores[part], (900, 500), scores.device)], 1000)
    seen = SparseMask.zeros((900, 500))
    for part, flags in plan.rows(0):
        scores[part] = math.inf
        seen.set_rows(part, flags)
    assert seen == expected


def test_bad_input_is_refused() -> None:
    scores = np.zeros((2, 3), np.float32)
    with pytest.raises(MaskError, match=r"from 0 to all of its 6 coordinates; got k = 7"):
        select_top([candidate(scores)], 7)
    with pytest.raises(MaskError, match=r"got k = -1"):
        select_top([candidate(scores)], -1)
    with pytest.raises(MaskError, match=r"k from 1 to 6; got 0"):
        kth_largest([candidate(scores)], 0)
    scores[1, 1] = np.nan
    with pytest.raises(MaskError, match=r"met NaN"):
        select_top([candidate(scores)], 3)
