"""RESULinear's modes and masks: what it computes in each, what a change of mode costs, and what is refused."""

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resu.core.mask import SparseMask
from resu.core.resurrection import StorageMode
from resu.errors import ConfigError, MaskError, OptimizerError, PhaseError
from resu.modules.linear import RESULinear, RESUMode
from resu.optim.masked import MaskedAdamW
from resu.reference import oracle

LayerOf = Callable[..., RESULinear]
Train = Callable[..., None]
every_mode = pytest.mark.parametrize("mode", list(StorageMode))
beside = pytest.mark.parametrize("mode", [StorageMode.COMPACT, StorageMode.DENSE])
DENSE, INPLACE = StorageMode.DENSE, StorageMode.INPLACE


# --- modes and outputs ------------------------------------------------------------------------------------------------


@every_mode
def test_modes_follow_what_is_there(layer_of: LayerOf, mode: StorageMode) -> None:
    layer = layer_of(mode, 0.0)
    assert (layer.mode, layer.mask, layer.sparsity) == (RESUMode.DENSE, None, 0.0)
    layer.prune_by_magnitude(0.25)
    assert (layer.mode, layer.sparsity) == (RESUMode.SPARSE, 0.25)
    layer.enter_resu_mode()
    assert layer.mode is RESUMode.RESU
    assert f"{mode}, resu, sparsity=0.2500" in repr(layer)
    layer.exit_resu_mode(commit=False)
    assert (layer.mode, layer.sparsity) == (RESUMode.SPARSE, 0.25)
    layer.set_mask(None)
    assert (layer.mode, layer.mask, layer.sparsity) == (RESUMode.DENSE, None, 0.0)


def test_compact_is_the_default() -> None:
    assert RESULinear(2, 2).storage_mode is StorageMode.COMPACT


@every_mode
@settings(max_examples=10)
@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 40),
    sparsity=st.floats(0, 0.99),
    seed=st.integers(0, 99),
    lead=st.integers(0, 2),
)
def test_outputs_and_gradients_equal_float64(
    mode: StorageMode, rows: int, cols: int, sparsity: float, seed: int, lead: int
) -> None:
    torch.manual_seed(seed)
    layer = RESULinear(cols, rows, storage_mode=mode, dtype=torch.float64)
    mask = SparseMask.random((rows, cols), sparsity, seed=seed)
    layer.set_mask(mask)
    flags, x = mask.to_bool().numpy(), torch.randn(*(3,) * lead, cols, dtype=torch.float64)
    sparse = np.where(flags, layer.weight.detach().numpy(), 0)
    bias = layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), x.numpy() @ sparse.T + bias, rtol=1e-12, atol=1e-12)
    if not mask.n_pruned:
        return
    layer.enter_resu_mode(epsilon=0.5, seed=seed)
    theta = layer.resurrection.values().numpy().copy()
    effective = oracle.effective_weight(sparse, theta, flags)
    out = layer(x)
    np.testing.assert_allclose(out.detach().numpy(), x.numpy() @ effective.T + bias, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    dense_gradient = upstream.reshape(-1, rows).numpy().T @ x.reshape(-1, cols).numpy()
    found = layer.resurrection.theta.grad
    found = layer.resurrection.phi_inverse(found) if mode is DENSE else found
    np.testing.assert_allclose(found.numpy(), oracle.phi_inverse(dense_gradient, flags), rtol=1e-11, atol=1e-11)


@every_mode
def test_the_bias_and_the_input_keep_their_gradients(layer_of: LayerOf, mode: StorageMode) -> None:
    layer = layer_of(mode)
    layer.enter_resu_mode()
    x = torch.randn(4, 37, requires_grad=True)
    layer(x).sum().backward()
    assert layer.bias.grad.tolist() == [4.0] * 16
    torch.testing.assert_close(x.grad[0], layer.effective_weight().detach().sum(0))


@beside
def test_a_stock_optimizer_with_old_momentum_cannot_show_pruned_weights(
    layer_of: LayerOf, train: Train, mode: StorageMode
) -> None:
    layer = layer_of(mode, 0.0)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    train(layer, optimizer)
    layer.prune_by_magnitude(0.5)
    mask = layer.mask
    train(layer, optimizer)
    pruned = ~mask.to_bool()
    assert layer.weight.detach()[pruned].any(), "momentum moved them out of sight"
    assert not layer.effective_weight().detach()[pruned].any()
    assert not layer.state_dict()["weight"][pruned].any()
    out = layer(torch.eye(37)) - layer.bias
    assert not out.detach().T[pruned].any()
    # A weight that is let in again starts at 0, not at what momentum left.
    layer.set_mask(SparseMask.ones((16, 37)))
    assert not layer.weight.detach()[pruned].any()


# --- masks ------------------------------------------------------------------------------------------------------------


@every_mode
def test_a_mask_is_copied_and_pruned_weights_are_zero(layer_of: LayerOf, mode: StorageMode) -> None:
    layer = layer_of(mode, 0.0)
    before = layer.weight.detach().clone()
    mask = SparseMask.random((16, 37), 0.3, seed=1)
    layer.set_mask(mask)
    flags = mask.to_bool()
    mask.update_inplace(SparseMask.zeros((16, 37)))
    assert torch.equal(layer.mask.to_bool(), flags)
    assert torch.equal(layer.weight.detach(), torch.where(flags, before, 0))
    layer.set_mask(flags.float())
    assert torch.equal(layer.mask.to_bool(), flags)


@every_mode
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_magnitude_pruning_is_exact_also_among_equals(mode: StorageMode, sparsity: float) -> None:
    layer = RESULinear(30, 10, storage_mode=mode)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -1.0, 0.5, -2.0, 0.0] * 60).view(10, 30))
    expected = oracle.top_k(layer.weight.detach().abs().numpy(), 300 - round(sparsity * 300))
    layer.prune_by_magnitude(sparsity)
    found = np.ones((10, 30), bool) if layer.mask is None else layer.mask.to_bool().numpy()
    np.testing.assert_array_equal(found, expected)


@every_mode
def test_a_second_mask_replaces_the_first(layer_of: LayerOf, mode: StorageMode) -> None:
    layer = layer_of(mode)
    kept = layer.weight.detach().clone()
    other = SparseMask.random((16, 37), 0.2, seed=7)
    layer.set_mask(other)
    assert layer.mask == other
    assert torch.equal(layer.weight.detach(), other.apply(kept))


# --- compilation ------------------------------------------------------------------------------------------------------


def test_in_place_a_change_of_mode_recompiles_nothing(layer_of: LayerOf) -> None:
    layer = layer_of(INPLACE)
    compiled: list[int] = []

    def count(graph: Any, inputs: Any) -> Any:
        compiled.append(len(inputs))
        return graph.forward

    # Without the shape checker, which costs graph breaks of its own.
    run = torch.compile(MethodType(inspect.unwrap(RESULinear.forward), layer), backend=count)
    x = torch.randn(3, 37)
    expected = run(x).detach()
    layer.enter_resu_mode()
    assert not torch.equal(run(x), expected)
    layer.exit_resu_mode()
    run(x)
    assert len(compiled) == 1


# --- bad input --------------------------------------------------------------------------------------------------------


@every_mode
def test_phases_out_of_order_are_refused(layer_of: LayerOf, mode: StorageMode) -> None:
    layer = layer_of(mode, 0.0)
    with pytest.raises(PhaseError, match="no mask"):
        layer.enter_resu_mode()
    layer.set_mask(SparseMask.ones((16, 37)))
    with pytest.raises(PhaseError, match="no mask"):
        layer.enter_resu_mode()
    for call in (layer.exit_resu_mode, layer.resu_step, lambda: layer.resurrection):
        with pytest.raises(PhaseError, match="RESU mode only; the mode is dense"):
            call()
    layer.prune_by_magnitude(0.5)
    layer.enter_resu_mode()
    with pytest.raises(PhaseError, match="entered once"):
        layer.enter_resu_mode()
    with pytest.raises(PhaseError, match="exit_resu_mode"):
        layer.set_mask(None)
    with pytest.raises(PhaseError, match="exit_resu_mode"):
        layer.prune_by_magnitude(0.7)
    with pytest.raises(PhaseError, match="backward"):
        layer.resu_step()


@every_mode
def test_masks_and_sparsities_that_do_not_fit_are_refused(layer_of: LayerOf, mode: StorageMode) -> None:
    layer = layer_of(mode)
    for sparsity in (-0.1, 1.0, float("nan")):
        with pytest.raises(MaskError, match="at least 0 and below 1"):
            layer.prune_by_magnitude(sparsity)
    with pytest.raises(MaskError, match=r"\(37, 16\).*the weight has shape \(16, 37\)"):
        layer.set_mask(SparseMask.ones((37, 16)))
    layer.enter_resu_mode()
    before = layer.effective_weight().detach().clone()
    with pytest.raises(MaskError, match="shape"):
        layer.exit_resu_mode(new_mask=SparseMask.ones((37, 16)))
    assert layer.mode is RESUMode.RESU
    assert torch.equal(layer.effective_weight(), before)
    with pytest.raises(MaskError, match="shape"):
        layer.resu_step(torch.ones(37, 16))
    with pytest.raises(ConfigError, match="commit=True"):
        layer.exit_resu_mode(commit=False, new_mask=SparseMask.ones((16, 37)))


@every_mode
def test_settings_that_cannot_be_are_refused_before_anything_changes(layer_of: LayerOf, mode: StorageMode) -> None:
    layer = layer_of(mode)
    for settings_ in ({"epsilon": -1.0}, {"epsilon": float("nan")}, {"lr": -1e-3}):
        with pytest.raises(ConfigError, match="at least 0"):
            layer.enter_resu_mode(**settings_)
    assert layer.mode is RESUMode.SPARSE
    assert layer.weight.requires_grad


@every_mode
def test_optimizers_that_cannot_do_it_are_refused(layer_of: LayerOf, mode: StorageMode) -> None:
    layer = layer_of(mode)
    stranger = MaskedAdamW([nn.Parameter(torch.ones(2))], backend="eager")
    with pytest.raises(OptimizerError, match="does not hold that of this layer"):
        layer.enter_resu_mode(optimizer=stranger)
    with pytest.raises(OptimizerError, match="does not hold"):
        layer.set_mask(None, optimizer=stranger)
    assert layer.mode is RESUMode.SPARSE
    if mode is INPLACE:
        with pytest.raises(OptimizerError, match=r"got Adam\..*MaskedAdamW.*attach"):
            layer.enter_resu_mode(optimizer=torch.optim.Adam(layer.parameters()))
