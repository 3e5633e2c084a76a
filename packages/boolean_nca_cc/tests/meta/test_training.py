"""Epochs of meta-learning on a circuit of fourteen gates: what they change, how much, and that they learn."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.errors import PatternError, SpecError, TaskError
from boolean_nca_cc.meta.pool import wire_diversity
from boolean_nca_cc.meta.settings import MetaConfig
from boolean_nca_cc.meta.training import (
    MetaState,
    loss_step_of,
    meta_epochs,
    meta_optimizer,
    seen_patterns,
    start_training,
)

SPEC = CircuitSpec(((2, 1), (8, 2), (4, 2), (2, 1)), arity=2)
DATA = get_task("reverse", 2, 2)
# Two circuits of eight are replaced an epoch, and two are struck.
CONFIG = MetaConfig.model_validate(
    {
        "rule": {"kind": "gnn", "hidden": 4, "width": 8},
        "pool": {"size": 8, "reset": 0.25, "reset_by": "steps"},
        "damage": {"dead": 1, "fraction": 0.25, "vocabulary": 3},
        "epochs": 60,
        "batch": 4,
        "steps": 3,
        "loss_step": "last",
        "learning_rate": 0.01,
    }
)


def config(**changed: Any) -> MetaConfig:
    return MetaConfig.model_validate(CONFIG.model_dump() | changed)


def bits(state: Any) -> list[bytes]:
    plain = state._replace(key=jax.random.key_data(state.key)) if isinstance(state, MetaState) else state
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(plain)]


def largest(tree: Any) -> float:
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def test_a_training_is_a_function_of_its_settings() -> None:
    one, other = start_training(CONFIG, SPEC)[1], start_training(CONFIG, SPEC)[1]
    assert bits(one) == bits(other)
    unlike = start_training(config(seed=1), SPEC)[1]
    assert bits(one.weights) != bits(unlike.weights)
    assert bits(one.pool.wires) != bits(unlike.pool.wires)
    assert (int(one.epoch), one.pool.size, one.pool.shares_wires) == (0, 8, True)


def test_a_given_circuit_is_what_all_begin_as() -> None:
    wires, logits = gen_circuit(jax.random.key(9), SPEC.layer_sizes, SPEC.arity)
    state = start_training(CONFIG, SPEC, Circuit(wires, [layer * 2 for layer in logits]))[1]
    assert bits(state.pool.wires) == bits(wires)
    assert np.array_equal(state.pool.state.logits[3, :8], np.asarray(logits[0]).reshape(8, 4) * 2)
    with pytest.raises(SpecError, match="Give its own spec"):
        start_training(CONFIG, CircuitSpec(((2, 1), (8, 2), (2, 1)), arity=2), Circuit(wires, logits))


def test_one_epoch_draws_replaces_and_strikes_as_many_as_asked() -> None:
    """Who has worked is replaced first here, and only who has worked is struck: two of the batch of four remain."""
    rule, start = start_training(CONFIG, SPEC)
    state, record = meta_epochs(CONFIG, SPEC, rule, start, DATA, 1)
    again = meta_epochs(CONFIG, SPEC, rule, start_training(CONFIG, SPEC)[1], DATA, 1)
    assert bits(state) == bits(again[0])
    assert bits(record) == bits(again[1])
    assert [curve.shape for curve in record] == [(1,)] * 3
    assert int(state.epoch) == 1
    assert sorted(state.pool.steps.tolist()) == [0] * 6 + [3] * 2
    worked = np.asarray(state.pool.steps) == 3
    assert np.array_equal(np.isfinite(state.pool.loss), worked)
    assert np.array_equal((~state.pool.alive).sum(axis=1), worked * 1)
    patterns = seen_patterns(CONFIG, SPEC)
    assert all(any(np.array_equal(mask, one) for one in patterns) for mask in state.pool.alive[worked])
    # An untrained rule changes nothing: all have the loss of the pass-through circuit, and it was minimised.
    assert float(record.loss[0]) == pytest.approx(float(state.pool.loss[worked][0]), rel=1e-6)
    assert float(record.hard_accuracy[0]) == float(record.worst[0])
    assert bits(state.weights) != bits(start.weights)
    assert bits(state.start) == bits(start.start)


def test_sixty_epochs_learn_and_a_broken_circuit_does_not_end_it() -> None:
    rule, state = start_training(CONFIG, SPEC)
    losses = []
    for _ in range(60):
        state, record = meta_epochs(CONFIG, SPEC, rule, state, DATA, 1)
        losses.append(float(record.loss[0]))
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    tables = state.pool.state._replace(logits=jnp.full_like(state.pool.state.logits, jnp.nan))
    broken = state._replace(pool=state.pool._replace(state=tables))
    after, record = meta_epochs(CONFIG, SPEC, rule, broken, DATA, 1)
    assert np.isnan(record.loss[0])
    assert largest(jax.tree.map(lambda a, b: a - b, after.weights, state.weights)) < 0.01
    assert np.isfinite(largest(after.opt_state))
    after, record = meta_epochs(CONFIG, SPEC, rule, after._replace(pool=state.pool), DATA, 1)
    assert np.isfinite(record.loss[0])
    assert np.isfinite(largest(after.weights))


@pytest.mark.slow
def test_stopping_in_between_changes_no_bit() -> None:
    rule, start = start_training(CONFIG, SPEC)
    whole, record = meta_epochs(CONFIG, SPEC, rule, start, DATA, 6)
    half, first = meta_epochs(CONFIG, SPEC, rule, start, DATA, 2)
    end, second = meta_epochs(CONFIG, SPEC, rule, half, DATA, 4)
    assert bits(end) == bits(whole)
    assert bits(jax.tree.map(lambda *parts: jnp.concatenate(parts), first, second)) == bits(record)
    for _ in range(2):
        half, _ = meta_epochs(CONFIG, SPEC, rule, half, DATA, 2)
    assert bits(half) == bits(whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attention", "gnn"])
@pytest.mark.parametrize(("damage", "by"), [("reversible", "loss"), ("seu", "mixed")])
def test_circuits_with_their_own_wires(kind: str, damage: str, by: str) -> None:
    own = config(
        rule={"kind": kind, "hidden": 4, "width": 8, "aggregate": "attention"},
        pool={"size": 8, "reset": 0.25, "reset_by": by, "wiring": "random", "genetic": 1},
        damage={"dead": 2, "fraction": 0.25, "kind": damage},
        loss="bce",
        loss_step="beta",
    )
    rule, start = start_training(own, SPEC)
    state, record = meta_epochs(own, SPEC, rule, start, DATA, 5)
    assert all(np.isfinite(curve).all() for curve in record)
    assert state.pool.alive.all()
    assert 0 < float(wire_diversity(state.pool, SPEC)) <= 1
    assert bits(state.pool.wires) != bits(start.pool.wires)
    assert float(record.loss[-1]) != float(record.loss[0])


def steps_of(kind: str, epoch: int, steps: int = 5) -> np.ndarray:
    settings = config(loss_step=kind, steps=steps)
    keys = jax.random.split(jax.random.key(2), 2000)
    return np.asarray(_steps(keys, settings, jnp.asarray(epoch)))


@partial(jax.jit, static_argnums=1)
def _steps(keys: jax.Array, settings: MetaConfig, epoch: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: loss_step_of(key, settings, epoch))(keys)


def test_the_loss_is_taken_after_the_step_that_was_asked_for() -> None:
    assert set(steps_of("last", 3).tolist()) == {4}
    counts = np.bincount(steps_of("random", 3), minlength=5)
    assert counts[:2].sum() == 0
    assert np.abs(counts[2:] - 2000 / 3).max() < 4.5 * np.sqrt(2000 * 2 / 9)
    for kind in ("last", "random", "beta"):
        assert set(steps_of(kind, 3, steps=1).tolist()) == {0}


def test_a_beta_step_moves_from_early_to_late() -> None:
    """Of 60 epochs. In the middle it is round(4 Beta(5.05, 5.05)), which is symmetric about 2."""
    early, middle, late, after = (steps_of("beta", epoch) for epoch in (0, 30, 60, 90))
    for drawn in (early, middle, late, after):
        assert drawn.min() >= 1
        assert drawn.max() <= 4
    assert early.mean() < 1.1
    assert middle.mean() == pytest.approx(2.0, abs=0.1)
    assert late.mean() > 3.8
    assert np.array_equal(after, late)


def test_one_entry_that_is_no_number_stops_no_other() -> None:
    """Adam's first step is the learning rate in the direction of the gradient; the warm-up begins at a hundredth."""
    optimizer = meta_optimizer(config(weight_decay=0.0))
    weights = {"w": jnp.ones(4)}
    updates, state = optimizer.update(
        {"w": jnp.array([jnp.nan, jnp.inf, -jnp.inf, 3.0])}, optimizer.init(weights), weights
    )
    np.testing.assert_allclose(updates["w"], [0, 0, 0, -0.01 / 100], rtol=1e-5)
    assert np.isfinite(largest(state))


def test_the_vocabulary_is_a_function_of_the_settings() -> None:
    patterns = seen_patterns(CONFIG, SPEC)
    assert patterns is not None
    assert (~patterns).sum(axis=1).tolist() == [1, 1, 1]
    assert np.array_equal(patterns, seen_patterns(config(epochs=7), SPEC))
    assert seen_patterns(config(damage={"dead": 1, "vocabulary": 0}), SPEC) is None
    assert seen_patterns(config(damage={"dead": 0, "vocabulary": 3}), SPEC) is None


def test_trainings_that_cannot_be_are_refused() -> None:
    with pytest.raises(PatternError, match=r"of which there are 12; it asks for 13\. Use fewer"):
        start_training(config(damage={"dead": 13}), SPEC)
    rule, state = start_training(CONFIG, SPEC)
    with pytest.raises(TaskError, match="2 inputs and 2 outputs"):
        meta_epochs(CONFIG, SPEC, rule, state, get_task("reverse", 3, 3), 1)
