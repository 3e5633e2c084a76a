import inspect
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from resu.errors import KernelError

pytestmark = pytest.mark.needs_extra("triton")

SHAPES = ((97, 1), (5, 31), (3, 33), (11, 100))
KINDS = ("normal", "wide", "few values", "zeros of both signs", "all equal")
CASES = [
    *((shape, "wide", False) for shape in SHAPES),
    *((shape, kind, True) for shape in SHAPES[2:] for kind in KINDS),
    *((shape, "few values", True) for shape in SHAPES[:2]),
    ((1, 9617), "wide", False),
    ((1, 9617), "few values", True),
]


@pytest.fixture(scope="module")
def select() -> ModuleType:
    from resu.kernels import triton_select

    return triton_select


@pytest.fixture(scope="module")
def bits() -> ModuleType:
    from resu.kernels import triton_bits

    return triton_bits


def draw(kind: str, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(shape[1])
    scores = {
        "normal": rng.normal(size=shape),
        "wide": rng.normal(size=shape) * 10.0 ** rng.integers(-40, 38, shape),
        "few values": rng.integers(-2, 3, shape) * 0.5,
        "zeros of both signs": np.where(rng.random(shape) < 0.5, 0.0, -0.0),
        "all equal": np.full(shape, -3.25),
    }
    return scores[kind].astype(np.float32)


def top_by_numpy(scores: np.ndarray, k: int, among: np.ndarray) -> tuple[float, np.ndarray]:
    """The k-th largest score and the flags of the k largest; a stable sort gives ties to the lowest flat index."""
    flat = np.where(among.ravel(), scores.ravel().astype(np.float64), -np.inf)
    order = np.argsort(-flat, kind="stable")[:k]
    chosen = np.zeros(flat.size, bool)
    chosen[order] = True
    return flat[order[-1]], chosen.reshape(scores.shape)


@pytest.mark.parametrize(("shape", "kind", "masked"), CASES)
def test_the_k_largest_are_those_of_a_stable_sort(
    select: ModuleType, bits: ModuleType, kernel_device: str, shape: tuple[int, int], kind: str, masked: bool
) -> None:
    scores = draw(kind, shape)
    among = np.random.default_rng(3).random(shape) < 0.6 if masked else np.ones(shape, bool)
    words = bits.pack_rows(torch.from_numpy(among).to(kernel_device)) if masked else None
    tensor = torch.from_numpy(scores).to(kernel_device)
    for k in {1, int(among.sum()) // 3 + 1, int(among.sum())}:
        value, chosen = top_by_numpy(scores, k, among)
        assert float(select.kth_largest(tensor, k, words)) == value
        found = bits.unpack_rows(select.select_top(tensor, k, words), shape[1])
        assert np.array_equal(found.cpu().numpy(), chosen)


def test_scores_are_read_by_their_coordinates_whatever_their_strides(
    select: ModuleType, bits: ModuleType, kernel_device: str
) -> None:
    scores = torch.arange(12.0, device=kernel_device).view(4, 3).t()
    assert float(select.kth_largest(scores, 2)) == 10
    # The rows are 0 3 6 9, 1 4 7 10 and 2 5 8 11.
    found = bits.unpack_rows(select.select_top(scores, 2), 4)
    assert found.nonzero().tolist() == [[1, 3], [2, 3]]


def test_ranks_that_add_up_their_histograms_find_the_global_key(select: ModuleType, kernel_device: str) -> None:
    scores = draw("wide", (11, 100))
    parts = [torch.from_numpy(scores[rows].copy()).to(kernel_device) for rows in (slice(0, 4), slice(4, 11))]
    threshold = select.Threshold(
        torch.zeros((), dtype=torch.int32, device=kernel_device), torch.tensor(250, device=kernel_device)
    )
    for level in range(3):
        counts = torch.zeros(select.BINS, dtype=torch.int32, device=kernel_device)
        for part in parts:
            select.histogram(part, None, level, threshold.found, counts)
        threshold = select.descend(counts, level, threshold)
    whole = select.find_threshold(torch.from_numpy(scores).to(kernel_device), 250)
    assert int(threshold.found) == int(whole.found)
    assert int(threshold.wanted) == int(whole.wanted)
    assert float(select.kth_largest(torch.from_numpy(scores).to(kernel_device), 250)) == np.sort(scores.ravel())[-250]


def test_the_first_histogram_counts_signs_exponents_and_two_more_bits(select: ModuleType, kernel_device: str) -> None:
    # 1.0 is 0x3f800000; with the sign bit set its eleven highest bits are 0b10111111100 = 1532, and 1.25 is one more.
    scores = torch.tensor([[1.0, 1.25, 1.0, -1.0, 0.0]], device=kernel_device)
    counts = torch.zeros(select.BINS, dtype=torch.int32, device=kernel_device)
    select.histogram(scores, None, 0, torch.zeros((), dtype=torch.int32, device=kernel_device), counts)
    places = {int(place): int(counts[place]) for place in counts.nonzero()}
    # 0.0 is 0x00000000, key 1 << 31, digit 1024; -1.0 is 0xbf800000, flipped 0x407fffff, digit 515.
    assert places == {1532: 2, 1533: 1, 515: 1, 1024: 1}


def test_bad_input_is_refused(select: ModuleType, bits: ModuleType, kernel_device: str) -> None:
    scores = torch.zeros(2, 33, device=kernel_device)
    top: Callable[..., Tensor] = inspect.unwrap(select.select_top)
    kth: Callable[..., Tensor] = inspect.unwrap(select.kth_largest)
    for k in (0, 67):
        with pytest.raises(KernelError, match=f"k must be from 1 to the 66 coordinates; it is {k}"):
            top(scores, k)
    with pytest.raises(KernelError, match=r"these are torch.float64 of shape \(2, 33\)"):
        top(scores.double(), 1)
    with pytest.raises(KernelError, match=r"these are torch.float32 of shape \(66,\)"):
        top(scores.view(-1), 1)
    with pytest.raises(KernelError, match=r"int32 words of shape \(2, 2\); these are torch.int32 of shape \(33, 1\)"):
        top(scores, 1, bits.pack_rows(scores.t()))
    with pytest.raises(KernelError, match=r"these are torch.bfloat16"):
        inspect.unwrap(select.find_threshold)(scores.bfloat16(), 1)
    assert float(kth(scores, 66)) == 0
