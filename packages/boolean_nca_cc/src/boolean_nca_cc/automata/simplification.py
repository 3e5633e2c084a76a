"""Making a hard circuit smaller without changing its outputs on the cases that exist.

Pruning (`boolean_nca_cc.knockout.prune`) takes away what no output can hear, whatever the values. With all cases at
hand more can go, by two old ideas of logic synthesis: gates of a layer that agree in every case, or disagree in every
case, are one gate; and a gate need not listen to an input if no output tells the difference.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped, UInt8

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import TaskError
from boolean_nca_cc.knockout.liveness import PrunedCircuit, prune

__all__ = ["node_values", "simplify"]

_Wires = list[Int[np.ndarray, "arity _"]]
_Tables = list[UInt8[np.ndarray, "_ entries"]]


def node_values(
    circuit: Circuit, spec: CircuitSpec, x: Bool[np.ndarray, "cases n_in"]
) -> list[UInt8[np.ndarray, "_ cases"]]:
    """The value of every node of the hard circuit in every case, by looking entries up.

    Args:
        circuit: the circuit.
        spec: its layers.
        x: the cases.

    Returns:
        Zeros and ones, one array a layer, the input first.

    >>> from boolean_nca_cc.circuits.wiring import chain_topology
    >>> chain = chain_topology(2)
    >>> both = Circuit(chain.wires, [jnp.array([[[-3.0, -3.0, -3.0, 3.0]]])])
    >>> node_values(both, chain.spec, np.array([[True, True], [True, False]]))[-1].tolist()
    [[1, 0]]
    """
    wires, tables = _ungrouped(circuit, spec)
    return _run(wires, tables, x.T.astype(np.uint8))


def simplify(circuit: Circuit, spec: CircuitSpec, x: Shaped[Array | np.ndarray, "cases n_in"]) -> PrunedCircuit:
    """The smaller circuit whose outputs are the same in every one of the cases.

    From the outputs back, each gate drops the inputs that it can, one at a time; then equal gates are merged and the
    circuit is pruned; all of it again until nothing more goes. Greedy: another order may leave fewer gates.

    Args:
        circuit: the circuit.
        spec: its layers.
        x: all cases that will ever come, zeros and ones.

    Returns:
        The smaller circuit; `kept` are the flat node ids in the old one.

    Raises:
        TaskError: cases of another width.

    >>> from boolean_nca_cc.circuits.wiring import chain_topology
    >>> chain = chain_topology(2)
    >>> both = Circuit(chain.wires, [jnp.array([[[-3.0, -3.0, -3.0, 3.0]]])])
    >>> smaller = simplify(both, chain.spec, np.array([[0, 1], [1, 1]]))  # input 1 is always 1
    >>> (smaller.circuit.logits[0] > 0).astype(int).tolist()
    [[[0, 1, 0, 1]]]
    """
    if x.shape[1] != spec.n_in:
        raise TaskError(f"cases have the circuit's {spec.n_in} inputs; they have {x.shape[1]}.")
    inputs = (np.asarray(x).T > 0.5).astype(np.uint8)
    smaller = prune(circuit, spec)
    kept = smaller.kept
    while True:
        wires, tables = _ungrouped(smaller.circuit, smaller.spec)
        _drop_inputs(wires, tables, inputs)
        _merge_twins(wires, tables, inputs)
        logits = [jnp.asarray((2.0 * layer[:, None] - 1) * 30, jnp.float32) for layer in tables]
        again = prune(Circuit([jnp.asarray(layer) for layer in wires], logits), smaller.spec)
        kept = kept[again.kept]
        if again.spec == smaller.spec and _same(again.circuit, smaller.circuit):
            return PrunedCircuit(again.circuit, again.spec, kept)
        smaller = again


def _ungrouped(circuit: Circuit, spec: CircuitSpec) -> tuple[_Wires, _Tables]:
    """Wires and hard tables of every gate, as if each were a group of its own."""
    wires = [
        np.repeat(np.asarray(layer), size, axis=1)
        for layer, (_, size) in zip(circuit.wires, spec.layer_sizes[1:], strict=True)
    ]
    entries = 1 << spec.arity
    return wires, [(np.asarray(layer) > 0).astype(np.uint8).reshape(-1, entries) for layer in circuit.logits]


def _run(wires: _Wires, tables: _Tables, values: UInt8[np.ndarray, "nodes cases"]) -> list[np.ndarray]:
    layers = [values]
    for layer_wires, layer_tables in zip(wires, tables, strict=True):
        places = np.arange(layer_wires.shape[0])[:, None, None]
        address = (layers[-1][layer_wires].astype(np.int64) << places).sum(axis=0)
        layers.append(np.take_along_axis(layer_tables, address, axis=1))
    return layers


def _drop_inputs(wires: _Wires, tables: _Tables, inputs: UInt8[np.ndarray, "nodes cases"]) -> None:
    """Makes gates ignore inputs where no output changes in any case; tables are changed in place."""
    values = _run(wires, tables, inputs)
    wanted = values[-1]
    address = np.arange(tables[0].shape[1])
    for layer in reversed(range(len(tables))):
        for table in tables[layer]:
            for bit in 1 << np.arange(wires[layer].shape[0]):
                if (table == table[address ^ bit]).all():
                    continue
                whole = table.copy()
                for chosen in (address & ~bit, address | bit):
                    table[:] = whole[chosen]  # a view of tables[layer]
                    # Layers before this one are as they were, so the run starts here.
                    if np.array_equal(_run(wires[layer:], tables[layer:], values[layer])[-1], wanted):
                        break
                else:
                    table[:] = whole


def _merge_twins(wires: _Wires, tables: _Tables, inputs: UInt8[np.ndarray, "nodes cases"]) -> None:
    """Leads readers of gates that always agree, or always disagree, to the first of them; in place."""
    values = _run(wires, tables, inputs)
    address = np.arange(tables[0].shape[1])
    for layer in range(1, len(tables)):
        # Up to complement: the row, turned so that its first case is 0, says which gates are one.
        turned = values[layer] ^ values[layer][:, :1]
        _, first, group = np.unique(turned, axis=0, return_index=True, return_inverse=True)
        stands_for = first[group.ravel()]
        opposite = values[layer][:, 0] != values[layer][stands_for, 0]
        for gate, table in enumerate(tables[layer]):
            for place, source in enumerate(wires[layer][:, gate]):
                if opposite[source]:
                    table[:] = table[address ^ 1 << place]
        wires[layer] = stands_for[wires[layer]]


def _same(one: Circuit, other: Circuit) -> bool:
    pairs = zip([*one.wires, *one.logits], [*other.wires, *other.logits], strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)
