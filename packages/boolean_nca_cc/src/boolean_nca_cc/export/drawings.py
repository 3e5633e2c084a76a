"""A netlist as a picture: DOT for Graphviz, which places the gates itself, and SVG, which needs no program."""

from collections.abc import Iterator

from boolean_nca_cc import __version__
from boolean_nca_cc.draw import circuit_svg
from boolean_nca_cc.export.netlist import Netlist

__all__ = ["to_dot", "to_svg"]

_INK, _FAINT, _WIRE = "#1d2329", "#5f6870", "#0a4f94"


def to_dot(netlist: Netlist) -> str:
    """Writes a graph in the DOT language; render it with `dot -Tsvg`.

    A gate shows its number and its table, entry 0 first. A wire's label is the place of its bit in the address.
    E. R. Gansner, E. Koutsofios, S. North, K.-P. Vo: *A Technique for Drawing Directed Graphs*. 1993.

    Args:
        netlist: the netlist.

    Returns:
        The graph.

    >>> from boolean_nca_cc.export.netlist import Gate
    >>> dot = to_dot(Netlist("parity", (0, 1), (Gate(2, 1, (0, 1), (0, 1, 1, 0)),)))
    >>> [line.strip() for line in dot.splitlines() if "->" in line]
    ['x0 -> n2 [label="0"];', 'x1 -> n2 [label="1"];', 'n2 -> y0;']
    """
    return "\n".join(_lines(netlist)) + "\n"


def _lines(netlist: Netlist) -> Iterator[str]:
    names = netlist.names("x{}")
    n_in, n_out = len(netlist.inputs), len(netlist.outputs)
    yield f"// {netlist.name}: {netlist.summary}."
    yield f"// Written by boolean_nca_cc {__version__}."
    yield f"digraph {netlist.name} {{"
    yield '    graph [rankdir=LR, bgcolor="#fdfdfb", ranksep=1.6, nodesep=0.15];'
    yield f'    node [shape=box, fontname="DejaVu Sans Mono, monospace", fontsize=10, color="{_INK}"];'
    yield f'    edge [color="{_WIRE}", fontname="DejaVu Sans, sans-serif", fontsize=8, fontcolor="{_FAINT}"];'
    yield f"    {{ rank=source; {' '.join(f'x{bit} [shape=circle];' for bit in range(n_in))} }}"
    yield f"    {{ rank=sink; {' '.join(f'y{bit} [shape=circle];' for bit in range(n_out))} }}"
    for gates in netlist.layers:
        shown = [f'n{gate.node} [label="{gate.node}\\n{_table(gate.table)}"];' for gate in gates]
        yield "    { rank=same;"
        yield from (f"        {node}" for node in shown)
        yield "    }"
    for gate in netlist.gates:
        for place, source in enumerate(gate.sources):
            yield f'    {names[source]} -> {names[gate.node]} [label="{place}"];'
    for bit, node in enumerate(netlist.outputs):
        yield f"    {names[node]} -> y{bit};"
    yield "}"


def _table(bits: tuple[int, ...]) -> str:
    """Sixteen entries a line."""
    text = "".join(str(bit) for bit in bits)
    return "\\n".join(text[start : start + 16] for start in range(0, len(text), 16))


def to_svg(netlist: Netlist, title: str | None = None) -> str:
    """Draws the netlist as `boolean_nca_cc.draw.circuit_svg` draws circuits, every gate a group of its own.

    Nodes are numbered anew, as in `Netlist.to_circuit`. A gate with fewer inputs than the widest repeats its first one.

    Args:
        netlist: the netlist.
        title: heading; None = the netlist's name.

    Returns:
        The SVG document.

    >>> from boolean_nca_cc.export.netlist import Gate
    >>> to_svg(Netlist("parity", (0, 1), (Gate(2, 1, (0, 1), (0, 1, 1, 0)),))).count("<circle")
    3
    """
    circuit, spec = netlist.to_circuit()
    return circuit_svg(circuit, spec, title=netlist.name if title is None else title)
