from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from resu.errors import KernelError
from resu.kernels import embedding as public

pytestmark = pytest.mark.needs_extra("triton")

SHAPES = ((17,), (3, 33), (4, 100), (5, 3, 2, 2), (1, 9617))
SPARSITIES = (0.0, 0.1, 0.5, 0.9, 0.98)


@pytest.fixture(scope="module")
def embedding() -> ModuleType:
    from resu.kernels import triton_embedding

    return triton_embedding


class Launches(TorchFunctionMode):
    """Stands for a kernel: keeps what it is launched with, and which of torch's functions were called on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[tuple[Any, ...]] = []
        self.called: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.add(func.__name__)
        return func(*args, **(kwargs or {}))

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *operands, **_: self.operands.append(operands)


def make_indices(numel: int, sparsity: float, dtype: torch.dtype, device: str) -> Tensor:
    chosen = np.sort(np.random.default_rng(numel).permutation(numel)[: round(sparsity * numel)])
    return torch.from_numpy(chosen).to(device, dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_moves_are_those_of_numpy_and_the_round_trip_is_exact(
    embedding: ModuleType, kernel_device: str, shape: tuple[int, ...], sparsity: float, dtype: torch.dtype
) -> None:
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    indices = make_indices(x.size, sparsity, dtype, kernel_device)
    theta = embedding.gather(torch.from_numpy(x).to(kernel_device), indices)
    assert np.array_equal(theta.cpu().numpy(), x.ravel()[indices.cpu().numpy()])
    matrix = embedding.scatter(theta, indices, shape)
    expected = np.zeros(x.size, np.float32)
    expected[indices.cpu().numpy()] = theta.cpu().numpy()
    assert np.array_equal(matrix.cpu().numpy(), expected.reshape(shape))
    assert torch.equal(embedding.gather(matrix, indices), theta)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_kernels_get_the_very_indices_and_nothing_looks_at_them(
    embedding: ModuleType, kernel_device: str, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    indices = make_indices(99, 0.5, dtype, kernel_device)
    theta, x = torch.ones(len(indices), device=kernel_device), torch.ones(3, 33, device=kernel_device)
    with Launches() as launches:
        for name in ("_scatter_kernel", "_gather_kernel", "_update_kernel"):
            monkeypatch.setattr(embedding, name, launches)
        embedding.scatter(theta, indices, (3, 33))
        embedding.gather(x, indices)
        embedding.update(theta, x, None, indices, lr=0.1, in_place=False)
    assert [sum(operand is indices for operand in operands) for operands in launches.operands] == [1, 1, 1]
    assert "zeros" in launches.called
    assert not {"to", "type", "long", "int", "item", "tolist", "max", "min", "any", "all"} & launches.called


def test_indices_out_of_range_reach_no_memory(embedding: ModuleType, kernel_device: str) -> None:
    indices = torch.tensor([-1, 2, 6, 1 << 40], device=kernel_device)
    theta = torch.tensor([5.0, 6.0, 7.0, 8.0], device=kernel_device)
    assert embedding.scatter(theta, indices, (2, 3)).tolist() == [[0, 0, 6], [0, 0, 0]]
    assert embedding.gather(torch.ones(2, 3, device=kernel_device), indices).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("beta", [None, 0.8])
def test_steps_follow_numpy_and_other_coordinates_keep_every_bit(
    embedding: ModuleType, kernel_device: str, in_place: bool, beta: float | None
) -> None:
    rng = np.random.default_rng(2)
    w0, *gradients = (rng.normal(size=(11, 100)).astype(np.float32) for _ in range(6))
    indices = make_indices(1100, 0.5, torch.int32, kernel_device)
    chosen = indices.cpu().numpy()
    w = torch.from_numpy(w0.copy()).to(kernel_device)
    target = w if in_place else embedding.gather(w, indices)
    m = None if beta is None else torch.zeros(len(indices), device=kernel_device)
    theta, moment = w0.ravel()[chosen].astype(np.float64), np.zeros(len(chosen))
    for gradient in gradients:
        # Strides of a transposed matrix: read by storage order, the gradient would be another.
        g = torch.from_numpy(np.ascontiguousarray(gradient.T)).to(kernel_device).t()
        embedding.update(target, g, m, indices, lr=0.1, beta=beta or 0.0, in_place=in_place)
        moment = (beta or 0.0) * moment + (1 - (beta or 0.0)) * gradient.ravel()[chosen]
        theta = theta - 0.1 * moment
    result = target.cpu().numpy().ravel()[chosen] if in_place else target.cpu().numpy()
    np.testing.assert_allclose(result, theta, rtol=1e-6, atol=1e-6)
    if m is not None:
        np.testing.assert_allclose(m.cpu(), moment, rtol=1e-5, atol=1e-6)
    others = np.delete(np.arange(1100), chosen)
    assert np.array_equal(w.cpu().numpy().ravel()[others].view(np.int32), w0.ravel()[others].view(np.int32))


def test_the_public_functions_come_here_and_differentiate(kernel_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESU_BACKEND", "triton")
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=kernel_device)
    indices = torch.tensor([1, 2], device=kernel_device)
    theta = torch.tensor([5.0, 7.0], device=kernel_device, requires_grad=True)
    loss = (public.phi_scatter_grad(theta, indices, (2, 2)) * weights).pow(2).sum()
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    assert gradient.tolist() == [2 * 5 * 4, 2 * 7 * 9]
    (second,) = torch.autograd.grad(gradient.sum(), theta)
    assert second.tolist() == [8, 18]
    values = theta.detach().clone()
    m = torch.zeros(2, device=kernel_device)
    public.resu_update_indexed(values, weights, indices, lr=0.5)
    public.resu_update_with_momentum(values, weights, m, indices, lr=1.0, beta=0.5)
    assert values.tolist() == [5 - 1 - 1, 7 - 1.5 - 1.5]
    assert m.tolist() == [1, 1.5]


def test_no_indices_are_no_error(embedding: ModuleType, kernel_device: str) -> None:
    empty = torch.zeros(0, dtype=torch.int64, device=kernel_device)
    assert embedding.scatter(torch.zeros(0, device=kernel_device), empty, (2, 2)).tolist() == [[0, 0], [0, 0]]
    x = torch.ones(2, 2, device=kernel_device)
    embedding.update(x, x.clone(), None, empty, lr=1.0, in_place=True)
    assert x.tolist() == [[1, 1], [1, 1]]


def test_bfloat16_and_strides_that_cannot_be_written_are_refused(embedding: ModuleType, kernel_device: str) -> None:
    indices = torch.tensor([0, 1], device=kernel_device)
    x = torch.ones(2, 3, device=kernel_device)
    if kernel_device == "cpu":
        with pytest.raises(KernelError, match=r"computes bfloat16 wrongly, without a word; x is torch.bfloat16"):
            embedding.gather(x.bfloat16(), indices)
    else:
        assert embedding.gather(x.bfloat16(), indices).dtype == torch.bfloat16
    with pytest.raises(KernelError, match="target must be contiguous"):
        embedding.update(x.t(), x, None, indices, lr=1.0, in_place=True)
