"""Meta-learning: a rule's weights are trained by the gradient through its own steps.

One epoch draws circuits from the pool, lets the rule work on them, takes the loss after one of its steps, updates the
weights, puts the circuits back, replaces some of the pool and damages some. All epochs between two evaluations are one
compiled scan. The same settings give the same weights, however often a training was stopped and resumed in between.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData
from boolean_nca_cc.errors import PatternError
from boolean_nca_cc.knockout import vocabulary
from boolean_nca_cc.meta.pool import Pool, fresh_pool, put_back, replace, sample, strike
from boolean_nca_cc.meta.rollout import Rule, columns_of, hard_accuracies, make_rule, rollout
from boolean_nca_cc.meta.settings import MetaConfig
from boolean_nca_cc.meta.spreading import hold, spread
from boolean_nca_cc.models.graph import NodeState

__all__ = [
    "MetaRecord",
    "MetaState",
    "loss_step_of",
    "meta_epochs",
    "meta_optimizer",
    "seen_patterns",
    "start_training",
]


class MetaState(NamedTuple):
    """All that changes in a training; a pytree, to be saved and resumed bit by bit.

    Args:
        weights: the rule's.
        opt_state: the optimiser's.
        start: what a fresh circuit is; with random wiring fresh ones are drawn instead.
        pool: the circuits.
        key: of what comes.
        epoch: epochs done.
    """

    weights: nnx.State[Any, Any]
    opt_state: PyTree
    start: Circuit
    pool: Pool
    key: Shaped[Array, ""]
    epoch: Int[Array, ""]


class MetaRecord(NamedTuple):
    """One number an epoch.

    Args:
        loss: that was minimised.
        hard_accuracy: of the batch after the last step, mean.
        worst: of the batch, the lowest.
    """

    loss: Float[Array, " epochs"]
    hard_accuracy: Float[Array, " epochs"]
    worst: Float[Array, " epochs"]


def start_training(config: MetaConfig, spec: CircuitSpec, start: Circuit | None = None) -> tuple[Rule, MetaState]:
    """An untrained rule and the state before the first epoch.

    Args:
        config: the training.
        spec: the circuits' layers.
        start: what all circuits of the pool begin as; None is pass-through tables. Not used with random wiring, where
            each circuit begins with wires of its own and pass-through tables.

    Returns:
        Rule and state.

    Raises:
        PatternError: damage that takes more gates than are hidden.
        ConfigError: as `fresh_pool`.
    """
    if config.damage.dead > spec.hidden_gates.size:
        raise PatternError(
            f"damage takes hidden gates, of which there are {spec.hidden_gates.size}; it asks for {config.damage.dead}."
            " Use fewer, or a larger circuit."
        )
    rule = make_rule(config.rule, spec, config.seed)
    start_key, pool_key, key = jax.random.split(jax.random.key(config.seed), 3)
    if start is None:
        start = gen_circuit(start_key, spec.layer_sizes, spec.arity)
    pool = _fresh(pool_key, config, spec, config.pool.size, start)
    opt_state = meta_optimizer(config).init(rule.weights)
    return rule, MetaState(rule.weights, opt_state, start, pool, key, jnp.zeros((), jnp.int32))


def meta_optimizer(config: MetaConfig) -> optax.GradientTransformation:
    """Drop what is not finite, clip the norm at 1, AdamW with a warm-up and a cosine.

    Args:
        config: the training.

    Returns:
        The optimiser of the rule's weights.

    >>> meta_optimizer(MetaConfig()).init({"w": jnp.zeros(3)}) is not None
    True
    """
    schedule = optax.warmup_cosine_decay_schedule(
        config.learning_rate / 100,
        config.learning_rate,
        max(1, config.epochs // 50),
        max(2, config.epochs),
        config.learning_rate / 10,
    )
    # Dropped first: one infinite entry would make the norm infinite, and infinity over infinity is no number.
    finite = optax.stateless(lambda updates, _: jax.tree.map(lambda u: jnp.where(jnp.isfinite(u), u, 0), updates))
    return optax.chain(finite, optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=config.weight_decay))


def seen_patterns(config: MetaConfig, spec: CircuitSpec) -> Bool[Array, "patterns nodes"] | None:
    """The vocabulary of damage that a training draws from, a function of its settings.

    Args:
        config: the training.
        spec: the circuits' layers.

    Returns:
        The patterns; None where each is drawn anew.
    """
    if not (config.damage.vocabulary and config.damage.dead):
        return None
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    return vocabulary(key, spec, config.damage.vocabulary, "shotgun", config.damage.dead)


def loss_step_of(key: Shaped[Array, ""], config: MetaConfig, epoch: Int[Array, ""]) -> Int[Array, ""]:
    """After which step of an epoch the loss is taken; see `MetaConfig.loss_step`.

    Args:
        key: random key.
        config: the training.
        epoch: epochs done.

    Returns:
        From 0 to `config.steps - 1`.

    >>> int(loss_step_of(jax.random.key(0), MetaConfig(loss_step="last", steps=7), jnp.zeros((), int)))
    6
    """
    last = config.steps - 1
    if config.loss_step == "last" or last == 0:
        return jnp.full((), last)
    if config.loss_step == "random":
        return jax.random.randint(key, (), config.steps // 2, config.steps)
    done = jnp.minimum(epoch / config.epochs, 1)
    early, late = 0.1 + 9.9 * done, 10 - 9.9 * done
    drawn = jnp.round(jax.random.beta(key, early, late) * last).astype(jnp.int32)
    return jnp.clip(drawn, min(1, last), last)


def meta_epochs(
    config: MetaConfig,
    spec: CircuitSpec,
    rule: Rule,
    state: MetaState,
    data: TaskData,
    epochs: int,
    mesh: Mesh | None = None,
) -> tuple[MetaState, MetaRecord]:
    """Trains for some epochs, in one compiled scan.

    Args:
        config: the training.
        spec: the circuits' layers.
        rule: its definition is used; the weights are those of the state.
        state: where to go on.
        data: the task; all its cases are run.
        epochs: how many.
        mesh: devices that share the pool and the batch, from `make_pool_mesh`; the state lies on it after `spread`.

    Returns:
        The state after them, and their record.

    Raises:
        TaskError: data that do not fit the circuits.
        ConfigError: a pool or a batch that does not divide evenly over the mesh.
    """
    task = (*columns_of(data, spec), seen_patterns(config, spec))
    # What an epoch does not depend on would compile it again.
    config = config.model_copy(update={"seed": 0, "target": 1.0, "patience": 1, "evaluate_every": 1})
    return _epochs(config, spec, rule.definition, epochs, mesh, state, *(task if mesh is None else spread(task, mesh)))


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _epochs(
    config: MetaConfig,
    spec: CircuitSpec,
    definition: nnx.GraphDef[Any],
    epochs: int,
    mesh: Mesh | None,
    state: MetaState,
    x: Array,
    y: Array,
    patterns: Array | None,
) -> tuple[MetaState, MetaRecord]:
    optimizer = meta_optimizer(config)

    def loss_of(weights: nnx.State[Any, Any], drawn: Pool, step: Array) -> tuple[Array, tuple[NodeState, Array]]:
        rule = Rule(definition, weights)
        done = rollout(rule, spec, drawn.wires, drawn.state, drawn.alive, x, y, config.steps, config.loss)
        return jnp.mean(done.losses[step]), (done.state, done.losses[-1])

    def epoch(state: MetaState, _: None) -> tuple[MetaState, MetaRecord]:
        key, sample_key, step_key, replace_key, fresh_key, strike_key = jax.random.split(state.key, 6)
        rows, drawn = sample(sample_key, state.pool, config.batch)
        drawn = hold(drawn, mesh)
        step = loss_step_of(step_key, config, state.epoch)
        (loss, (changed, last)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.weights, drawn, step)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        drawn = drawn._replace(state=changed, steps=drawn.steps + config.steps, loss=last)
        hard = hard_accuracies(spec, drawn.wires, drawn.state, drawn.alive, x, y)
        pool = put_back(state.pool, rows, drawn)
        if resets := _count(config.pool.reset, pool.size):
            fresh = _fresh(fresh_key, config, spec, resets, state.start)
            pool = replace(replace_key, pool, fresh, resets, config.pool.reset_by, config.pool.genetic)
        if hits := config.damage.dead and _count(config.damage.fraction, pool.size):
            pool = strike(strike_key, pool, spec, hits, config.damage, patterns)
        state = MetaState(weights, opt_state, state.start, pool, key, state.epoch + 1)
        return hold((state, MetaRecord(loss, jnp.mean(hard), jnp.min(hard))), mesh)

    return jax.lax.scan(epoch, state, None, length=epochs)


def _count(fraction: float, size: int) -> int:
    """At least one circuit, where there is a fraction at all."""
    return max(1, round(fraction * size)) if fraction else 0


def _fresh(key: Array, config: MetaConfig, spec: CircuitSpec, size: int, start: Circuit) -> Pool:
    own = config.pool.wiring == "random"
    return fresh_pool(key, spec, size, config.rule.hidden, config.pool.wiring, None if own else start)
