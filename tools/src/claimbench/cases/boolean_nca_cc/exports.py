"""Ours: what is exported computes what the library computes, bit for bit in every case, and a planted error is seen.

The library's side is its float hard run, which no export goes through. The other side is each format's own reader: gcc
for C, Icarus Verilog for Verilog, and for BLIF and JSON a look-up gate by gate. A signal is one whole number whose bit
c is its value in case c.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import jax
import numpy as np

from boolean_nca_cc.circuits.model import Circuit, run_circuit
from boolean_nca_cc.export import Netlist, files_of, from_json, netlist_of
from boolean_nca_cc.knockout import prune
from claimbench.case import Case, Counted
from claimbench.cases.boolean_nca_cc.circuits import not_timed, problem
from claimbench.errors import CaseError
from claimbench.record import Params

__all__ = ["CASES", "Exported", "exported"]

DEAD = {"small": 5, "medium": 20}
"""Sizes that are exported, and the gates that die in their damaged halves."""

_WORD = 64

Table = np.ndarray


class Exported(NamedTuple):
    """A netlist, and what the library says that it should answer.

    Attributes:
        netlist: What is exported.
        expected: One row a case, one column an output.
    """

    netlist: Netlist
    expected: Table


@cache
def exported() -> tuple[Exported, ...]:
    """Circuits with drawn tables: whole and damaged, each with all its gates and pruned."""
    found = []
    for size, dead in DEAD.items():
        p = problem(size, dead=dead)
        for state, alive in (("whole", np.ones(p.spec.n_nodes, bool)), ("damaged", np.asarray(p.alive))):
            expected = np.asarray(_by_floats(p.circuit, p.x, p.spec.to_layers(alive))) > 0.5
            small = prune(p.circuit, p.spec, alive)
            name = f"{size}_{state}"
            found += [
                Exported(netlist_of(p.circuit, p.spec, alive, name=name, rounded=True), expected),
                Exported(
                    netlist_of(small.circuit, small.spec, name=f"{name}_pruned", ids=small.kept, rounded=True), expected
                ),
            ]
    return tuple(found)


@jax.jit
def _by_floats(circuit: Circuit, x: jax.Array, masks: list[jax.Array]) -> jax.Array:
    return run_circuit(circuit.logits, circuit.wires, x, masks, hard=True)[-1]


def _planted(right: Exported) -> Exported:
    """The same with one bit of one table flipped: the entry that an output gate reads in case 0."""
    gate = right.netlist.gates[-1]
    signals = _run(right.netlist)
    entry = sum((signals[source] & 1) << place for place, source in enumerate(gate.sources))
    table = tuple(bit ^ (place == entry) for place, bit in enumerate(gate.table))
    gates = (*right.netlist.gates[:-1], replace(gate, table=table))
    return Exported(replace(right.netlist, name=f"{right.netlist.name}_wrong", gates=gates), right.expected)


# --- signals ----------------------------------------------------------------------------------------------------------


def _pins(n_in: int) -> list[int]:
    """Input bit b of case c is bit b of c."""
    return [sum((case >> bit & 1) << case for case in range(1 << n_in)) for bit in range(n_in)]


def _look_up(ones: Iterable[int], sources: Sequence[int], everywhere: int) -> int:
    """A table's entries that are 1, applied to signals; the first is the lowest address bit."""
    result = 0
    for entry in ones:
        here = everywhere
        for place, signal in enumerate(sources):
            here &= signal if entry >> place & 1 else ~signal
        result |= here
    return result


def _run(netlist: Netlist) -> dict[int, int]:
    everywhere = (1 << (1 << len(netlist.inputs))) - 1
    signals = dict(zip(netlist.inputs, _pins(len(netlist.inputs)), strict=True))
    for gate in netlist.gates:
        ones = [entry for entry, bit in enumerate(gate.table) if bit]
        signals[gate.node] = _look_up(ones, [signals[source] for source in gate.sources], everywhere)
    return signals


def _table(outputs: Sequence[int], cases: int) -> Table:
    return np.array([[signal >> case & 1 for signal in outputs] for case in range(cases)], bool)


# --- readers: the text of each circuit in, its truth table out --------------------------------------------------------


def _tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise CaseError(f"this format is checked by {name}, which is not on the path; install it (Debian: {package})")
    return path


def _by_gcc(circuits: Sequence[Exported], folder: Path) -> list[Table]:
    """All functions in one shared library, called word by word."""
    names = [name for one in circuits for name in _written(one, "c", folder)]
    subprocess.run(
        [_tool("gcc", "gcc"), "-std=c99", "-O1", "-shared", "-fPIC", "-o", "all.so", *names],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    library, found = ctypes.CDLL(str(folder / "all.so")), []
    for one in circuits:
        n_in, n_out = len(one.netlist.inputs), len(one.netlist.outputs)
        pins, rows = _pins(n_in), []
        for start in range(0, 1 << n_in, _WORD):
            x = (ctypes.c_uint64 * n_in)(*(signal >> start & (1 << _WORD) - 1 for signal in pins))
            y = (ctypes.c_uint64 * n_out)()
            getattr(library, one.netlist.name)(x, y)
            rows.append(_table(list(y), min(_WORD, 1 << n_in)))
        found.append(np.concatenate(rows))
    return found


def _by_iverilog(circuits: Sequence[Exported], folder: Path) -> list[Table]:
    """Each module under its own test bench, which names every case that is wrong."""
    compiler, found = _tool("iverilog", "iverilog"), []
    for one in circuits:
        name, cases = one.netlist.name, len(one.expected)
        files = _written(one, "verilog", folder, one.expected)
        subprocess.run([compiler, "-g2001", "-o", f"{name}.vvp", *files], cwd=folder, check=True, capture_output=True)
        printed = subprocess.run(
            [_tool("vvp", "iverilog"), "-n", f"{name}.vvp"], cwd=folder, check=True, capture_output=True, text=True
        ).stdout
        wrong = re.findall(rf"^{name}: case (\d+) gives ([01xz]+) and should give [01]+$", printed, re.MULTILINE)
        end = f"all {cases} cases are right" if not wrong else f"{len(wrong)} of {cases} cases are WRONG"
        if f"{name}: {end}\n" not in printed:
            raise CaseError(f"a test bench ends with a count of its {cases} cases; {name} printed {printed[-200:]!r}")
        answers = one.expected.copy()
        for case, bits in wrong:
            answers[int(case)] = [bit == "1" if bit in "01" else not right  # a bit without a value is wrong
                                  for bit, right in zip(bits[::-1], one.expected[int(case)], strict=True)]  # fmt: skip
        found.append(answers)
    return found


def _by_blocks(circuits: Sequence[Exported], folder: Path) -> list[Table]:
    """BLIF, `.names` block by block."""
    found = []
    for one in circuits:
        (name,) = _written(one, "blif", folder)
        lines = [line for line in (folder / name).read_text().splitlines() if not line.startswith("#")]
        pins, outputs = lines[1].split()[1:], lines[2].split()[1:]
        everywhere = (1 << (1 << len(pins))) - 1
        signals = dict(zip(pins, _pins(len(pins)), strict=True))
        target, sources = "", list[str]()
        for line in lines[3:-1]:
            if line.startswith(".names "):
                *sources, target = line.split()[1:]
                signals[target] = 0
            else:
                cube = line.split()[0] if sources else ""
                ones = [int(cube[::-1], 2) if cube else 0]
                signals[target] |= _look_up(ones, [signals[source] for source in sources], everywhere)
        found.append(_table([signals[output] for output in outputs], 1 << len(pins)))
    return found


def _by_json(circuits: Sequence[Exported], folder: Path) -> list[Table]:
    """The package's own reader, and what it read gate by gate."""
    found = []
    for one in circuits:
        (name,) = _written(one, "json", folder)
        netlist = from_json((folder / name).read_text())
        signals = _run(netlist)
        found.append(_table([signals[node] for node in netlist.outputs], 1 << len(netlist.inputs)))
    return found


def _written(one: Exported, form: str, folder: Path, expected: Table | None = None) -> list[str]:
    files = files_of(one.netlist, form, expected)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return list(files)


READERS: dict[str, Callable[[Sequence[Exported], Path], list[Table]]] = {
    "C by gcc": _by_gcc,
    "Verilog by iverilog": _by_iverilog,
    "BLIF": _by_blocks,
    "JSON": _by_json,
}


def _checked(params: Params) -> Iterable[Counted]:
    circuits = exported()
    wrong = _planted(circuits[-2])  # damaged, with all its gates
    with TemporaryDirectory(prefix="claimbench-export-") as folder:
        *tables, planted = READERS[str(params["format"])]([*circuits, wrong], Path(folder))
    differing = sum(int((table != one.expected).sum()) for table, one in zip(tables, circuits, strict=True))
    bits = sum(one.expected.size for one in circuits)
    gates = ", ".join(f"{one.netlist.name} {len(one.netlist.gates)}" for one in circuits)
    yield Counted("differing_bits", differing, "best", "bits", f"of {bits} of all cases; gates: {gates}")
    seen = int((planted != wrong.expected).any())
    yield Counted("planted_seen", seen, "best", "", "one flipped bit in one table of a damaged circuit")


CASES = (
    Case(
        "boolean.export",
        "exported circuits against the library's float hard run, all cases",
        "jax",
        not_timed,
        values=_checked,
        values_grid=tuple({"format": name} for name in READERS),
        original=(netlist_of, files_of),
        budget=8.0,
    ),
)
