"""A netlist as BLIF, which logic synthesis reads: Yosys, ABC, SIS, VTR.

*Berkeley Logic Interchange Format (BLIF)*, University of California, Berkeley, 1992. A gate is a `.names` block: the
names that it reads, its own, and one line for each entry of the table that is 1, lowest address bit first. A block
without lines is the constant 0.
"""

from collections.abc import Iterator

from boolean_nca_cc import __version__
from boolean_nca_cc.export.netlist import Netlist

__all__ = ["to_blif"]


def to_blif(netlist: Netlist) -> str:
    """Writes a BLIF model with inputs `x0`, `x1` …, outputs `y0`, `y1` … and a node `n…` for each gate.

    Args:
        netlist: the netlist.

    Returns:
        The model.

    >>> from boolean_nca_cc.export.netlist import Gate
    >>> print(to_blif(Netlist("parity", (0, 1), (Gate(2, 1, (0, 1), (0, 1, 1, 0)),))))  # doctest: +ELLIPSIS
    # 2 inputs, 1 output, 1 gate in 1 layer. Written by boolean_nca_cc ...
    .model parity
    .inputs x0 x1
    .outputs y0
    .names x0 x1 n2
    10 1
    01 1
    .names n2 y0
    1 1
    .end
    <BLANKLINE>
    """
    return "\n".join(_lines(netlist)) + "\n"


def _lines(netlist: Netlist) -> Iterator[str]:
    n_in, n_out = len(netlist.inputs), len(netlist.outputs)
    yield f"# {netlist.summary}. Written by boolean_nca_cc {__version__}."
    yield f".model {netlist.name}"
    yield " ".join([".inputs", *(f"x{bit}" for bit in range(n_in))])
    yield " ".join([".outputs", *(f"y{bit}" for bit in range(n_out))])
    names = netlist.names("x{}")
    for gate in netlist.gates:
        yield " ".join([".names", *(names[source] for source in gate.sources), names[gate.node]])
        width = len(gate.sources)
        for entry, bit in enumerate(gate.table):
            if bit:
                yield f"{entry:0{width}b}"[::-1] + " 1" if width else "1"
    for bit, node in enumerate(netlist.outputs):
        yield f".names {names[node]} y{bit}"
        yield "1 1"
    yield ".end"
