"""Formula lengths against a published table and a search in plain Python; simplification against every case."""

from itertools import product

import numpy as np
import pytest

from boolean_nca_cc.automata.gate_count import formula_lengths, table_gates, two_input_gates
from boolean_nca_cc.automata.simplification import node_values, simplify
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import SpecError, TaskError
from boolean_nca_cc.reference import oracle


def test_lengths_are_those_of_knuth() -> None:
    """The Art of Computer Programming, volume 4A, section 7.1.2, table 1, column L(f)."""
    assert np.bincount(formula_lengths()).tolist() == [10, 60, 456, 2474, 10624, 24184, 24640, 3088]


def test_lengths_of_three_inputs_are_those_of_a_search() -> None:
    inputs = (0xAA, 0xCC, 0xF0)
    lengths = {0: 0, 255: 0} | dict.fromkeys(inputs, 0) | {255 ^ table: 0 for table in inputs}
    gates = [[p, q, r, s] for p, q, r, s in product((0, 1), repeat=4)]
    while len(lengths) < 256:
        longest = max(lengths.values()) + 1
        found = set()
        for (f, a), (g, b) in product(lengths.items(), repeat=2):
            if a + b + 1 == longest:
                for gate in gates:
                    found.add(sum(gate[2 * (f >> m & 1) + (g >> m & 1)] << m for m in range(8)))
        lengths |= dict.fromkeys(found - lengths.keys(), longest)
    for table, length in lengths.items():
        assert formula_lengths()[table | table << 8] == length
        assert table_gates(np.array([table >> m & 1 for m in range(8)])) == length


@pytest.mark.parametrize("seed", range(3))
def test_free_entries_are_filled_in_the_cheapest_way(seed: int) -> None:
    ones, fixed = np.random.default_rng(seed).integers(0, 65536, 2).tolist()
    table = np.array([ones >> m & 1 for m in range(16)])
    reachable = np.array([fixed >> m & 1 for m in range(16)], bool)
    lengths = formula_lengths().tolist()
    agreeing = [lengths[f] for f in range(65536) if not (f ^ ones) & fixed]
    assert table_gates(table, reachable) == min(agreeing)


def test_tables_too_large_are_refused() -> None:
    with pytest.raises(SpecError, match="32 entries"):
        table_gates(np.zeros(32))


def outputs(circuit: Circuit, x: np.ndarray) -> np.ndarray:
    logits, wires = ([np.asarray(layer) for layer in layers] for layers in (circuit.logits, circuit.wires))
    return oracle.evaluate_by_address(logits, wires, x)


def random_circuit(seed: int) -> tuple[Circuit, CircuitSpec, np.ndarray]:
    spec = CircuitSpec(((6, 1), (12, 4), (8, 2), (3, 1)), 4)
    rng = np.random.default_rng(seed)
    wires = [
        rng.integers(0, before[0], (4, n // s))
        for before, (n, s) in zip(spec.layer_sizes[:-1], spec.layer_sizes[1:], strict=True)
    ]
    logits = [rng.normal(-0.4, 1, (n // s, s, 16)).astype(np.float32) for n, s in spec.layer_sizes[1:]]
    return Circuit(wires, logits), spec, (np.arange(64)[:, None] >> np.arange(6) & 1).astype(bool)


@pytest.mark.parametrize("seed", range(5))
def test_every_value_is_that_of_the_circuit(seed: int) -> None:
    circuit, spec, x = random_circuit(seed)
    assert np.array_equal(node_values(circuit, spec, x)[-1].T, outputs(circuit, x))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cases", [64, 20])
def test_the_simplified_circuit_has_the_same_outputs_in_every_case(seed: int, cases: int) -> None:
    circuit, spec, x = random_circuit(seed)
    x = x[np.random.default_rng(seed).permutation(64)[:cases]]
    smaller = simplify(circuit, spec, x)
    assert smaller.spec.n_gates < spec.n_gates
    assert smaller.kept.size == smaller.spec.n_nodes
    assert np.array_equal(outputs(smaller.circuit, x), outputs(circuit, x))
    again = simplify(smaller.circuit, smaller.spec, x)
    assert again.spec == smaller.spec


def test_twins_and_opposites_become_one() -> None:
    """Two gates say x0 & x1, a third the contrary; the output asks for all three and can do with one."""
    both, neither = [-1.0, -1.0, -1.0, 1.0], [1.0, 1.0, 1.0, -1.0]
    spec = CircuitSpec(((2, 1), (4, 1), (2, 1), (1, 1)), 2)
    circuit = Circuit(
        [np.array([[0, 1, 0, 0], [1, 0, 1, 1]]), np.array([[0, 2], [1, 3]]), np.array([[0], [1]])],
        [
            np.array([[both], [both], [neither], [both]], np.float32),
            np.array([[both], [[-1.0, -1.0, 1.0, -1.0]]], np.float32),  # a & b; d & ~c
            np.array([[[-1.0, -1.0, -1.0, 1.0]]], np.float32),
        ],
    )
    x = np.array([[a, b] for a in (0, 1) for b in (0, 1)])
    smaller = simplify(circuit, spec, x)
    assert smaller.spec.layer_sizes == ((2, 1), (1, 1), (1, 1), (1, 1))
    assert np.array_equal(node_values(smaller.circuit, smaller.spec, x > 0)[-1][0], x.all(axis=1))
    assert two_input_gates(smaller.circuit, smaller.spec).tolist() == [1, 0, 0]


def test_counting_over_cases_frees_entries() -> None:
    """An and of a bit with itself, or of two bits that always agree, is no gate at all."""
    circuit = Circuit([np.array([[0], [1]])], [np.array([[[-1.0, -1.0, -1.0, 1.0]]], np.float32)])
    spec = CircuitSpec(((2, 1), (1, 1)), 2)
    assert two_input_gates(circuit, spec).tolist() == [1]
    assert two_input_gates(circuit, spec, np.array([[0, 0], [1, 1]])).tolist() == [0]
    assert two_input_gates(circuit, spec, np.array([[0, 0], [1, 1], [1, 0]])).tolist() == [0]  # it is bit 1
    assert two_input_gates(circuit, spec, np.array([[0, 1], [1, 1], [1, 0]])).tolist() == [1]


def test_cases_of_another_width_are_refused() -> None:
    circuit, spec, x = random_circuit(0)
    with pytest.raises(TaskError, match="they have 5"):
        simplify(circuit, spec, x[:, :5])
