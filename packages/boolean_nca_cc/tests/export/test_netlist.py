"""Netlists: what is refused, what they keep of a circuit, and when a soft circuit may become one."""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import ExportError, MaskError, SpecError, WiringError
from boolean_nca_cc.export import Gate, Netlist, check_decided, netlist_of, truth_table
from boolean_nca_cc.export.expressions import expression
from boolean_nca_cc.knockout import prune

READ = run_path(str(Path(__file__).with_name("readers.py")))
AND = Gate(2, 1, (0, 1), (0, 0, 0, 1))


@pytest.mark.parametrize("inputs", range(4))
def test_every_table_of_up_to_three_inputs_is_written_right(inputs: int) -> None:
    signals = dict(zip("abc", READ["input_signals"](inputs), strict=False))
    everywhere = (1 << (1 << inputs)) - 1
    for table in product((0, 1), repeat=1 << inputs):
        text = expression(table, "abc"[:inputs], "0", "1")
        value = READ["Expression"](text, signals | {"0": 0, "1": everywhere}, everywhere).value()
        assert [value >> entry & 1 for entry in range(1 << inputs)] == list(table), text


def test_expressions_are_short() -> None:
    """Two-sided operators of random four-input tables: a sum of products would take thirty."""
    rng = np.random.default_rng(0)
    texts = [expression(rng.integers(0, 2, 16).tolist(), "abcd", "0", "1") for _ in range(200)]
    assert np.mean([len(re.findall(r"[&|^]", text)) for text in texts]) < 9
    parity = [entry.bit_count() & 1 for entry in range(16)]
    assert expression(parity, "abcd", "0", "1") == "a ^ (b ^ (c ^ d))"


def test_a_netlist_keeps_numbers_layers_and_only_what_tables_listen_to(sample: Callable[..., Any]) -> None:
    circuit, spec, alive, _ = sample(4, 2, dead=0.3)
    netlist = netlist_of(circuit, spec, alive, rounded=True)
    assert netlist.inputs == tuple(range(7))
    assert [gate.node for gate in netlist.gates] == list(range(7, spec.n_nodes))
    assert [len(layer) for layer in netlist.layers] == [8, 6, 2]
    assert netlist.outputs == (21, 22)
    for gate in netlist.gates:
        if not alive[gate.node]:
            assert (gate.sources, gate.table) == ((), (0,))
        # A dead input's pin is there, and nobody reads it.
        assert not {source for source in gate.sources if source < 7 and not alive[source]}
        assert len(set(gate.sources)) == len(gate.sources)
        table = np.array(gate.table)
        address = np.arange(table.size)
        for place in range(len(gate.sources)):
            assert (table != table[address ^ 1 << place]).any()
    assert not alive[:7].all(), "the case must have a dead input"
    assert not alive[7:].all(), "the case must have a dead gate"


def test_a_pruned_circuit_keeps_the_old_numbers(sample: Callable[..., Any]) -> None:
    circuit, spec, alive, _ = sample(5, 2)
    small = prune(circuit, spec, alive)
    netlist = netlist_of(small.circuit, small.spec, ids=small.kept, rounded=True)
    assert netlist.inputs + tuple(gate.node for gate in netlist.gates) == tuple(small.kept.tolist())
    assert len(netlist.unread) <= len(netlist_of(circuit, spec, alive, rounded=True).unread)
    with pytest.raises(ExportError, match="ids has one number for each"):
        netlist_of(small.circuit, small.spec, ids=small.kept[1:], rounded=True)


def test_summary_counts_in_words() -> None:
    assert Netlist("c", (0, 1), (AND,)).summary == "2 inputs, 1 output, 1 gate in 1 layer"
    assert Netlist("c", (0, 1), (AND, Gate(3, 1, (), (1,)))).summary == "2 inputs, 2 outputs, 2 gates in 1 layer"


@pytest.mark.parametrize(
    ("name", "inputs", "gates", "message"),
    [
        ("", (0, 1), (AND,), "it is ''"),
        ("2nd", (0, 1), (AND,), "it is '2nd'"),
        ("naïve", (0, 1), (AND,), "it is 'naïve'"),
        ("c", (), (AND,), "this one has 0 and 1"),
        ("c", (0, 1), (), "this one has 2 and 0"),
        ("c", (0, 0), (AND,), "0 is taken"),
        ("c", (0, -1), (AND,), "-1 is below"),
        ("c", (0, 1), (AND, AND), "2 is taken"),
        ("c", (0, 1), (Gate(2, 1, (0, 3), (0, 0, 0, 1)),), "reads 3, no node before it"),
        ("c", (0, 1), (AND, Gate(3, 2, (0,), (0, 1))), "gate 3 of layer 2 reads 0, of layer 0"),
        ("c", (0, 1), (Gate(2, 0, (), (1,)),), "comes after layer 0"),
        ("c", (0, 1), (Gate(2, 2, (), (1,)),), "gate 2 of layer 2 comes after layer 0"),
        ("c", (0, 1), (Gate(2, 1, (0, 1), (0, 1)),), "a table of 4 bits"),
        ("c", (0, 1), (Gate(2, 1, (0,), (0, 2)),), r"that of gate 2 is \(0, 2\)"),
    ],
)
def test_netlists_that_are_none_are_refused(
    name: str, inputs: tuple[int, ...], gates: tuple[Gate, ...], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        Netlist(name, inputs, gates)


def buffer(low: float, high: float) -> tuple[Circuit, CircuitSpec]:
    """One gate of one input."""
    return Circuit([jnp.array([[0]])], [jnp.array([[[low, high]]])]), CircuitSpec(((1, 1), (1, 1)), arity=1)


@pytest.mark.parametrize("low", [-9.0, -0.5])
def test_a_decided_circuit_is_exported(low: float) -> None:
    """sigmoid(-0.5) is 0.378: below 0.4, so a 0."""
    assert netlist_of(*buffer(low, 9.0)).gates[0].table == (0, 1)


@pytest.mark.parametrize(
    ("low", "soft", "hard", "undecided"),
    [(-0.3, "0.426", 0, 1), (0.0, "0.500", 0, 1), (0.3, "0.574", 1, 1), (float("nan"), "nan", 0, 2)],
)
def test_an_undecided_output_is_refused_with_case_and_way_out(low: float, soft: str, hard: int, undecided: int) -> None:
    circuit, spec = buffer(low, 9.0)
    message = (
        f"{undecided} of 2 output bits are undecided, the worst in case 0, output 0: soft {soft}, hard {hard}. "
        "Train longer; or prune the circuit first (boolean_nca_cc.knockout.prune, or --prune), which takes the hard "
        "circuit as it is; or pass rounded=True (--rounded)"
    )
    with pytest.raises(ExportError, match=re.escape(message)):
        netlist_of(circuit, spec)
    # Both ways out lead to the hard circuit.
    table = truth_table(circuit, spec).ravel().astype(int).tolist()
    assert table == [hard, 1]
    small = prune(circuit, spec)
    for netlist in (netlist_of(circuit, spec, rounded=True), netlist_of(small.circuit, small.spec)):
        (gate,) = netlist.gates
        assert list(gate.table) in (table, [1])


def test_undecided_tables_inside_do_not_matter_where_outputs_are_decided() -> None:
    """An entry that no case reads may be anything, and dead gates may hold NaN."""
    circuit = Circuit(
        [jnp.array([[0, 0], [0, 0]]), jnp.array([[0], [0]])],
        [jnp.array([[[-9.0, 0.0, 0.0, 9.0]], [[jnp.nan] * 4]]), jnp.array([[[-9.0, 0.0, 0.0, 9.0]]])],
    )
    spec = CircuitSpec(((1, 1), (2, 1), (1, 1)), arity=2)
    alive = np.array([True, True, False, True])
    assert netlist_of(circuit, spec, alive).gates[0].table == (0, 1)


def test_the_soft_circuit_may_contradict_the_hard_one() -> None:
    """One gate in doubt, and a second that reads it: 0.55 × 0.475 + 0.45 × 1 is above one half, its hard bit is 0."""
    ones = jnp.full((1, 1, 2), -0.2)
    circuit = Circuit([jnp.array([[0]]), jnp.array([[0]])], [ones, jnp.array([[[0.1, 9.0]]])])
    spec = CircuitSpec(((1, 1), (1, 1), (1, 1)), arity=1)
    check_decided(circuit, spec)
    flipped = Circuit(circuit.wires, [ones, jnp.array([[[-0.1, 9.0]]])])
    with pytest.raises(ExportError, match=r"2 of 2 output bits .* soft 0\.711, hard 0"):
        check_decided(flipped, spec)
    with pytest.raises(ExportError, match="margin is a distance"):
        check_decided(circuit, spec, margin=0.5)


def test_more_inputs_than_can_be_tried_need_the_users_word() -> None:
    spec = CircuitSpec(((21, 1), (1, 1)), arity=1)
    circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, spec.arity)
    with pytest.raises(ExportError, match="up to 20 inputs; this one has 21"):
        netlist_of(circuit, spec)
    assert len(netlist_of(circuit, spec, rounded=True).inputs) == 21
    with pytest.raises(ExportError, match="this one has 21"):
        truth_table(circuit, spec)


def test_a_circuit_of_another_shape_is_refused() -> None:
    circuit, spec = buffer(-9.0, 9.0)
    with pytest.raises(SpecError, match="exported with its own layers"):
        netlist_of(circuit, CircuitSpec(((1, 1), (2, 1)), arity=1))
    with pytest.raises(WiringError, match="wires point into the previous layer"):
        netlist_of(Circuit([jnp.array([[1]])], circuit.logits), spec)
    with pytest.raises(MaskError, match="one flat vector"):
        netlist_of(circuit, spec, np.ones(3, bool))
