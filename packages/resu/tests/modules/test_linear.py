"""RESULinear: modes, masks, θ in each place, what is frozen, what survives, and what is refused."""

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from resu.config import SelectionConfig
from resu.core.mask import SparseMask
from resu.core.phases import Phase, sparse_state
from resu.core.resurrection import GatheredTheta, StorageMode
from resu.errors import ConfigError, MaskError, OptimizerError, PhaseError
from resu.modules.linear import RESULinear, RESUMode
from resu.optim.masked import MaskedAdamW, MaskedSGD
from resu.optim.stock import attach
from resu.reference import oracle
from resu.reference.original import live_bytes
from resu.sparsifier import Sparsifier

LayerOf = Callable[..., RESULinear]
Train = Callable[..., None]
every_mode = pytest.mark.parametrize("mode", list(StorageMode))
beside = pytest.mark.parametrize("mode", [StorageMode.COMPACT, StorageMode.DENSE])
COMPACT, DENSE, INPLACE = StorageMode


def bits_of(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.int32).clone()


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


# --- training θ -------------------------------------------------------------------------------------------------------


@every_mode
@pytest.mark.parametrize("entry", ["optimizer", "resu_step", "resu_step with gradient", "selective"])
def test_theta_really_trains_and_active_weights_keep_every_bit(
    layer_of: LayerOf,
    train: Train,
    theta_optimizer: Callable[[RESULinear], Any],
    pruned_values: Callable[[RESULinear], Tensor],
    mode: StorageMode,
    entry: str,
) -> None:
    layer = layer_of(mode)
    flags = layer.mask.to_bool()
    active = bits_of(layer.weight)[flags]
    settings = SelectionConfig(screen=1.0, select=1.0, tau=0.0)
    layer.enter_resu_mode(use_selective=entry == "selective", selective_config=settings, lr=0.1)
    start = pruned_values(layer)
    if entry == "optimizer":
        train(layer, theta_optimizer(layer))
    else:
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):
            out = layer(torch.randn(24, 37, generator=generator))
            if entry == "resu_step with gradient":
                assert layer.resu_step(torch.randn(16, 37, generator=generator))
            else:
                out.square().mean().backward()
                assert layer.resu_step()
                source = layer.weight if mode is INPLACE else layer.resurrection.theta
                assert source.grad is None, "used up, so that it cannot add up"
    moved = (layer.resurrection.values() != start).double().mean()
    assert moved >= 0.99
    assert torch.equal(bits_of(layer.weight)[flags], active)


@every_mode
def test_resu_step_follows_the_formulas(layer_of: LayerOf, mode: StorageMode) -> None:
    gradients = [torch.from_numpy(np.random.default_rng(seed).normal(size=(16, 37))).float() for seed in range(3)]
    plain = layer_of(mode)
    flags = plain.mask.to_bool().numpy()
    plain.enter_resu_mode(lr=0.1, weight_decay=0.5)
    theta = plain.resurrection.values().double().numpy().copy()
    for gradient in gradients:
        plain.resu_step(gradient)
        theta = oracle.sgd_theta_step(theta, oracle.phi_inverse(gradient.numpy(), flags), 0.1, 0.5)
    np.testing.assert_allclose(plain.resurrection.values().numpy(), theta, rtol=1e-5, atol=1e-6)

    layer = layer_of(mode)
    layer.enter_resu_mode(lr=0.1, weight_decay=0.5, use_selective=True)
    theta = layer.resurrection.values().double().numpy().copy()
    mean, mean_abs = np.zeros_like(theta), np.zeros_like(theta)
    for gradient in gradients:
        layer.resu_step(gradient)
        step = oracle.selective_step(
            theta, oracle.phi_inverse(gradient.numpy(), flags), mean, mean_abs, 0.1, weight_decay=0.5
        )
        theta, mean, mean_abs = step.theta, step.mean, step.mean_abs
    np.testing.assert_allclose(layer.resurrection.values().numpy(), theta, rtol=1e-5, atol=1e-6)


def test_the_learning_rate_of_resu_step_is_the_optimizers_where_none_is_given(layer_of: LayerOf) -> None:
    def moved(**settings: Any) -> float:
        layer = layer_of(COMPACT)
        layer.enter_resu_mode(init="zero", **settings(layer) if callable(settings) else settings)
        layer.resu_step(torch.ones(16, 37))
        return -float(layer.resurrection.values()[0])

    layer = layer_of(COMPACT)
    other = torch.optim.SGD([{"params": [layer.bias]}, {"params": [layer.weight], "lr": 0.25}], lr=0.5)
    layer.enter_resu_mode(init="zero", optimizer=other)
    layer.resu_step(torch.ones(16, 37))
    assert layer.resurrection.values()[0] == -0.25
    assert moved() == pytest.approx(1e-3)
    assert moved(lr=0.125) == 0.125


@every_mode
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(
    layer_of: LayerOf, mode: StorageMode, poison: float
) -> None:
    layer = layer_of(mode)
    layer.enter_resu_mode()
    before = layer.resurrection.values().clone()
    gradient = torch.ones(16, 37)
    gradient[~layer.mask.to_bool()] = poison
    assert layer.resu_step(gradient) is False
    assert layer.skipped_steps == 1
    assert torch.equal(layer.resurrection.values(), before)
    gradient = layer.mask.where(gradient.fill_(poison), torch.ones(16, 37))
    assert layer.resu_step(gradient) is True, "active coordinates are not asked"


@every_mode
def test_without_freezing_both_sets_train(layer_of: LayerOf, train: Train, mode: StorageMode) -> None:
    layer = layer_of(mode)
    flags = layer.mask.to_bool()
    before = layer.weight.detach().clone()
    layer.enter_resu_mode(freeze_active=False, init="zero")
    parameters = [p for p in (layer.weight, layer.weight_theta) if p is not None]
    optimizer = MaskedAdamW(parameters, lr=1e-2, weight_decay=0.1, backend="eager")
    train(layer, optimizer)
    if mode is INPLACE:
        assert sparse_state(layer.weight).phase is Phase.JOINT
    expected = layer.effective_weight().detach().clone()
    assert (expected != before).double().mean() > 0.99
    layer.exit_resu_mode()
    assert torch.equal(layer.weight.detach(), expected)
    assert (layer.weight.detach() != before)[flags].all()


def test_in_joint_a_resu_step_uses_up_the_pruned_part_only(layer_of: LayerOf) -> None:
    layer = layer_of(INPLACE)
    layer.enter_resu_mode(freeze_active=False)
    layer(torch.ones(1, 37)).sum().backward()
    layer.resu_step()
    assert torch.equal(layer.weight.grad != 0, layer.mask.to_bool())


# --- commits ----------------------------------------------------------------------------------------------------------


@every_mode
def test_a_commit_merges_what_was_trained(
    layer_of: LayerOf, train: Train, theta_optimizer: Callable[[RESULinear], Any], mode: StorageMode
) -> None:
    layer = layer_of(mode)
    mask = layer.mask.clone()
    layer.enter_resu_mode()
    train(layer, theta_optimizer(layer))
    expected = layer.effective_weight().detach().clone()
    layer.exit_resu_mode(commit=True)
    assert torch.equal(layer.weight.detach(), expected)
    assert layer.mode is RESUMode.DENSE
    assert layer.weight.requires_grad
    assert (expected[~mask.to_bool()] != 0).all()
    assert "weight_theta" not in dict(layer.named_parameters())


@every_mode
def test_survivors_keep_their_trained_values_and_losers_are_zero(
    layer_of: LayerOf, train: Train, theta_optimizer: Callable[[RESULinear], Any], mode: StorageMode
) -> None:
    layer = layer_of(mode)
    old = layer.mask.to_bool().numpy()
    layer.enter_resu_mode()
    train(layer, theta_optimizer(layer))
    effective = layer.effective_weight().detach().clone()
    chosen = oracle.amnesty_tournament(effective.abs().numpy(), old, *oracle.amnesty_counts(16 * 37, 0.7, 0.3))
    layer.exit_resu_mode(new_mask=torch.from_numpy(chosen))
    assert layer.mode is RESUMode.SPARSE
    np.testing.assert_array_equal(layer.mask.to_bool().numpy(), chosen)
    assert (chosen & ~old).any()
    np.testing.assert_array_equal(layer.weight.detach().numpy(), np.where(chosen, effective.numpy(), 0))
    assert torch.equal(layer.effective_weight(), layer.weight)


@every_mode
def test_dropping_theta_gives_back_what_was_there(
    layer_of: LayerOf, train: Train, theta_optimizer: Callable[[RESULinear], Any], mode: StorageMode
) -> None:
    layer = layer_of(mode)
    mask, weight, x = layer.mask.clone(), bits_of(layer.weight), torch.randn(5, 37)
    out = layer(x).detach()
    layer.enter_resu_mode()
    train(layer, theta_optimizer(layer))
    assert not torch.equal(layer(x), out)
    layer.exit_resu_mode(commit=False)
    assert layer.mask == mask
    assert torch.equal(bits_of(layer.weight), weight)
    assert torch.equal(layer(x), out)


@every_mode
def test_phases_follow_one_another(
    layer_of: LayerOf, train: Train, theta_optimizer: Callable[[RESULinear], Any], mode: StorageMode
) -> None:
    layer = layer_of(mode, 0.0)
    for cycle in range(3):
        layer.prune_by_magnitude(0.5)
        layer.enter_resu_mode(seed=cycle)
        train(layer, theta_optimizer(layer), 2)
        layer.exit_resu_mode()
    layer.prune_by_magnitude(0.75)
    assert layer.mask.n_active == 16 * 37 // 4
    assert torch.equal(layer.weight.detach() != 0, layer.mask.to_bool())


# --- optimizers -------------------------------------------------------------------------------------------------------

STOCK: dict[str, Callable[[Any], Any]] = {
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-2),
    "adam": lambda params: torch.optim.Adam(params, lr=1e-2),
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=1e-3),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=1e-2),
    "masked adamw": lambda params: MaskedAdamW(params, lr=1e-2, backend="eager"),
}


@beside
@pytest.mark.parametrize("optimizer", STOCK.values(), ids=STOCK)
def test_the_state_of_the_weight_is_gone_before_theta_exists(
    layer_of: LayerOf, train: Train, monkeypatch: pytest.MonkeyPatch, mode: StorageMode, optimizer: Callable[[Any], Any]
) -> None:
    layer = layer_of(mode)
    held = optimizer(layer.parameters())
    train(layer, held, 1)
    state = [x for x in held.state[layer.weight].values() if isinstance(x, Tensor)]
    size = sum(x.numel() * x.element_size() for x in state)
    assert size >= layer.weight.numel() * 4
    del state
    seen: list[bool] = []
    opened = type(layer)._open

    def watched(self: RESULinear, *args: Any) -> None:
        seen.append(layer.weight in held.state)
        opened(self, *args)

    monkeypatch.setattr(type(layer), "_open", watched)
    before = live_bytes(held, gradients=False)
    weight, bias = layer.weight, layer.bias
    layer.enter_resu_mode(optimizer=held)
    assert seen == [False]
    assert layer.weight not in held.state
    assert bias in held.state
    assert layer.weight.grad is None
    assert before - live_bytes(held, gradients=False) == size
    # The frozen weight stays in its group, and the optimizer leaves every bit of it alone.
    bits = bits_of(weight)
    train(layer, held, 2)
    assert torch.equal(bits_of(weight), bits)
    assert layer.weight not in held.state
    layer.exit_resu_mode(commit=False)
    train(layer, held, 1)
    assert layer.weight in held.state


@beside
def test_without_an_optimizer_nothing_is_deleted(layer_of: LayerOf, train: Train, mode: StorageMode) -> None:
    layer = layer_of(mode)
    held = torch.optim.Adam(layer.parameters())
    train(layer, held, 1)
    layer.enter_resu_mode()
    assert layer.weight in held.state


def test_an_attachment_is_passed_through_to_its_optimizer(layer_of: LayerOf, train: Train) -> None:
    layer = layer_of(COMPACT)
    model = nn.Sequential(layer)
    held = torch.optim.AdamW(model.parameters())
    attached = attach(model, held)
    train(layer, held, 1)
    assert layer.weight in held.state
    layer.enter_resu_mode(optimizer=attached)
    assert layer.weight not in held.state


MASKED: dict[str, Callable[[nn.Module], Any]] = {
    "adamw": lambda model: MaskedAdamW(model.parameters(), lr=1e-2, weight_decay=0.1, backend="eager"),
    "signbit": lambda model: MaskedAdamW(model.parameters(), lr=1e-2, layout="signbit", backend="eager"),
    "compact": lambda model: MaskedAdamW(model.parameters(), lr=1e-2, layout="compact", backend="eager"),
    "sgd": lambda model: MaskedSGD(model.parameters(), lr=1e-2, momentum=0.9),
    "attached": lambda model: attach(model, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)),
}


@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED)
def test_in_place_one_optimizer_follows_all_phases(
    layer_of: LayerOf, train: Train, make: Callable[[nn.Module], Any]
) -> None:
    layer = layer_of(INPLACE)
    held = make(layer)
    stepped = getattr(held, "optimizer", held)
    flags = layer.mask.to_bool()
    train(layer, stepped)
    assert not layer.weight.detach()[~flags].any()
    trained = bits_of(layer.weight)[flags]
    layer.enter_resu_mode(init="zero", optimizer=held)
    train(layer, stepped)
    assert torch.equal(bits_of(layer.weight)[flags], trained)
    assert (layer.weight.detach()[~flags] != 0).double().mean() >= 0.99
    new = SparseMask.random((16, 37), 0.6, seed=3)
    expected = new.apply(layer.weight.detach())
    layer.exit_resu_mode(new_mask=new, optimizer=held)
    assert torch.equal(layer.weight.detach(), expected)
    train(layer, stepped)
    assert torch.equal(layer.weight.detach() != 0, new.to_bool())
    layer.set_mask(SparseMask.random((16, 37), 0.3, seed=4), optimizer=held)
    train(layer, stepped)
    assert layer.mask.sparsity == pytest.approx(0.3, abs=1e-2)
    assert torch.isfinite(layer.weight).all()


def test_in_place_theta_is_a_copy_that_no_optimizer_takes(layer_of: LayerOf) -> None:
    layer = layer_of(INPLACE)
    layer.enter_resu_mode()
    theta = layer.resurrection.theta
    assert isinstance(theta, GatheredTheta)
    assert list(dict(layer.named_parameters())) == ["weight", "bias"]
    layer(torch.ones(2, 37)).sum().backward()
    assert theta.grad.tolist() == [2.0] * layer.mask.n_pruned
    with pytest.raises(OptimizerError, match=r"MaskedAdamW.*attach"):
        torch.optim.Adam([theta])


def test_a_layer_in_place_and_a_sparsifier_speak_of_the_same_weight(layer_of: LayerOf, train: Train) -> None:
    layer = layer_of(INPLACE, 0.0)
    held = MaskedAdamW(layer.parameters(), lr=1e-2, backend="eager")
    sparsifier = Sparsifier(layer, 0.5, optimizer=held)
    assert layer.mode is RESUMode.DENSE
    sparsifier.prune()
    assert (layer.mode, layer.sparsity) == (RESUMode.SPARSE, 0.5)
    sparsifier.enter_resu(subset=0.5)
    assert layer.mode is RESUMode.RESU
    train(layer, held)
    assert (layer.resurrection.theta != 0).double().mean() == pytest.approx(0.5)
    with pytest.raises(PhaseError, match="subset"):
        layer.resu_step(torch.ones(16, 37))
    sparsifier.commit("none")
    assert layer.mode is RESUMode.SPARSE
    sparsifier.detach()
    assert layer.mode is RESUMode.DENSE


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
