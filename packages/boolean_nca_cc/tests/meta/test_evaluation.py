"""What an evaluation says, held to the oracle's hard circuits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.model import gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.errors import PatternError, TaskError
from boolean_nca_cc.knockout import vocabulary
from boolean_nca_cc.meta.evaluation import Healing, RuleEvaluation, configured, evaluate_rule, heal
from boolean_nca_cc.meta.pool import Pool, fresh_pool, strike
from boolean_nca_cc.meta.rollout import Rule, make_rule
from boolean_nca_cc.meta.settings import DamageConfig, MetaConfig
from boolean_nca_cc.reference import oracle

SPEC = CircuitSpec(((2, 1), (4, 2), (2, 1)), arity=2)
DATA = get_task("reverse", 2, 2)
CONFIG = MetaConfig.model_validate({"rule": {"kind": "gnn", "hidden": 3, "width": 6}, "damage": {"dead": 2}})
# Passed through, these wires reverse the bits: gates 0 and 2 copy bit 0, output 0 copies gate 1, output 1 gate 0.
WIRES = [jnp.array([[0, 0], [1, 1]]), jnp.array([[1, 2], [3, 0]])]
START = gen_circuit(jax.random.key(3), SPEC.layer_sizes, SPEC.arity, wires=WIRES)
CIRCUITS, STEPS = 6, 2


def rule_of(scale: float) -> Rule:
    """Untrained (0), or with all weights moved at random."""
    rng, rule = np.random.default_rng(3), make_rule(CONFIG.rule, SPEC)
    leaves, structure = jax.tree.flatten(rule.weights)
    moved = [jnp.asarray(np.float32(np.asarray(leaf) + scale * rng.normal(size=leaf.shape))) for leaf in leaves]
    return rule._replace(weights=jax.tree.unflatten(structure, moved))


def accuracies(pool: Pool) -> list[float]:
    """Of each circuit of a pool, looked up case by case."""
    found = []
    x, y = np.asarray(DATA.x) > 0.5, np.asarray(DATA.y) > 0.5
    for row in range(pool.size):
        flat = np.asarray(pool.state.logits[row])
        logits = [flat[:4].reshape(2, 2, 4), flat[4:].reshape(2, 1, 4)]
        wires = [np.asarray(layer if pool.shares_wires else layer[row]) for layer in pool.wires]
        answers = oracle.evaluate_by_address(logits, wires, x, np.asarray(pool.alive[row]))
        found.append(float((answers == y).mean()))
    return found


def test_healing_begins_with_what_doing_nothing_leaves() -> None:
    pool = fresh_pool(jax.random.key(0), SPEC, CIRCUITS, channels=3, start=START)
    struck = strike(jax.random.key(1), pool._replace(loss=jnp.ones(CIRCUITS)), SPEC, 4, DamageConfig(dead=2))
    after, healing = heal(rule_of(0.5), SPEC, struck, DATA, STEPS)
    assert healing.damaged.tolist() == accuracies(struck)
    assert len(set(healing.damaged.tolist())) > 1
    assert healing.healed.shape == (STEPS, CIRCUITS)
    assert healing.healed[-1].tolist() == accuracies(after)
    assert healing.healed.tolist() != [healing.damaged.tolist()] * STEPS
    assert np.array_equal(after.alive, struck.alive)
    assert after.steps.tolist() == [STEPS] * CIRCUITS
    dead = ~np.asarray(struck.alive[:, 2:])
    assert np.array_equal(np.asarray(after.state.logits)[dead], np.asarray(struck.state.logits)[dead])
    assert np.isfinite(after.loss).all()
    again, curve = configured(rule_of(0.5), SPEC, struck, DATA, STEPS)
    assert np.array_equal(curve, healing.healed)
    assert np.array_equal(again.loss, after.loss)


def test_an_idle_rule_is_evaluated_to_what_is_there() -> None:
    patterns = vocabulary(jax.random.key(5), SPEC, 2, "shotgun", 2)
    found = evaluate_rule(
        CONFIG, SPEC, rule_of(0.0), START, DATA, jax.random.key(4), circuits=CIRCUITS, steps=STEPS, patterns=patterns
    )
    alone = fresh_pool(jax.random.key(0), SPEC, 1, channels=3, start=START)
    whole = accuracies(alone)[0]
    assert whole == 1.0
    assert found.configured.tolist() == [[whole] * CIRCUITS] * STEPS
    assert found.fresh_wiring.shape == (STEPS, CIRCUITS)
    assert len(set(found.fresh_wiring[0].tolist())) > 1
    assert found.seen_damage is not None
    for healing in (found.unseen_damage, found.seen_damage, found.flipped):
        assert healing.damaged.shape == (CIRCUITS,)
        assert healing.healed.tolist() == [healing.damaged.tolist()] * STEPS

    def under(mask: Any) -> float:
        return accuracies(alone._replace(alive=jnp.asarray(mask)[None]))[0]

    assert set(found.seen_damage.damaged.tolist()) <= {under(mask) for mask in patterns}
    pairs = [(i, j) for i in range(2, 6) for j in range(i) if j >= 2]
    masks = [~np.isin(np.arange(SPEC.n_nodes), pair) for pair in pairs]
    assert set(found.unseen_damage.damaged.tolist()) <= {under(mask) for mask in masks}


def test_a_summary_holds_the_means_after_the_last_step() -> None:
    curve = np.array([[0.0, 0.0], [0.5, 1.0]])
    healing = Healing(np.array([0.25, 0.5]), curve)
    whole = RuleEvaluation(curve, curve - 0.25, healing, healing, healing).summary()
    assert whole == {
        "configured": 0.75,
        "fresh_wiring": 0.5,
        "unseen_damage": {"damaged": 0.375, "healed": 0.75},
        "seen_damage": {"damaged": 0.375, "healed": 0.75},
        "flipped": {"damaged": 0.375, "healed": 0.75},
    }
    assert "seen_damage" not in RuleEvaluation(curve, curve, healing, None, healing).summary()


def test_evaluations_that_cannot_be_are_refused() -> None:
    rule = rule_of(0.0)
    with pytest.raises(TaskError, match="2 inputs and 2 outputs"):
        evaluate_rule(
            CONFIG, SPEC, rule, START, get_task("reverse", 3, 3), jax.random.key(0), circuits=CIRCUITS, steps=STEPS
        )
    with pytest.raises(PatternError, match="of which there are 4; it asks for 5"):
        evaluate_rule(CONFIG, SPEC, rule, START, DATA, jax.random.key(0), circuits=CIRCUITS, steps=STEPS, dead=5)
