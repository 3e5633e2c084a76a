from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boolean_nca_cc.circuits.kernels import fold_layer, gather, minterm_layer
from boolean_nca_cc.circuits.model import gen_circuit, make_nops, run_circuit, run_layer
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import MaskError, SpecError, WiringError
from boolean_nca_cc.reference import oracle

run = jax.jit(run_circuit, static_argnames="hard")


@pytest.mark.parametrize("arity", [1, 2, 4])
def test_a_fresh_layer_passes_its_inputs_through(arity: int) -> None:
    gates = 2 * arity + 2
    x = (np.arange(1 << arity)[:, None] >> np.arange(arity) & 1).astype(np.float32)
    wires = [jnp.tile(jnp.arange(arity)[:, None], (1, gates // 2))]
    logits = [make_nops(gates, arity, 2)]
    hard = run(logits, wires, x, hard=True)[-1]
    assert np.array_equal(hard, x[:, np.arange(gates) % arity])
    soft = run(logits, wires, x)[-1]
    np.testing.assert_allclose(soft, 1 / (1 + np.exp(3 - 6 * x[:, np.arange(gates) % arity])), rtol=2e-6)


def test_the_first_input_is_the_lowest_bit() -> None:
    table = jnp.array([[[0.0, 1.0, 0.0, 0.0]]])  # 1 at address 1 only: first input 1, second 0
    assert run_layer(table, jnp.array([[[1.0]], [[0.0]]])).item() == 1.0
    assert run_layer(table, jnp.array([[[0.0]], [[1.0]]])).item() == 0.0


def test_run_layer_takes_any_batch_axes() -> None:
    rng = np.random.default_rng(0)
    lut, inputs = rng.random((3, 2, 8), np.float32), rng.random((3, 4, 5, 3), np.float32)
    whole, one = jax.jit(lambda lut, inputs: (run_layer(lut, inputs), run_layer(lut, inputs[:, 2, 3])))(lut, inputs)
    assert whole.shape == (4, 5, 6)
    np.testing.assert_allclose(np.asarray(whole)[2, 3], one, rtol=1e-6)


@given(
    seed=st.integers(0, 10_000),
    spec_index=st.sampled_from([0, 1, 3]),
    hard=st.booleans(),
    fractions=st.booleans(),
    bits=st.booleans(),
)
def test_runs_agree_with_the_oracle(
    make_case: Callable, seed: int, spec_index: int, hard: bool, fractions: bool, bits: bool
) -> None:
    case = make_case(seed, spec_index, fractions=fractions, bits=bits)
    for mask in (None, case.gate_mask):
        ours = run(case.logits, case.wires, case.x, mask, hard=hard)
        expected = oracle.run_circuit(case.logits, case.wires, case.x, mask, hard)
        assert len(ours) == case.spec.n_layers + 1
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def with_slopes(layer: Callable) -> Callable:
    def values(table: jax.Array, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, ...]:
        slopes = jax.grad(lambda t, v: jnp.sum(weight * layer(t, v)), argnums=(0, 1))(table, x)
        return layer(table, x), *slopes

    return jax.jit(values)


MINTERMS, FOLD = with_slopes(minterm_layer), with_slopes(fold_layer)


@given(seed=st.integers(0, 10_000), arity=st.integers(1, 4))
def test_minterms_and_fold_are_one_function(seed: int, arity: int) -> None:
    rng = np.random.default_rng(seed)
    table = jnp.asarray(rng.random((3, 2, 1 << arity)), jnp.float32)
    x = jnp.asarray(rng.random((arity, 3, 5)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)
    (ours, *our_slopes), (plain, *plain_slopes) = (form(table, x, weight) for form in (MINTERMS, FOLD))
    np.testing.assert_allclose(ours, plain, rtol=1e-6, atol=1e-6)
    for ours, plain in zip(our_slopes, plain_slopes, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize("readers", ["balanced", "crowded", "few"])
def test_the_derivative_of_reading_wires_is_the_plain_one(readers: str) -> None:
    rng = np.random.default_rng(5)
    nodes = jnp.asarray(rng.random((6, 4)), jnp.float32)
    wires = {
        "balanced": jnp.asarray(rng.permutation(12).reshape(3, 4) % 6),
        "crowded": jnp.asarray(rng.choice([0, 2, 2, 2, 5], (3, 4))),
        "few": jnp.asarray([[4], [1]]),
    }[readers]
    weight = jnp.asarray(rng.normal(size=(*wires.shape, 4)), jnp.float32)

    @jax.jit
    def slopes(nodes: jax.Array, wires: jax.Array) -> tuple[jax.Array, jax.Array]:
        one = jax.grad(lambda a, w: jnp.sum(weight * gather(a, w)))
        return one(nodes, wires), jax.vmap(one, in_axes=(None, 0))(nodes, wires[None])[0]

    plain = np.zeros((6, 4))
    np.add.at(plain, np.asarray(wires), np.asarray(weight, np.float64))
    for ours in slopes(nodes, wires):
        np.testing.assert_allclose(ours, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("hard", [False, True])
def test_what_a_dead_gate_holds_is_never_read(make_case: Callable, poison: float, hard: bool) -> None:
    case = make_case(11, 1)
    dead = [m == 0 for m in case.gate_mask[1:]]
    assert any(layer.any() for layer in dead)
    poisoned = [
        np.where(d.reshape(*layer.shape[:2], 1), np.float32(poison), layer)
        for d, layer in zip(dead, case.logits, strict=True)
    ]
    clean = run(case.logits, case.wires, case.x, case.gate_mask, hard=hard)
    for a, b in zip(clean, run(poisoned, case.wires, case.x, case.gate_mask, hard=hard), strict=True):
        assert np.array_equal(a, b)


def test_a_dead_input_is_never_read(make_case: Callable) -> None:
    case = make_case(3, 1)
    case.gate_mask[0][:] = [1, 0, 1, 1]
    poisoned = case.x.copy()
    poisoned[:, 1] = np.nan
    for a, b in zip(
        run(case.logits, case.wires, case.x, case.gate_mask),
        run(case.logits, case.wires, poisoned, case.gate_mask),
        strict=True,
    ):
        assert np.array_equal(a, b)


def test_a_logit_of_zero_is_a_hard_zero() -> None:
    logits = [jnp.array([[[0.0, 1e-30]]])]
    out = run(logits, [jnp.array([[0]])], jnp.array([[0.0], [1.0]]), hard=True)[-1]
    assert out.tolist() == [[0.0], [1.0]]


def test_local_circuits_differ_from_random_ones() -> None:
    sizes = CircuitSpec.default(4, 4, arity=2).layer_sizes
    local = gen_circuit(jax.random.key(0), sizes, 2, wiring="local")
    assert np.array_equal(local.wires[0], np.arange(16).reshape(8, 2).T * 4 // 16)
    jittered = gen_circuit(jax.random.key(0), sizes, 2, wiring="local", noise=5.0)
    assert not np.array_equal(local.wires[0], jittered.wires[0])


def test_bad_input_is_refused(make_case: Callable) -> None:
    case = make_case(0, 0)
    with pytest.raises(MaskError, match=r"gate_mask\[1\] .* 4 nodes; its shape is \(3,\)"):
        run_circuit(case.logits, case.wires, case.x, [np.ones(3), np.ones(3), np.ones(2)])
    with pytest.raises(MaskError, match="3 layers, the input included; it has 2"):
        run_circuit(case.logits, case.wires, case.x, case.gate_mask[1:])
    with pytest.raises(SpecError, match="there are 5 gates in groups of 2"):
        make_nops(5, 2, 2)
    with pytest.raises(SpecError, match="group_size must be at least 1; it is 0"):
        make_nops(4, 2, 0)
    with pytest.raises(SpecError, match="layer 1 has 5 nodes in groups of 2"):
        gen_circuit(jax.random.key(0), [(3, 1), (5, 2)], 2)


def test_an_unknown_wiring_is_refused_where_types_are_not_checked() -> None:
    unchecked = getattr(gen_circuit, "__wrapped__", gen_circuit)
    with pytest.raises((WiringError, TypeError), match="ring"):
        unchecked(jax.random.key(0), [(3, 1), (4, 2)], 2, wiring="ring")
