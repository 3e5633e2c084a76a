from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boolean_nca_cc.circuits.model import gen_circuit, gen_wires, run_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.wiring import chain_topology, check_wires, local_wires, mutate_wires, tree_topology
from boolean_nca_cc.errors import SpecError, WiringError

run_hard = jax.jit(partial(run_circuit, hard=True))


@pytest.mark.parametrize(("in_n", "out_n", "arity"), [(8, 16, 4), (5, 6, 2), (9, 1, 3)])
def test_random_wires_have_balanced_fan_out(in_n: int, out_n: int, arity: int) -> None:
    for seed in range(20):
        wires = gen_wires(jax.random.key(seed), in_n, out_n, arity)
        fan_out = np.bincount(np.ravel(wires), minlength=in_n)
        assert wires.shape == (arity, out_n)
        assert fan_out.size == in_n
        assert set(fan_out) <= {arity * out_n // in_n, -(-arity * out_n // in_n)}


def test_random_wires_follow_the_published_rule() -> None:
    key = jax.random.key(3)
    drawn = np.asarray(jax.random.permutation(key, 12))
    assert np.array_equal(gen_wires(key, 5, 6, 2), drawn.reshape(2, 6) % 5)
    drawn = np.asarray(jax.random.permutation(key, 20))
    assert np.array_equal(gen_wires(key, 20, 3, 2), drawn[:6].reshape(2, 3))


def test_a_circuit_draws_its_layers_from_one_key_after_the_other() -> None:
    spec = CircuitSpec.default(4, 4, arity=2)
    key = jax.random.key(7)
    circuit = gen_circuit(key, spec.layer_sizes, 2)
    for (before, _), (n, s), wires in zip(spec.layer_sizes[:-1], spec.layer_sizes[1:], circuit.wires, strict=True):
        assert np.array_equal(wires, gen_wires(key, before, n // s, 2))
        key = jax.random.split(key)[1]
    again = gen_circuit(jax.random.key(7), spec.layer_sizes, 2)
    assert all(np.array_equal(a, b) for a, b in zip(circuit.wires, again.wires, strict=True))


def test_local_wires_without_noise_read_neighbours_once() -> None:
    wires = local_wires(jax.random.key(0), in_n=8, out_n=2, arity=4)
    assert np.asarray(wires).T.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(("in_n", "out_n", "arity"), [(8, 16, 4), (64, 8, 4), (6, 4, 3), (5, 3, 2)])
def test_local_wires_stay_balanced_under_noise(in_n: int, out_n: int, arity: int) -> None:
    for noise in (0.0, 2.0, 100.0):
        fan_out = np.bincount(np.ravel(local_wires(jax.random.key(1), in_n, out_n, arity, noise)), minlength=in_n)
        assert set(fan_out) <= {arity * out_n // in_n, -(-arity * out_n // in_n)}


def test_noise_makes_wires_less_local() -> None:
    def spread(noise: float) -> float:
        return float(np.ptp(local_wires(jax.random.key(2), 64, 16, 4, noise), axis=0).mean())

    assert spread(0.0) == 3.0
    assert spread(0.0) < spread(4.0) < spread(100.0)


mutate = jax.jit(mutate_wires)


@given(swaps=st.integers(0, 9), seed=st.integers(0, 50))
def test_a_mutation_swaps_disjoint_pairs(swaps: int, seed: int) -> None:
    wires = jnp.arange(12).reshape(2, 6)
    mutated = mutate(jax.random.key(seed), wires, swaps=swaps)
    moved = np.ravel(mutated) != np.arange(12)
    assert moved.sum() == 2 * min(swaps, 6)
    where = np.ravel(mutated)
    assert np.array_equal(where[where], np.arange(12)), "a swap done twice is no swap"


def test_mutations_by_rate_and_under_transformations() -> None:
    wires = jnp.arange(64).reshape(4, 16)
    assert np.array_equal(mutate(jax.random.key(0), wires, rate=0.0), wires)
    assert np.all(np.asarray(mutate(jax.random.key(0), wires, rate=1.0)) != np.asarray(wires))
    keys, counts = jax.random.split(jax.random.key(1), 5), jnp.arange(5) * 3
    many = jax.jit(jax.vmap(lambda key, count: mutate_wires(key, wires, swaps=count)))(keys, counts)
    assert (np.asarray(many) != np.asarray(wires)).sum((1, 2)).tolist() == [0, 6, 12, 18, 24]
    rates = [mutate(jax.random.key(seed), wires, rate=0.25) for seed in range(200)]
    moved = (np.asarray(rates) != np.asarray(wires)).sum((1, 2)).mean()
    assert 14 < moved < 17, "a quarter of 64 connections, rounded down to pairs"


def test_a_tree_of_conjunctions() -> None:
    spec, wires = tree_topology(8)
    conjunction = [jnp.full((n, 1, 4), -1.0).at[..., 3].set(1.0) for n, _ in spec.layer_sizes[1:]]
    x = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.float32)
    out = run_hard(conjunction, wires, x)[-1]
    assert np.array_equal(out[:, 0], x.min(1))


def test_a_chain_of_exclusive_ors_is_parity() -> None:
    spec, wires = chain_topology(5)
    circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, 2, wires=wires)
    exclusive_or = jnp.array([-1.0, 1.0, 1.0, -1.0])
    logits = [layer.at[0, 0].set(exclusive_or) for layer in circuit.logits]
    x = (np.arange(32)[:, None] >> np.arange(5) & 1).astype(np.float32)
    out = run_hard(logits, circuit.wires, x)[-1]
    assert np.array_equal(out[:, 0], x.sum(1) % 2)


@pytest.mark.parametrize("n_in", [0, 1, 6])
def test_topologies_that_do_not_exist_are_refused(n_in: int) -> None:
    with pytest.raises(WiringError, match=f"power of its arity, at least 2; they are {n_in} and 2"):
        tree_topology(n_in)
    if n_in < 2:
        with pytest.raises(WiringError, match=f"n_in is {n_in}"):
            chain_topology(n_in)


def test_wires_that_do_not_fit_are_refused() -> None:
    spec = CircuitSpec(((3, 1), (4, 2), (2, 1)), 2)
    good = [np.zeros((2, 2), int), np.zeros((2, 2), int)]
    check_wires(good, spec)
    with pytest.raises(WiringError, match="each of the 2 layers of gates; it has 1"):
        check_wires(good[:1], spec)
    with pytest.raises(WiringError, match=r"layer 1 should have \(2, 2\) and have \(2, 4\)"):
        check_wires([np.zeros((2, 4), int), good[1]], spec)
    with pytest.raises(WiringError, match="nodes 0 to 2; those of layer 1 run from 0 to 3"):
        check_wires([np.array([[0, 3], [1, 2]]), good[1]], spec)
    with pytest.raises(WiringError, match="run from -1 to 0"):
        gen_circuit(jax.random.key(0), spec.layer_sizes, 2, wires=[good[0] - np.eye(2, dtype=int), good[1]])


def test_bad_arguments_are_refused() -> None:
    key, wires = jax.random.key(0), jnp.zeros((2, 2), int)
    with pytest.raises(SpecError, match="arity must be at least 1; it is 0"):
        gen_wires(key, 4, 4, 0)
    with pytest.raises(WiringError, match="cannot be negative; it is -1"):
        local_wires(key, 4, 4, 2, -1.0)
    with pytest.raises(WiringError, match="exactly one of swaps and rate"):
        mutate_wires(key, wires)
    with pytest.raises(WiringError, match="exactly one of swaps and rate"):
        mutate_wires(key, wires, swaps=1, rate=0.5)
    with pytest.raises(WiringError, match="swaps cannot be negative; it is -2"):
        mutate_wires(key, wires, swaps=-2)
    with pytest.raises(WiringError, match=r"probability from 0 to 1; it is 1\.5"):
        mutate_wires(key, wires, rate=1.5)
