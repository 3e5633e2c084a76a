import inspect
from types import ModuleType

import numpy as np
import pytest
import torch

from resu.errors import KernelError

pytestmark = pytest.mark.needs_extra("triton")

SHAPES = ((97, 1), (5, 31), (3, 32), (3, 33), (11, 100), (1, 9617))
every_shape = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(scope="module")
def bits() -> ModuleType:
    from resu.kernels import triton_bits

    return triton_bits


def random_flags(shape: tuple[int, int], share: float = 0.6) -> np.ndarray:
    return np.random.default_rng(shape[1]).random(shape) < share


def packed_by_numpy(flags: np.ndarray) -> np.ndarray:
    rows, cols = flags.shape
    octets = np.packbits(np.pad(flags, ((0, 0), (0, -cols % 32))), axis=1, bitorder="little")
    return octets.view("<i4").reshape(rows, -1)


@every_shape
def test_words_are_those_of_numpy_and_come_back(bits: ModuleType, kernel_device: str, shape: tuple[int, int]) -> None:
    flags = random_flags(shape)
    words = bits.pack_rows(torch.from_numpy(flags).to(kernel_device))
    assert words.dtype == torch.int32
    assert np.array_equal(words.cpu().numpy(), packed_by_numpy(flags))
    assert np.array_equal(bits.unpack_rows(words, shape[1]).cpu().numpy(), flags)
    assert int(bits.popcount(words)) == flags.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_numbers_are_bits_by_not_being_zero(bits: ModuleType, kernel_device: str, dtype: torch.dtype) -> None:
    numbers = torch.tensor([[0, 3, 1], [2, 0, 0]], dtype=dtype, device=kernel_device)
    assert bits.pack_rows(numbers).tolist() == [[6], [1]]


def test_a_transposed_array_is_packed_by_its_own_rows(bits: ModuleType, kernel_device: str) -> None:
    flags = random_flags((33, 7))
    transposed = torch.from_numpy(flags).to(kernel_device).t()
    assert not transposed.is_contiguous()
    assert np.array_equal(bits.pack_rows(transposed).cpu().numpy(), packed_by_numpy(np.ascontiguousarray(flags.T)))


def test_all_and_no_bits_are_counted(bits: ModuleType, kernel_device: str) -> None:
    words = torch.full((3, 700), -1, dtype=torch.int32, device=kernel_device)
    assert int(bits.popcount(words)) == 32 * 2100
    assert int(bits.popcount(torch.zeros_like(words))) == 0
    assert bits.popcount(torch.empty(0, 4, dtype=torch.int32, device=kernel_device)).tolist() == 0


def test_every_place_of_a_word_is_counted(bits: ModuleType, kernel_device: str) -> None:
    for place in range(32):
        word = np.array([[1 << place]], np.uint32).view(np.int32)
        assert int(bits.popcount(torch.from_numpy(word).to(kernel_device))) == 1


@every_shape
@pytest.mark.parametrize("invert", [False, True])
def test_offsets_count_the_bits_before_each_block(
    bits: ModuleType, kernel_device: str, shape: tuple[int, int], invert: bool
) -> None:
    flags = random_flags(shape)
    offsets = bits.block_offsets(bits.pack_rows(torch.from_numpy(flags).to(kernel_device)), shape[1], invert=invert)
    counted = np.cumsum(flags.ravel() ^ invert)
    expected = [0, *counted[1023::1024]][: -(-flags.size // 1024)]
    assert offsets.dtype == torch.int32
    assert offsets.tolist() == expected


def test_words_of_another_array_are_refused(bits: ModuleType, kernel_device: str) -> None:
    words = torch.zeros(3, 2, dtype=torch.int32, device=kernel_device)
    with pytest.raises(KernelError, match=r"a \(3, 65\) array are int32 words of shape \(3, 3\); .* \(3, 2\)"):
        bits.unpack_rows(words, 65)
    with pytest.raises(KernelError, match=r"these are torch.int64 of shape \(3, 2\)"):
        inspect.unwrap(bits.unpack_rows)(words.long(), 64)
    with pytest.raises(KernelError, match=r"words must be contiguous"):
        bits.popcount(words.t())
    with pytest.raises(KernelError, match=r"m must have the two dimensions of w, .* w is \(3, 2\) and m is \(6,\)"):
        bits.check_shapes(words, m=words.view(-1))


def test_bfloat16_is_not_read_in_the_interpreter(bits: ModuleType, kernel_device: str) -> None:
    numbers = torch.tensor([[0.0, 3.0]], device=kernel_device).bfloat16()
    if kernel_device == "cpu":
        with pytest.raises(KernelError, match=r"computes bfloat16 wrongly, without a word; dense is"):
            bits.pack_rows(numbers)
    else:
        assert bits.pack_rows(numbers).tolist() == [[2]]
