"""θ in its three places: φ and φ⁻¹, starts, steps and commits against float64, and the read-only copy of INPLACE."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from resu.core.mask import SparseMask
from resu.core.noise import normal
from resu.core.phases import sparsify
from resu.core.resurrection import GatheredTheta, ResurrectionEmbedding, StorageMode, active_std
from resu.errors import ConfigError, MaskError, OptimizerError, PhaseError
from resu.optim.masked import MaskedAdamW
from resu.reference import oracle
from resu.reference.original_memory import live_tensors

SHAPES = ((17,), (3, 33), (8, 16), (4, 70), (5, 3, 2, 2))
SPARSITIES = (0.0, 0.1, 0.5, 0.9, 0.98)
every_mode = pytest.mark.parametrize("mode", list(StorageMode))
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_sparsity = pytest.mark.parametrize("sparsity", SPARSITIES)


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def made(
    mask: SparseMask, mode: StorageMode, dtype: torch.dtype = torch.float64, weight: Tensor | None = None
) -> ResurrectionEmbedding:
    if mode is not StorageMode.INPLACE:
        return ResurrectionEmbedding(mask, mode, dtype=dtype)
    parameter = nn.Parameter(mask.apply(drawn(mask.shape, 9).to(dtype)) if weight is None else weight)
    sparsify(parameter, mask)
    return ResurrectionEmbedding(mask, mode, weight=parameter)


# --- φ and φ⁻¹ --------------------------------------------------------------------------------------------------------


@every_shape
@every_sparsity
@every_mode
def test_round_trips_are_exact_and_the_two_are_adjoint(
    shape: tuple[int, ...], sparsity: float, mode: StorageMode
) -> None:
    mask = SparseMask.random(shape, sparsity)
    flags = mask.to_bool().numpy()
    values, other = drawn((mask.n_pruned,), 1), drawn(shape, 2)
    embedding = made(mask, mode)
    embedding.assign(values)
    phi = embedding.phi().detach()
    np.testing.assert_array_equal(phi.numpy(), oracle.phi(values.numpy(), flags))
    assert torch.equal(embedding.phi_inverse(phi), values)
    assert torch.equal(embedding.values(), values)
    np.testing.assert_array_equal(embedding.phi_inverse(other).numpy(), oracle.phi_inverse(other.numpy(), flags))
    left, right = float((phi * other).sum()), float((values * embedding.phi_inverse(other)).sum())
    assert left == pytest.approx(right, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("shape", [(11,), (3, 5), (4, 4), (2, 9), (3, 2, 2, 1)])
@every_sparsity
def test_gradcheck_through_phi(shape: tuple[int, ...], sparsity: float) -> None:
    mask = SparseMask.random(shape, sparsity)
    for mode in (StorageMode.COMPACT, StorageMode.DENSE):
        embedding = made(mask, mode)

        def through(theta: Tensor, embedding: ResurrectionEmbedding = embedding) -> Tensor:
            embedding._theta = theta
            return embedding.phi().square()

        start = drawn(tuple(embedding.theta.shape), 3).requires_grad_()
        assert torch.autograd.gradcheck(through, (start,))


@every_mode
def test_the_gradient_of_phi_goes_where_theta_lives(mode: StorageMode) -> None:
    mask = SparseMask.random((5, 9), 0.6)
    upstream = drawn((5, 9), 4)
    embedding = made(mask, mode)
    embedding.phi().backward(upstream)
    gradient = embedding.theta.grad
    expected = oracle.phi_inverse(upstream.numpy(), mask.to_bool().numpy())
    if mode is StorageMode.DENSE:
        assert not gradient[mask.to_bool()].any()
        gradient = embedding.phi_inverse(gradient)
    np.testing.assert_array_equal(gradient.numpy(), expected)


# --- starts -----------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 50), sparsity=st.floats(0, 0.99), shape=st.tuples(st.integers(1, 9), st.integers(1, 40)))
def test_the_standard_deviation_of_active_weights(seed: int, sparsity: float, shape: tuple[int, int]) -> None:
    mask, weight = SparseMask.random(shape, sparsity, seed=seed), drawn(shape, seed) + 100
    expected = oracle.active_std(weight.numpy(), mask.to_bool().numpy())
    assert active_std(weight, mask) == pytest.approx(expected, rel=1e-10)


def test_a_single_active_weight_or_none_has_deviation_one() -> None:
    assert active_std(torch.ones(2, 2), SparseMask.zeros((2, 2))) == 1.0
    assert active_std(torch.ones(2, 2), SparseMask(torch.tensor([[1, 0], [0, 0]]))) == 1.0


@pytest.mark.parametrize("init", ["normal", "uniform"])
def test_noise_belongs_to_a_coordinate_and_not_to_a_storage(init: Any) -> None:
    mask = SparseMask.random((20, 30), 0.7)
    started = [
        made(mask, mode, torch.float32).initialize(0.2, 3.0, init, seed=5, name="layer").values()
        for mode in StorageMode
    ]
    assert all(torch.equal(one, started[0]) for one in started)
    another = made(mask, StorageMode.COMPACT, torch.float32)
    assert not torch.equal(another.initialize(0.2, 3.0, init, seed=6, name="layer").values(), started[0])
    assert not torch.equal(another.initialize(0.2, 3.0, init, seed=5, name="other").values(), started[0])


def test_normal_noise_is_scaled_by_epsilon_and_sigma() -> None:
    mask = SparseMask.random((20, 30), 0.7)
    found = ResurrectionEmbedding(mask).initialize(0.2, 3.0, "normal", seed=5, name="layer").values()
    expected = normal(5, "layer", slice(0, 20), 30)[~mask.to_bool()].double() * 0.6
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    assert float(found.std()) == pytest.approx(0.6, rel=0.15)


def test_uniform_noise_stays_within_epsilon_sigma_and_zero_is_zero() -> None:
    mask = SparseMask.random((20, 30), 0.7)
    found = ResurrectionEmbedding(mask).initialize(0.2, 3.0, "uniform").values()
    assert 0.55 < float(found.abs().max()) <= 0.6
    assert float(found.mean()) == pytest.approx(0, abs=0.06)
    assert not ResurrectionEmbedding(mask).initialize(0.2, 3.0, "zero").values().any()
    assert not ResurrectionEmbedding(mask).initialize(0.0, 3.0, "normal").values().any()


def test_starting_in_place_leaves_active_weights_their_bits() -> None:
    mask = SparseMask.random((20, 30), 0.7)
    embedding = made(mask, StorageMode.INPLACE, torch.float32)
    before = embedding.home().clone()
    embedding.initialize(0.2, 3.0)
    assert torch.equal(embedding.home()[mask.to_bool()], before[mask.to_bool()])
    assert (embedding.home()[~mask.to_bool()] != 0).all()


# --- steps ------------------------------------------------------------------------------------------------------------


def steps_of(rule: str, embedding: ResurrectionEmbedding, gradients: list[Tensor]) -> None:
    for gradient in gradients:
        if rule == "sgd":
            embedding.update_sgd(gradient, 0.1)
        elif rule == "sgd with decay":
            embedding.update_sgd(gradient, 0.1, 0.5)
        elif rule == "momentum":
            embedding.update_momentum(gradient, 0.1, 0.8)
        else:
            embedding.update_adam(gradient, 0.1, (0.8, 0.9), 1e-8, 0.3)


def plain_steps(rule: str, theta: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for t, gradient in enumerate(gradients, 1):
        if rule == "sgd":
            theta = oracle.sgd_theta_step(theta, gradient, 0.1)
        elif rule == "sgd with decay":
            theta = oracle.sgd_theta_step(theta, gradient, 0.1, 0.5)
        elif rule == "momentum":
            theta, first = oracle.momentum_theta_step(theta, gradient, first, 0.1, 0.8)
        else:
            theta, first, second = oracle.adam_theta_step(theta, gradient, first, second, t, 0.1, (0.8, 0.9), 1e-8, 0.3)
    return theta


@every_mode
@pytest.mark.parametrize("rule", ["sgd", "sgd with decay", "momentum", "adam"])
def test_steps_equal_the_formulas_and_touch_nothing_else(mode: StorageMode, rule: str) -> None:
    mask = SparseMask.random((6, 37), 0.6)
    flags = mask.to_bool()
    embedding = made(mask, mode, torch.float32).initialize(1.0, 1.0)
    start = embedding.values().double().numpy().copy()
    beside = embedding.home()[flags].clone() if mode is not StorageMode.COMPACT else None
    # Gradients as a transposed product gives them: not contiguous.
    gradients = [drawn((37, 6), seed).float().T for seed in range(4)]
    steps_of(rule, embedding, gradients)
    expected = plain_steps(rule, start, [oracle.phi_inverse(g.numpy(), flags.numpy()) for g in gradients])
    np.testing.assert_allclose(embedding.values().numpy(), expected, rtol=2e-5, atol=2e-6)
    if beside is not None:
        assert torch.equal(embedding.home()[flags], beside)


def test_gathered_gradients_are_taken_as_well() -> None:
    mask, gradient = SparseMask.random((6, 10), 0.5), drawn((6, 10), 1).float()
    for rule in ("sgd", "sgd with decay", "adam"):
        one, other = (ResurrectionEmbedding(mask).initialize(1.0) for _ in range(2))
        steps_of(rule, one, [gradient])
        steps_of(rule, other, [one.phi_inverse(gradient)])
        torch.testing.assert_close(one.values(), other.values(), rtol=1e-6, atol=1e-7)


def test_an_adam_step_is_that_of_torch() -> None:
    mask = SparseMask.random((6, 10), 0.5)
    embedding = ResurrectionEmbedding(mask).initialize(1.0)
    theta = nn.Parameter(embedding.values().clone())
    stock = torch.optim.AdamW([theta], lr=0.01, weight_decay=0.1)
    for seed in range(5):
        gradient = drawn((6, 10), seed).float()
        theta.grad = embedding.phi_inverse(gradient)
        stock.step()
        embedding.update_adam(gradient, 0.01, weight_decay=0.1)
    torch.testing.assert_close(embedding.values(), theta.detach(), rtol=1e-5, atol=1e-6)


# --- commits and masks ------------------------------------------------------------------------------------------------


@every_mode
def test_a_commit_writes_theta_and_leaves_the_rest(mode: StorageMode) -> None:
    mask = SparseMask.random((5, 40), 0.5)
    weight = drawn((5, 40), 1)
    expected = mask.where(weight, torch.zeros_like(weight))
    embedding = made(mask, mode, weight=expected.clone())
    embedding.assign(drawn((mask.n_pruned,), 2))
    target = embedding.home() if mode is StorageMode.INPLACE else weight.clone()
    embedding.commit(target)
    np.testing.assert_array_equal(
        target.numpy(),
        oracle.effective_weight(weight.numpy(), drawn((mask.n_pruned,), 2).numpy(), mask.to_bool().numpy()),
    )


@given(seed=st.integers(0, 99), old=st.floats(0, 0.99), new=st.floats(0, 0.99))
def test_another_mask_keeps_what_was_pruned_before(seed: int, old: float, new: float) -> None:
    before, after = SparseMask.random((4, 9), old, seed=seed), SparseMask.random((4, 9), new, seed=seed + 1)
    values = drawn((before.n_pruned,), seed).float()
    dense = oracle.phi(values.numpy(), before.to_bool().numpy())
    expected = oracle.phi_inverse(dense, after.to_bool().numpy())
    for mode in (StorageMode.COMPACT, StorageMode.DENSE):
        embedding = made(before, mode, torch.float32)
        embedding.assign(values)
        theta = embedding.theta
        embedding.change_mask(after)
        assert embedding.theta is not theta
        assert embedding.theta.requires_grad
        np.testing.assert_array_equal(embedding.values().numpy(), expected)
        if mode is StorageMode.DENSE:
            assert not embedding.theta.detach()[after.to_bool()].any()


@every_mode
def test_no_wide_index_vector_is_left_alive(mode: StorageMode) -> None:
    mask = SparseMask.random((16, 16), 0.5)
    embedding = made(mask, mode, torch.float32).initialize(0.1)
    embedding.phi().sum().backward()
    embedding.update_sgd(torch.ones(16, 16), 0.1)
    alive = live_tensors(embedding)
    assert not [x for x in alive if x.dtype == torch.int64]
    narrow = [x.numel() for x in alive if x.dtype == torch.int32 and x.dim() == 1]
    assert narrow == ([mask.n_pruned] if mode is StorageMode.COMPACT else [])


# --- the copy of INPLACE ----------------------------------------------------------------------------------------------


def in_place() -> tuple[nn.Parameter, SparseMask, ResurrectionEmbedding]:
    mask = SparseMask.random((4, 8), 0.5)
    weight = nn.Parameter(drawn((4, 8), 1).float())
    sparsify(weight, mask)
    return weight, mask, ResurrectionEmbedding(mask, StorageMode.INPLACE, weight=weight)


def test_the_copy_and_its_gradient_are_gathered_anew() -> None:
    weight, mask, embedding = in_place()
    pruned = ~mask.to_bool()
    theta = embedding.theta
    assert isinstance(theta, GatheredTheta)
    assert torch.equal(theta, weight.detach()[pruned])
    assert theta.grad is None
    (3 * weight).sum().backward()
    assert theta.grad.tolist() == [3.0] * mask.n_pruned
    weight.grad = None
    (weight.T.square()).sum().backward()
    assert torch.equal(theta.grad, 2 * weight.detach()[pruned])
    with torch.no_grad():
        weight[pruned] += 1
    assert torch.equal(embedding.theta, theta + 1)


STOCK: tuple[Callable[..., Any], ...] = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Rprop,
    torch.optim.LBFGS,
    MaskedAdamW,
)


@pytest.mark.parametrize("optimizer", STOCK, ids=lambda kind: kind.__name__)
def test_every_optimizer_refuses_the_copy_and_says_who_trains_theta(optimizer: Callable[..., Any]) -> None:
    _, _, embedding = in_place()
    with pytest.raises(OptimizerError, match=r"MaskedAdamW.*attach\(model, optimizer\)"):
        optimizer([embedding.theta], lr=0.1)
    held = optimizer([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises((OptimizerError, ValueError), match=r"MaskedAdamW|per-parameter options"):
        held.add_param_group({"params": [embedding.theta]})


def test_an_optimizer_that_does_not_ask_fails_when_it_steps() -> None:
    weight, _, embedding = in_place()
    optimizer = torch.optim.SGD([embedding.theta], lr=0.1, differentiable=True)
    weight.sum().backward()
    with pytest.raises(OptimizerError, match="MaskedAdamW"):
        optimizer.step()


WRITES: dict[str, Callable[[Any], Any]] = {
    "add_": lambda theta: theta.add_(1),
    "item": lambda theta: theta.__setitem__(0, 1.0),
    "+=": lambda theta: theta.__iadd__(1),
    "foreach": lambda theta: torch._foreach_add_([theta], 1.0),
    "out": lambda theta: torch.add(torch.zeros(theta.shape), 1, out=theta),
    "init": lambda theta: nn.init.zeros_(theta),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_the_copy_cannot_be_written(write: Callable[[Any], Any]) -> None:
    _, _, embedding = in_place()
    theta = embedding.theta
    before = theta.tolist()
    with pytest.raises(OptimizerError, match="copy"):
        write(theta)
    assert theta.tolist() == before


def test_what_is_made_from_the_copy_is_an_ordinary_tensor() -> None:
    _, _, embedding = in_place()
    theta = embedding.theta
    for made_from_it in (theta * 2, theta.clone(), theta[1:], theta.detach(), copy.deepcopy(theta)):
        assert type(made_from_it) is Tensor
        assert made_from_it.is_leaf
    assert "GatheredTheta" in repr(theta)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    mask = SparseMask.random((4, 8), 0.5)
    embedding = ResurrectionEmbedding(mask)
    with pytest.raises(MaskError, match="sparsified weight"):
        ResurrectionEmbedding(mask, StorageMode.INPLACE)
    with pytest.raises(MaskError, match="sparsified weight"):
        ResurrectionEmbedding(mask, StorageMode.INPLACE, weight=nn.Parameter(torch.ones(4, 8)))
    with pytest.raises(MaskError, match="16 here"):
        embedding.assign(torch.ones(3))
    with pytest.raises(MaskError, match="shape"):
        embedding.phi_inverse(torch.ones(8, 4))
    with pytest.raises(MaskError, match="weight"):
        embedding.commit(torch.ones(8, 4))
    with pytest.raises(MaskError, match="new mask"):
        embedding.change_mask(SparseMask.ones((8, 4)))
    with pytest.raises(MaskError, match="shape"):
        embedding.update_momentum(torch.ones(16), 0.1)
    with pytest.raises(ConfigError, match="at least 0"):
        embedding.initialize(-0.1)
    with pytest.raises(PhaseError, match="commit"):
        in_place()[2].change_mask(mask)


def test_an_unknown_start_is_refused() -> None:
    start: Any = ResurrectionEmbedding.initialize
    unchecked = getattr(start, "__wrapped__", start)
    with pytest.raises(ConfigError, match="warm"):
        unchecked(ResurrectionEmbedding(SparseMask.zeros((2, 2))), init="warm")
