"""What the two rules have in common: reading a node's state, and writing increments."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.models.graph import NodeState, place_codes

__all__ = ["Increments", "Perceptron", "Reading"]

_CODE_CHANNELS = 16


class Perceptron(nnx.Module):
    """Linear, layer norm, ReLU, linear.

    Args:
        n_in: channels that come in.
        wide: channels between.
        n_out: channels that go out.
        rngs: where the initial weights come from.
    """

    def __init__(self, n_in: int, wide: int, n_out: int, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(n_in, wide, rngs=rngs)
        self.norm = nnx.LayerNorm(wide, rngs=rngs)
        self.second = nnx.Linear(wide, n_out, rngs=rngs)

    def __call__(self, x: Float[Array, "*rows channels"]) -> Float[Array, "*rows out"]:
        """Applies it to every row."""
        return self.second(nnx.relu(self.norm(self.first(x))))


class Reading(nnx.Module):
    """A node's representation: from its state and place if it is a gate, from its place alone if it is an input.

    An output also reads its residual. Tables enter squashed, as tanh(logit / 4), so that a saturated logit does not
    drown the rest, and what is remembered is normalised. The state of a dead gate is not read: it counts as zeros.

    Args:
        spec: the circuit's layers.
        hidden: channels that a gate remembers.
        width: channels of the representation.
        rngs: where the initial weights come from.
    """

    def __init__(self, spec: CircuitSpec, hidden: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.spec = spec
        self.norm = nnx.LayerNorm(hidden, rngs=rngs)
        self.place = nnx.Linear(2 * _CODE_CHANNELS, width, rngs=rngs)
        self.gate = nnx.Linear((1 << spec.arity) + hidden + 1, width, rngs=rngs)

    def __call__(self, state: NodeState, alive: Bool[Array, " nodes"]) -> Float[Array, "nodes width"]:
        """One row a node."""
        spec = self.spec
        place = self.place(jnp.asarray(place_codes(spec, _CODE_CHANNELS)))
        residual = jnp.zeros(spec.n_gates).at[spec.n_gates - spec.n_out :].set(state.residual)
        # Replaced before the norm, and not after, so that a dead gate's NaN reaches neither a value nor a gradient.
        logits, remembered, residual = (
            jnp.where(alive[spec.n_in :, None], part, 0) for part in (state.logits, state.hidden, residual[:, None])
        )
        features = jnp.concatenate([jnp.tanh(logits / 4), self.norm(remembered), 4 * residual], axis=-1)
        return place + jnp.pad(self.gate(features), ((spec.n_in, 0), (0, 0)))


class Increments(nnx.Module):
    """From a node's representation to increments of its tables and of what it remembers, each times a learned scale.

    The scales start at zero, so that an untrained rule changes nothing: Bachlechner et al., "ReZero is All You Need",
    2020, arXiv:2003.04887.

    Args:
        spec: the circuit's layers.
        hidden: channels that a gate remembers.
        width: channels of the representation.
        rngs: where the initial weights come from.
    """

    def __init__(self, spec: CircuitSpec, hidden: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.spec = spec
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.to_logits = nnx.Linear(width, 1 << spec.arity, rngs=rngs)
        self.to_hidden = nnx.Linear(width, hidden, rngs=rngs)
        self.logits_scale = nnx.Param(jnp.zeros(()))
        self.hidden_scale = nnx.Param(jnp.zeros(()))

    def __call__(self, x: Float[Array, "nodes width"], state: NodeState, alive: Bool[Array, " nodes"]) -> NodeState:
        """The next state; dead gates keep theirs bit for bit."""
        gates = self.norm(x[self.spec.n_in :])
        active = alive[self.spec.n_in :, None]
        logits = state.logits + self.logits_scale[...] * self.to_logits(gates)
        hidden = state.hidden + self.hidden_scale[...] * self.to_hidden(gates)
        return state._replace(
            logits=jnp.where(active, logits, state.logits), hidden=jnp.where(active, hidden, state.hidden)
        )
