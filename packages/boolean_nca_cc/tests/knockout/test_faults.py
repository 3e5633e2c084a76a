"""Faulty tables: what changes, what must not, and that flips undo themselves."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boolean_nca_cc.circuits.model import Circuit, run_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import MaskError, PatternError
from boolean_nca_cc.knockout import faulty_logits, noisy_logits, seu_flips

# Layers of one shape: what one compiles, the other uses.
SPEC = CircuitSpec(((4, 1), (12, 3), (12, 3), (12, 3)), arity=3)
Draw = Callable[..., Any]


def rows(circuit: Circuit) -> np.ndarray:
    """All tables, one gate a row, in the order of flat node ids."""
    return np.concatenate([np.asarray(layer).reshape(-1, 1 << SPEC.arity) for layer in circuit.logits])


def check_only_struck_change(before: Circuit, after: Circuit, alive: np.ndarray) -> None:
    struck = ~alive[SPEC.n_in :]
    np.testing.assert_array_equal(rows(after)[~struck].view(np.uint32), rows(before)[~struck].view(np.uint32))
    for old, new in zip(before.wires, after.wires, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("value", [-10.0, 0.0, 10.0])
def test_faulty_logits_sets_all_entries_of_the_struck_gates_only(
    random_circuit: Draw, random_alive: Draw, value: float
) -> None:
    circuit, alive = random_circuit(SPEC, 0), random_alive(SPEC, 1, 7)
    hit = faulty_logits(circuit, alive, SPEC, value)
    check_only_struck_change(circuit, hit, alive)
    assert (rows(hit)[~alive[SPEC.n_in :]] == value).all()


def test_a_gate_stuck_at_zero_is_a_dead_gate_to_the_hard_circuit(random_circuit: Draw, random_alive: Draw) -> None:
    circuit, alive = random_circuit(SPEC, 2), random_alive(SPEC, 3, 9)
    x = ((np.arange(16)[:, None] >> np.arange(4)) & 1).astype(np.float32)
    run = jax.jit(lambda logits, alive: run_circuit(logits, circuit.wires, x, SPEC.to_layers(alive), hard=True)[-1])
    stuck = run(faulty_logits(circuit, alive, SPEC).logits, np.ones(SPEC.n_nodes, bool))
    dead = run(circuit.logits, alive)
    np.testing.assert_array_equal(stuck, dead)


def test_noise_has_the_asked_scale_and_stays_where_it_belongs(random_circuit: Draw) -> None:
    spec = CircuitSpec(((4, 1), (4096, 4), (1, 1)), arity=3)
    circuit = random_circuit(spec, 0)
    alive = np.ones(spec.n_nodes, bool)
    alive[4:2052] = False
    noisy = noisy_logits(jax.random.key(1), circuit, alive, spec, scale=0.5)
    added = (np.asarray(noisy.logits[0]) - np.asarray(circuit.logits[0])).reshape(4096, 8)
    assert (added[2048:] == 0).all()
    assert abs(added[:2048].std() - 0.5) < 0.02
    assert abs(added[:2048].mean()) < 0.02
    np.testing.assert_array_equal(noisy.logits[1], circuit.logits[1])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), gates=st.integers(0, 20), flips=st.integers(0, 10))
def test_flips_are_exact_and_undo_themselves(
    random_circuit: Draw, random_alive: Draw, seed: int, gates: int, flips: int
) -> None:
    circuit, key = random_circuit(SPEC, 4), jax.random.key(seed)
    alive = random_alive(SPEC, seed, gates)
    hit = seu_flips(key, circuit, alive, SPEC, flips)
    check_only_struck_change(circuit, hit, alive)
    changed = (rows(hit) != rows(circuit)).sum(axis=1)
    np.testing.assert_array_equal(changed, np.where(alive[SPEC.n_in :], 0, min(flips, 8)))
    np.testing.assert_array_equal(np.abs(rows(hit)), np.abs(rows(circuit)))
    np.testing.assert_array_equal(((rows(hit) > 0) != (rows(circuit) > 0)).sum(axis=1), changed)
    repaired = seu_flips(key, hit, alive, SPEC, flips)
    np.testing.assert_array_equal(rows(repaired).view(np.uint32), rows(circuit).view(np.uint32))


def test_flips_strike_every_entry_equally_often(random_circuit: Draw) -> None:
    circuit = random_circuit(SPEC, 5)
    alive = np.ones(SPEC.n_nodes, bool)
    alive[10] = False
    keys = jax.random.split(jax.random.key(0), 1600)
    hits = jax.vmap(lambda key: seu_flips(key, circuit, alive, SPEC).logits[0])(keys)
    counts = (np.asarray(hits) != np.asarray(circuit.logits[0])).sum(axis=0).reshape(-1, 8)[10 - SPEC.n_in]
    assert counts.sum() == 1600
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200 * 7 / 8)


def test_gates_are_struck_independently(random_circuit: Draw) -> None:
    circuit = random_circuit(SPEC, 6)
    hit = seu_flips(jax.random.key(1), circuit, np.arange(SPEC.n_nodes) < SPEC.n_in, SPEC)
    entries = (rows(hit) != rows(circuit)).argmax(axis=1)
    assert len(set(entries.tolist())) > 3


def test_faults_run_under_jit_with_a_traced_pattern(random_circuit: Draw, random_alive: Draw) -> None:
    circuit, alive = random_circuit(SPEC, 7), random_alive(SPEC, 1, 5)
    key = jax.random.key(2)

    def faults(mask: jax.Array) -> list[Circuit]:
        noisy = noisy_logits(key, circuit, mask, SPEC)
        return [faulty_logits(circuit, mask, SPEC), noisy, seu_flips(key, circuit, mask, SPEC, 2)]

    for traced, plain in zip(jax.jit(faults)(alive), faults(alive), strict=True):
        np.testing.assert_allclose(rows(traced), rows(plain), rtol=1e-6)


def test_bad_input_is_refused(random_circuit: Draw) -> None:
    circuit, alive = random_circuit(SPEC, 8), np.ones(SPEC.n_nodes, bool)
    with pytest.raises(PatternError, match=r"flips_per_gate cannot be negative; it is -1\. Use 0"):
        seu_flips(jax.random.key(0), circuit, alive, SPEC, -1)
    with pytest.raises(PatternError, match=r"standard deviation and cannot be negative; it is -0\.5\. Use 0"):
        noisy_logits(jax.random.key(0), circuit, alive, SPEC, -0.5)
    with pytest.raises(MaskError, match=r"one flat vector over all"):
        faulty_logits(circuit, alive[1:], SPEC)
