"""A circuit as an SVG picture: wires, truth tables, dead gates, live paths.

Written with the standard library alone. The picture brings its own light ground, so it reads on white and on dark
pages, and nothing in it depends on colour: dead gates are crossed and dashed, live wires are darker and thicker.
"""

from typing import NamedTuple
from xml.etree import ElementTree

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.knockout.liveness import functional_liveness, live_wires

__all__ = ["circuit_svg"]

_TILE = 16.0  # edge of a truth table
_PITCH = 20.0  # from one gate of a group to the next
_GROUP_GAP = 8.0
_SPREAD = 60.0  # the most that groups of a narrow layer move apart
_COLUMN, _SLOPE = 230.0, 6.0  # from one layer to the next: at least so far, and a sixth of the height
_PORT = 7.0  # from the end of the wires to the tables
_MARGIN = 44.0
_HEADER = 96.0
_LEGEND_ROW, _LEGEND_COLUMN = 26.0, 290.0

_GROUND, _FRAME, _INK, _FAINT = "#fdfdfb", "#d4d4ce", "#1d2329", "#5f6870"
_LIVE, _IDLE, _DEAD = "#0a4f94", "#c6cbcf", "#b93a00"
_SHADES = ("#ffffff", "#c9cdd1", "#8b9298", "#50575d", "#1d2329")  # the truth table's 0, one quarter … 1
_FONT = "system-ui, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"

_Attributes = dict[str, str | int | float]


class _Drawing(NamedTuple):
    """The circuit and where its nodes stand: the left edge of each layer, the middle of each node."""

    circuit: Circuit
    spec: CircuitSpec
    alive: Bool[np.ndarray, " nodes"]
    live: Bool[np.ndarray, " nodes"]
    x: Float[np.ndarray, " layers"]
    y: Float[np.ndarray, " nodes"]


def circuit_svg(
    circuit: Circuit,
    spec: CircuitSpec,
    *,
    alive: Bool[Array | np.ndarray, " nodes"] | None = None,
    title: str = "Boolean circuit",
) -> str:
    """Draws a circuit, layers from left to right, the gates of a group under each other.

    Each gate is its truth table, entry 0 top left and then row by row, white for 0 and black for 1, grey where the soft
    table is undecided. Wires end at their group, the lowest address bit on top. Live are the wires and gates that an
    output depends on (`boolean_nca_cc.knockout.functional_liveness`). Pointing at a node names it.

    Args:
        circuit: the circuit.
        spec: its layers.
        alive: the knockout to draw; None = all alive.
        title: heading.

    Returns:
        The SVG document.

    Raises:
        MaskError: a mask that does not fit the circuit.

    >>> from boolean_nca_cc.circuits.model import gen_circuit
    >>> spec = CircuitSpec.default(4, 2, arity=2)
    >>> circuit_svg(gen_circuit(jax.random.key(0), spec.layer_sizes, spec.arity), spec)[:38]
    '<svg xmlns="http://www.w3.org/2000/svg'
    """
    standing = np.ones(spec.n_nodes, bool) if alive is None else np.asarray(alive)
    live = functional_liveness(circuit, spec, standing)
    x, y = _place(spec)
    drawing = _Drawing(circuit, spec, standing, live, x, y)
    dead, working = int((~standing).sum()), int(live[spec.n_in :].sum())
    facts = (
        f"{spec.n_in} inputs → {spec.n_out} outputs · {spec.n_gates} gates of {spec.arity} inputs · "
        f"{dead} dead · {working} live"
    )
    width = float(x[-1]) + _TILE + 2 * _MARGIN
    columns = max(1, int((width - 2 * _MARGIN) // _LEGEND_COLUMN))
    legend_top = float(y.max()) + _PITCH + 20
    height = legend_top + -(-len(_LEGEND) // columns) * _LEGEND_ROW + 22
    root = ElementTree.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
    root.attrib |= {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}"}
    root.attrib |= {"font-family": _FONT, "fill": _INK}
    _add(root, "title").text = title
    _add(root, "desc").text = facts
    _add(root, "rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=6, fill=_GROUND, stroke=_FRAME)
    _text(root, _MARGIN, 36.0, title, size=18, weight=600)
    _text(root, _MARGIN, 56.0, facts, size=12, fill=_FAINT)
    _draw_wires(root, drawing)
    _draw_pins(root, drawing)
    _draw_gates(root, drawing)
    _draw_legend(root, drawing, legend_top, columns)
    ElementTree.indent(root, space="")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _place(spec: CircuitSpec) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, " nodes"]]:
    """Layers in columns of one height: the groups of narrow layers move apart, as far as `_SPREAD`, and are centred."""
    natural = [n * _PITCH + n // s * _GROUP_GAP for n, s in spec.layer_sizes]
    rows = []
    for (n, s), own in zip(spec.layer_sizes, natural, strict=True):
        gap = _GROUP_GAP + min(_SPREAD, (max(natural) - own) / (n // s))
        y = np.arange(n) * _PITCH + np.arange(n) // s * gap
        rows.append(_HEADER + max(natural) / 2 + y - y[-1] / 2)
    return _MARGIN + 10 + max(_COLUMN, max(natural) / _SLOPE) * np.arange(len(natural)), np.concatenate(rows)


def _draw_wires(root: ElementTree.Element, d: _Drawing) -> None:
    """One path for the idle wires of a layer and one for its live ones, which come on top."""
    carrying = live_wires(d.circuit, d.spec, d.alive)
    for layer, wires in enumerate(d.circuit.wires, start=1):
        curves: dict[bool, list[str]] = {False: [], True: []}
        size = d.spec.layer_sizes[layer][1]
        first = d.spec.offsets[layer]
        start, end = float(d.x[layer - 1]) + _TILE + 1, float(d.x[layer]) - _PORT
        middle = (start + end) / 2
        for (port, group), source in np.ndenumerate(np.asarray(wires)):
            y0 = d.y[d.spec.offsets[layer - 1] + source]
            y1 = _port_y(d, first + group * size, size, port)
            curve = f"M{start:g} {y0:.1f}C{middle:g} {y0:.1f} {middle:g} {y1:.1f} {end:g} {y1:.1f}"
            curves[bool(carrying[layer - 1][port, group])].append(curve)
        for live, paths in curves.items():
            stroke: _Attributes = {"stroke": _LIVE, "stroke-width": 1.1, "opacity": 0.75} if live else _IDLE_WIRE
            _add(root, "path", d="".join(paths), fill="none", **stroke)


def _port_y(d: _Drawing, first: int, size: int, port: int) -> float:
    """Wires reach a group spread over its height, input 0 on top."""
    top, height = d.y[first] - _TILE / 2, (size - 1) * _PITCH + _TILE
    return float(top + height * (port + 0.5) / d.spec.arity)


def _draw_pins(root: ElementTree.Element, d: _Drawing) -> None:
    """Names of layers, input nodes, and the stubs of the outputs."""
    last = d.spec.n_layers
    for layer, (n, _) in enumerate(d.spec.layer_sizes):
        name = "inputs" if layer == 0 else "outputs" if layer == last else f"layer {layer}"
        middle = float(d.x[layer]) + _TILE / 2
        _text(root, middle, _HEADER - 16, f"{name} ({n})", size=11, fill=_FAINT, anchor="middle")
    for node in range(d.spec.n_in):
        group = _add(root, "g", **_paint(d, node))
        _add(group, "title").text = f"input bit {node}{_state(d, node)}"
        _input(group, float(d.x[0]) + _TILE / 2, float(d.y[node]), dead=not d.alive[node])
        _text(root, float(d.x[0]) - 6, d.y[node] + 4, f"x{node}", size=11, anchor="end")
    for bit, y in enumerate(d.y[d.spec.offsets[-1] :]):
        _text(root, float(d.x[-1]) + _TILE + 8, y + 4, f"y{bit}", size=11)


def _draw_gates(root: ElementTree.Element, d: _Drawing) -> None:
    for layer, (n, s) in list(enumerate(d.spec.layer_sizes))[1:]:
        x, first = float(d.x[layer]), d.spec.offsets[layer]
        tables = np.asarray(jax.nn.sigmoid(d.circuit.logits[layer - 1])).reshape(n, -1)
        sources = np.asarray(d.circuit.wires[layer - 1])
        for head in range(first, first + n, s):
            top, bottom = d.y[head] - _TILE / 2, d.y[head + s - 1] + _TILE / 2
            _add(root, "path", d=f"M{x - _PORT:g} {top:.1f}V{bottom:.1f}", stroke=_FAINT, **{"stroke-width": 1.5})
        for index in range(n):
            node = first + index
            group = _add(root, "g", **_paint(d, node))
            wired = ", ".join(str(source) for source in sources[:, index // s])
            bits = "".join("1" if p > 0.5 else "0" for p in tables[index])
            _add(group, "title").text = (
                f"node {node}: layer {layer}, gate {index} (group {index // s}), reads nodes {wired} of the layer "
                f"before, table {bits} (entry 0 first){_state(d, node)}"
            )
            _tile(group, x, float(d.y[node]), tables[index], dead=not d.alive[node])


def _state(d: _Drawing, node: int) -> str:
    return ", dead" if not d.alive[node] else "" if d.live[node] else ", no output depends on it"


def _paint(d: _Drawing, node: int) -> _Attributes:
    return {"opacity": 1.0 if d.live[node] or not d.alive[node] else 0.4}


def _input(parent: ElementTree.Element, x: float, y: float, dead: bool) -> None:
    _add(parent, "circle", cx=x, cy=y, r=5, fill=_GROUND if dead else _LIVE, stroke=_DEAD if dead else _LIVE)
    if dead:
        _cross(parent, x, y, 5)


def _tile(parent: ElementTree.Element, x: float, y: float, table: Float[np.ndarray, " entries"], dead: bool) -> None:
    """A truth table, 2^ceil(k/2) columns wide; a dead gate's is not shown, since nothing reads it."""
    bits = table.size.bit_length() - 1
    columns, rows = 1 << -(-bits // 2), 1 << bits // 2
    cell = _TILE / columns
    top, height = y - rows * cell / 2, rows * cell
    frame: _Attributes = {"x": x, "y": top, "width": _TILE, "height": height}
    if dead:
        dashes: _Attributes = {"stroke-dasharray": "3 2", "stroke-width": 1.2}
        _add(parent, "rect", **frame, fill=_GROUND, stroke=_DEAD, **dashes)
        _cross(parent, x + _TILE / 2, y, _TILE / 2 - 2)
        return
    _add(parent, "rect", **frame, fill=_SHADES[0])
    shade = np.rint(np.nan_to_num(table, nan=0.5) * (len(_SHADES) - 1)).astype(int)
    for level in range(1, len(_SHADES)):
        cells = [
            f"M{x + entry % columns * cell:g} {top + entry // columns * cell:.2f}h{cell:g}v{cell:g}h{-cell:g}z"
            for entry in np.flatnonzero(shade == level)
        ]
        if cells:
            _add(parent, "path", d="".join(cells), fill=_SHADES[level])
    _add(parent, "rect", **frame, fill="none", stroke=_INK, **{"stroke-width": 0.8})


def _cross(parent: ElementTree.Element, x: float, y: float, r: float) -> None:
    arms = f"M{x - r:g} {y - r:g}L{x + r:g} {y + r:g}M{x - r:g} {y + r:g}L{x + r:g} {y - r:g}"
    _add(parent, "path", d=arms, stroke=_DEAD, fill="none", **{"stroke-width": 2})


_IDLE_WIRE: _Attributes = {"stroke": _IDLE, "stroke-width": 0.7}
_LEGEND = (
    ("live wire", "live"),
    ("wire that changes no output", "idle"),
    ("truth table: 0 white, 1 black, grey undecided", "gate"),
    ("gate that changes no output", "unused"),
    ("dead gate", "dead"),
    ("input", "input"),
)


def _draw_legend(root: ElementTree.Element, d: _Drawing, top: float, columns: int) -> None:
    _add(root, "path", d=f"M{_MARGIN} {top - 6:g}H{d.x[-1] + _TILE + _MARGIN:g}", stroke=_FRAME)
    sample = (np.arange(1 << d.spec.arity) % 3 == 0).astype(float)
    for index, (label, kind) in enumerate(_LEGEND):
        x = _MARGIN + index % columns * _LEGEND_COLUMN
        y = top + 14 + index // columns * _LEGEND_ROW
        match kind:
            case "live":
                _add(root, "path", d=f"M{x} {y}h{_TILE:g}", stroke=_LIVE, **{"stroke-width": 2})
            case "idle":
                _add(root, "path", d=f"M{x} {y}h{_TILE:g}", **_IDLE_WIRE)
            case "input":
                _input(root, x + _TILE / 2, y, dead=False)
            case _:
                group = _add(root, "g", opacity=0.4 if kind == "unused" else 1)
                _tile(group, x, y, sample, dead=kind == "dead")
        _text(root, x + _TILE + 8, y + 4, label, size=11)


def _add(parent: ElementTree.Element, tag: str, **attributes: str | int | float) -> ElementTree.Element:
    values = {name: value if isinstance(value, str) else f"{value:g}" for name, value in attributes.items()}
    return ElementTree.SubElement(parent, tag, values)


def _text(
    parent: ElementTree.Element,
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    fill: str = _INK,
    weight: int = 400,
    anchor: str = "start",
) -> None:
    attributes: _Attributes = {"font-size": size, "font-weight": weight, "text-anchor": anchor}
    _add(parent, "text", x=x, y=round(float(y), 1), fill=fill, **attributes).text = text
