"""Patterns as masks: one convention inside, the layered form at the edge, and what a dead gate does to a run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boolean_nca_cc.circuits.kernels import evaluate_packed, pack_cases, unpack_cases
from boolean_nca_cc.circuits.model import Circuit, run_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import MaskError
from boolean_nca_cc.knockout import shotgun

SPEC = CircuitSpec(((5, 1), (12, 3), (12, 3), (3, 3)), arity=3)
Draw = Callable[..., Any]
run = jax.jit(run_circuit, static_argnames="hard")
X = ((np.arange(32)[:, None] >> np.arange(5)) & 1).astype(np.float32)


def saturated(random_circuit: Draw, seed: int) -> Circuit:
    """Random tables of plus and minus 30, so that the soft circuit is the hard one to the last bit that counts."""
    circuit = random_circuit(SPEC, seed)
    return Circuit(circuit.wires, [jnp.where(layer > 0, 30.0, -30.0) for layer in circuit.logits])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), k=st.integers(0, 60))
def test_the_layered_form_and_back(seed: int, k: int) -> None:
    alive = shotgun(jax.random.key(seed), SPEC, k)
    layers = SPEC.to_layers(alive)
    assert [layer.shape for layer in layers] == [(n,) for n, _ in SPEC.layer_sizes]
    assert all(layer.dtype == jnp.float32 for layer in layers)
    np.testing.assert_array_equal(np.concatenate(layers) == 1.0, alive)
    np.testing.assert_array_equal(SPEC.from_layers(layers), alive)


@pytest.mark.parametrize("hard", [False, True])
def test_dead_gates_are_zero_in_every_case_and_live_ones_compute(
    random_circuit: Draw, random_alive: Draw, hard: bool
) -> None:
    circuit, alive = saturated(random_circuit, 0), random_alive(SPEC, 2, 12)
    layers = run(circuit.logits, circuit.wires, X, SPEC.to_layers(alive), hard=hard)
    values = np.concatenate([np.asarray(layer) for layer in layers], axis=1)
    assert (values[:, ~alive] == 0).all()
    assert (values[:, alive] != 0).any()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 2), k=st.integers(0, 60))
def test_packed_hard_and_saturated_soft_runs_agree_under_any_knockout(
    random_circuit: Draw, random_alive: Draw, seed: int, k: int
) -> None:
    circuit, alive = saturated(random_circuit, seed), random_alive(SPEC, seed, k)
    masks = SPEC.to_layers(alive)
    hard = np.asarray(run(circuit.logits, circuit.wires, X, masks, hard=True)[-1])
    soft = np.asarray(run(circuit.logits, circuit.wires, X, masks)[-1])
    np.testing.assert_array_equal(np.rint(soft), hard)
    packed = unpack_cases(evaluate_packed(circuit, pack_cases(X), alive), len(X))
    np.testing.assert_array_equal(packed, hard)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_a_dead_gate_holds_is_never_seen(random_circuit: Draw, random_alive: Draw, poison: float) -> None:
    circuit, alive = saturated(random_circuit, 3), random_alive(SPEC, 4, 12)
    masks = SPEC.to_layers(alive)
    poisoned = [
        jnp.where(jnp.asarray(alive[where]).reshape(*layer.shape[:2], 1), layer, poison)
        for where, layer in zip(SPEC.layer_slices[1:], circuit.logits, strict=True)
    ]
    for hard in (False, True):
        clean = run(circuit.logits, circuit.wires, X, masks, hard=hard)
        dirty = run(poisoned, circuit.wires, X, masks, hard=hard)
        for one, other in zip(clean, dirty, strict=True):
            np.testing.assert_array_equal(one, other)
    words = pack_cases(X)
    np.testing.assert_array_equal(
        evaluate_packed(Circuit(circuit.wires, poisoned), words, alive), evaluate_packed(circuit, words, alive)
    )


def test_masks_of_the_wrong_form_are_refused() -> None:
    with pytest.raises(MaskError, match=r"one flat vector over all \d+ nodes .* shape \(4,\)"):
        SPEC.to_layers(np.ones(4, bool))
    with pytest.raises(MaskError, match=r"boolean, True = alive; its dtype is float32"):
        SPEC.check_alive(np.ones(SPEC.n_nodes, np.float32))
    with pytest.raises(MaskError, match=r"one vector for each of the 4 layers, the input included; it has 3"):
        SPEC.from_layers(SPEC.to_layers(np.ones(SPEC.n_nodes, bool))[1:])
