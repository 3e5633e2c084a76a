"""Distances of two configurations, held to loops over gates, entries and cases."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.analysis import hamming_distance
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import MaskError, SpecError, TaskError, WiringError

Draw, LookUp = Callable[..., Circuit], Callable[..., tuple[np.ndarray, np.ndarray]]


def tables(circuit: Circuit) -> np.ndarray:
    return np.concatenate([(np.asarray(layer) > 0).reshape(-1, layer.shape[-1]) for layer in circuit.logits])


@pytest.mark.parametrize("count", [64, 3])
@pytest.mark.parametrize("dead", [(), (7, 14)])
def test_three_distances_are_what_loops_count(
    spec: CircuitSpec, draw: Draw, look_up: LookUp, cases: np.ndarray, count: int, dead: tuple[int, ...]
) -> None:
    first, second, x = draw(1), draw(2), cases[:count]
    alive = np.ones(spec.n_nodes, bool)
    alive[list(dead)] = False
    found = hamming_distance(first, second, spec, x, alive)
    (one, seen_one), (other, seen_other) = look_up(first, x, alive), look_up(second, x, alive)
    for gate in range(spec.n_gates):
        node = spec.n_in + gate
        apart = {entry for entry in range(8) if tables(first)[gate, entry] != tables(second)[gate, entry]}
        apart = apart if alive[node] else set()
        read = set(seen_one[:, gate].tolist()) | set(seen_other[:, gate].tolist())
        assert found.differing[gate] == len(apart)
        assert found.read[gate] == len(read)
        assert found.differing_read[gate] == len(apart & read)
        assert found.differing_cases[gate] == (one[:, node] != other[:, node]).sum()
    assert found.differing_answers == (one[:, -4:] != other[:, -4:]).any(axis=1).sum()
    assert found.cases == count
    assert found.differing.sum() > found.differing_read.sum() > 0


def test_shares_are_over_bits(spec: CircuitSpec, draw: Draw, cases: np.ndarray) -> None:
    found = hamming_distance(draw(1), draw(2), spec, cases)
    np.testing.assert_allclose(found.tables, found.differing / 8)
    np.testing.assert_allclose(found.read_entries, found.differing_read / found.read)
    np.testing.assert_allclose(found.behaviour, found.differing_cases / 64)
    layers = found.by_layer()
    slices = [slice(0, 8), slice(8, 14), slice(14, 18)]
    np.testing.assert_allclose(layers["tables"], [found.tables[where].mean() for where in slices])
    np.testing.assert_allclose(layers["behaviour"], [found.behaviour[where].mean() for where in slices])
    by_hand = [found.differing_read[where].sum() / found.read[where].sum() for where in slices]
    np.testing.assert_allclose(layers["read entries"], by_hand)
    document = found.as_dict()
    assert document["output_bits"] == pytest.approx(layers["behaviour"][-1])
    assert document["answers"] >= document["output_bits"]
    assert document["entries_read"] == pytest.approx(found.read.sum() / (18 * 8))
    assert set(document["layers"]) == set(document["gates"]) == {"tables", "read_entries", "behaviour"}
    assert document["gates"]["read_entries"] == found.read_entries.tolist()


def test_a_circuit_is_no_distance_from_itself_and_distance_has_no_direction(
    spec: CircuitSpec, draw: Draw, cases: np.ndarray
) -> None:
    same = hamming_distance(draw(1), draw(1), spec, cases)
    assert (same.differing.sum(), same.differing_cases.sum(), same.differing_answers) == (0, 0, 0)
    there, back = hamming_distance(draw(1), draw(2), spec, cases), hamming_distance(draw(2), draw(1), spec, cases)
    assert there.as_dict() == back.as_dict()


def test_entries_that_no_case_reads_change_tables_alone() -> None:
    """Both wires of the gate come from one input, so that addresses 1 and 2 never occur."""
    wires, spec = [jnp.array([[0], [0]])], CircuitSpec(((1, 1), (1, 1)), arity=2)
    first = Circuit(wires, [jnp.array([[[-1.0, -1.0, -1.0, 1.0]]])])
    second = Circuit(wires, [jnp.array([[[-1.0, 1.0, 1.0, 1.0]]])])
    found = hamming_distance(first, second, spec, np.array([[0.0], [1.0]]))
    assert (found.tables.tolist(), found.read.tolist(), found.read_entries.tolist()) == ([0.5], [2], [0.0])
    assert found.as_dict()["answers"] == 0.0


def test_many_cases_are_counted_in_pieces(monkeypatch: pytest.MonkeyPatch, spec: CircuitSpec, draw: Draw) -> None:
    x = np.random.default_rng(0).integers(0, 2, (32, 6)).astype(np.float32)
    at_once = hamming_distance(draw(1), draw(2), spec, x).as_dict()
    monkeypatch.setattr("boolean_nca_cc.analysis.hamming._CHUNK", 16)
    assert hamming_distance(draw(1), draw(2), spec, x).as_dict() == at_once


def test_circuits_that_cannot_be_compared_are_refused(spec: CircuitSpec, draw: Draw, cases: np.ndarray) -> None:
    with pytest.raises(WiringError, match="those of layer 1 differ"):
        hamming_distance(draw(1), draw(1, wiring=9), spec, cases)
    with pytest.raises(SpecError, match="Compare circuits of the same shape"):
        hamming_distance(draw(1), draw(2), CircuitSpec(((6, 1), (8, 4), (6, 2), (4, 2)), arity=3), cases)
    with pytest.raises(TaskError, match=r"rows of 6 bits; their shape is \(64, 5\)"):
        hamming_distance(draw(1), draw(2), spec, cases[:, :5])
    with pytest.raises(TaskError, match=r"their shape is \(0, 6\)"):
        hamming_distance(draw(1), draw(2), spec, cases[:0])
    with pytest.raises(MaskError, match="one flat vector"):
        hamming_distance(draw(1), draw(2), spec, cases, np.ones(3, bool))
