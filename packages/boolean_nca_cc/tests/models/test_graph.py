"""Neighbour tables, place codes and the order of rows, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.model import gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import SpecError
from boolean_nca_cc.models.graph import joined, place_codes, sources_of, split_tables, start_state
from boolean_nca_cc.reference.oracle_rules import place_code

SPEC = CircuitSpec(((3, 1), (6, 3), (4, 2), (2, 1)), arity=2)


def test_the_neighbour_table_names_the_node_behind_every_input() -> None:
    wires, _ = gen_circuit(jax.random.key(3), SPEC.layer_sizes, SPEC.arity)
    table = np.asarray(sources_of(wires, SPEC))
    assert table.shape == (SPEC.n_gates, 2)
    row = 0
    for layer, (n, size) in enumerate(SPEC.layer_sizes[1:]):
        for gate in range(n):
            for slot in range(2):
                assert table[row, slot] == SPEC.offsets[layer] + wires[layer][slot, gate // size]
            row += 1


@pytest.mark.parametrize("channels", [2, 6])
def test_place_codes_are_their_definition_and_tell_all_nodes_apart(channels: int) -> None:
    codes = place_codes(SPEC, channels)
    layers = [n for n, _ in SPEC.layer_sizes]
    by_hand = [place_code(layers, node, channels) for node in range(SPEC.n_nodes)]
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, by_hand, atol=1e-6)
    assert len({tuple(row) for row in codes.round(4).tolist()}) == SPEC.n_nodes


@pytest.mark.parametrize(("channels", "said"), [(0, "at least 1; it is 0"), (3, "it has 3 channels. Use an even")])
def test_codes_that_are_no_pairs_are_refused(channels: int, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        place_codes(SPEC, channels)


def test_tables_are_joined_in_the_order_of_the_nodes_and_split_again() -> None:
    shapes = [(5, n // s, s, 4) for n, s in SPEC.layer_sizes[1:]]
    numbers = np.arange(5 * SPEC.n_logits, dtype=np.float32)
    layers = [part.reshape(shape) for part, shape in zip(np.split(numbers, [120, 200]), shapes, strict=True)]
    flat = joined(layers)
    assert flat.shape == (5, SPEC.n_gates, 4)
    for where, (n, s), layer in zip(SPEC.layer_slices[1:], SPEC.layer_sizes[1:], layers, strict=True):
        for gate in range(n):
            row = np.asarray(flat[:, where.start - SPEC.n_in + gate])
            assert np.array_equal(row, layer[:, gate // s, gate % s])
    for one, other in zip(split_tables(flat, SPEC), layers, strict=True):
        assert np.array_equal(one, other)


def test_only_gates_carry_state() -> None:
    _, logits = gen_circuit(jax.random.key(0), SPEC.layer_sizes, SPEC.arity)
    state = start_state(logits, SPEC, channels=5)
    assert [leaf.shape for leaf in state] == [(12, 4), (12, 5), (2,)]
    assert not state.hidden.any()
    assert not state.residual.any()
    batch = start_state([jnp.stack([layer, layer, layer]) for layer in logits], SPEC, channels=5)
    assert [leaf.shape for leaf in batch] == [(3, 12, 4), (3, 12, 5), (3, 2)]
