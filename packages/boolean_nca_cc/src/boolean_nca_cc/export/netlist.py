"""The netlist: a hard circuit as named gates, each with the nodes that it reads and a table of bits.

A soft circuit has no hardware. What is exported is its hard circuit, where a table entry is 1 if its logit is above 0,
and it stands for the soft one only where both answer alike. So `netlist_of` runs all cases and refuses a circuit with
*undecided* outputs: those that are not on the hard output's side of one half, by a margin. Three things lead on from
there: train it further; `boolean_nca_cc.knockout.prune` it, which takes the hard circuit at its word; or say
`rounded=True`, which means the same without pruning.

Gates keep the numbers that they have in the circuit. Each reads only the nodes that its table listens to. Dead gates
are gates without inputs whose table is a 0; a dead input is still a pin, which no gate reads.
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.wiring import check_wires
from boolean_nca_cc.errors import ExportError, SpecError
from boolean_nca_cc.export.decisions import check_decided

__all__ = ["Gate", "Netlist", "netlist_of"]

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_SCALE = 30.0  # logits of the circuit made from a netlist: sigmoid(30) is 1 in float32


@dataclass(frozen=True)
class Gate:
    """A gate.

    Args:
        node: its number, unique in the netlist.
        layer: its layer, counted from 1.
        sources: the nodes that it reads, all of the layer before; the first is the lowest bit of the address.
        table: 2^sources bits, entry 0 first; one bit alone is a constant.
    """

    node: int
    layer: int
    sources: tuple[int, ...]
    table: tuple[int, ...]


@dataclass(frozen=True)
class Netlist:
    """A layered netlist, valid once it exists.

    Args:
        name: of the function or module; letters, digits and _, a letter first.
        inputs: the input pins' nodes; pin b carries bit b of the case.
        gates: layer by layer, no layer empty; those of the last layer are the outputs, bit 0 first.

    Raises:
        ExportError: a name that is none, a node that is there twice, a source that is not of the layer before, a layer
            out of turn, a table of the wrong length or with other entries than 0 and 1, no inputs or no gates.

    >>> exclusive_or = Gate(2, 1, (0, 1), (0, 1, 1, 0))
    >>> Netlist("parity", (0, 1), (exclusive_or,)).outputs
    (2,)
    """

    name: str
    inputs: tuple[int, ...]
    gates: tuple[Gate, ...]

    def __post_init__(self) -> None:
        if not _IDENTIFIER.fullmatch(self.name):
            raise ExportError(
                f"a netlist's name is letters, digits and _, with a letter first; it is {self.name!r}. Choose another."
            )
        if not self.inputs or not self.gates:
            raise ExportError(
                f"a netlist has inputs and gates; this one has {len(self.inputs)} and {len(self.gates)}. "
                "Make it with netlist_of."
            )
        layer_of: dict[int, int] = {}
        for node in self.inputs:
            _check_number(node, layer_of)
            layer_of[node] = 0
        layer = 0
        for gate in self.gates:
            if gate.layer not in (layer, layer + 1) or gate.layer < 1:
                raise ExportError(
                    f"gates come layer by layer, from layer 1 on; gate {gate.node} of layer {gate.layer} comes after "
                    f"layer {layer}. Sort them, and leave no layer out."
                )
            layer = gate.layer
            _check_gate(gate, layer_of)
            layer_of[gate.node] = layer

    @property
    def depth(self) -> int:
        """Layers of gates."""
        return self.gates[-1].layer

    @property
    def layers(self) -> list[tuple[Gate, ...]]:
        """The gates of each layer."""
        return [tuple(gates) for _, gates in groupby(self.gates, key=lambda gate: gate.layer)]

    @property
    def outputs(self) -> tuple[int, ...]:
        """The gates whose values are the outputs, bit 0 first."""
        return tuple(gate.node for gate in self.layers[-1])

    @property
    def unread(self) -> tuple[int, ...]:
        """Gates that no gate reads and that are no outputs; a pruned circuit has next to none."""
        read = {source for gate in self.gates for source in gate.sources} | set(self.outputs)
        return tuple(gate.node for gate in self.gates if gate.node not in read)

    def names(self, pin: str) -> dict[int, str]:
        """What each node is called in a text: gates n and their number, inputs as their pins are.

        Args:
            pin: an input's name, with {} for its bit.

        Returns:
            Names by node.

        >>> Netlist("copy", (7,), (Gate(9, 1, (7,), (0, 1)),)).names("x[{}]")
        {7: 'x[0]', 9: 'n9'}
        """
        pins = {node: pin.format(bit) for bit, node in enumerate(self.inputs)}
        return pins | {gate.node: f"n{gate.node}" for gate in self.gates}

    @property
    def summary(self) -> str:
        """Its size in words, for the first line of a file."""
        counts = {
            "input": len(self.inputs), "output": len(self.outputs), "gate": len(self.gates), "layer": self.depth
        }  # fmt: skip
        inputs, outputs, gates, layers = (f"{n} {word}{'s' * (n != 1)}" for word, n in counts.items())
        return f"{inputs}, {outputs}, {gates} in {layers}"

    def to_circuit(self) -> tuple[Circuit, CircuitSpec]:
        """The netlist as a circuit of the library again, with saturated tables.

        Every gate is a group of its own. A gate with fewer inputs than the widest repeats its first one, or reads node
        0 where it has none.

        Returns:
            The circuit and its layers.

        >>> exclusive_or = Gate(2, 1, (0, 1), (0, 1, 1, 0))
        >>> circuit, spec = Netlist("parity", (0, 1), (exclusive_or,)).to_circuit()
        >>> circuit.wires[0].tolist(), circuit.logits[0].tolist()
        ([[0], [1]], [[[-30.0, 30.0, 30.0, -30.0]]])
        """
        arity = max(1, *(len(gate.sources) for gate in self.gates))
        position = {node: index for index, node in enumerate(self.inputs)}
        circuit, sizes = Circuit([], []), [(len(self.inputs), 1)]
        for gates in self.layers:
            padded = [_padded(gate, position, arity) for gate in gates]
            circuit.wires.append(jnp.asarray([wires for wires, _ in padded]).T)
            bits = np.asarray([[table] for _, table in padded])
            circuit.logits.append(jnp.asarray((2.0 * bits - 1) * _SCALE, jnp.float32))
            position = {gate.node: index for index, gate in enumerate(gates)}
            sizes.append((len(gates), 1))
        return circuit, CircuitSpec(tuple(sizes), arity)


def netlist_of(
    circuit: Circuit,
    spec: CircuitSpec,
    alive: Bool[Array | np.ndarray, " nodes"] | None = None,
    *,
    name: str = "circuit",
    ids: Int[np.ndarray, " nodes"] | None = None,
    rounded: bool = False,
) -> Netlist:
    """The netlist of a circuit's hard form.

    Args:
        circuit: the circuit, pruned or not.
        spec: its layers.
        alive: the knockout to build in; None = all alive.
        name: of the netlist.
        ids: a number for each node instead of its flat index; `PrunedCircuit.kept` keeps the old circuit's numbers.
        rounded: take the hard circuit also where the soft one is undecided.

    Returns:
        The netlist, one gate for each of the circuit's.

    Raises:
        ExportError: undecided outputs, or more inputs than all cases can be tried of, unless `rounded`; a name or
            numbers that a netlist cannot have.
        MaskError: a mask that does not fit the circuit.
        SpecError: layers that are not the circuit's.
        WiringError: wires that do not fit the layers.

    >>> exclusive_or = Circuit([jnp.array([[0], [1]])], [jnp.array([[[-9.0, 9.0, 9.0, -9.0]]])])
    >>> netlist_of(exclusive_or, CircuitSpec(((2, 1), (1, 1)), arity=2)).gates
    (Gate(node=2, layer=1, sources=(0, 1), table=(0, 1, 1, 0)),)
    """
    if (found := CircuitSpec.from_logits(circuit.logits, spec.n_in)) != spec:
        raise SpecError(
            f"a circuit is exported with its own layers; its tables have {found.layer_sizes}, spec says "
            f"{spec.layer_sizes}. Pass the spec that belongs to it."
        )
    check_wires(circuit.wires, spec)
    standing = np.ones(spec.n_nodes, bool) if alive is None else np.asarray(alive)
    spec.check_alive(standing)
    if not rounded:
        check_decided(circuit, spec, standing)
    numbers = np.arange(spec.n_nodes) if ids is None else np.asarray(ids)
    if numbers.shape != (spec.n_nodes,):
        raise ExportError(f"ids has one number for each of the {spec.n_nodes} nodes; its shape is {numbers.shape}.")
    gates = []
    for layer, ((_, size), where) in enumerate(zip(spec.layer_sizes[1:], spec.layer_slices[1:], strict=True), 1):
        wires = np.repeat(np.asarray(circuit.wires[layer - 1]), size, axis=1) + spec.offsets[layer - 1]
        tables = (np.asarray(circuit.logits[layer - 1]) > 0).astype(np.uint8).reshape(wires.shape[1], -1)
        for node, sources, table in zip(range(where.start, where.stop), wires.T, tables, strict=True):
            known_zero = ~standing[sources] & (sources < spec.n_in)
            used, bits = _reduced(sources, table if standing[node] else np.zeros_like(table), known_zero)
            gates.append(Gate(int(numbers[node]), layer, _whole(numbers[used]), _whole(bits)))
    return Netlist(name, _whole(numbers[: spec.n_in]), tuple(gates))


def _check_number(node: int, taken: Container[int]) -> None:
    if node < 0 or node in taken:
        raise ExportError(
            f"every node has a number of its own, from 0 on; {node} is {'taken' if node >= 0 else 'below'}. "
            "Number them anew."
        )


def _check_gate(gate: Gate, layer_of: Mapping[int, int]) -> None:
    _check_number(gate.node, layer_of)
    for source in gate.sources:
        if layer_of.get(source) != gate.layer - 1:
            found = f"of layer {layer_of[source]}" if source in layer_of else "no node before it"
            raise ExportError(
                f"a gate reads nodes of the layer before; gate {gate.node} of layer {gate.layer} reads {source}, "
                f"{found}. Copy a value through the layers between."
            )
    if len(gate.table) != 1 << len(gate.sources) or not set(gate.table) <= {0, 1}:
        raise ExportError(
            f"a gate with {len(gate.sources)} inputs has a table of {1 << len(gate.sources)} bits; that of gate "
            f"{gate.node} is {gate.table}. Give every entry once, as 0 or 1."
        )


def _reduced(
    sources: Int[np.ndarray, " arity"], table: UInt8[np.ndarray, " entries"], known_zero: Bool[np.ndarray, " arity"]
) -> tuple[Int[np.ndarray, " used"], UInt8[np.ndarray, " fewer"]]:
    """The sources that the output changes with, each once, and the table over them."""
    address = np.arange(table.size)
    for j, source in enumerate(sources):
        twin = int(np.flatnonzero(sources == source)[0])
        if known_zero[j]:
            table = table[address & ~(1 << j)]
        elif twin < j:  # two wires from one node always agree
            table = table[address & ~(1 << j) | (address >> twin & 1) << j]
    kept = [j for j in range(sources.size) if (table != table[address ^ 1 << j]).any()]
    small = np.arange(1 << len(kept))
    address = np.zeros_like(small)  # of each entry of the small table, in the large one
    for place, j in enumerate(kept):
        address |= (small >> place & 1) << j
    return sources[kept], table[address]


def _padded(gate: Gate, position: dict[int, int], arity: int) -> tuple[list[int], list[int]]:
    """Wires and table of a gate, brought to the arity by repeating its first wire."""
    wires = [position[source] for source in gate.sources]
    filler = wires[0] if wires else 0
    mask = len(gate.table) - 1
    return wires + [filler] * (arity - len(wires)), [gate.table[entry & mask] for entry in range(1 << arity)]


def _whole(values: Iterable[np.generic]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
