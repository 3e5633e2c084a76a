"""The circuit as a graph: who reads whom, where each node stands, and the state that a rule may change.

Nodes are those of `CircuitSpec`, inputs first. Only gates carry state: an input node has nothing to change, so it is
told by its place alone. Every wire is two edges, one in the direction of the signal and one back, and each knows which
of the reader's inputs it is: to a table, its first input and its second are different things.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.wiring import check_counts
from boolean_nca_cc.errors import SpecError

__all__ = ["NodeState", "joined", "place_codes", "sources_of", "split_tables", "start_state"]


class NodeState(NamedTuple):
    """What a rule reads and writes, one row a gate (leading batch axes pass).

    Args:
        logits: the gates' tables before the sigmoid.
        hidden: what gates remember and tell each other.
        residual: for each output, the mean of |output - target| over all cases.
    """

    logits: Float[Array, "*batch gates entries"]
    hidden: Float[Array, "*batch gates channels"]
    residual: Float[Array, "*batch outputs"]


def sources_of(wires: Sequence[Int[Array | np.ndarray, "arity _"]], spec: CircuitSpec) -> Int[Array, "gates arity"]:
    """Which node every input of every gate reads, as flat ids.

    Args:
        wires: one array a layer of gates, entries within the previous layer.
        spec: the layers.

    Returns:
        The neighbour table; row g is the gate with the flat id `spec.n_in + g`.

    >>> spec = CircuitSpec(((2, 1), (2, 2), (1, 1)), arity=2)
    >>> sources_of([np.array([[1], [0]]), np.array([[0], [1]])], spec).tolist()
    [[1, 0], [1, 0], [2, 3]]
    """
    rows = [
        jnp.repeat(jnp.asarray(layer).T + before, size, axis=0)
        for layer, before, (_, size) in zip(wires, spec.offsets[:-1], spec.layer_sizes[1:], strict=True)
    ]
    return jnp.concatenate(rows)


def place_codes(spec: CircuitSpec, channels: int) -> Float[np.ndarray, "nodes codes"]:
    """Where a node stands: sines and cosines of its layer's number and of its number within the layer.

    Channel pair i of either code is sin and cos of `position * base^(-2 i / channels)`, as in Vaswani et al.,
    "Attention Is All You Need", 2017, arXiv:1706.03762, with the number of positions as base instead of 10,000.

    Args:
        spec: the layers.
        channels: of each of the two codes, even.

    Returns:
        Both codes side by side, `2 * channels` numbers a node.

    Raises:
        SpecError: channels that are not a positive even number.

    >>> place_codes(CircuitSpec(((2, 1), (1, 1)), arity=2), channels=2).astype(float).round(2).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.84, 0.54], [0.84, 0.54, 0.0, 1.0]]
    """
    check_counts(channels=channels)
    if channels % 2:
        raise SpecError(
            f"a code is made of pairs, a sine and a cosine; it has {channels} channels. Use an even number."
        )
    parts = []
    for layer, (n, _) in enumerate(spec.layer_sizes):
        code = _waves(np.full(n, layer), len(spec.layer_sizes), channels)
        parts.append(np.concatenate([code, _waves(np.arange(n), n, channels)], axis=1))
    return np.concatenate(parts).astype(np.float32)


def _waves(position: Int[np.ndarray, " n"], positions: int, channels: int) -> Float[np.ndarray, "n channels"]:
    angle = position[:, None] * float(positions) ** (-2 * np.arange(channels // 2) / channels)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(len(position), channels)


def start_state(
    logits: Sequence[Float[Array | np.ndarray, "*batch _ _ entries"]], spec: CircuitSpec, channels: int
) -> NodeState:
    """The state before the first step: the circuit's tables, nothing remembered, nothing known of the residual.

    Args:
        logits: one array a layer of gates.
        spec: the layers.
        channels: hidden channels of a gate.

    Returns:
        The state; its residual is zero until a step has run the circuit.

    >>> spec = CircuitSpec(((2, 1), (2, 2), (1, 1)), arity=2)
    >>> start_state([np.zeros((1, 2, 4), np.float32), np.ones((1, 1, 4), np.float32)], spec, 3).hidden.shape
    (3, 3)
    """
    flat = joined(logits)
    batch = flat.shape[:-2]
    return NodeState(flat, jnp.zeros((*batch, spec.n_gates, channels)), jnp.zeros((*batch, spec.n_out)))


def joined(logits: Sequence[Float[Array | np.ndarray, "*batch _ _ entries"]]) -> Float[Array, "*batch gates entries"]:
    """One row a gate instead of one array a layer.

    Args:
        logits: one array a layer of gates.

    Returns:
        All tables, in the order of the nodes.

    >>> joined([np.zeros((1, 2, 4), np.float32), np.ones((1, 1, 4), np.float32)])[:, 0].tolist()
    [0.0, 0.0, 1.0]
    """
    return jnp.concatenate(
        [jnp.asarray(layer).reshape(*layer.shape[:-3], -1, layer.shape[-1]) for layer in logits], axis=-2
    )


def split_tables(
    flat: Float[Array, "*batch gates entries"], spec: CircuitSpec
) -> list[Float[Array, "*batch _ _ entries"]]:
    """The inverse of `joined`.

    Args:
        flat: one row a gate.
        spec: the layers.

    Returns:
        One array a layer of gates.

    >>> spec = CircuitSpec(((2, 1), (2, 2), (1, 1)), arity=2)
    >>> [layer.shape for layer in split_tables(jnp.zeros((3, 4)), spec)]
    [(1, 2, 4), (1, 1, 4)]
    """
    layers = []
    for where, (n, s) in zip(spec.layer_slices[1:], spec.layer_sizes[1:], strict=True):
        layer = flat[..., where.start - spec.n_in : where.stop - spec.n_in, :]
        layers.append(layer.reshape(*flat.shape[:-2], n // s, s, flat.shape[-1]))
    return layers
