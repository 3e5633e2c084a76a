"""One step against float64: losses, gradients, metrics, and the parameters after it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boolean_nca_cc.circuits.losses import sparsity_penalty
from boolean_nca_cc.circuits.train import (
    TrainState,
    compute_accuracy,
    loss_f_bce,
    loss_f_l4,
    train_step,
    unpack,
    update_params,
)
from boolean_nca_cc.errors import LossError, MaskError, TaskError
from boolean_nca_cc.reference import oracle

LOSSES = {"l4": loss_f_l4, "bce": loss_f_bce}
GRADIENTS = {name: jax.jit(jax.value_and_grad(loss, has_aux=True)) for name, loss in LOSSES.items()}
SGD = optax.sgd(0.05)
ADAMW = optax.adamw(0.1, b1=0.8, b2=0.7, weight_decay=0.05)


def close(ours: object, expected: object, scale: float = 1.0) -> None:
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=5e-6 * scale)


@pytest.mark.parametrize("kind", LOSSES)
@given(
    seed=st.integers(0, 10_000),
    spec_index=st.sampled_from([1, 2]),
    dead=st.sampled_from([0, 0.3]),
    fractions=st.booleans(),
)
def test_losses_and_gradients_are_the_oracles(
    make_case: Callable, kind: str, seed: int, spec_index: int, dead: float, fractions: bool
) -> None:
    case = make_case(seed, spec_index, dead=dead, fractions=fractions)
    mask = case.gate_mask
    (loss, aux), grad = GRADIENTS[kind](case.logits, case.wires, case.x, case.y, mask)
    soft = oracle.run_circuit(case.logits, case.wires, case.x, mask)[-1]
    hard = oracle.run_circuit(case.logits, case.wires, case.x, mask, hard=True)[-1]
    expected = oracle.gradient(case.logits, case.wires, case.x, case.y, kind, mask)
    scale = max(1.0, *(float(np.abs(layer).max()) for layer in expected))
    close(loss, oracle.loss(soft, case.y, kind))
    if kind == "l4":  # the cross-entropy near 0 and 1 magnifies float32's rounding; it has boolean inputs below
        close(aux.hard_loss, oracle.loss(hard, case.y, kind))
    # An attenuated hard output may be one half but for rounding; such bits may count either way, and no others.
    on_the_edge = np.mean(np.abs(hard - 0.5) < 1e-6)
    assert abs(float(aux.hard_accuracy) - np.mean(np.round(hard) == case.y)) <= on_the_edge + 1e-6
    assert aux.activations is None
    for ours, theirs in zip(grad, expected, strict=True):
        close(ours, theirs, scale)


@given(seed=st.integers(0, 10_000))
def test_the_hard_cross_entropy_on_boolean_inputs(make_case: Callable, seed: int) -> None:
    case = make_case(seed, 1, bits=True)
    (_, aux), _ = GRADIENTS["bce"](case.logits, case.wires, case.x, case.y, case.gate_mask)
    hard = oracle.run_circuit(case.logits, case.wires, case.x, case.gate_mask, hard=True)[-1]
    np.testing.assert_allclose(aux.hard_loss, oracle.loss(hard, case.y, "bce"), rtol=1e-5, atol=1e-5)
    assert float(aux.hard_accuracy) == pytest.approx(np.mean(hard == case.y), abs=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("spec_index", [0, 1])
def test_the_oracles_gradient_is_that_of_its_loss(make_case: Callable, kind: str, spec_index: int) -> None:
    """The yardstick itself, by central differences in float64."""
    case = make_case(4, spec_index, fractions=True)
    logits = [layer.astype(np.float64) for layer in case.logits]
    expected = oracle.gradient(logits, case.wires, case.x.astype(np.float64), case.y, kind, case.gate_mask)
    for index, layer in enumerate(logits):
        numeric = np.zeros_like(layer)
        for place in np.ndindex(layer.shape):
            values = []
            for sign in (1, -1):
                shifted = [part.copy() for part in logits]
                shifted[index][place] += sign * 1e-5
                y = oracle.run_circuit(shifted, case.wires, case.x.astype(np.float64), case.gate_mask)[-1]
                values.append(oracle.loss(y, case.y, kind))
            numeric[place] = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(expected[index], numeric, rtol=1e-5, atol=1e-7)


@given(seed=st.integers(0, 10_000))
def test_sgd_steps_are_the_oracles(make_case: Callable, seed: int) -> None:
    case = make_case(seed, 1)
    state = TrainState([jnp.asarray(layer) for layer in case.logits], SGD.init(case.logits))
    params = [layer.astype(np.float64) for layer in case.logits]
    for _ in range(3):
        _, _, state = train_step(state, SGD, case.wires, case.x, case.y, gate_mask=case.gate_mask)
        grads = oracle.gradient(params, case.wires, case.x, case.y, "l4", case.gate_mask)
        params = [oracle.sgd_step(p, g, 0.05) for p, g in zip(params, grads, strict=True)]
    for ours, theirs in zip(state.params, params, strict=True):
        close(ours, theirs)


def test_adamw_moments_and_parameters_are_the_oracles() -> None:
    rng = np.random.default_rng(0)
    params, mask = rng.normal(size=(3, 2, 4)), np.array([1, 1, 0, 1, 1, 1.0])
    layer = jnp.asarray(params, jnp.float32)
    state, first, second = ADAMW.init([layer]), np.zeros_like(params), np.zeros_like(params)
    ours = [layer]
    for step in range(1, 5):
        grad = rng.normal(size=params.shape)
        ours, state = update_params([jnp.asarray(grad, jnp.float32)], state, ADAMW, ours, [np.ones(9), mask])
        moved, first, second = oracle.adam_step(params, grad, first, second, step, 0.1, 0.8, 0.7, 0.05)
        params = np.where(mask.reshape(3, 2, 1) == 0, params, moved)
    close(ours[0], params)
    close(state[0].mu[0], first)
    close(state[0].nu[0], second)


def test_evaluation_changes_nothing(make_case: Callable) -> None:
    case = make_case(2, 1)
    state = TrainState([jnp.asarray(layer) for layer in case.logits], ADAMW.init(case.logits))
    loss, aux, after = train_step(state, ADAMW, case.wires, case.x, case.y, do_train=False)
    trained_loss, trained_aux, trained = train_step(state, ADAMW, case.wires, case.x, case.y)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert np.array_equal(a, b)
    np.testing.assert_allclose(loss, trained_loss, rtol=1e-6)
    assert float(aux.hard_accuracy) == float(trained_aux.hard_accuracy)
    assert not np.array_equal(trained.params[0], state.params[0])


def test_activations_come_on_request(make_case: Callable) -> None:
    case = make_case(2, 1)
    expected = oracle.run_circuit(case.logits, case.wires, case.x, case.gate_mask)
    loss = jax.jit(loss_f_l4, static_argnames="with_activations")
    _, aux = loss(case.logits, case.wires, case.x, case.y, case.gate_mask, with_activations=True)
    state = TrainState(case.logits, SGD.init(case.logits))
    _, step_aux, _ = train_step(
        state, SGD, case.wires, case.x, case.y, "bce", gate_mask=case.gate_mask, with_activations=True
    )
    for found in (aux.activations, step_aux.activations):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            close(ours, theirs)


def test_a_poisoned_dead_gate_changes_neither_loss_nor_gradients_nor_step(make_case: Callable) -> None:
    case = make_case(11, 1)
    dead = [mask.reshape(*layer.shape[:2], 1) == 0 for mask, layer in zip(case.gate_mask[1:], case.logits, strict=True)]
    assert sum(int(layer.sum()) for layer in dead) == 2
    for poison in (np.nan, np.inf, -np.inf):
        poisoned = [np.where(d, np.float32(poison), layer) for d, layer in zip(dead, case.logits, strict=True)]
        for kind, gradient in GRADIENTS.items():
            (loss, _), grad = gradient(case.logits, case.wires, case.x, case.y, case.gate_mask)
            (same, _), same_grad = gradient(poisoned, case.wires, case.x, case.y, case.gate_mask)
            assert float(loss) == float(same), kind
            for a, b, d in zip(grad, same_grad, dead, strict=True):
                assert np.array_equal(a, b)
                assert not np.any(np.where(d, b, 0))
        step = train_step(
            TrainState(poisoned, ADAMW.init(poisoned)), ADAMW, case.wires, case.x, case.y, gate_mask=case.gate_mask
        )[2]
        for a, b, d in zip(poisoned, step.params, dead, strict=True):
            assert np.array_equal(np.where(d, a, 0).view(np.uint32), np.where(d, b, 0).view(np.uint32))
            assert np.isfinite(np.asarray(b)[~np.broadcast_to(d, b.shape)]).all()


@pytest.mark.parametrize("kind", ["l1", "binary", "entropy"])
def test_sparsity_penalties_count_live_gates_only(make_case: Callable, kind: str) -> None:
    case = make_case(11, 1)
    close(sparsity_penalty(case.logits, kind), oracle.sparsity(case.logits, kind))
    live = [
        layer.reshape(-1, layer.shape[-1])[mask != 0]
        for mask, layer in zip(case.gate_mask[1:], case.logits, strict=True)
    ]
    poisoned = [
        np.where(mask.reshape(*layer.shape[:2], 1) == 0, np.float32(np.nan), layer)
        for mask, layer in zip(case.gate_mask[1:], case.logits, strict=True)
    ]
    value, grad = jax.jit(jax.value_and_grad(lambda v: sparsity_penalty(v, kind, case.gate_mask)))(poisoned)
    close(value, oracle.sparsity(live, kind))
    for layer, logits, mask in zip(grad, case.logits, case.gate_mask[1:], strict=True):
        p = 1 / (1 + np.exp(-logits.astype(np.float64)))
        slope = {
            "l1": np.where(p < 0.5, 1, -1),
            "binary": 1 - 2 * p,
            "entropy": np.log((1 - p + 1e-7) / (p + 1e-7)) - p / (p + 1e-7) + (1 - p) / (1 - p + 1e-7),
        }[kind]
        close(layer, np.where(mask.reshape(*logits.shape[:2], 1) == 0, 0, slope * p * (1 - p)))
        assert not np.asarray(layer).reshape(mask.size, -1)[mask == 0].any()


def test_unpack_and_accuracy() -> None:
    assert unpack(jnp.array([0, 5, 6]), 3).tolist() == [[0, 0, 0], [1, 0, 1], [0, 1, 1]]
    assert unpack(np.array([[9]]), 2).tolist() == [[[1, 0]]]
    y = np.array([[0.51, 0.49], [0.0, 1.0]], np.float32)
    assert float(compute_accuracy(y, np.array([[1.0, 1.0], [0.0, 0.0]], np.float32))) == 0.5


def test_bad_input_is_refused(make_case: Callable) -> None:
    case = make_case(0, 0)
    state = TrainState(case.logits, SGD.init(case.logits))
    with pytest.raises(LossError, match="one of l4, bce; it is 'mse'"):
        train_step(state, SGD, case.wires, case.x, case.y, "mse")
    with pytest.raises(TaskError, match=r"should be \(7, 2\) and is \(7, 1\)"):
        loss_f_l4(case.logits, case.wires, case.x, case.y[:, :1])
    with pytest.raises(MaskError, match="3 layers, the input included; it has 2"):
        train_step(state, SGD, case.wires, case.x, case.y, gate_mask=case.gate_mask[:2])
    with pytest.raises(MaskError, match=r"3 for 2 layers of gates; it has 1"):
        update_params(case.logits, state.opt_state, SGD, case.logits, case.gate_mask[:1])
    with pytest.raises(MaskError, match=r"gate_mask\[2\] has one value for each of the layer's 2 gates"):
        update_params(case.logits, state.opt_state, SGD, case.logits, [*case.gate_mask[:2], np.ones(3)])
    with pytest.raises(LossError, match="penalty is one of l1, binary, entropy; it is 'l2'"):
        sparsity_penalty(case.logits, "l2")
