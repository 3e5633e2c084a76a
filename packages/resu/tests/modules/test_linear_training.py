"""RESULinear's θ in each place: how it trains, what stays frozen, what a commit keeps, and whose state is deleted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resu.config import SelectionConfig
from resu.core.mask import SparseMask
from resu.core.phases import Phase, sparse_state
from resu.core.resurrection import GatheredTheta, StorageMode
from resu.errors import OptimizerError, PhaseError
from resu.modules.linear import RESULinear, RESUMode
from resu.optim.masked import MaskedAdamW, MaskedSGD
from resu.optim.stock import attach
from resu.reference import oracle
from resu.reference.original_memory import live_bytes
from resu.sparsifier import Sparsifier

LayerOf = Callable[..., RESULinear]
Train = Callable[..., None]
every_mode = pytest.mark.parametrize("mode", list(StorageMode))
beside = pytest.mark.parametrize("mode", [StorageMode.COMPACT, StorageMode.DENSE])
COMPACT, INPLACE = StorageMode.COMPACT, StorageMode.INPLACE


def bits_of(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.int32).clone()


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
