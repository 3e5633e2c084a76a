"""The circuit of a cell: layers that perceive one channel each, then layers that mix them.

One circuit with 9 · channels inputs holds both parts. In a *perceive* layer every channel has its own gates, which read
nothing but that channel: the neighbourhood in the first, the gates before in the others. *Update* layers and the
output read at random. The whole is a plain `CircuitSpec` with its wires, so that everything that works on circuits
works on a cell: pruning, liveness, pictures, checkpoints, export.

The division of labour is that of P. Miotti, E. Niklasson, E. Randazzo, A. Mordvintsev: Differentiable Logic Cellular
Automata, 2025, arXiv:2506.04912. There gates have two inputs and every channel shares the perceiving gates.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from boolean_nca_cc.automata.grid import NEIGHBOURS
from boolean_nca_cc.circuits.model import Circuit, gen_circuit, gen_wires
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import AutomatonError
from boolean_nca_cc.knockout.liveness import structural_liveness

__all__ = ["cell_circuit", "cell_spec"]

_ARITY = 4


def cell_spec(channels: int, perceive: Sequence[int], update: Sequence[int]) -> CircuitSpec:
    """The layers of a cell's circuit; gates come in groups of four that read the same four wires.

    Only the last update layer and the output have wires of their own for every gate: groups before so narrow a layer
    would leave half of what it could read unread.

    Args:
        channels: bits of a cell.
        perceive: gates a channel of each perceive layer, multiples of four.
        update: gates of each update layer; multiples of four but for the last.

    Returns:
        The layers, with one output gate a channel.

    Raises:
        AutomatonError: no channel, or a width that is no multiple of four.
        SpecError: a count below one.

    >>> cell_spec(2, perceive=(12,), update=(16, 8)).layer_sizes
    ((18, 1), (24, 4), (16, 4), (8, 1), (2, 1))
    """
    if channels < 1:
        raise AutomatonError(f"a cell holds at least one bit, its picture; channels is {channels}.")
    if odd := [width for width in (*perceive, *update[:-1]) if width % _ARITY]:
        raise AutomatonError(f"a cell's gates come in groups of {_ARITY}; {odd[0]} is no multiple. Round it up.")
    inner = [(width * channels, _ARITY) for width in perceive] + [(width, _ARITY) for width in update[:-1]]
    inner += [(width, 1) for width in update[-1:]]
    return CircuitSpec(((NEIGHBOURS * channels, 1), *inner, (channels, 1)), _ARITY)


def cell_circuit(
    key: Shaped[Array, "..."], channels: int, perceive: Sequence[int], update: Sequence[int], nop_scale: float = 3.0
) -> Circuit:
    """A fresh circuit of a cell, its gates copies of one input each.

    Copies carry bits across the grid from the first step on, which is what gradients need.

    Args:
        key: random key of the wires.
        channels: bits of a cell.
        perceive: gates a channel of each perceive layer.
        update: gates of each update layer.
        nop_scale: size of the logits.

    Returns:
        The circuit.

    Raises:
        AutomatonError: no channel, a width that is no multiple of four, or a dead channel: one that no path of wires
            leads from to an output.
        SpecError: a count below one.

    >>> wires, _ = cell_circuit(jax.random.key(0), channels=2, perceive=(12,), update=(16,))
    >>> bool(jnp.all(wires[0][:, :3] < 9)), bool(jnp.all(wires[0][:, 3:] >= 9))
    (True, True)
    """
    spec = cell_spec(channels, perceive, update)
    keys = jax.random.split(key, spec.n_layers)
    wires = []
    for layer, (n, s) in enumerate(spec.layer_sizes[1:]):
        n_before = spec.layer_sizes[layer][0]
        if layer >= len(perceive):
            wires.append(gen_wires(keys[layer], n_before, n // s, _ARITY))
            continue
        own, groups = n_before // channels, n // s // channels
        local = jax.vmap(lambda k, own=own, groups=groups: gen_wires(k, own, groups, _ARITY))(
            jax.random.split(keys[layer], channels)
        )
        local = local + own * jnp.arange(channels)[:, None, None]
        wires.append(local.transpose(1, 0, 2).reshape(_ARITY, -1))
    circuit = gen_circuit(key, spec.layer_sizes, _ARITY, wires=wires, nop_scale=nop_scale)
    _refuse_dead_channels(circuit, spec, channels)
    return circuit


def _refuse_dead_channels(circuit: Circuit, spec: CircuitSpec, channels: int) -> None:
    read = structural_liveness(circuit, spec)[: spec.n_in].reshape(channels, NEIGHBOURS).any(axis=1)
    if not read.all():
        raise AutomatonError(
            f"every channel of a cell is read by some gate that an output depends on; channel(s) "
            f"{np.flatnonzero(~read).tolist()} of {channels} are dead. Widen the update layers, or use fewer channels."
        )
