"""A rule that lets every gate look at the nodes it is wired to."""

from typing import NamedTuple

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
        pairs = _pairs(sources, alive, self.spec)
        x = self.reading(state, alive)
        for block in self.blocks:
            x = block(x, pairs)
        return self.increments(x, state, alive)


class _Pairs(NamedTuple):
    """Who looks at whom: a node at itself | a gate at what it reads, wire by wire | a node at what reads it.

    Args:
        row: who looks.
        column: at whom.
        same: for each gate, whether two of its inputs read the same node; these wires are one pair, with both kinds.
        share: of the pair that the wire stands for: one over the number of such wires, 0 where an end is dead.
    """

    row: Int[Array, " pairs"]
    column: Int[Array, " pairs"]
    same: Float[Array, "gates arity arity"]
    share: Float[Array, " pairs"]


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

    def __call__(self, x: Float[Array, "nodes width"], pairs: _Pairs) -> Float[Array, "nodes width"]:
        (n, width), heads, arity = x.shape, self.heads, pairs.same.shape[-1]
        q, k, v = jnp.split(self.queries_keys_values(self.before_attention(x)), 3, axis=-1)
        scores = (q[pairs.row] * k[pairs.column]).reshape(-1, heads, width // heads).sum(-1) / jnp.sqrt(width / heads)
        itself, wired = self.kind[0], self.kind[1:].reshape(2, arity, heads)
        wired = jnp.einsum("gjl,dlh->dgjh", pairs.same, wired).reshape(-1, heads)
        scores += jnp.concatenate([jnp.broadcast_to(itself, (n, heads)), wired])
        share = pairs.share[:, None]
        scores = jnp.where(share > 0, scores, -1e9)
        # Any bound will do that keeps the exponential in range; no derivative goes through it.
        top = jax.ops.segment_max(jax.lax.stop_gradient(scores), pairs.row, n)
        weights = share * jnp.exp(scores - top[pairs.row])
        seen = (weights[:, :, None] * v[pairs.column].reshape(-1, heads, width // heads)).reshape(-1, width)
        # A dead node looks at nobody: 0 / 0, with a floor.
        total = jnp.maximum(jax.ops.segment_sum(weights, pairs.row, n), 1e-9)
        seen = jax.ops.segment_sum(seen, pairs.row, n).reshape(n, heads, -1) / total[:, :, None]
        x = x + self.mixed(seen.reshape(n, width))
        return x + self.narrow(nnx.gelu(self.wide(self.before_perceptron(x))))


def _pairs(sources: Int[Array, "gates arity"], alive: Bool[Array, " nodes"], spec: CircuitSpec) -> _Pairs:
    node = jnp.arange(spec.n_nodes)
    reader, read = jnp.repeat(node[spec.n_in :], sources.shape[1]), sources.ravel()
    row, column = jnp.concatenate([node, reader, read]), jnp.concatenate([node, read, reader])
    same = (sources[:, :, None] == sources[:, None, :]).astype(jnp.float32)
    share = 1 / same.sum(-1).ravel()
    share = jnp.concatenate([jnp.ones(spec.n_nodes), share, share])
    return _Pairs(row, column, same, jnp.where(alive[row] & alive[column], share, 0))
