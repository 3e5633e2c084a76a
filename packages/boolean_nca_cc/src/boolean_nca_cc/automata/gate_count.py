"""How many gates of two inputs a circuit of look-up tables stands for.

The measure of a table is the length of its shortest *formula*: the least number of two-input gates, of any of the
sixteen kinds, in a tree whose leaves are inputs, each as often as needed (D. E. Knuth, The Art of Computer Programming,
volume 4A, 2011, section 7.1.2). Inverters count nothing, since a gate of another kind takes them in, and so do tables
that only pass on one input. A tree uses each gate's output once; a circuit may share them, within a table and between
tables, so that the sum over a circuit's tables is an upper bound on the gates needed.
"""

from functools import cache

import numpy as np
from jaxtyping import Array, Bool, Int, Shaped, UInt8

from boolean_nca_cc.automata.simplification import node_values
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import SpecError

__all__ = ["formula_lengths", "table_gates", "two_input_gates"]

_ARITY = 4
_TABLES = 1 << (1 << _ARITY)
_INPUTS = (0xAAAA, 0xCCCC, 0xF0F0, 0xFF00)  # the tables that copy input 0, 1, 2, 3


@cache
def formula_lengths() -> UInt8[np.ndarray, " tables"]:
    """The length of the shortest formula of each of the 65 536 functions of four inputs; about a second, once.

    A function of length r is a gate over one of length j and one of length r - 1 - j. Complements have the same length,
    so that only the functions with entry 0 equal to 0, combined by the five gates that keep it 0, are built.

    Returns:
        By table; bit m of a table's number is its entry m.

    >>> [int(formula_lengths()[table]) for table in (0xAAAA, 0x8888, 0x6666, 0x6996)]
    [0, 1, 1, 3]
    """
    lengths = np.full(_TABLES, 255, np.uint8)
    by_length = [np.array([0, *(table for table in _INPUTS)], np.uint16)]
    lengths[by_length[0]] = 0
    missing = _TABLES // 2 - len(by_length[0])
    while missing:
        reached = np.zeros(_TABLES, bool)
        r = len(by_length)
        for j in range((r + 1) // 2):
            low, high = by_length[j], by_length[r - 1 - j]
            for first in range(0, low.size, 64):
                g, h = low[first : first + 64, None], high[None, :]
                for table in (g & h, g & ~h, ~g & h, g | h, g ^ h):
                    reached[table.ravel()] = True
        new = np.flatnonzero(reached & (lengths == 255)).astype(np.uint16)
        lengths[new] = r
        by_length.append(new)
        missing -= new.size
    return np.minimum(lengths, lengths[::-1])  # the reversed array holds the complements


def table_gates(table: Shaped[np.ndarray, " entries"], reachable: Bool[np.ndarray, " entries"] | None = None) -> int:
    """The two-input gates of one table: the shortest formula that agrees with it where it matters.

    Args:
        table: entries, above 0 or True for a 1; at most four inputs.
        reachable: entries that some case reads; the others may be anything. None = all.

    Returns:
        The length.

    Raises:
        SpecError: more than four inputs.

    >>> table_gates(np.array([0, 1, 1, 0]))
    1
    >>> table_gates(np.array([0, 1, 1, 0]), reachable=np.array([True, True, False, True]))
    1
    >>> table_gates(np.array([0, 1, 1, 0]), reachable=np.array([True, True, False, False]))
    0
    """
    if table.size > 1 << _ARITY:
        raise SpecError(
            f"gates are counted for tables of at most {_ARITY} inputs; this one has {table.size} entries. "
            "Build the circuit with a smaller arity."
        )
    ones = np.resize(np.asarray(table) > 0, 1 << _ARITY)  # repeated: a function that ignores the inputs it lacks
    fixed = np.ones(1 << _ARITY, bool) if reachable is None else np.resize(reachable, 1 << _ARITY)
    weights = 1 << np.arange(1 << _ARITY)
    numbers = np.arange(_TABLES)
    agreeing = (numbers & weights[fixed].sum()) == weights[ones & fixed].sum()
    return int(formula_lengths()[agreeing].min())


def two_input_gates(
    circuit: Circuit, spec: CircuitSpec, x: Shaped[Array | np.ndarray, "cases n_in"] | None = None
) -> Int[np.ndarray, " gates"]:
    """The two-input gates of every table of a hard circuit; their sum is an upper bound for the circuit.

    Args:
        circuit: the circuit; prune it first, or dead weight is counted.
        spec: its layers, of arity four at most.
        x: the cases that will ever come, zeros and ones; entries that none of them reads are free. None = any.

    Returns:
        One count a gate.

    Raises:
        SpecError: an arity above four.

    >>> from boolean_nca_cc.circuits.wiring import chain_topology
    >>> chain = chain_topology(2)
    >>> two_input_gates(Circuit(chain.wires, [np.array([[[-3.0, 3.0, 3.0, -3.0]]])]), chain.spec).tolist()
    [1]
    """
    values = None if x is None else node_values(circuit, spec, np.asarray(x) > 0.5)
    counts = []
    for layer, (_, size) in enumerate(spec.layer_sizes[1:]):
        wires = np.asarray(circuit.wires[layer])
        tables = np.asarray(circuit.logits[layer]).reshape(-1, 1 << spec.arity)
        for gate, table in enumerate(tables):
            reachable = None
            if values is not None:
                address = (values[layer][wires[:, gate // size]] << np.arange(spec.arity)[:, None]).sum(axis=0)
                reachable = np.bincount(address, minlength=table.size) > 0
            counts.append(table_gates(table, reachable))
    return np.array(counts)
