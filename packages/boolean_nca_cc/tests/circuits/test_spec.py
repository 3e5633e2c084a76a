import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boolean_nca_cc.circuits.model import generate_layer_sizes, make_nops
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import BooleanNCAError, MaskError, SpecError


def test_default_sizes_are_the_published_ones() -> None:
    spec = CircuitSpec.default(8, 8, arity=4, hidden=3)
    assert spec.layer_sizes == ((8, 1), (64, 4), (64, 4), (32, 2), (8, 1))
    assert (spec.n_in, spec.n_out, spec.n_layers) == (8, 8, 4)
    assert (spec.n_gates, spec.n_nodes, spec.n_logits) == (168, 176, 2688)
    assert CircuitSpec.default(6, 3, arity=3, hidden=2).n_gates == 48
    large = CircuitSpec.default(10, 10, hidden=4, width=4)
    assert (large.n_gates, large.n_logits) == (530, 8480)


def test_layer_sizes_as_pairs() -> None:
    assert generate_layer_sizes(8, 8, 4, layer_n=3) == list(CircuitSpec.default(8, 8).layer_sizes)
    assert generate_layer_sizes(5, 2, 2) == [(5, 1), (20, 2), (4, 1), (2, 1)]


@given(
    sizes=st.sampled_from([((3, 1), (4, 2), (2, 1)), ((1, 1), (3, 3)), ((2, 1), (4, 4), (3, 1), (4, 1))]),
    seed=st.integers(0, 99),
)
def test_flat_and_layered_masks_are_the_same_mask(sizes: tuple[tuple[int, int], ...], seed: int) -> None:
    spec = CircuitSpec(sizes, 2)
    alive = np.random.default_rng(seed).random(spec.n_nodes) > 0.5
    layers = spec.to_layers(alive)
    assert [layer.shape for layer in layers] == [(n,) for n, _ in spec.layer_sizes]
    assert np.array_equal(np.concatenate(layers), alive.astype(np.float32))
    assert np.array_equal(spec.from_layers(layers), alive)
    assert spec.offsets == tuple(np.cumsum([0] + [n for n, _ in spec.layer_sizes[:-1]]))


def test_an_attenuated_gate_is_alive() -> None:
    spec = CircuitSpec(((2, 1), (2, 2)), 1)
    assert spec.from_layers([np.array([1.0, 1e-6]), np.array([0.0, -0.0])]).tolist() == [True, True, False, False]


def test_masks_convert_under_jit_and_vmap() -> None:
    spec = CircuitSpec.default(2, 2, arity=2)
    alive = jax.random.bernoulli(jax.random.key(0), 0.5, (3, spec.n_nodes))
    back = jax.jit(jax.vmap(lambda one: spec.from_layers(spec.to_layers(one))))(alive)
    assert np.array_equal(back, alive)


def test_hidden_gates_are_neither_input_nor_output() -> None:
    spec = CircuitSpec(((3, 1), (4, 2), (2, 1)), 2)
    assert spec.hidden_gates.tolist() == [3, 4, 5, 6]
    assert CircuitSpec(((3, 1), (2, 1)), 2).hidden_gates.size == 0


def test_specs_are_values() -> None:
    assert CircuitSpec.default(4, 4) == CircuitSpec.default(4, 4)
    assert len({CircuitSpec.default(4, 4), CircuitSpec.default(4, 4), CircuitSpec.default(4, 3)}) == 2
    with pytest.raises(AttributeError):
        CircuitSpec.default(4, 4).arity = 3  # type: ignore[misc]


def test_spec_from_tables() -> None:
    spec = CircuitSpec(((5, 1), (6, 3), (4, 2), (2, 1)), 3)
    tables = [make_nops(n, 3, s) for n, s in spec.layer_sizes[1:]]
    assert CircuitSpec.from_logits(tables, 5) == spec
    assert CircuitSpec.from_logits([table[None] for table in tables], 5) == spec
    with pytest.raises(SpecError, match=r"power of two; the last axes are \[8, 4\]"):
        CircuitSpec.from_logits([jnp.zeros((1, 1, 8)), jnp.zeros((1, 1, 4))], 5)
    with pytest.raises(SpecError, match=r"power of two; the last axes are \[3\]"):
        CircuitSpec.from_logits([jnp.zeros((1, 1, 3))], 5)


@pytest.mark.parametrize(
    ("sizes", "arity", "message"),
    [
        (((4, 1), (6, 4)), 2, r"must divide its node count; layer 1 has 6 nodes in groups of 4. Use 4 or 8 nodes"),
        (((4, 1), (3, 4)), 2, r"layer 1 has 3 nodes in groups of 4. Use 4 or 4 nodes"),
        (((4, 2), (4, 2)), 2, r"groups of 1; layer 0 is \(4, 2\). Write \(4, 1\)"),
        (((4, 1),), 2, r"layer_sizes has 1 layer"),
        (((4, 1), (0, 1)), 2, r"at least 1; layer 1 is \(0, 1\)"),
        (((4, 1), (4, -1)), 2, r"at least 1; layer 1 is \(4, -1\)"),
        (((4, 1), (4, 1)), 0, r"arity must be from 1 to 12; it is 0"),
        (((4, 1), (4, 1)), 13, r"arity must be from 1 to 12; it is 13"),
    ],
)
def test_a_spec_that_is_no_circuit_is_refused(sizes: tuple[tuple[int, int], ...], arity: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        CircuitSpec(sizes, arity)


@pytest.mark.parametrize("name", ["n_in", "n_out", "arity", "hidden", "width"])
def test_default_refuses_counts_below_one(name: str) -> None:
    with pytest.raises(SpecError, match=f"{name} must be at least 1; it is 0"):
        CircuitSpec.default(**({"n_in": 4, "n_out": 4} | {name: 0}))


def test_default_refuses_an_indivisible_last_hidden_layer() -> None:
    with pytest.raises(SpecError, match="layer 3 has 25 nodes in groups of 2"):
        CircuitSpec.default(5, 5, arity=5)


def test_masks_that_do_not_fit_are_refused() -> None:
    spec = CircuitSpec(((2, 1), (4, 2), (1, 1)), 2)
    with pytest.raises(MaskError, match=r"all 7 nodes \(2 input \+ 5 gates\); it has shape \(5,\)"):
        spec.to_layers(np.ones(5, bool))
    with pytest.raises(MaskError, match=r"dtype is float32\. Compare first"):
        spec.check_alive(np.ones(7, np.float32))
    with pytest.raises(MaskError, match="each of the 3 layers, the input included; it has 2"):
        spec.from_layers([np.ones(4), np.ones(1)])
    with pytest.raises(
        MaskError, match=r"gate_mask\[1\] has one value for each of the layer's 4 nodes; its shape is \(2,\)"
    ):
        spec.from_layers([np.ones(2), np.ones(2), np.ones(1)])
    with pytest.raises(MaskError, match=r"it is one array of shape \(7,\)"):
        spec.check_layers(np.ones(7))


def test_errors_hang_on_one_tree() -> None:
    assert issubclass(SpecError, BooleanNCAError)
    assert issubclass(SpecError, ValueError)
