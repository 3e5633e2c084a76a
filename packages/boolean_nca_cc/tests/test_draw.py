"""The SVG of a circuit: complete, inside its frame, and readable without colour."""

import re
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.draw import circuit_svg
from boolean_nca_cc.errors import MaskError
from boolean_nca_cc.knockout import functional_liveness, live_wires, shotgun

SVG = "{http://www.w3.org/2000/svg}"
SPECS = [
    CircuitSpec.default(3, 2, arity=3, hidden=2),
    CircuitSpec.default(8, 8),
    CircuitSpec(((1, 1), (1, 1)), arity=1),
    CircuitSpec(((6, 1), (2, 1)), arity=6),
]


def drawn(spec: CircuitSpec, dead: int = 0, title: str = "t") -> tuple[Circuit, np.ndarray, ElementTree.Element]:
    circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, spec.arity)
    alive = np.asarray(shotgun(jax.random.key(1), spec, dead))
    return circuit, alive, ElementTree.fromstring(circuit_svg(circuit, spec, alive=alive, title=title))


def gate_groups(root: ElementTree.Element) -> list[ElementTree.Element]:
    """Nodes carry a tooltip; legend samples do not."""
    return [group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]


def tooltip(group: ElementTree.Element) -> str:
    title = group.find(f"{SVG}title")
    assert title is not None
    assert title.text is not None
    return title.text


@pytest.mark.parametrize("spec", SPECS)
def test_every_node_is_drawn_and_named_once(spec: CircuitSpec) -> None:
    _, _, root = drawn(spec)
    names = [tooltip(group).split(",")[0].split(":")[0] for group in gate_groups(root)]
    inputs = [f"input bit {bit}" for bit in range(spec.n_in)]
    assert names == [*inputs, *(f"node {node}" for node in range(spec.n_in, spec.n_nodes))]


def test_dead_gates_are_marked_by_shape_and_show_no_table() -> None:
    spec = SPECS[1]
    _, alive, root = drawn(spec, dead=20)
    dashed = {
        index
        for index, group in enumerate(gate_groups(root))
        if any(rect.get("stroke-dasharray") for rect in group.iter(f"{SVG}rect"))
    }
    assert dashed == set(np.flatnonzero(~alive).tolist())
    for index, group in enumerate(gate_groups(root)):
        crosses = [path for path in group.iter(f"{SVG}path") if path.get("stroke-width") == "2"]
        assert len(crosses) == (index in dashed)
        assert tooltip(group).endswith(", dead") == (index in dashed)


def test_gates_that_change_no_output_are_pale() -> None:
    spec = SPECS[1]
    circuit, alive, root = drawn(spec, dead=20)
    live = functional_liveness(circuit, spec, alive)
    assert 0 < live.sum() < alive.sum()
    for index, group in enumerate(gate_groups(root)):
        assert group.get("opacity") == ("1" if live[index] or not alive[index] else "0.4")


def test_wires_are_all_there_and_the_live_ones_thicker() -> None:
    spec = SPECS[1]
    circuit, alive, root = drawn(spec, dead=20)
    curves = {"1.1": 0, "0.7": 0}
    for path in root.iter(f"{SVG}path"):
        shape = path.get("d", "")
        if "C" in shape:
            curves[path.get("stroke-width", "")] += shape.count("C")
    live = sum(int(layer.sum()) for layer in live_wires(circuit, spec, alive))
    assert curves == {"1.1": live, "0.7": sum(layer.size for layer in circuit.wires) - live}
    assert live > 0


@pytest.mark.parametrize("table", [[0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])
def test_a_truth_table_is_drawn_entry_by_entry(table: list[int]) -> None:
    spec = CircuitSpec(((2, 1), (1, 1)), arity=2)
    circuit = Circuit([jnp.array([[0], [1]])], [jnp.array([[[60.0 * bit - 30 for bit in table]]])])
    gate = gate_groups(ElementTree.fromstring(circuit_svg(circuit, spec)))[-1]
    frame = gate.find(f"{SVG}rect")
    assert frame is not None
    x, y = float(frame.get("x", "")), float(frame.get("y", ""))
    black = [
        (float(a), float(b))
        for path in gate.iter(f"{SVG}path")
        for a, b in re.findall(r"M([\d.]+) ([\d.]+)", path.get("d", ""))
    ]
    expected = [(x + 8 * (entry % 2), y + 8 * (entry // 2)) for entry in range(4) if table[entry]]
    np.testing.assert_allclose(np.reshape(black, (-1, 2)), expected)
    assert "".join(map(str, table)) in tooltip(gate)


def test_undecided_entries_are_grey_and_nan_is_drawn_too() -> None:
    spec = CircuitSpec(((1, 1), (1, 1)), arity=1)
    circuit = Circuit([jnp.array([[0]])], [jnp.array([[[0.0, jnp.nan]]])])
    gate = gate_groups(ElementTree.fromstring(circuit_svg(circuit, spec)))[-1]
    (cells,) = list(gate.iter(f"{SVG}path"))
    assert cells.get("d", "").count("M") == 2
    assert cells.get("fill") not in ("#ffffff", "#1d2329")


@pytest.mark.parametrize("spec", SPECS)
def test_nothing_leaves_the_picture(spec: CircuitSpec) -> None:
    _, _, root = drawn(spec, dead=3)
    width, height = (float(value) for value in root.get("viewBox", "").split()[2:])
    for element in root.iter():
        for name, limit in (("x", width), ("y", height), ("cx", width), ("cy", height)):
            if element.get(name) is not None:
                assert 0 <= float(element.get(name, "")) <= limit
        for x, y in re.findall(r"(?:M|C| )([\d.]+) ([\d.]+)", element.get("d", "")):
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height


def test_titles_are_escaped_and_the_facts_are_told() -> None:
    _, _, root = drawn(SPECS[1], dead=20, title='<copy> & "quotes"')
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts[0] == '<copy> & "quotes"'
    assert "8 inputs → 8 outputs · 168 gates of 4 inputs · 20 dead" in (texts[1] or "")
    assert {"live wire", "dead gate", "input"} <= set(texts)


def test_the_same_circuit_gives_the_same_picture() -> None:
    first, second = (ElementTree.tostring(drawn(SPECS[0], dead=2)[2]) for _ in range(2))
    assert first == second


def test_a_mask_of_another_circuit_is_refused() -> None:
    circuit = gen_circuit(jax.random.key(0), SPECS[0].layer_sizes, SPECS[0].arity)
    with pytest.raises(MaskError, match="one flat vector over all"):
        circuit_svg(circuit, SPECS[0], alive=np.ones(3, bool))
