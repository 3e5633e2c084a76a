"""A netlist as Verilog-2001: a combinational module that synthesises, and a test bench that checks it.

The language is that of IEEE Std 1364-2001.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool

from boolean_nca_cc import __version__
from boolean_nca_cc.errors import ExportError
from boolean_nca_cc.export.decisions import check_table
from boolean_nca_cc.export.expressions import expression
from boolean_nca_cc.export.netlist import Netlist

__all__ = ["to_test_bench", "to_verilog"]

_RESERVED = """
always and assign automatic begin buf bufif0 bufif1 case casex casez cell cmos config deassign default defparam
design disable edge else end endcase endconfig endfunction endgenerate endmodule endprimitive endspecify endtable
endtask event for force forever fork function generate genvar highz0 highz1 if ifnone incdir include initial inout
input instance integer join large liblist library localparam macromodule medium module nand negedge nmos nor
noshowcancelled not notif0 notif1 or output parameter pmos posedge primitive pull0 pull1 pulldown pullup
pulsestyle_ondetect pulsestyle_onevent rcmos real realtime reg release repeat rnmos rpmos rtran rtranif0 rtranif1
scalared showcancelled signed small specify specparam strong0 strong1 supply0 supply1 table task time tran tranif0
tranif1 tri tri0 tri1 triand trior trireg unsigned use vectored wait wand weak0 weak1 while wire wor xnor xor x y
"""


def to_verilog(netlist: Netlist) -> str:
    """Writes a module `NAME(input x, output y)`; bit b of `x` is input bit b, bit b of `y` output bit b.

    Args:
        netlist: the netlist.

    Returns:
        The module.

    Raises:
        ExportError: a name that Verilog reserves, or the name of a port or of a gate.

    >>> from boolean_nca_cc.export.netlist import Gate
    >>> print(to_verilog(Netlist("parity", (0, 1), (Gate(2, 1, (0, 1), (0, 1, 1, 0)),))))  # doctest: +ELLIPSIS
    // parity: 2 inputs, 1 output, 1 gate in 1 layer. Written by boolean_nca_cc ...
    module parity (
        input  wire [1:0] x,
        output wire [0:0] y
    );
        wire n2 = x[0] ^ x[1];
    <BLANKLINE>
        assign y[0] = n2;
    endmodule
    <BLANKLINE>
    """
    _check_name(netlist)
    n_in, n_out = len(netlist.inputs), len(netlist.outputs)
    lines = [
        f"// {netlist.name}: {netlist.summary}. Written by boolean_nca_cc {__version__}.",
        f"module {netlist.name} (",
        f"    input  wire [{n_in - 1}:0] x,",
        f"    output wire [{n_out - 1}:0] y",
        ");",
        *_body(netlist),
        "endmodule",
    ]
    return "\n".join(lines) + "\n"


def to_test_bench(netlist: Netlist, expected: Bool[np.ndarray, "cases n_out"]) -> str:
    """Writes a test bench `NAME_tb` that tries all cases and prints the wrong ones, or that all are right.

    Args:
        netlist: the netlist.
        expected: what the outputs should be in each of the 2^inputs cases, from `truth_table` of the original circuit.

    Returns:
        The test bench, to be compiled with the module.

    Raises:
        ExportError: a name that Verilog reserves, or a table of another shape.

    >>> from boolean_nca_cc.export.netlist import Gate
    >>> parity = Netlist("parity", (0, 1), (Gate(2, 1, (0, 1), (0, 1, 1, 0)),))
    >>> bench = to_test_bench(parity, np.array([[False], [True], [True], [False]]))
    >>> [line.strip() for line in bench.splitlines() if "2'd2" in line]
    ["2'd2: expected = 1'b1;"]
    """
    _check_name(netlist)
    n_in, n_out = len(netlist.inputs), len(netlist.outputs)
    check_table(expected, n_in, n_out)
    bits = np.where(np.asarray(expected)[:, ::-1], "1", "0")
    rows = [f"            {n_in}'d{case}: expected = {n_out}'b{''.join(row)};" for case, row in enumerate(bits)]
    text = _BENCH.replace("@ROWS@", "\n".join(rows)).replace("@CASES@", str(len(bits))).replace("@NAME@", netlist.name)
    return text.replace("@IN@", str(n_in - 1)).replace("@OUT@", str(n_out - 1)).replace("@WIDTH@", str(n_out))


def _check_name(netlist: Netlist) -> None:
    gates = {f"n{gate.node}" for gate in netlist.gates}
    if netlist.name in _RESERVED.split() or netlist.name in gates:
        raise ExportError(f"a module's name must be free in Verilog; {netlist.name!r} is taken. Choose another.")


def _body(netlist: Netlist) -> Iterator[str]:
    names = netlist.names("x[{}]")
    for gate in netlist.gates:
        value = expression(gate.table, [names[source] for source in gate.sources], "1'b0", "1'b1")
        yield f"    wire {names[gate.node]} = {value};"
    yield ""
    for bit, node in enumerate(netlist.outputs):
        yield f"    assign y[{bit}] = {names[node]};"


_BENCH = """\
// Tries all @CASES@ cases of @NAME@: iverilog -o tb @NAME@.v @NAME@_tb.v && vvp tb
module @NAME@_tb;
    reg  [@IN@:0] x;
    wire [@OUT@:0] y;
    integer i, wrong;

    @NAME@ dut (.x(x), .y(y));

    function [@OUT@:0] expected;
        input [@IN@:0] i;
        case (i)
@ROWS@
            default: expected = {@WIDTH@{1'bx}};
        endcase
    endfunction

    initial begin
        wrong = 0;
        for (i = 0; i < @CASES@; i = i + 1) begin
            x = i;
            #1;
            if (y !== expected(x)) begin
                wrong = wrong + 1;
                $display("@NAME@: case %0d gives %b and should give %b", i, y, expected(x));
            end
        end
        if (wrong == 0) $display("@NAME@: all @CASES@ cases are right");
        else $display("@NAME@: %0d of @CASES@ cases are WRONG", wrong);
        $finish;
    end
endmodule
"""
