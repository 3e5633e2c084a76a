"""Every format says what the circuit computes, bit for bit in every case."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boolean_nca_cc.circuits.kernels import evaluate_packed, pack_cases, unpack_cases
from boolean_nca_cc.errors import ExportError
from boolean_nca_cc.export import (
    FORMATS,
    Gate,
    Netlist,
    files_of,
    from_json,
    netlist_of,
    to_blif,
    to_c,
    to_dot,
    to_json,
    to_svg,
    to_test_bench,
    to_verilog,
    truth_table,
)
from boolean_nca_cc.knockout import prune

READ = run_path(str(Path(__file__).with_name("readers.py")))
PAIRS: tuple[tuple[Callable[..., str], str], ...] = (
    (to_verilog, "read_verilog"),
    (to_blif, "read_blif"),
    (to_json, "read_json"),
    (to_dot, "read_dot"),
)
SPECS = range(5)
GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="gcc is not on the path")
needs_iverilog = pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not on the path")
XOR = Netlist("parity", (0, 1), (Gate(2, 1, (0, 1), (0, 1, 1, 0)),))


def whole_and_pruned(sample: Any) -> tuple[Netlist, Netlist]:
    """The circuit with its dead gates as constants, and without them."""
    circuit, spec, alive, _ = sample
    small = prune(circuit, spec, alive)
    return (
        netlist_of(circuit, spec, alive, name="c", rounded=True),
        netlist_of(small.circuit, small.spec, name="c", ids=small.kept, rounded=True),
    )


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.sampled_from(SPECS), st.sampled_from([0.0, 0.2, 0.6]), st.sampled_from([-1, 0, 1]))
def test_texts_read_back_compute_the_truth_table(
    sample: Callable[..., Any], seed: int, spec_index: int, dead: float, bias: float
) -> None:
    made = sample(seed, spec_index, dead=dead, bias=bias)
    for netlist in whole_and_pruned(made):
        for write, reader in PAIRS:
            np.testing.assert_array_equal(READ[reader](write(netlist)), made.expected)


@pytest.mark.parametrize("spec_index", [0, 2])
def test_pictures_read_back_compute_the_truth_table(sample: Callable[..., Any], spec_index: int) -> None:
    made = sample(spec_index, spec_index)
    for netlist in whole_and_pruned(made):
        np.testing.assert_array_equal(READ["read_svg"](to_svg(netlist)), made.expected)


@pytest.mark.parametrize("spec_index", [1, 2, 4])
def test_the_library_agrees(sample: Callable[..., Any], spec_index: int) -> None:
    circuit, spec, alive, expected = sample(spec_index + 50, spec_index)
    np.testing.assert_array_equal(truth_table(circuit, spec, alive), expected)
    cases = (np.arange(1 << spec.n_in)[:, None] >> np.arange(spec.n_in)) & 1
    netlist = from_json(to_json(netlist_of(circuit, spec, alive, rounded=True)))
    again, layers = netlist.to_circuit()
    assert layers.n_in == spec.n_in
    np.testing.assert_array_equal(unpack_cases(evaluate_packed(again, pack_cases(cases)), len(cases)), expected)


def compiled(folder: Path, source: str, *options: str) -> Path:
    """The C source through gcc, where every warning is an error."""
    assert GCC is not None
    (folder / "c.c").write_text(source)
    strict = ("-std=c99", "-O0", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
    subprocess.run([GCC, *strict, *options, "-o", folder / "c.out", folder / "c.c"], check=True, cwd=folder)
    return folder / "c.out"


@needs_gcc
@pytest.mark.parametrize("spec_index", SPECS)
def test_compiled_c_computes_the_truth_table(sample: Callable[..., Any], tmp_path: Path, spec_index: int) -> None:
    made = sample(spec_index + 7, spec_index)
    for netlist in whole_and_pruned(made):
        program = compiled(tmp_path, to_c(netlist, made.expected), "-DC_CHECK")
        checked = subprocess.run([program], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stdout) == (0, f"c: all {1 << made.spec.n_in} cases are right\n")


@needs_gcc
@pytest.mark.parametrize("spec_index", [1, 2])
def test_the_function_in_c_computes_the_truth_table(
    sample: Callable[..., Any], tmp_path: Path, spec_index: int
) -> None:
    """Called without the main that checks it, on 16 cases and on 128."""
    made = sample(spec_index + 7, spec_index)
    n_in, n_out = made.spec.n_in, made.spec.n_out
    library = compiled(tmp_path, to_c(whole_and_pruned(made)[0]), "-shared", "-fPIC")
    function, found = ctypes.CDLL(str(library)).c, []
    for start in range(0, 1 << n_in, 64):
        x = (ctypes.c_uint64 * n_in)(*(signal >> start & (1 << 64) - 1 for signal in READ["input_signals"](n_in)))
        y = (ctypes.c_uint64 * n_out)()
        function(x, y)
        found.append(READ["table_of"](list(y), 64))
    np.testing.assert_array_equal(np.concatenate(found)[: 1 << n_in], made.expected)


@needs_gcc
def test_the_check_in_c_finds_one_wrong_bit(sample: Callable[..., Any], tmp_path: Path) -> None:
    made = sample(3, 2)
    wrong = made.expected.copy()
    wrong[77, 1] = ~wrong[77, 1]
    program = compiled(tmp_path, to_c(whole_and_pruned(made)[0], wrong), "-DC_CHECK")
    checked = subprocess.run([program], capture_output=True, text=True, check=False)
    is_, should = int(made.expected[77, 1]), int(wrong[77, 1])
    assert (checked.returncode, checked.stdout) == (1, f"c: case 77, output 1 is {is_} and should be {should}\n")


def simulated(folder: Path, module: str, bench: str) -> str:
    (folder / "c.v").write_text(module)
    (folder / "c_tb.v").write_text(bench)
    subprocess.run(["iverilog", "-g2001", "-Wall", "-o", "c.vvp", "c.v", "c_tb.v"], check=True, cwd=folder)
    return subprocess.run(["vvp", "-n", "c.vvp"], check=True, cwd=folder, capture_output=True, text=True).stdout


@needs_iverilog
@pytest.mark.parametrize("spec_index", SPECS)
def test_simulated_verilog_computes_the_truth_table(
    sample: Callable[..., Any], tmp_path: Path, spec_index: int
) -> None:
    made = sample(spec_index + 7, spec_index)
    for netlist in whole_and_pruned(made):
        printed = simulated(tmp_path, to_verilog(netlist), to_test_bench(netlist, made.expected))
        assert f"c: all {1 << made.spec.n_in} cases are right\n" in printed


@needs_iverilog
def test_the_test_bench_finds_one_wrong_bit(sample: Callable[..., Any], tmp_path: Path) -> None:
    made = sample(3, 2)
    wrong = made.expected.copy()
    wrong[77, 1] = ~wrong[77, 1]
    netlist = whole_and_pruned(made)[0]
    printed = simulated(tmp_path, to_verilog(netlist), to_test_bench(netlist, wrong))
    assert "c: case 77 gives " in printed
    assert "c: 1 of 128 cases are WRONG" in printed


def test_a_test_bench_holds_every_row_of_the_table(sample: Callable[..., Any]) -> None:
    """What iverilog would compare with, read without it."""
    made = sample(1, 2)
    bench = to_test_bench(whole_and_pruned(made)[0], made.expected)
    rows = re.findall(r"7'd(\d+): expected = 2'b([01]{2});", bench)
    assert [int(case) for case, _ in rows] == list(range(128))
    np.testing.assert_array_equal([[bit == "1" for bit in bits[::-1]] for _, bits in rows], made.expected)
    assert "module c_tb;" in bench
    assert "c dut (.x(x), .y(y));" in bench


def test_files_have_the_netlists_name() -> None:
    table = np.array([[False], [True], [True], [False]])
    names = {form: list(files_of(XOR, form, table)) for form in FORMATS}
    assert names == {
        "c": ["parity.c"],
        "verilog": ["parity.v", "parity_tb.v"],
        "blif": ["parity.blif"],
        "json": ["parity.json"],
        "dot": ["parity.dot"],
        "svg": ["parity.svg"],
    }
    assert list(files_of(XOR, "verilog")) == ["parity.v"]
    assert "PARITY_CHECK" not in files_of(XOR, "c")["parity.c"]
    assert ">two bits</text>" in files_of(XOR, "svg", title="two bits")["parity.svg"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: files_of(XOR, "vhdl"), "the format is 'vhdl'"),
        (lambda: to_c(Netlist("while", XOR.inputs, XOR.gates)), "'while' is taken"),
        (lambda: to_verilog(Netlist("endmodule", XOR.inputs, XOR.gates)), "'endmodule' is taken"),
        (lambda: to_verilog(Netlist("n2", XOR.inputs, XOR.gates)), "'n2' is taken"),
        (lambda: to_c(XOR, np.zeros((3, 1), bool)), r"each of the 4 cases .* its shape is \(3, 1\)"),
        (lambda: to_test_bench(XOR, np.zeros((4, 2), bool)), r"its shape is \(4, 2\)"),
    ],
)
def test_what_cannot_be_written_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-4], "this text is none"),
        (lambda text: "[1]", "another kind"),
        (lambda text: text.replace("netlist", "other"), "another kind"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "this one has 2"),
        (lambda text: text.replace('"inputs"', '"pins"'), "KeyError"),
        (lambda text: text.replace('"sources": [0, 1]', '"sources": [0, 1.5]'), "1.5 is no whole number"),
        (lambda text: text.replace('"0110"', '"0120"'), "one is missing or of another type"),
        (lambda text: text.replace('"0110"', '"011"'), "a table of 4 bits"),
        (lambda text: text.replace('"parity"', "7"), "7 is no text"),
        (lambda text: text.replace('"outputs": [2]', '"outputs": [1]'), r"the document says \[1\]"),
        (lambda text: text.replace('"node": 2', '"node": 1'), "1 is taken"),
    ],
)
def test_json_that_is_no_netlist_is_refused(change: Callable[[str], str], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        from_json(change(to_json(XOR)))
