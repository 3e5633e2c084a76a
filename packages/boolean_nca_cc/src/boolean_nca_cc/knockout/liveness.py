"""Which inputs and gates matter: liveness of the hard circuit, and the smaller circuit that remains.

*Structural* liveness follows wires: a node is live if a path of wires between gates that are alive leads from it to
an output. *Functional* liveness also reads the tables: a path counts only where the gate's output really changes with
that wire. Both are static analyses; the second knows constants (dead gates are 0, a table of ones is 1) and that two
wires from the same source always agree, but not that two different sources may be correlated. So it may call a node
live that makes no difference in any case, and never the reverse.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec

__all__ = ["PrunedCircuit", "functional_liveness", "live_wires", "prune", "structural_liveness"]

_CONSTANTS = (0, 1)
_VARIES = 2


class PrunedCircuit(NamedTuple):
    """A smaller circuit with the same hard outputs.

    Args:
        circuit: its wires and saturated tables; every gate is a group of its own.
        spec: its layers.
        kept: the flat node id in the old circuit of each of its nodes, inputs first.
    """

    circuit: Circuit
    spec: CircuitSpec
    kept: Int[np.ndarray, " nodes"]


class _Gate(NamedTuple):
    """A gate whose hard table is reduced to the sources that it depends on.

    Args:
        node: flat id.
        sources: flat ids of the wires; redundant ones are still there.
        used: whether the output changes with the wire; of several wires from one source only the first is used.
        table: the hard table where every unused wire is at its constant, at its twin's value, or of no consequence.
        value: 0 or 1 for a constant, else _VARIES.
    """

    node: int
    sources: Int[np.ndarray, " arity"]
    used: Bool[np.ndarray, " arity"]
    table: UInt8[np.ndarray, " entries"]
    value: int


def structural_liveness(
    circuit: Circuit, spec: CircuitSpec, alive: Bool[Array | np.ndarray, " nodes"] | None = None
) -> Bool[np.ndarray, " nodes"]:
    """Nodes from which wires lead to an output through gates that are alive.

    Args:
        circuit: the circuit.
        spec: its layers.
        alive: dead nodes are not live and pass nothing on; None = all alive.

    Returns:
        True = live, over all nodes; an output that is alive is live.

    Raises:
        MaskError: a mask that does not fit the circuit.

    >>> from boolean_nca_cc.circuits.wiring import chain_topology
    >>> chain = chain_topology(3)
    >>> circuit = Circuit(chain.wires, [jnp.ones((2, 1, 4)), jnp.ones((1, 1, 4))])
    >>> structural_liveness(circuit, chain.spec).tolist()
    [True, True, True, True, True, True]
    """
    standing = _standing(spec, alive)
    live = standing & (np.arange(spec.n_nodes) >= spec.offsets[-1])
    for layer in range(spec.n_layers, 0, -1):
        for node, sources, _ in _gates(circuit, spec, layer):
            if live[node]:
                live[sources] = True
        live &= standing
    return live


def functional_liveness(
    circuit: Circuit, spec: CircuitSpec, alive: Bool[Array | np.ndarray, " nodes"] | None = None
) -> Bool[np.ndarray, " nodes"]:
    """Nodes whose value can reach an output of the hard circuit through tables that listen to it.

    Args:
        circuit: the circuit.
        spec: its layers.
        alive: dead nodes are the constant 0; None = all alive.

    Returns:
        True = live, over all nodes. A subset of the structural liveness; a constant output is not live.

    Raises:
        MaskError: a mask that does not fit the circuit.

    >>> from boolean_nca_cc.circuits.wiring import chain_topology
    >>> chain = chain_topology(3)
    >>> exclusive_or, second = jnp.array([[[-3.0, 3.0, 3.0, -3.0]]]), jnp.array([[[-3.0, -3.0, 3.0, 3.0]]])
    >>> circuit = Circuit(chain.wires, [jnp.concatenate([exclusive_or, second]), second])
    >>> functional_liveness(circuit, chain.spec).tolist()
    [False, False, True, False, True, True]
    """
    return _live(_reduce(circuit, spec, _standing(spec, alive)), spec)


def live_wires(
    circuit: Circuit, spec: CircuitSpec, alive: Bool[Array | np.ndarray, " nodes"] | None = None
) -> list[Bool[np.ndarray, "arity _"]]:
    """Wires whose signal can reach an output: some functionally live gate of the group listens to them.

    Args:
        circuit: the circuit.
        spec: its layers.
        alive: dead nodes are the constant 0; None = all alive.

    Returns:
        One array a layer of gates, shaped as the wires. Of several wires from one source to a group, the first stands
        for all.

    Raises:
        MaskError: a mask that does not fit the circuit.

    >>> from boolean_nca_cc.circuits.wiring import chain_topology
    >>> chain = chain_topology(2)
    >>> live_wires(Circuit(chain.wires, [jnp.array([[[-3.0, 3.0, -3.0, 3.0]]])]), chain.spec)[0].tolist()
    [[True], [False]]
    """
    layers = _reduce(circuit, spec, _standing(spec, alive))
    live = _live(layers, spec)
    carrying = []
    for gates, (n, s) in zip(layers, spec.layer_sizes[1:], strict=True):
        listening = np.stack([gate.used & live[gate.node] for gate in gates])
        carrying.append(np.any(listening.reshape(n // s, s, spec.arity), axis=1).T)
    return carrying


def prune(
    circuit: Circuit, spec: CircuitSpec, alive: Bool[Array | np.ndarray, " nodes"] | None = None, scale: float = 30.0
) -> PrunedCircuit:
    """The circuit without the gates that cannot matter; its hard outputs are the same in every case.

    Only functionally live gates stay. Wires that a gate ignores, or that carry a constant, are folded into its table
    and point to node 0. All inputs and outputs stay, and one gate in a layer that would be empty.

    Args:
        circuit: the circuit.
        spec: its layers.
        alive: the knockout to build in; None = all alive. A dead input is the constant 0.
        scale: the logits of the new tables are plus and minus this.

    Returns:
        The smaller circuit, to be run without a mask.

    Raises:
        MaskError: a mask that does not fit the circuit.

    >>> from boolean_nca_cc.circuits.wiring import chain_topology
    >>> chain = chain_topology(3)
    >>> exclusive_or, second = jnp.array([[[-3.0, 3.0, 3.0, -3.0]]]), jnp.array([[[-3.0, -3.0, 3.0, 3.0]]])
    >>> circuit = Circuit(chain.wires, [jnp.concatenate([exclusive_or, second]), second])
    >>> prune(circuit, chain.spec).spec.layer_sizes
    ((3, 1), (1, 1), (1, 1))
    """
    layers = _reduce(circuit, spec, _standing(spec, alive))
    keep = _live(layers, spec)
    keep[: spec.n_in] = keep[spec.offsets[-1] :] = True
    for where in spec.layer_slices:
        keep[where.start] |= not keep[where].any()
    position = np.zeros(spec.n_nodes, int)
    for where in spec.layer_slices:
        position[where] = np.cumsum(keep[where]) - 1
    wires, logits = [], []
    for gates in layers:
        kept = [gate for gate in gates if keep[gate.node]]
        wires.append(
            jnp.asarray(np.stack([np.where(g.used & keep[g.sources], position[g.sources], 0) for g in kept], axis=1))
        )
        logits.append(jnp.asarray([[(2.0 * gate.table - 1) * scale] for gate in kept], jnp.float32))
    smaller = CircuitSpec(tuple((int(keep[where].sum()), 1) for where in spec.layer_slices), spec.arity)
    return PrunedCircuit(Circuit(wires, logits), smaller, np.flatnonzero(keep))


def _standing(spec: CircuitSpec, alive: Bool[Array | np.ndarray, " nodes"] | None) -> Bool[np.ndarray, " nodes"]:
    if alive is None:
        return np.ones(spec.n_nodes, bool)
    spec.check_alive(alive)
    return np.array(alive)


def _gates(
    circuit: Circuit, spec: CircuitSpec, layer: int
) -> Iterator[tuple[int, Int[np.ndarray, " arity"], UInt8[np.ndarray, " entries"]]]:
    """Flat id, flat sources and hard table of each gate of a layer."""
    wires = np.asarray(circuit.wires[layer - 1]) + spec.offsets[layer - 1]
    tables = (np.asarray(circuit.logits[layer - 1]) > 0).astype(np.uint8).reshape(-1, 1 << spec.arity)
    size = spec.layer_sizes[layer][1]
    for index, table in enumerate(tables):
        yield spec.offsets[layer] + index, wires[:, index // size], table


def _reduce(circuit: Circuit, spec: CircuitSpec, standing: Bool[np.ndarray, " nodes"]) -> list[list[_Gate]]:
    """Constants propagated from the inputs on, and every table reduced to what its wires can still say."""
    value = np.where(standing, _VARIES, 0)
    layers = []
    for layer in range(1, spec.n_layers + 1):
        gates = [
            _reduced_gate(node, sources, table if standing[node] else np.zeros_like(table), value[sources])
            for node, sources, table in _gates(circuit, spec, layer)
        ]
        for gate in gates:
            value[gate.node] = gate.value
        layers.append(gates)
    return layers


def _reduced_gate(
    node: int,
    sources: Int[np.ndarray, " arity"],
    table: UInt8[np.ndarray, " entries"],
    values: Int[np.ndarray, " arity"],
) -> _Gate:
    address = np.arange(table.size)
    used = np.zeros(sources.size, bool)
    for j, (source, value) in enumerate(zip(sources, values, strict=True)):
        twin = int(np.flatnonzero(sources == source)[0])
        if value in _CONSTANTS:
            bit = np.full_like(address, value)
        elif twin < j:
            bit = address >> twin & 1
        else:
            continue
        table = table[address & ~(1 << j) | bit << j]
    for j in range(sources.size):
        used[j] = bool((table != table[address ^ (1 << j)]).any())
    return _Gate(node, sources, used, table, int(table[0]) if not used.any() else _VARIES)


def _live(layers: list[list[_Gate]], spec: CircuitSpec) -> Bool[np.ndarray, " nodes"]:
    live = np.zeros(spec.n_nodes, bool)
    for gate in layers[-1]:
        live[gate.node] = gate.value == _VARIES
    for gates in reversed(layers):
        for gate in gates:
            if live[gate.node]:
                live[gate.sources[gate.used]] = True
    return live
