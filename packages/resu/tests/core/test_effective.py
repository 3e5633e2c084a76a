"""W_eff and its gradients against float64 written out by hand, in both forms, with what must not be seen or touched."""

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from resu.core.effective import BlendFunction, EffectiveWeightFunction, effective_weight, effective_weight_dense
from resu.core.mask import SparseMask
from resu.errors import MaskError
from resu.reference import oracle

SHAPES = ((11,), (3, 5), (4, 4), (2, 9), (3, 2, 2, 1))
SPARSITIES = (0.0, 0.1, 0.5, 0.9, 0.98)


def drawn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def problem(shape: tuple[int, ...], sparsity: float, seed: int = 0) -> tuple[Tensor, Tensor, SparseMask, Tensor]:
    mask = SparseMask.random(shape, sparsity, seed=seed)
    return drawn(shape, seed), drawn((mask.n_pruned,), seed + 1), mask, drawn(shape, seed + 2)


@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple),
    sparsity=st.floats(0, 0.99),
    seed=st.integers(0, 99),
    freeze=st.booleans(),
)
def test_values_and_gradients_equal_the_plain_form(
    shape: tuple[int, ...], sparsity: float, seed: int, freeze: bool
) -> None:
    weight, theta, mask, upstream = problem(shape, sparsity, seed)
    flags = mask.to_bool().numpy()
    expected = oracle.effective_weight(weight.numpy(), theta.numpy(), flags)
    grad_weight, grad_theta = oracle.effective_weight_gradients(upstream.numpy(), flags, freeze)
    phi = torch.from_numpy(oracle.phi(theta.numpy(), flags))

    for form in ("vector", "matrix", "sum"):
        w = (mask.apply(weight) if form == "sum" else weight.clone()).requires_grad_()
        t = (theta if form == "vector" else phi).clone().requires_grad_()
        if form == "vector":
            found = effective_weight(w, t, mask, freeze_active=freeze)
        else:
            found = effective_weight_dense(w, t, mask, freeze, disjoint=form == "sum")
        found.backward(upstream)
        np.testing.assert_array_equal(found.detach().numpy(), expected)
        got = t.grad.numpy() if form == "vector" else oracle.phi_inverse(t.grad.numpy(), flags)
        np.testing.assert_array_equal(got, grad_theta)
        if form != "vector":
            assert not t.grad.numpy()[flags].any()
        if grad_weight is None:
            assert w.grad is None
        else:
            np.testing.assert_array_equal(w.grad.numpy(), grad_weight)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_gradcheck(shape: tuple[int, ...], sparsity: float) -> None:
    weight, theta, mask, _ = problem(shape, sparsity)
    phi = mask.apply_inverse(drawn(shape, 5))
    inputs = weight.requires_grad_(), theta.requires_grad_(), phi.requires_grad_()

    def both(w: Tensor, t: Tensor, matrix: Tensor) -> Tensor:
        vector_form = effective_weight(w, t, mask, freeze_active=False)
        return vector_form.square() + effective_weight_dense(w, matrix, mask, freeze_active=False).pow(3)

    assert torch.autograd.gradcheck(both, inputs)
    if shape == SHAPES[1]:
        assert torch.autograd.gradgradcheck(both, inputs)


def test_neither_gradient_reaches_the_other_set() -> None:
    weight, theta, mask, upstream = problem((6, 9), 0.5)
    weight.requires_grad_()
    theta.requires_grad_()
    effective_weight(weight, theta, mask, freeze_active=False).backward(upstream)
    spread = torch.from_numpy(oracle.phi(theta.grad.numpy(), mask.to_bool().numpy()))
    assert float((weight.grad * spread).sum()) == 0.0
    assert torch.equal(weight.grad + spread, upstream)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_stands_on_the_other_set_is_never_seen(poison: float) -> None:
    weight, theta, mask, upstream = problem((5, 7), 0.4)
    expected = effective_weight(weight, theta, mask)
    dirty = mask.where(weight, torch.full_like(weight, poison))
    phi = torch.from_numpy(oracle.phi(theta.numpy(), mask.to_bool().numpy()))
    dirty_phi = mask.where(torch.full_like(phi, poison), phi)
    assert torch.equal(effective_weight(dirty, theta, mask), expected)
    found = effective_weight_dense(dirty.requires_grad_(), dirty_phi.requires_grad_(), mask, freeze_active=False)
    assert torch.equal(found, expected)
    found.backward(upstream)
    assert torch.isfinite(dirty.grad).all()
    assert torch.isfinite(dirty_phi.grad).all()


def test_strides_do_not_matter() -> None:
    weight, theta, mask, upstream = problem((6, 11), 0.5)
    expected = effective_weight(weight, theta, mask)
    turned = weight.T.contiguous().T
    assert not turned.is_contiguous()
    theta.requires_grad_()
    found = effective_weight(turned, theta, mask)
    assert torch.equal(found, expected)
    found.backward(upstream.T.contiguous().T)
    np.testing.assert_array_equal(theta.grad.numpy(), oracle.phi_inverse(upstream.numpy(), mask.to_bool().numpy()))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_indices_may_be_passed_and_are_what_the_backward_pass_keeps(dtype: torch.dtype) -> None:
    weight, theta, mask, _ = problem((6, 9), 0.5)
    indices = mask.pruned_indices.to(dtype)
    found = effective_weight(weight, theta.requires_grad_(), mask, indices=indices)
    assert torch.equal(found, effective_weight(weight, theta, mask))
    assert [saved.dtype for saved in found.grad_fn.saved_tensors] == [dtype]
    assert found.grad_fn.saved_tensors[0].data_ptr() == indices.data_ptr()


def test_the_blend_keeps_the_packed_mask_and_nothing_else() -> None:
    weight, _, mask, _ = problem((6, 9), 0.5)
    found = effective_weight_dense(weight, drawn((6, 9), 3).requires_grad_(), mask)
    kept = found.grad_fn.saved_tensors
    assert [(x.dtype, x.numel()) for x in kept] == [(torch.int32, 6)]


def test_a_matrix_is_taken_for_theta_as_well() -> None:
    weight, theta, mask, _ = problem((4, 6), 0.5)
    phi = torch.from_numpy(oracle.phi(theta.numpy(), mask.to_bool().numpy()))
    assert torch.equal(effective_weight(weight, phi, mask), effective_weight(weight, theta, mask))


def test_the_result_is_new_and_the_arguments_are_as_they_were() -> None:
    weight, theta, mask, _ = problem((4, 6), 0.5)
    before = weight.clone(), theta.clone()
    effective_weight(weight, theta, mask).zero_()
    assert torch.equal(weight, before[0])
    assert torch.equal(theta, before[1])


def test_shapes_that_do_not_fit_are_refused() -> None:
    weight, theta, mask, _ = problem((4, 6), 0.5)
    with pytest.raises(MaskError, match="the weight has shape"):
        effective_weight(weight.T, theta, mask)
    with pytest.raises(MaskError, match=f"{mask.n_pruned} here"):
        effective_weight(weight, theta[:-1], mask)
    with pytest.raises(MaskError, match="matrix φ"):
        effective_weight_dense(weight, theta[:, None], mask)


def test_functions_are_public_and_take_what_the_note_passes() -> None:
    weight, theta, mask, _ = problem((2, 4), 0.5)
    cached, phi_theta = mask.apply(weight), torch.from_numpy(oracle.phi(theta.numpy(), mask.to_bool().numpy()))
    assert prod(cached.shape) == 8
    found = effective_weight_dense(cached, phi_theta, mask, freeze_active=True)
    assert torch.equal(found, cached + phi_theta)
    by_hand = EffectiveWeightFunction.apply(weight, theta, mask.pruned_indices, True)
    assert torch.equal(by_hand, BlendFunction.apply(cached, phi_theta, mask.bits, True, False))
