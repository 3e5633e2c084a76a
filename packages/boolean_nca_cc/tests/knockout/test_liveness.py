"""Liveness and pruning against exhaustive truth tables."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boolean_nca_cc.circuits.kernels import evaluate_packed, pack_cases
from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.wiring import chain_topology, tree_topology
from boolean_nca_cc.errors import MaskError
from boolean_nca_cc.knockout import functional_liveness, live_wires, prune, structural_liveness

SPECS = (
    CircuitSpec.default(4, 3, arity=2, hidden=3, width=1),
    CircuitSpec.default(3, 2, arity=3, hidden=2, width=1),
    CircuitSpec.default(5, 2, arity=4, hidden=2, width=1),
)
Draw = Callable[..., Any]
XOR, AND, FIRST, SECOND, ONE = ([0, 1, 1, 0], [0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1])


def table(*gates: list[int]) -> jax.Array:
    """Tables of two-input gates in groups of one."""
    return jnp.array([[[6.0 * bit - 3 for bit in gate]] for gate in gates])


def cases(n: int) -> np.ndarray:
    return ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1).astype(np.float32)


def activations(circuit: Circuit, spec: CircuitSpec, alive: np.ndarray | None = None) -> np.ndarray:
    """Every node's bit in every case, by looking each one up; no part of the package takes part."""
    alive = np.ones(spec.n_nodes, bool) if alive is None else np.asarray(alive)
    values = [cases(spec.n_in).astype(int) * alive[: spec.n_in]]
    for layer, where in enumerate(spec.layer_slices[1:]):
        size = spec.layer_sizes[layer + 1][1]
        wires = np.repeat(np.asarray(circuit.wires[layer]), size, axis=1)
        bits = (np.asarray(circuit.logits[layer]) > 0).astype(int).reshape(wires.shape[1], -1)
        address = sum(values[-1][:, source] << j for j, source in enumerate(wires))
        values.append(bits[np.arange(wires.shape[1]), address] * alive[where])
    return np.concatenate(values, axis=1)


def outputs(circuit: Circuit, spec: CircuitSpec, alive: np.ndarray | None = None) -> np.ndarray:
    return activations(circuit, spec, alive)[:, spec.offsets[-1] :]


drawn = st.tuples(
    st.integers(0, 2**31 - 2), st.sampled_from(SPECS), st.sampled_from([-1.2, 0.0, 1.2]), st.integers(0, 12)
)


@settings(max_examples=25, deadline=None)
@given(drawn)
def test_a_pruned_circuit_answers_every_case_the_same_bit_for_bit(
    random_circuit: Draw, random_alive: Draw, case: tuple[int, CircuitSpec, float, int]
) -> None:
    seed, spec, bias, dead = case
    circuit, alive = random_circuit(spec, seed, bias), random_alive(spec, seed, dead)
    small = prune(circuit, spec, alive)
    np.testing.assert_array_equal(outputs(small.circuit, small.spec), outputs(circuit, spec, np.asarray(alive)))
    kept_gates = functional_liveness(circuit, spec, alive)[spec.n_in :].sum()
    assert kept_gates <= small.spec.n_gates <= spec.n_gates
    assert len(small.kept) == small.spec.n_nodes


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_packed_evaluation_agrees_that_pruning_changes_nothing(
    random_circuit: Draw, random_alive: Draw, seed: int
) -> None:
    spec = SPECS[seed]
    circuit, alive = random_circuit(spec, seed), random_alive(spec, seed, 4)
    words = pack_cases(cases(spec.n_in))
    small = prune(circuit, spec, alive)
    np.testing.assert_array_equal(evaluate_packed(small.circuit, words), evaluate_packed(circuit, words, alive))


@settings(max_examples=25, deadline=None)
@given(drawn)
def test_what_is_called_dead_weight_really_is(
    random_circuit: Draw, random_alive: Draw, case: tuple[int, CircuitSpec, float, int]
) -> None:
    """Killing a gate that is not live changes no output, unless it is constantly 1; live sets are nested."""
    seed, spec, bias, dead = case
    circuit, alive = random_circuit(spec, seed, bias), random_alive(spec, seed, dead)
    functional, structural = functional_liveness(circuit, spec, alive), structural_liveness(circuit, spec, alive)
    assert not (functional & ~structural).any()
    assert not (structural & ~alive).any()
    values = activations(circuit, spec, alive)
    always_one = values.all(axis=0)
    for node in spec.hidden_gates[(~functional & alive & ~always_one)[spec.hidden_gates]]:
        killed = alive.copy()
        killed[node] = False
        np.testing.assert_array_equal(outputs(circuit, spec, killed), values[:, spec.offsets[-1] :])


def test_an_ignored_input_is_not_live() -> None:
    tree = tree_topology(4)
    circuit = Circuit(tree.wires, [table(XOR, AND), table(SECOND)])
    assert structural_liveness(circuit, tree.spec).all()
    assert functional_liveness(circuit, tree.spec).tolist() == [False, False, True, True, False, True, True]
    assert live_wires(circuit, tree.spec)[0].tolist() == [[False, True], [False, True]]


def test_constants_are_propagated() -> None:
    """x AND 0 is constant, so a dead gate takes its partner with it; x XOR 1 still listens to x."""
    tree = tree_topology(4)
    alive = np.ones(tree.spec.n_nodes, bool)
    alive[4] = False
    assert not functional_liveness(Circuit(tree.wires, [table(AND, AND), table(AND)]), tree.spec, alive).any()
    listening = functional_liveness(Circuit(tree.wires, [table(ONE, AND), table(XOR)]), tree.spec)
    assert listening.tolist() == [False, False, True, True, False, True, True]


def test_two_wires_from_one_source_agree() -> None:
    """x XOR x is 0 although each wire alone would matter."""
    spec = CircuitSpec(((1, 1), (1, 1)), arity=2)
    circuit = Circuit([jnp.zeros((2, 1), int)], [table(XOR)])
    assert not functional_liveness(circuit, spec).any()
    same = Circuit(circuit.wires, [table(AND)])
    assert functional_liveness(same, spec).tolist() == [True, True]
    assert outputs(prune(same, spec).circuit, spec).ravel().tolist() == [0, 1]


def test_a_dead_output_is_constant_and_stays_in_the_pruned_circuit() -> None:
    chain = chain_topology(3)
    circuit = Circuit(chain.wires, [table(XOR, FIRST), table(XOR)])
    alive = np.ones(chain.spec.n_nodes, bool)
    alive[-1] = False
    assert not structural_liveness(circuit, chain.spec, alive).any()
    small = prune(circuit, chain.spec, alive)
    assert small.spec.layer_sizes == ((3, 1), (1, 1), (1, 1))
    assert not outputs(small.circuit, small.spec).any()


def test_a_dead_input_is_the_constant_zero() -> None:
    tree = tree_topology(4)
    circuit = Circuit(tree.wires, [table(XOR, XOR), table(XOR)])
    alive = np.ones(tree.spec.n_nodes, bool)
    alive[0] = False
    small = prune(circuit, tree.spec, alive)
    np.testing.assert_array_equal(outputs(small.circuit, small.spec), outputs(circuit, tree.spec, alive))
    assert functional_liveness(circuit, tree.spec, alive).tolist() == [False] + [True] * 6


def test_a_fresh_pass_through_circuit_keeps_one_path_for_each_output() -> None:
    spec = CircuitSpec.default(8, 8)
    circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, spec.arity)
    small = prune(circuit, spec)
    assert all(n <= spec.n_out for n, _ in small.spec.layer_sizes[1:])
    np.testing.assert_array_equal(outputs(small.circuit, small.spec), outputs(circuit, spec))


def test_a_mask_of_another_circuit_is_refused(random_circuit: Draw) -> None:
    spec = SPECS[0]
    circuit = random_circuit(spec, 0)
    for analyse in (structural_liveness, functional_liveness, live_wires, prune):
        with pytest.raises(MaskError, match="one flat vector over all"):
            analyse(circuit, spec, np.ones(3, bool))
