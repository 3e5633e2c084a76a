"""A rule that lets every gate look at the nodes it is wired to."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.models.graph import NodeState
from boolean_nca_cc.models.parts import Increments, Reading

__all__ = ["LogicAttention"]


class LogicAttention(nnx.Module):
    """Multi-head attention along the wires, as a rule for gates.

    A node attends to itself, to the nodes it reads and to those that read it. To each score a learned number is added
    that depends on the head and on how the two are wired (itself, "is my input j", "reads me as its input j"), after
    the spatial encoding of Ying et al., "Do Transformers Really Perform Bad for Graph Representation?", 2021,
    arXiv:2106.05234. Dead nodes are out, as rows and as columns: nobody attends to them, and they attend to nobody.

    Args:
        spec: the circuit's layers.
        hidden: channels that a gate remembers.
        width: channels of the node representation.
        heads: attention heads; they divide the width.
        blocks: blocks of attention and perceptron, one hop along the wires each.
        rngs: where the initial weights come from.

    Raises:
        ConfigError: heads that do not divide the width.

    >>> spec = CircuitSpec.default(2, 1, arity=2)
    >>> rule = LogicAttention(spec, hidden=2, width=8, heads=2, rngs=nnx.Rngs(0))
    >>> len(rule.blocks), rule.blocks[0].kind[...].shape
    (1, (5, 2))
    """

    def __init__(
        self, spec: CircuitSpec, *, hidden: int = 16, width: int = 64, heads: int = 4, blocks: int = 1, rngs: nnx.Rngs
    ) -> None:
        if width % heads:
            raise ConfigError(
                f"heads must divide the width; there are {heads} heads for a width of {width}. "
                f"Use a width of {width + heads - width % heads}."
            )
        self.spec, self.hidden = spec, hidden
        self.reading = Reading(spec, hidden, width, rngs=rngs)
        self.blocks = nnx.List([_Block(width, heads, 2 * spec.arity + 1, rngs=rngs) for _ in range(blocks)])
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
        relations = _relations(sources, self.spec)
        connected = (relations.sum(-1) > 0) & alive[:, None] & alive
        x = self.reading(state, alive)
        for block in self.blocks:
            x = block(x, relations, connected)
        return self.increments(x, state, alive)


class _Block(nnx.Module):
    def __init__(self, width: int, heads: int, kinds: int, *, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.before_attention = nnx.LayerNorm(width, rngs=rngs)
        self.queries_keys_values = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.kind = nnx.Param(jnp.zeros((kinds, heads)))
        self.mixed = nnx.Linear(width, width, rngs=rngs)
        self.before_perceptron = nnx.LayerNorm(width, rngs=rngs)
        self.wide = nnx.Linear(width, 2 * width, rngs=rngs)
        self.narrow = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "nodes width"],
        relations: Float[Array, "nodes nodes kinds"],
        connected: Bool[Array, "nodes nodes"],
    ) -> Float[Array, "nodes width"]:
        n, width = x.shape
        q, k, v = self.queries_keys_values(self.before_attention(x)).reshape(n, 3, self.heads, -1).transpose(1, 2, 0, 3)
        scores = q @ k.swapaxes(1, 2) / jnp.sqrt(width / self.heads)
        scores += jnp.einsum("ijr,rh->hij", relations, self.kind[...])
        # A dead node is connected to nobody. Its row would be 0 / 0; a finite floor makes it uniform, and then zero.
        weights = jnp.where(connected, jax.nn.softmax(jnp.where(connected, scores, -1e9), axis=-1), 0)
        x = x + self.mixed((weights @ v).transpose(1, 0, 2).reshape(n, width))
        return x + self.narrow(nnx.gelu(self.wide(self.before_perceptron(x))))


def _relations(sources: Int[Array, "gates arity"], spec: CircuitSpec) -> Float[Array, "nodes nodes kinds"]:
    """How i (rows) and j are wired: itself | i reads j as its input 0, 1, ... | j reads i as its input 0, 1, ..."""
    reads = jax.nn.one_hot(sources, spec.n_nodes)  # gates, arity, nodes
    reads = jnp.pad(reads, ((spec.n_in, 0), (0, 0), (0, 0))).swapaxes(1, 2)
    return jnp.concatenate([jnp.eye(spec.n_nodes)[..., None], reads, reads.swapaxes(0, 1)], axis=-1)
