"""One epoch of meta-learning as a plain Python loop, and as the original compiled it: for comparison only.

The maths is that of one epoch of `meta.training.meta_epochs`: the same key draws the same circuits and the same step of
the loss, so loss, gradient, weights and pool agree up to the order of float32 sums. Two forms, because "the original's
loop" can mean two things:

- `eager_epoch` dispatches one operation after another: circuits one by one, the rule's steps one by one, layers one by
  one, the gradient recorded along the way, the optimiser leaf by leaf, the pool a list. This is how the original tries
  a rule out (its stepwise evaluation and its demonstrations call the network and run the circuit without a compiler),
  written as training.
- `original_epoch` compiles what the original's training compiles, which is nearly all: draws, and the whole step of
  roll-out, gradient, optimiser and write-back in one function for the batch. What stays outside is the loop over
  epochs, with metrics fetched as Python numbers every time round. Inside, the steps are written out (the original scans
  them only on request), a layer folds its tables for each gate and each case, and every step also runs the hard circuit
  and computes all metrics, within the gradient.

Shared with the product: the network (`models`), the optimiser's formula, the random draws, the loss. A layer is
compiled in both forms, as in the original (`reference.original.run_layer`). Neither form replaces or strikes circuits
of the pool; the original does that every 128 epochs, in slow code of its own.

Only tests and measurements import this module.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from boolean_nca_cc.circuits.losses import get_loss
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData
from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.meta.pool import Pool, put_back, sample
from boolean_nca_cc.meta.rollout import Rule
from boolean_nca_cc.meta.settings import MetaConfig
from boolean_nca_cc.meta.training import MetaState, loss_step_of, meta_optimizer
from boolean_nca_cc.models.graph import NodeState, sources_of, split_tables
from boolean_nca_cc.reference import original

__all__ = ["EagerState", "EpochRecord", "Member", "as_lists", "as_pool", "eager_epoch", "original_epoch"]


class Member(NamedTuple):
    """A circuit of the pool.

    Args:
        wires: one array a layer of gates.
        state: tables, what gates remember, and the residual.
        alive: True = alive.
        steps: of the rule since it was fresh.
        loss: when it was last put back.
    """

    wires: list[Int[Array, "arity _"]]
    state: NodeState
    alive: Bool[Array, " nodes"]
    steps: int
    loss: float


class EagerState(NamedTuple):
    """What `MetaState` holds, with the pool as a list.

    Args:
        weights: the rule's.
        opt_state: the optimiser's.
        members: the circuits.
        key: of what comes.
        epoch: epochs done.
    """

    weights: PyTree
    opt_state: PyTree
    members: list[Member]
    key: Shaped[Array, ""]
    epoch: int


class EpochRecord(NamedTuple):
    """What an epoch tells.

    Args:
        loss: that was minimised.
        gradient: of the rule's weights, before it is clipped; None where it stays inside a compiled function.
        hard_accuracy: of the batch after the last step, mean.
        worst: of the batch, the lowest.
    """

    loss: float
    gradient: PyTree | None
    hard_accuracy: float
    worst: float


def as_lists(state: MetaState) -> EagerState:
    """A training's state with its pool as a list.

    Args:
        state: of the training.

    Returns:
        The same circuits, weights and key.
    """
    pool = state.pool
    members = [
        Member(
            list(pool.wires) if pool.shares_wires else [layer[row] for layer in pool.wires],
            NodeState(*(leaf[row] for leaf in pool.state)),
            pool.alive[row],
            int(pool.steps[row]),
            float(pool.loss[row]),
        )
        for row in range(pool.size)
    ]
    return EagerState(state.weights, state.opt_state, members, state.key, int(state.epoch))


def as_pool(members: list[Member], shares_wires: bool) -> Pool:
    """The inverse: a list of circuits as a pool.

    Args:
        members: the circuits.
        shares_wires: whether there is one wiring for all.

    Returns:
        The pool.
    """
    wires, state, alive, steps, loss = zip(*members, strict=True)
    return Pool(
        wires[0] if shares_wires else [jp.stack(layer) for layer in zip(*wires, strict=True)],
        NodeState(*(jp.stack(leaf) for leaf in zip(*state, strict=True))),
        jp.stack(alive),
        jp.asarray(steps, jp.int32),
        jp.asarray(loss, jp.float32),
    )


def eager_epoch(
    config: MetaConfig, spec: CircuitSpec, rule: Rule, state: EagerState, data: TaskData
) -> tuple[EagerState, EpochRecord]:
    """One epoch, one operation after another.

    Args:
        config: the training, without replacements and damage.
        spec: the circuits' layers.
        rule: its definition is used; the weights are those of the state.
        state: where to go on.
        data: the task; all its cases are run.

    Returns:
        The state after it, and its record.

    Raises:
        ConfigError: a training that replaces or strikes circuits.
    """
    _check_still_pool(config)
    x, y = jp.asarray(data.x, jp.float32), jp.asarray(data.y, jp.float32)
    key, sample_key, step_key, *_ = jax.random.split(state.key, 6)
    rows = jax.random.permutation(sample_key, len(state.members))[: config.batch].tolist()
    step = int(loss_step_of(step_key, config, jp.asarray(state.epoch)))

    def loss_of(weights: PyTree) -> tuple[Array, list[tuple[NodeState, Array]]]:
        network = nnx.merge(rule.definition, weights)
        chosen, ended = [], []
        for row in rows:
            wires, before, alive, *_ = state.members[row]
            after, looks = _work(network, spec, wires, before, alive, x, y, config)
            chosen.append(looks[step].loss)
            ended.append((after, looks[-1].loss))
        return sum(chosen[1:], chosen[0]) / len(rows), ended

    (loss, ended), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.weights)
    updates, opt_state = _optimizer(config).update(gradient, state.opt_state, state.weights)
    weights = optax.apply_updates(state.weights, updates)
    members, hard = list(state.members), []
    for row, (after, last) in zip(rows, ended, strict=True):
        old = state.members[row]
        members[row] = old._replace(state=after, steps=old.steps + config.steps, loss=float(last))
        outputs = _outputs(spec, old.wires, after.logits, old.alive, x, hard=True)
        hard.append(float(jp.mean(jp.round(outputs) == y)))
    record = EpochRecord(float(loss), gradient, sum(hard) / len(hard), min(hard))
    return EagerState(weights, opt_state, members, key, state.epoch + 1), record


def original_epoch(
    config: MetaConfig, spec: CircuitSpec, rule: Rule, state: MetaState, data: TaskData
) -> tuple[MetaState, EpochRecord]:
    """One turn of the original's loop: compiled draws, one compiled step, and the metrics as Python numbers.

    Args:
        config: the training, without replacements and damage.
        spec: the circuits' layers.
        rule: its definition is used; the weights are those of the state.
        state: where to go on.
        data: the task; all its cases are run.

    Returns:
        The state after it, and its record.

    Raises:
        ConfigError: a training that replaces or strikes circuits.
    """
    _check_still_pool(config)
    key, sample_key, step_key, *_ = jax.random.split(state.key, 6)
    rows, drawn = _sample(sample_key, state.pool, config.batch)
    step = loss_step_of(step_key, config, state.epoch)
    weights, opt_state, pool, loss, metrics, hard = _step(
        config, spec, rule.definition, state.weights, state.opt_state, state.pool, rows, drawn, step, data.x, data.y
    )
    # The original fetches these one by one, for its lists, its log and its progress bar.
    record = EpochRecord(float(loss), None, float(jp.mean(hard)), float(jp.min(hard)))
    for value in metrics.values():
        float(value)
    return MetaState(weights, opt_state, state.start, pool, key, state.epoch + 1), record


class _Look(NamedTuple):
    """What a run of the circuit tells; metrics only in the original's form."""

    loss: Array
    metrics: dict[str, Array]


_sample = jax.jit(sample, static_argnums=2)
_optimizer = cache(meta_optimizer)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _step(
    config: MetaConfig,
    spec: CircuitSpec,
    definition: nnx.GraphDef[Any],
    weights: PyTree,
    opt_state: PyTree,
    pool: Pool,
    rows: Array,
    drawn: Pool,
    step: Array,
    x: Array,
    y: Array,
) -> tuple[PyTree, PyTree, Pool, Array, dict[str, Array], Array]:
    x, y = jp.asarray(x, jp.float32), jp.asarray(y, jp.float32)
    of_wires = None if drawn.shares_wires else 0

    def loss_of(weights: PyTree) -> tuple[Array, tuple[NodeState, _Look]]:
        network = nnx.merge(definition, weights)

        def one(wires: list[Array], state: NodeState, alive: Array) -> tuple[NodeState, _Look]:
            after, looks = _work(network, spec, wires, state, alive, x, y, config, metrics=True)
            return after, jax.tree.map(lambda *values: jp.stack(values), *looks)

        after, looks = jax.vmap(one, (of_wires, 0, 0))(drawn.wires, drawn.state, drawn.alive)
        return jp.mean(looks.loss[:, step]), (after, looks)

    (loss, (after, looks)), gradient = jax.value_and_grad(loss_of, has_aux=True)(weights)
    updates, opt_state = _optimizer(config).update(gradient, opt_state, weights)
    weights = optax.apply_updates(weights, updates)
    done = drawn._replace(state=after, steps=drawn.steps + config.steps, loss=looks.loss[:, -1])
    metrics = {name: jp.mean(values[:, step]) for name, values in looks.metrics.items()}
    return weights, opt_state, put_back(pool, rows, done), loss, metrics, looks.metrics["hard_accuracy"][:, -1]


def _work(
    network: Any,
    spec: CircuitSpec,
    wires: list[Array],
    state: NodeState,
    alive: Array,
    x: Array,
    y: Array,
    config: MetaConfig,
    metrics: bool = False,
) -> tuple[NodeState, list[_Look]]:
    """A rule's steps on one circuit; the circuit is run before the first and after each."""
    sources = sources_of(wires, spec)
    state, _ = _look(spec, wires, state, alive, x, y, config.loss)
    looks = []
    for _ in range(config.steps):
        state = network(state, sources, alive)
        state, look = _look(spec, wires, state, alive, x, y, config.loss, metrics)
        looks.append(look)
    return state, looks


def _look(
    spec: CircuitSpec,
    wires: list[Array],
    state: NodeState,
    alive: Array,
    x: Array,
    y: Array,
    loss: str,
    metrics: bool = False,
) -> tuple[NodeState, _Look]:
    outputs = _outputs(spec, wires, state.logits, alive, x)
    found = {}
    if metrics:
        hard = _outputs(spec, wires, state.logits, alive, x, hard=True)
        found = {
            "accuracy": jp.mean(jp.round(outputs) == y),
            "hard_loss": get_loss(loss)(hard, y) / y.size,
            "hard_accuracy": jp.mean(jp.round(hard) == y),
        }
    state = state._replace(residual=jp.mean(jp.abs(outputs - y), axis=0))
    return state, _Look(get_loss(loss)(outputs, y) / y.size, found)


def _outputs(
    spec: CircuitSpec, wires: list[Array], logits: Array, alive: Array, x: Array, hard: bool = False
) -> Float[Array, "cases n_out"]:
    return original.run_circuit(split_tables(logits, spec), wires, x, spec.to_layers(alive), hard)[-1]


def _check_still_pool(config: MetaConfig) -> None:
    if config.pool.reset or config.damage.dead:
        raise ConfigError(
            "an epoch of the reference neither replaces nor strikes circuits; the training asks for "
            f"reset={config.pool.reset} and dead={config.damage.dead}. Set both to 0."
        )
