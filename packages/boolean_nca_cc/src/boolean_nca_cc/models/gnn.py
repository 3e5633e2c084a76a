"""A rule that passes messages along the wires, both ways."""

from typing import Literal, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.models.graph import NodeState
from boolean_nca_cc.models.parts import Increments, Perceptron, Reading

__all__ = ["LogicGNN"]


class LogicGNN(nnx.Module):
    """A message-passing network as a rule for gates.

    After Gilmer et al., "Neural Message Passing for Quantum Chemistry", 2017, arXiv:1704.01212. Every wire carries two
    messages: from the source to the reader, and back. A message is a perceptron of the sender's representation and of
    what the wire is ("your input j", "I read you as my input j"). A node adds up its messages, or weighs them by a
    softmax whose query is their sum, and a perceptron of itself and of them is added to its representation. Dead nodes
    send nothing and receive nothing.

    Args:
        spec: the circuit's layers.
        hidden: channels that a gate remembers.
        width: channels of representations and messages.
        rounds: rounds of messages, one hop along the wires each.
        aggregate: "sum" or "attention".
        rngs: where the initial weights come from.

    Raises:
        ConfigError: an aggregate that does not exist.

    >>> from boolean_nca_cc.circuits.wiring import tree_topology
    >>> from boolean_nca_cc.models.graph import sources_of, start_state
    >>> spec, wires = tree_topology(4)
    >>> state = start_state([jnp.zeros((2, 1, 4)), jnp.ones((1, 1, 4))], spec, channels=3)
    >>> rule = LogicGNN(spec, hidden=3, width=8, rngs=nnx.Rngs(0))
    >>> rule(state, sources_of(wires, spec), jnp.ones(7, bool)).logits[:, 0].tolist()
    [0.0, 0.0, 1.0]
    """

    def __init__(
        self,
        spec: CircuitSpec,
        *,
        hidden: int = 16,
        width: int = 64,
        rounds: int = 1,
        aggregate: Literal["sum", "attention"] = "sum",
        rngs: nnx.Rngs,
    ) -> None:
        if aggregate not in ("sum", "attention"):
            raise ConfigError(f"messages are put together by 'sum' or 'attention'; aggregate is {aggregate!r}.")
        self.spec, self.hidden = spec, hidden
        self.reading = Reading(spec, hidden, width, rngs=rngs)
        self.rounds = nnx.List([_Round(width, 2 * spec.arity, aggregate, rngs=rngs) for _ in range(rounds)])
        self.increments = Increments(spec, hidden, width, rngs=rngs)

    def __call__(self, state: NodeState, sources: Int[Array, "gates arity"], alive: Bool[Array, " nodes"]) -> NodeState:
        """One step: the state with its increments added; that of dead gates is returned as it was.

        Args:
            state: of one circuit.
            sources: its neighbour table.
            alive: True = alive, over all nodes.

        Returns:
            The next state; the residual is handed on.
        """
        x = self.reading(state, alive)
        for one in self.rounds:
            x = one(x, sources, alive)
        return self.increments(x, state, alive)


class _Round(nnx.Module):
    def __init__(self, width: int, kinds: int, aggregate: str, *, rngs: nnx.Rngs) -> None:
        self.before = nnx.LayerNorm(width, rngs=rngs)
        self.sent = nnx.Linear(width, width, rngs=rngs)
        self.kind = nnx.Param(0.5 * jax.random.normal(rngs.params(), (kinds, width)))
        self.message = nnx.Linear(width, width, rngs=rngs)
        self.query = nnx.Linear(width, width, rngs=rngs) if aggregate == "attention" else None
        self.update = Perceptron(2 * width, width, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "nodes width"], sources: Int[Array, "gates arity"], alive: Bool[Array, " nodes"]
    ) -> Float[Array, "nodes width"]:
        (n_nodes, width), (gates, arity) = x.shape, sources.shape
        normed = self.before(x)
        readers = jnp.repeat(jnp.arange(n_nodes - gates, n_nodes), arity)
        senders = sources.ravel()
        sender = jnp.concatenate([senders, readers])
        receiver = jnp.concatenate([readers, senders])
        heard = (alive[sender] & alive[receiver])[:, None]
        # A message's first layer is linear in the sender: once a node, not once a wire. Kinds are added by their place
        # and not gathered: the derivative of a gather that a batch shares is a slow sum over the batch.
        sent = self.sent(normed)[sender].reshape(2, gates, arity, width) + self.kind[...].reshape(2, 1, arity, width)
        waves = jnp.where(heard, nnx.relu(sent).reshape(-1, width), 0)
        # Its second layer is linear too: once a node, after the sum, with the bias as often as messages were heard.
        weight = heard.astype(x.dtype)
        received = self._mixed(waves, weight, receiver, n_nodes)
        if self.query is not None:
            query = self.query(received)
            key = query @ self.message.kernel[...].T
            bias = query @ self._bias()
            score = (jnp.sum(key[receiver] * waves, -1) + bias[receiver]) / jnp.sqrt(width)
            score = jnp.where(heard[:, 0], score, -1e9)
            top = jax.ops.segment_max(score, receiver, n_nodes)
            weight = jnp.where(heard, jnp.exp(score - top[receiver])[:, None], 0)
            total = jax.ops.segment_sum(weight, receiver, n_nodes)
            received = self._mixed(waves * weight, weight, receiver, n_nodes) / jnp.maximum(total, 1e-9)
        return x + self.update(jnp.concatenate([normed, received], axis=-1))

    def _mixed(self, waves: Array, weight: Array, receiver: Array, n_nodes: int) -> Array:
        """The sum of weighted messages at each receiver."""
        summed = jax.ops.segment_sum(waves, receiver, n_nodes)
        count = jax.ops.segment_sum(weight, receiver, n_nodes)
        return summed @ self.message.kernel[...] + count * self._bias()

    def _bias(self) -> Array:
        return cast("nnx.Param[Array]", self.message.bias)[...]  # a linear layer has one, unless it is told otherwise
