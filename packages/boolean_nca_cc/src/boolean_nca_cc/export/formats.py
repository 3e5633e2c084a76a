"""The formats by name, and the files that each is."""

import numpy as np
from jaxtyping import Bool

from boolean_nca_cc.errors import ExportError
from boolean_nca_cc.export.blif import to_blif
from boolean_nca_cc.export.c_source import to_c
from boolean_nca_cc.export.drawings import to_dot, to_svg
from boolean_nca_cc.export.json_netlist import to_json
from boolean_nca_cc.export.netlist import Netlist
from boolean_nca_cc.export.verilog import to_test_bench, to_verilog

__all__ = ["FORMATS", "files_of"]

FORMATS = ("c", "verilog", "blif", "json", "dot", "svg")


def files_of(
    netlist: Netlist, form: str, expected: Bool[np.ndarray, "cases n_out"] | None = None, title: str | None = None
) -> dict[str, str]:
    """The text of every file of a format, by the file's name.

    Args:
        netlist: the netlist.
        form: one of `FORMATS`.
        expected: the outputs in all cases, for the check in C and for Verilog's test bench; None = without them.
        title: heading of the SVG; None = the netlist's name.

    Returns:
        One file, or two: Verilog with `expected` has a test bench.

    Raises:
        ExportError: a format that does not exist, or as the format's own function.

    >>> from boolean_nca_cc.export.netlist import Gate
    >>> list(files_of(Netlist("parity", (0, 1), (Gate(2, 1, (0, 1), (0, 1, 1, 0)),)), "blif"))
    ['parity.blif']
    """
    name = netlist.name
    match form:
        case "c":
            return {f"{name}.c": to_c(netlist, expected)}
        case "verilog":
            bench = {} if expected is None else {f"{name}_tb.v": to_test_bench(netlist, expected)}
            return {f"{name}.v": to_verilog(netlist)} | bench
        case "blif":
            return {f"{name}.blif": to_blif(netlist)}
        case "json":
            return {f"{name}.json": to_json(netlist)}
        case "dot":
            return {f"{name}.dot": to_dot(netlist)}
        case "svg":
            return {f"{name}.svg": to_svg(netlist, title)}
    raise ExportError(f"a netlist is written as {', '.join(FORMATS)}; the format is {form!r}. Choose one of them.")
