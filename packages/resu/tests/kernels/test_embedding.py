import inspect
from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor

from resu.errors import KernelError, MaskError
from resu.kernels.embedding import (
    PhiInverseGatherFunction,
    PhiScatterFunction,
    phi_inverse_gather,
    phi_scatter,
    phi_scatter_grad,
    resu_update_indexed,
    resu_update_with_momentum,
)

SHAPES = ((17,), (3, 33), (8, 16), (4, 100), (5, 3, 2, 2))
SPARSITIES = (0.0, 0.1, 0.5, 0.9, 0.98)
every_case = pytest.mark.parametrize("shape", SHAPES)
every_sparsity = pytest.mark.parametrize("sparsity", SPARSITIES)


def pruned_indices(shape: tuple[int, ...], sparsity: float, dtype: torch.dtype = torch.int64) -> Tensor:
    rng = np.random.default_rng(prod(shape))
    chosen = np.sort(rng.permutation(prod(shape))[: round(sparsity * prod(shape))])
    return torch.from_numpy(chosen).to(dtype)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


@every_case
@every_sparsity
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_phi_puts_values_where_indices_say_and_the_round_trip_is_exact(
    shape: tuple[int, ...], sparsity: float, dtype: torch.dtype
) -> None:
    indices = pruned_indices(shape, sparsity, dtype)
    theta = random(len(indices), dtype=torch.float32)
    expected = np.zeros(prod(shape), np.float32)
    expected[indices.numpy()] = theta.numpy()
    matrix = phi_scatter(theta, indices, shape)
    assert matrix.shape == torch.Size(shape)
    assert np.array_equal(matrix.numpy().ravel(), expected)
    assert torch.equal(phi_inverse_gather(matrix, indices), theta)


@every_case
@every_sparsity
def test_phi_and_phi_inverse_are_adjoint(shape: tuple[int, ...], sparsity: float) -> None:
    indices = pruned_indices(shape, sparsity)
    theta, x = random(len(indices), seed=1), random(*shape, seed=2)
    left = float((phi_scatter(theta, indices, shape) * x).sum())
    right = float((theta * phi_inverse_gather(x, indices)).sum())
    assert left == pytest.approx(right, rel=1e-12, abs=1e-12)


@every_case
@every_sparsity
def test_derivatives_of_every_order_are_right(shape: tuple[int, ...], sparsity: float) -> None:
    indices = pruned_indices(shape, sparsity)
    theta = random(len(indices), seed=3).requires_grad_()
    x = random(*shape, seed=4).requires_grad_()

    def scatter(values: Tensor) -> Tensor:
        return phi_scatter_grad(values, indices, shape)

    def gather(values: Tensor) -> Tensor:
        return PhiInverseGatherFunction.apply(values, indices)

    assert torch.autograd.gradcheck(scatter, theta, fast_mode=True)
    assert torch.autograd.gradcheck(gather, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(scatter, theta, fast_mode=True)
    assert torch.autograd.gradgradcheck(gather, x, fast_mode=True)


def test_the_gradient_is_the_weights_at_pruned_coordinates() -> None:
    theta = torch.tensor([5.0, 7.0], requires_grad=True)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    (PhiScatterFunction.apply(theta, torch.tensor([1, 2]), (2, 2)) * weights).sum().backward()
    assert theta.grad is not None
    assert theta.grad.tolist() == [2.0, 3.0]


def test_a_penalty_on_the_gradient_reaches_theta() -> None:
    # L = sum phi(theta)^3, dL/dtheta = 3 theta^2, and the penalty sum (dL/dtheta)^2 = 9 theta^4 has 36 theta^3.
    theta = torch.tensor([1.0, -2.0], requires_grad=True, dtype=torch.float64)
    loss = phi_scatter_grad(theta, torch.tensor([0, 3]), (2, 2)).pow(3).sum()
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    (penalty,) = torch.autograd.grad(gradient.square().sum(), theta)
    assert penalty.tolist() == [36.0, -288.0]


def test_functional_derivatives_see_phi_too() -> None:
    indices, weights = torch.tensor([0, 3]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    gradient = torch.func.grad(lambda theta: (phi_scatter_grad(theta, indices, (2, 2)) * weights).sum())
    assert gradient(torch.ones(2)).tolist() == [1.0, 4.0]


def test_values_alone_carry_no_graph() -> None:
    theta = torch.ones(2, requires_grad=True)
    matrix = phi_scatter(theta, torch.tensor([0, 1]), (2, 2))
    assert not matrix.requires_grad
    assert not phi_inverse_gather(torch.ones(2, 2, requires_grad=True), torch.tensor([0])).requires_grad


def test_indices_count_in_row_major_order_whatever_the_strides() -> None:
    transposed = torch.arange(12.0).view(4, 3).t()
    assert phi_inverse_gather(transposed, torch.tensor([1, 4])).tolist() == [3.0, 1.0]
    theta = torch.zeros(2)
    resu_update_indexed(theta, transposed, torch.tensor([1, 4]), lr=1.0)
    assert theta.tolist() == [-3.0, -1.0]


@every_case
@every_sparsity
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_plain_steps_in_both_places_follow_numpy(shape: tuple[int, ...], sparsity: float, dtype: torch.dtype) -> None:
    indices = pruned_indices(shape, sparsity, dtype)
    w, g = random(*shape, seed=5), random(*shape, seed=6)
    theta, before = phi_inverse_gather(w, indices), w.clone()
    expected = theta.numpy() - 0.3 * g.numpy().ravel()[indices.numpy()]
    resu_update_indexed(theta, g, indices, lr=0.3)
    resu_update_indexed(w, g, indices, lr=0.3)
    np.testing.assert_allclose(theta.numpy(), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(w.numpy().ravel()[indices.numpy()], expected, rtol=1e-12, atol=1e-14)
    frozen = np.delete(np.arange(w.numel()), indices.numpy())
    assert np.array_equal(w.numpy().ravel()[frozen], before.numpy().ravel()[frozen])


@pytest.mark.parametrize("in_place", [False, True])
def test_steps_with_momentum_follow_numpy(in_place: bool) -> None:
    shape = (3, 33)
    indices = pruned_indices(shape, 0.5)
    w, m = random(*shape, seed=7), torch.zeros(len(indices), dtype=torch.float64)
    target = w if in_place else phi_inverse_gather(w, indices)
    theta, moment = phi_inverse_gather(w, indices).numpy().copy(), m.numpy().copy()
    for step in range(5):
        g = random(*shape, seed=10 + step)
        resu_update_with_momentum(target, g, m, indices, lr=0.1, beta=0.8)
        moment = 0.8 * moment + 0.2 * g.numpy().ravel()[indices.numpy()]
        theta = theta - 0.1 * moment
    np.testing.assert_allclose(m.numpy(), moment, rtol=1e-12, atol=1e-14)
    result = phi_inverse_gather(w, indices) if in_place else target
    np.testing.assert_allclose(result.numpy(), theta, rtol=1e-12, atol=1e-14)


def test_a_parameter_is_stepped_without_a_graph() -> None:
    theta = torch.nn.Parameter(torch.ones(2))
    resu_update_indexed(theta, torch.ones(2, 2), torch.tensor([0, 3]), lr=0.5)
    assert theta.tolist() == [0.5, 0.5]
    assert theta.grad_fn is None


def test_what_lengths_and_shapes_show_to_be_wrong_is_refused() -> None:
    scatter, gather = inspect.unwrap(phi_scatter), inspect.unwrap(phi_inverse_gather)
    two = torch.tensor([0, 1])
    with pytest.raises(MaskError, match=r"one value an index; it is \(3,\) and the indices are \(2,\)"):
        scatter(torch.zeros(3), two, (2, 2))
    with pytest.raises(MaskError, match="a weight of 1 elements has no more pruned coordinates than that; there are 2"):
        scatter(torch.zeros(2), two, (1, 1))
    with pytest.raises(MaskError, match=r"vector of int32 or int64; they are torch.float32 of shape \(2,\)"):
        gather(torch.zeros(2, 2), two.float())
    with pytest.raises(MaskError, match=r"vector of int32 or int64; they are torch.int64 of shape \(1, 2\)"):
        gather(torch.zeros(2, 2), two[None])
    with pytest.raises(MaskError, match="these are on meta and the indices on cpu"):
        gather(torch.zeros(2, 2, device="meta"), two)
    with pytest.raises(MaskError, match="int32 reaches 2\\*\\*31 elements; the weight has 4294967296"):
        gather(torch.zeros(1, device="meta").expand(1 << 16, 1 << 16), two.int().to("meta"))
    with pytest.raises(IndexError):
        gather(torch.zeros(2, 2), torch.tensor([4]))


def test_steps_that_do_not_fit_are_refused() -> None:
    step, momentum_step = inspect.unwrap(resu_update_indexed), inspect.unwrap(resu_update_with_momentum)
    two, g = torch.tensor([0, 1]), torch.zeros(2, 3)
    with pytest.raises(MaskError, match=r"theta, one value an index, or the weight itself.* it is \(3, 2\)"):
        step(torch.zeros(3, 2), g, two, 0.1)
    with pytest.raises(MaskError, match=r"must be contiguous; its shape is \(2, 3\) with strides \(1, 2\)"):
        step(torch.zeros(3, 2).t(), g, two, 0.1)
    with pytest.raises(MaskError, match=r"the momentum has one value an index; it is \(3,\)"):
        momentum_step(torch.zeros(2), g, torch.zeros(3), two, 0.1)


def test_a_back_end_that_cannot_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("RESU_BACKEND", "triton")
    with pytest.raises(KernelError, match="RESU_BACKEND=triton"):
        phi_scatter(torch.zeros(2), torch.tensor([0, 1]), (2, 2))
