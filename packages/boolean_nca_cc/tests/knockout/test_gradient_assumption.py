"""The note's key insight: the gradient of a dead gate is exactly zero, because the mask multiplies its output.

And what the insight does not cover: momentum, weight decay, gradients from elsewhere, a table that is not finite.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array

from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.circuits.train import loss_f_bce, loss_f_l4
from boolean_nca_cc.knockout import shotgun
from boolean_nca_cc.reference import oracle, original

SIZES = {
    "small": CircuitSpec.default(6, 3, arity=3, hidden=2),
    "medium": CircuitSpec.default(8, 8),
    "large": CircuitSpec.default(10, 10, hidden=4, width=4),
}
LOSSES = {"l4": loss_f_l4, "bce": loss_f_bce, "original l4": original.loss_f_l4, "original bce": original.loss_f_bce}


@partial(jax.jit, static_argnums=0)
def _loss_and_gradient(
    loss: str, logits: list[Array], wires: list[Array], x: Array, y: Array, mask: list[Array] | None
) -> tuple[Array, list[Array]]:
    return jax.value_and_grad(lambda values: LOSSES[loss](values, wires, x, y, mask)[0])(logits)


@cache
def _problem(size: str, dead: int, seed: int = 0) -> tuple[CircuitSpec, Circuit, Array, Array, list[Array]]:
    spec = SIZES[size]
    wiring, drawn, killed = jax.random.split(jax.random.key(seed), 3)
    circuit = gen_circuit(wiring, spec.layer_sizes, arity=spec.arity)
    logits = [layer + jax.random.normal(drawn, layer.shape) for layer in circuit.logits]
    task = get_task("reverse", spec.n_in) if spec.n_in == spec.n_out else get_task("popcount", spec.n_in, spec.n_out)
    mask = spec.to_layers(shotgun(killed, spec, dead))
    return spec, Circuit(circuit.wires, logits), jnp.asarray(task.x), jnp.asarray(task.y), mask


def _dead(mask: list[Array], logits: list[Array]) -> list[np.ndarray]:
    return [np.asarray(m).reshape(layer.shape[:2]) == 0 for m, layer in zip(mask[1:], logits, strict=True)]


@pytest.mark.parametrize("dead", [1, 5, 20])
@pytest.mark.parametrize(
    ("size", "loss"), [("small", "l4"), ("medium", "l4"), ("large", "l4"), ("small", "bce"), ("medium", "bce")]
)
def test_the_gradient_of_a_dead_gate_is_exactly_zero(size: str, loss: str, dead: int) -> None:
    _, circuit, x, y, mask = _problem(size, dead)
    _, grad = _loss_and_gradient(loss, circuit.logits, circuit.wires, x, y, mask)
    places = _dead(mask, circuit.logits)
    assert sum(int(place.sum()) for place in places) == dead
    for layer, place in zip(grad, places, strict=True):
        assert not np.asarray(layer)[place].any()
        assert np.asarray(layer)[~place].any() or place.all()


@pytest.mark.parametrize("loss", ["original l4", "original bce"])
def test_the_originals_gradient_is_zero_there_too(loss: str) -> None:
    _, circuit, x, y, mask = _problem("small", 20)
    _, grad = _loss_and_gradient(loss, circuit.logits, circuit.wires, x, y, mask)
    for layer, place in zip(grad, _dead(mask, circuit.logits), strict=True):
        assert not np.asarray(layer)[place].any()


def test_the_oracle_agrees_that_it_is_zero() -> None:
    """The same from float64 sums written by hand, so that the zero is the model's and not the framework's."""
    _, circuit, x, y, mask = _problem("small", 5)
    grad = oracle.gradient(
        [np.asarray(layer, np.float64) for layer in circuit.logits],
        [np.asarray(layer) for layer in circuit.wires],
        np.asarray(x, np.float64),
        np.asarray(y, np.float64),
        "l4",
        [np.asarray(layer, np.float64) for layer in mask],
    )
    for layer, place in zip(grad, _dead(mask, circuit.logits), strict=True):
        assert not layer[place].any()
        assert layer[~place].any()


def test_without_dead_gates_nothing_is_zeroed() -> None:
    spec, circuit, x, y, _ = _problem("medium", 0)
    full = spec.to_layers(jnp.ones(spec.n_nodes, bool))
    _, masked = _loss_and_gradient("l4", circuit.logits, circuit.wires, x, y, full)
    _, free = _loss_and_gradient("l4", circuit.logits, circuit.wires, x, y, None)
    for a, b in zip(masked, free, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_more_knockouts_than_hidden_gates_kill_them_all_and_nothing_else() -> None:
    spec, circuit, x, y, mask = _problem("medium", 10_000)
    assert sum(int(place.sum()) for place in _dead(mask, circuit.logits)) == len(spec.hidden_gates)
    assert np.asarray(mask[0]).all()
    assert np.asarray(mask[-1]).all()
    loss, grad = _loss_and_gradient("l4", circuit.logits, circuit.wires, x, y, mask)
    assert np.isfinite(float(loss))
    assert not any(np.asarray(layer).any() for layer in grad[:-1])
    assert np.asarray(grad[-1]).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_table_that_is_not_finite_in_a_dead_gate_changes_nothing(bad: float) -> None:
    _, circuit, x, y, mask = _problem("medium", 20)
    places = _dead(mask, circuit.logits)
    broken = [jnp.where(p[..., None], bad, layer) for p, layer in zip(places, circuit.logits, strict=True)]

    loss, grad = _loss_and_gradient("l4", circuit.logits, circuit.wires, x, y, mask)
    broken_loss, broken_grad = _loss_and_gradient("l4", broken, circuit.wires, x, y, mask)
    assert float(loss) == float(broken_loss)
    for a, b in zip(grad, broken_grad, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_originals_loss_is_lost_to_a_nan_in_a_dead_gate() -> None:
    """The defect that the double selection above mends: a product with a zero mask keeps a NaN."""
    _, circuit, x, y, mask = _problem("small", 20)
    places = _dead(mask, circuit.logits)
    broken = [jnp.where(p[..., None], jnp.nan, layer) for p, layer in zip(places, circuit.logits, strict=True)]
    assert np.isnan(float(_loss_and_gradient("original l4", broken, circuit.wires, x, y, mask)[0]))


def test_a_zero_gradient_alone_does_not_keep_a_parameter() -> None:
    """Momentum from before the knockout and weight decay move dead gates: values must be restored."""
    _, circuit, x, y, mask = _problem("small", 20)
    logits = list(circuit.logits)
    _, grad = _loss_and_gradient("l4", logits, circuit.wires, x, y, mask)
    _, free = _loss_and_gradient("l4", logits, circuit.wires, x, y, None)
    for opt, fresh in ((optax.adam(0.1), False), (optax.sgd(0.1, momentum=0.9), False), (optax.adamw(0.1), True)):
        state = opt.init(logits)
        if not fresh:
            _, state = opt.update(free, state, logits)
        moved, _ = original.update_params_none(grad, state, opt, logits)
        changed = [
            np.asarray(a)[p] != np.asarray(b)[p] for a, b, p in zip(moved, logits, _dead(mask, logits), strict=True)
        ]
        assert any(part.any() for part in changed)
