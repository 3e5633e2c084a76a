import inspect
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from resu.errors import KernelError

pytestmark = pytest.mark.needs_extra("triton")

SHAPES = ((97, 1), (5, 31), (3, 33), (11, 100), (1, 9617))


@pytest.fixture(scope="module")
def statistics() -> ModuleType:
    from resu.kernels import triton_statistics

    return triton_statistics


@pytest.fixture(scope="module")
def pack() -> Callable[[Tensor], Tensor]:
    from resu.kernels import triton_bits

    return triton_bits.pack_rows


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask", ["words", "signs", "none"])
def test_averages_follow_numpy_at_pruned_coordinates_alone(
    statistics: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str, shape: tuple[int, int], mask: str
) -> None:
    rng = np.random.default_rng(0)
    active = rng.random(shape) < 0.5
    m0, v0, *gradients = (rng.normal(size=shape).astype(np.float32) for _ in range(5))
    v0 = np.abs(v0)
    if mask == "signs":
        v0 = np.where(active, v0, -v0)
    m, v, flags = (torch.from_numpy(x.copy()).to(kernel_device) for x in (m0, v0, active))
    mean, mean_abs = m0.astype(np.float64), np.abs(v0).astype(np.float64)
    for gradient in gradients:
        # Strides of a transposed matrix: read by storage order, the gradient would be another.
        g = torch.from_numpy(np.ascontiguousarray(gradient.T)).to(kernel_device).t()
        statistics.update(m, v, g, pack(flags) if mask == "words" else None, beta=0.9, signbit=mask == "signs")
        mean, mean_abs = 0.9 * mean + 0.1 * gradient, 0.9 * mean_abs + 0.1 * np.abs(gradient)
    touched = np.ones(shape, bool) if mask == "none" else ~active
    np.testing.assert_allclose(m.cpu().numpy()[touched], mean[touched], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(np.abs(v.cpu().numpy())[touched], mean_abs[touched], rtol=1e-6, atol=1e-7)
    for now, before in ((m, m0), (v, v0)):
        assert np.array_equal(now.cpu().numpy()[~touched].view(np.int32), before[~touched].view(np.int32))
    assert np.array_equal(np.signbit(v.cpu().numpy()), np.signbit(v0))


def test_consistency_is_one_for_one_way_and_zero_for_none(statistics: ModuleType, kernel_device: str) -> None:
    m = torch.tensor([0.5, -0.5, 0.25, 0.0, 0.0], device=kernel_device)
    v = torch.tensor([0.5, -0.5, 0.5, 0.5, 0.0], device=kernel_device)
    consistency = statistics.consistency(m, v)
    np.testing.assert_allclose(consistency.cpu(), [1, 1, 0.5, 0, 0], rtol=1e-6)
    assert float(consistency.max()) <= 1
    np.testing.assert_allclose(statistics.consistency(m, v, weighted=True).cpu(), [0.5, 0.5, 0.125, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(statistics.consistency(m, v, delta=0.5).cpu(), [0.5, 0.5, 0.25, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_consistency_of_some_rows_is_that_of_numpy(
    statistics: ModuleType, kernel_device: str, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(1)
    m, v = rng.normal(size=shape), np.abs(rng.normal(size=shape)) + 1
    part = slice(shape[0] // 2, None)
    rows = [torch.from_numpy(x.astype(np.float32)).to(kernel_device)[part] for x in (m, v)]
    expected = np.abs(m) / (v + 1e-8)
    np.testing.assert_allclose(statistics.consistency(*rows).cpu(), expected[part], rtol=1e-6)


def test_operands_that_do_not_fit_are_refused(
    statistics: ModuleType, pack: Callable[[Tensor], Tensor], kernel_device: str
) -> None:
    m = torch.zeros(2, 33, device=kernel_device)
    update, consistency = inspect.unwrap(statistics.update), inspect.unwrap(statistics.consistency)
    with pytest.raises(KernelError, match=r"g must have the two dimensions of w.* g is \(33, 2\)"):
        update(m, m, m.t(), beta=0.9)
    with pytest.raises(KernelError, match=r"int32 words of shape \(2, 2\)"):
        update(m, m, m, pack(m.t().contiguous()), beta=0.9)
    with pytest.raises(KernelError, match=r"of the same coordinates; m is \(2, 33\) and v \(33,\)"):
        consistency(m, m[0])
    with pytest.raises(KernelError, match=r"m must be contiguous"):
        consistency(m.t(), m.t())
    if kernel_device == "cpu":
        with pytest.raises(KernelError, match=r"computes bfloat16 wrongly, without a word; g is torch.bfloat16"):
            update(m, m, m.bfloat16(), beta=0.9)
