"""A rule at work: step after step it changes circuits, which are run after each so that it sees what came of it."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from boolean_nca_cc.circuits.kernels import forward
from boolean_nca_cc.circuits.losses import get_loss
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData
from boolean_nca_cc.errors import ConfigError, TaskError
from boolean_nca_cc.meta.settings import RuleConfig
from boolean_nca_cc.models.attention import LogicAttention
from boolean_nca_cc.models.gnn import LogicGNN
from boolean_nca_cc.models.graph import NodeState, sources_of, split_tables

__all__ = ["Rule", "Trajectory", "apply_rule", "columns_of", "hard_accuracies", "make_rule", "rollout"]


class Rule(NamedTuple):
    """A rule as jax likes it: what does not change, and what does.

    Args:
        definition: the network without its numbers; hashable.
        weights: its numbers.
    """

    definition: nnx.GraphDef[LogicAttention | LogicGNN]
    weights: nnx.State[Any, Any]


class Trajectory(NamedTuple):
    """What happened to each circuit of a batch.

    Args:
        state: in the end.
        losses: after each step, a mean over cases and outputs.
        accuracies: hard accuracy after each step, or None.
    """

    state: NodeState
    losses: Float[Array, "steps circuits"]
    accuracies: Float[Array, "steps circuits"] | None


def make_rule(config: RuleConfig, spec: CircuitSpec, seed: int = 0) -> Rule:
    """An untrained rule; it changes nothing yet.

    Args:
        config: which one.
        spec: the layers of the circuits that it is for.
        seed: of its weights.

    Returns:
        The rule.

    >>> rule = make_rule(RuleConfig(kind="gnn", hidden=2, width=4), CircuitSpec.default(2, 1, arity=2))
    >>> sum(leaf.size for leaf in jax.tree.leaves(rule.weights)) > 100
    True
    """
    rngs = nnx.Rngs(seed)
    model: LogicAttention | LogicGNN
    if config.kind == "attention":
        model = LogicAttention(
            spec, hidden=config.hidden, width=config.width, heads=config.heads, blocks=config.depth, rngs=rngs
        )
    else:
        model = LogicGNN(
            spec,
            hidden=config.hidden,
            width=config.width,
            rounds=config.depth,
            aggregate=config.aggregate,
            rngs=rngs,
        )
    return Rule(*nnx.split(model))


def columns_of(data: TaskData, spec: CircuitSpec) -> tuple[Float[Array, "n_in cases"], Float[Array, "n_out cases"]]:
    """A task's inputs and targets with the cases last, as circuits are run.

    Args:
        data: the task.
        spec: the circuits' layers.

    Returns:
        Inputs and targets.

    Raises:
        TaskError: a task of another width.

    >>> from boolean_nca_cc.circuits.tasks import get_task
    >>> x, y = columns_of(get_task("reverse", 2, 2), CircuitSpec.default(2, 2, arity=2))
    >>> x.tolist(), y.tolist()
    ([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]], [[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
    """
    if data.x.shape[1] != spec.n_in or data.y.shape != (len(data.x), spec.n_out):
        raise TaskError(
            f"a task has one row a case, of the circuit's {spec.n_in} inputs and {spec.n_out} outputs; its arrays have "
            f"the shapes {data.x.shape} and {data.y.shape}. Choose its widths to match the circuit."
        )
    return jnp.asarray(data.x, jnp.float32).T, jnp.asarray(data.y, jnp.float32).T


def rollout(
    rule: Rule,
    spec: CircuitSpec,
    wires: list[Int[Array, "*circuits arity _"]],
    state: NodeState,
    alive: Bool[Array, "circuits nodes"],
    x: Float[Array, "n_in cases"],
    y: Float[Array, "n_out cases"],
    steps: int,
    loss: str = "l4",
    accuracies: bool = False,
) -> Trajectory:
    """Lets a rule work on a batch of circuits.

    Before the first step each circuit is run once, so that the rule sees the damage that was done since.

    Args:
        rule: the rule.
        spec: the circuits' layers.
        wires: one wiring for all, or one each.
        state: of the circuits.
        alive: True = alive.
        x: inputs, cases last.
        y: targets, cases last.
        steps: how many; static.
        loss: "l4" or "bce".
        accuracies: also run the hard circuits after each step.

    Returns:
        The trajectory.

    Raises:
        ConfigError: fewer than one step.
    """
    if steps < 1:
        raise ConfigError(f"a rule works for at least one step; steps is {steps}.")
    of_wires = _axis(wires)
    sources = sources_of(wires, spec) if of_wires is None else jax.vmap(lambda own: sources_of(own, spec))(wires)

    def look(state: NodeState, wires: list[Array], alive: Array) -> tuple[NodeState, Array]:
        outputs = _outputs(spec, wires, state.logits, alive, x)
        return state._replace(residual=jnp.mean(jnp.abs(outputs - y), axis=1)), get_loss(loss)(outputs, y) / y.size

    # Computed anew in the backward pass: to keep what all steps need goes through memory, which costs more.
    @jax.checkpoint
    def step(state: NodeState, wires: list[Array], sources: Array, alive: Array) -> tuple[NodeState, Array]:
        return look(apply_rule(rule, state, sources, alive), wires, alive)

    def one(state: NodeState, _: None) -> tuple[NodeState, tuple[Array, Array | None]]:
        state, value = jax.vmap(step, (0, of_wires, of_wires, 0))(state, wires, sources, alive)
        return state, (value, hard_accuracies(spec, wires, state, alive, x, y) if accuracies else None)

    state, _ = jax.vmap(look, (0, of_wires, 0))(state, wires, alive)
    state, (losses, hard) = jax.lax.scan(one, state, None, length=steps)
    return Trajectory(state, losses, hard)


def apply_rule(
    rule: Rule, state: NodeState, sources: Int[Array, "gates arity"], alive: Bool[Array, " nodes"]
) -> NodeState:
    """One step of the rule for one circuit, without running the circuit.

    Args:
        rule: the rule.
        state: of the circuit.
        sources: its neighbour table.
        alive: True = alive.

    Returns:
        The next state.
    """
    return nnx.merge(rule.definition, rule.weights)(state, sources, alive)


@partial(jax.jit, static_argnums=0)
def hard_accuracies(
    spec: CircuitSpec,
    wires: list[Int[Array, "*circuits arity _"]],
    state: NodeState,
    alive: Bool[Array, "circuits nodes"],
    x: Float[Array, "n_in cases"],
    y: Float[Array, "n_out cases"],
) -> Float[Array, " circuits"]:
    """The share of output bits that each hard circuit has right.

    Args:
        spec: the circuits' layers.
        wires: one wiring for all, or one each.
        state: of the circuits.
        alive: True = alive.
        x: inputs, cases last.
        y: targets, cases last.

    Returns:
        From 0 to 1.
    """

    def one(wires: list[Array], logits: Array, alive: Array) -> Array:
        return jnp.mean((_outputs(spec, wires, logits, alive, x, hard=True) > 0.5) == (y > 0.5))

    return jax.vmap(one, (_axis(wires), 0, 0))(wires, state.logits, alive)


def _axis(wires: list[Array]) -> int | None:
    """Over which axis wires are mapped: none where all circuits share them."""
    return 0 if wires[0].ndim == 3 else None


def _outputs(
    spec: CircuitSpec, wires: list[Array], logits: Array, alive: Array, x: Array, hard: bool = False
) -> Float[Array, "n_out cases"]:
    return forward(split_tables(logits, spec), wires, x, spec.to_layers(alive), hard)[-1]
