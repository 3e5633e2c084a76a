"""What a rule can do with circuits, damage and wirings that it was trained on, and with others."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData
from boolean_nca_cc.meta.pool import Pool, fresh_pool, strike
from boolean_nca_cc.meta.rollout import Rule, Trajectory, columns_of, hard_accuracies, rollout
from boolean_nca_cc.meta.settings import DamageConfig, MetaConfig

__all__ = ["Healing", "RuleEvaluation", "configured", "evaluate_rule", "heal"]


class Healing(NamedTuple):
    """Damaged circuits in the hands of a rule; hard accuracies.

    Args:
        damaged: right after the damage, of each circuit: what doing nothing leaves.
        healed: after each step.
    """

    damaged: Float[np.ndarray, " circuits"]
    healed: Float[np.ndarray, "steps circuits"]


class RuleEvaluation(NamedTuple):
    """What a rule can do; hard accuracies after each step.

    Args:
        configured: from pass-through tables, on the wiring of the training (or on fresh ones, if it trained on many).
        fresh_wiring: the same on wirings that training never saw.
        unseen_damage: repair after damage of the training's kind, in patterns that training never saw.
        seen_damage: repair after the training's vocabulary; None where it has none.
        flipped: repair after single-event upsets, a flipped table entry in each of as many gates.
    """

    configured: Float[np.ndarray, "steps circuits"]
    fresh_wiring: Float[np.ndarray, "steps circuits"]
    unseen_damage: Healing
    seen_damage: Healing | None
    flipped: Healing

    def summary(self) -> dict[str, Any]:
        """Means after the last step, for JSON and tables."""
        healings = {"unseen_damage": self.unseen_damage, "seen_damage": self.seen_damage, "flipped": self.flipped}
        return {
            "configured": float(self.configured[-1].mean()),
            "fresh_wiring": float(self.fresh_wiring[-1].mean()),
            **{
                name: {"damaged": float(one.damaged.mean()), "healed": float(one.healed[-1].mean())}
                for name, one in healings.items()
                if one is not None
            },
        }


def evaluate_rule(
    config: MetaConfig,
    spec: CircuitSpec,
    rule: Rule,
    start: Circuit,
    data: TaskData,
    key: Shaped[Array, ""],
    *,
    circuits: int = 32,
    steps: int = 20,
    dead: int | None = None,
    patterns: Bool[Array, "patterns nodes"] | None = None,
) -> RuleEvaluation:
    """Tries a rule in and out of its distribution.

    Args:
        config: of its training.
        spec: the circuits' layers.
        rule: with trained weights.
        start: what a fresh circuit is, from the training's state.
        data: the task.
        key: random key of wirings and damage; another than the training's.
        circuits: of each kind.
        steps: of the rule, for each purpose.
        dead: gates that damage takes; None is as in training, or a twentieth of the hidden ones.
        patterns: the training's vocabulary of damage.

    Returns:
        The evaluation.

    Raises:
        ConfigError: as `fresh_pool` and `strike`.
        TaskError: a task of another width.
    """
    if dead is None:
        dead = config.damage.dead or max(1, round(0.05 * spec.hidden_gates.size))
    keys = jax.random.split(key, 6)
    own = config.pool.wiring == "random"
    pool = _fresh(keys[0], spec, circuits, config.rule.hidden, config.pool.wiring, None if own else start)
    ready, curve = configured(rule, spec, pool, data, steps)
    others = _fresh(keys[1], spec, circuits, config.rule.hidden, "random")
    _, strange = configured(rule, spec, others, data, steps)

    def struck(key: Array, kind: str, vocabulary: Array | None = None) -> Healing:
        damage = DamageConfig(dead=dead, kind=kind)
        return heal(rule, spec, _strike(key, ready, spec, circuits, damage, vocabulary), data, steps)[1]

    return RuleEvaluation(
        curve,
        strange,
        struck(keys[2], config.damage.kind),
        None if patterns is None else struck(keys[3], config.damage.kind, patterns),
        struck(keys[4], "seu"),
    )


def configured(
    rule: Rule, spec: CircuitSpec, pool: Pool, data: TaskData, steps: int
) -> tuple[Pool, Float[np.ndarray, "steps circuits"]]:
    """Lets a rule work on all circuits of a pool.

    Args:
        rule: with trained weights.
        spec: the circuits' layers.
        pool: the circuits.
        data: the task.
        steps: of the rule.

    Returns:
        The pool afterwards, with the l4 loss of each circuit, and its hard accuracy after each step.
    """
    done = _worked(rule.definition, spec, steps, rule.weights, pool, *columns_of(data, spec))
    after = pool._replace(state=done.state, steps=pool.steps + steps, loss=done.losses[-1])
    return after, np.asarray(done.accuracies)


def heal(rule: Rule, spec: CircuitSpec, pool: Pool, data: TaskData, steps: int) -> tuple[Pool, Healing]:
    """The same for circuits that have been damaged, with their accuracy before.

    Args:
        rule: with trained weights.
        spec: the circuits' layers.
        pool: the damaged circuits.
        data: the task.
        steps: of the rule.

    Returns:
        The pool afterwards, and how it went.
    """
    before = _accuracies(spec, pool.wires, pool.state, pool.alive, *columns_of(data, spec))
    after, curve = configured(rule, spec, pool, data, steps)
    return after, Healing(np.asarray(before), curve)


_fresh = jax.jit(fresh_pool, static_argnums=(1, 2, 3, 4))
_strike = jax.jit(strike, static_argnums=(2, 3, 4))
_accuracies = jax.jit(hard_accuracies, static_argnums=0)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _worked(
    definition: nnx.GraphDef[Any],
    spec: CircuitSpec,
    steps: int,
    weights: nnx.State[Any, Any],
    pool: Pool,
    x: Array,
    y: Array,
) -> Trajectory:
    return rollout(Rule(definition, weights), spec, pool.wires, pool.state, pool.alive, x, y, steps, accuracies=True)
