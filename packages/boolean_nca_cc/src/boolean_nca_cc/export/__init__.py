"""Export: a hard circuit as C, Verilog, BLIF, JSON, DOT or SVG, each to be checked on all cases."""

from boolean_nca_cc.export.blif import to_blif
from boolean_nca_cc.export.c_source import to_c
from boolean_nca_cc.export.decisions import check_decided, truth_table
from boolean_nca_cc.export.drawings import to_dot, to_svg
from boolean_nca_cc.export.formats import FORMATS, files_of
from boolean_nca_cc.export.json_netlist import from_json, to_json
from boolean_nca_cc.export.netlist import Gate, Netlist, netlist_of
from boolean_nca_cc.export.verilog import to_test_bench, to_verilog

__all__ = [
    "FORMATS",
    "Gate",
    "Netlist",
    "check_decided",
    "files_of",
    "from_json",
    "netlist_of",
    "to_blif",
    "to_c",
    "to_dot",
    "to_json",
    "to_svg",
    "to_test_bench",
    "to_verilog",
    "truth_table",
]
