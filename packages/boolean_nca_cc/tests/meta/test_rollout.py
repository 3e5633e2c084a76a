"""A rule at work, held to the oracle's circuits after every step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData, get_task
from boolean_nca_cc.errors import ConfigError, LossError, TaskError
from boolean_nca_cc.meta.pool import Pool, fresh_pool
from boolean_nca_cc.meta.rollout import Rule, Trajectory, columns_of, hard_accuracies, make_rule, rollout
from boolean_nca_cc.meta.settings import RuleConfig
from boolean_nca_cc.reference import oracle

SPEC = CircuitSpec(((2, 1), (4, 2), (2, 1)), arity=2)
DATA = get_task("reverse", 2, 2)
COLUMNS = columns_of(DATA, SPEC)
SMALL = {"hidden": 3, "width": 6, "heads": 2}


def trained(kind: Any) -> Rule:
    """As if trained: all weights random, so that every step changes every table."""
    rng = np.random.default_rng(3)
    rule = make_rule(RuleConfig(kind=kind, **SMALL), SPEC)
    leaves, structure = jax.tree.flatten(rule.weights)
    moved = [jnp.asarray(np.float32(np.asarray(leaf) + 0.5 * rng.normal(size=leaf.shape))) for leaf in leaves]
    return rule._replace(weights=jax.tree.unflatten(structure, moved))


def circuits(wiring: Any) -> Pool:
    """Three circuits with random tables; the second has lost a gate, the third another and a table of NaN with it."""
    pool = fresh_pool(jax.random.key(0), SPEC, 3, channels=3, wiring=wiring)
    logits = np.random.default_rng(5).normal(0, 2, (3, 6, 4)).astype(np.float32)
    logits[2, 1] = np.nan
    alive = np.ones((3, SPEC.n_nodes), bool)
    alive[1, 2] = alive[2, 3] = False
    return pool._replace(state=pool.state._replace(logits=jnp.asarray(logits)), alive=jnp.asarray(alive))


def one_of(pool: Pool, row: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Tables, wires and mask of a circuit, as the oracle takes them."""
    flat = np.asarray(pool.state.logits[row])
    wires = [np.asarray(layer if pool.shares_wires else layer[row]) for layer in pool.wires]
    return [flat[:4].reshape(2, 2, 4), flat[4:].reshape(2, 1, 4)], wires, np.asarray(pool.alive[row])


@pytest.mark.parametrize(
    ("kind", "wiring", "loss"),
    [("gnn", "fixed", "l4"), pytest.param("attention", "random", "bce", marks=pytest.mark.slow)],
)
def test_losses_and_accuracies_are_those_of_the_oracle_on_the_tables(kind: Any, wiring: str, loss: str) -> None:
    rule, pool, x, y = trained(kind), circuits(wiring), np.asarray(DATA.x, float), np.asarray(DATA.y, float)

    def run(state: Any, steps: int) -> Trajectory:
        return rollout(rule, SPEC, pool.wires, state, pool.alive, *COLUMNS, steps, loss, accuracies=True)

    whole, state = jax.jit(run, static_argnums=1)(pool.state, 3), pool.state
    assert whole.losses.shape == whole.accuracies.shape == (3, 3)
    by_one = jax.jit(run, static_argnums=1)
    for step in range(3):
        # What was known of the residual before makes no difference: the circuit is looked at first.
        state = by_one(state._replace(residual=jnp.full((3, 2), 7.0)), 1).state
        for row in range(3):
            logits, wires, alive = one_of(pool._replace(state=state), row)
            masks = [alive[:2], alive[2:6], alive[6:]]
            soft = oracle.run_circuit(logits, wires, x, masks)[-1]
            hard = oracle.evaluate_by_address(logits, wires, x > 0.5, alive)
            assert float(whole.losses[step, row]) == pytest.approx(oracle.loss(soft, y, loss) / 8, rel=1e-4, abs=1e-6)
            assert float(whole.accuracies[step, row]) == (hard == (y > 0.5)).sum() / 8
            np.testing.assert_allclose(state.residual[row], np.abs(soft - y).mean(axis=0), rtol=1e-4, atol=1e-6)
    for one, other in zip(whole.state, state, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert len(np.unique(np.asarray(whole.losses))) == 9


@pytest.mark.slow
def test_the_gradient_of_a_loss_knows_nothing_of_later_steps() -> None:
    rule, pool = trained("gnn"), circuits("fixed")

    def loss_after_two(weights: Any, steps: int) -> jax.Array:
        return (
            rollout(rule._replace(weights=weights), SPEC, pool.wires, pool.state, pool.alive, *COLUMNS, steps)
            .losses[1]
            .mean()
        )

    gradient = jax.jit(jax.grad(loss_after_two), static_argnums=1)
    short, long = (jax.tree.leaves(gradient(rule.weights, steps)) for steps in (2, 4))
    assert max(float(jnp.abs(leaf).max()) for leaf in short) > 1e-3
    for one, other in zip(short, long, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wiring", ["fixed", "random"])
def test_hard_accuracy_is_the_share_of_right_bits(wiring: str) -> None:
    pool = circuits(wiring)
    found = hard_accuracies(SPEC, pool.wires, pool.state, pool.alive, *COLUMNS)
    for row in range(3):
        logits, wires, alive = one_of(pool, row)
        answers = oracle.evaluate_by_address(logits, wires, np.asarray(DATA.x) > 0.5, alive)
        right = sum(bool(answers[case, bit]) == bool(DATA.y[case, bit]) for case in range(4) for bit in range(2))
        assert float(found[row]) == right / 8


def test_a_rule_is_a_function_of_its_settings_and_seed() -> None:
    def weights(seed: int, **changed: Any) -> list[jax.Array]:
        return jax.tree.leaves(make_rule(RuleConfig(**{"kind": "gnn", **SMALL, **changed}), SPEC, seed).weights)

    def same(one: list[jax.Array], other: list[jax.Array]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    assert same(weights(0), weights(0))
    assert not same(weights(0), weights(1))
    assert len(weights(0, depth=2)) > len(weights(0))
    assert len(weights(0, aggregate="attention")) == len(weights(0)) + 2
    assert make_rule(RuleConfig(**SMALL), SPEC).definition == make_rule(RuleConfig(**SMALL), SPEC, 1).definition


def test_what_cannot_be_run_is_refused() -> None:
    rule, pool = trained("gnn"), circuits("fixed")
    with pytest.raises(ConfigError, match="at least one step; steps is 0"):
        rollout(rule, SPEC, pool.wires, pool.state, pool.alive, *COLUMNS, 0)
    with pytest.raises(LossError, match="one of l4, bce; it is 'l2'"):
        rollout(rule, SPEC, pool.wires, pool.state, pool.alive, *COLUMNS, 1, "l2")
    for data in (get_task("reverse", 3, 3), TaskData(DATA.x, DATA.y[:, :1], ""), TaskData(DATA.x, DATA.y[:3], "")):
        with pytest.raises(TaskError, match="2 inputs and 2 outputs; its arrays have the shapes"):
            columns_of(data, SPEC)
