"""A netlist as C99: a function that runs 64 cases a word, and a main that checks it on all cases."""

from collections.abc import Iterator
from textwrap import fill

import numpy as np
from jaxtyping import Bool

from boolean_nca_cc import __version__
from boolean_nca_cc.errors import ExportError
from boolean_nca_cc.export.decisions import check_table
from boolean_nca_cc.export.expressions import expression
from boolean_nca_cc.export.netlist import Netlist

__all__ = ["to_c"]

_RESERVED = """
auto break case char const continue default do double else enum extern float for goto if inline int long main
register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while
expected int64_t main printf uint64_t x y
"""
_WORD = 64


def to_c(netlist: Netlist, expected: Bool[np.ndarray, "cases n_out"] | None = None) -> str:
    """Writes C99 that needs `stdint.h` alone, allocates nothing and has no state.

    `void NAME(const uint64_t x[INPUTS], uint64_t y[OUTPUTS])` computes 64 independent cases: bit c of `x[b]` is input
    bit b of case c. Compiled with `-DNAME_CHECK` (the name in capitals) the file is a program that runs all cases and
    compares them with the table that was written into it; it exits with 1 at the first wrong bit.

    Args:
        netlist: the netlist.
        expected: what the outputs should be in each of the 2^inputs cases, from `truth_table` of the original circuit;
            None = without the check.

    Returns:
        The source.

    Raises:
        ExportError: a name that C reserves, or a table of another shape.

    >>> from boolean_nca_cc.export.netlist import Gate
    >>> print(to_c(Netlist("parity", (0, 1), (Gate(2, 1, (0, 1), (0, 1, 1, 0)),))))  # doctest: +ELLIPSIS
    /* parity: 2 inputs, 1 output, 1 gate in 1 layer. Written by boolean_nca_cc ...
    #include <stdint.h>
    <BLANKLINE>
    void parity(const uint64_t x[2], uint64_t y[1]);
    <BLANKLINE>
    void parity(const uint64_t x[2], uint64_t y[1])
    {
        const uint64_t n2 = x[0] ^ x[1];
    <BLANKLINE>
        y[0] = n2;
    }
    <BLANKLINE>
    """
    if netlist.name in _RESERVED.split():
        raise ExportError(f"a name must be free in C; {netlist.name!r} is taken. Choose another.")
    n_in, n_out = len(netlist.inputs), len(netlist.outputs)
    signature = f"void {netlist.name}(const uint64_t x[{n_in}], uint64_t y[{n_out}])"
    written = [
        f"/* {netlist.name}: {netlist.summary}. Written by boolean_nca_cc {__version__}.",
        "   64 cases at once: bit c of x[b] is input bit b of case c, and bit c of y[b] its output bit b. */",
        "#include <stdint.h>",
        "",
        f"{signature};",
        "",
        signature,
        "{",
        *_body(netlist),
        "}",
    ]
    if expected is not None:
        check_table(expected, n_in, n_out)
        written += ["", *_check(netlist, np.asarray(expected))]
    return "\n".join(written) + "\n"


def _body(netlist: Netlist) -> Iterator[str]:
    names = netlist.names("x[{}]")
    for gate in netlist.gates:
        value = expression(gate.table, [names[source] for source in gate.sources], "UINT64_C(0)", "~UINT64_C(0)")
        yield f"    const uint64_t {names[gate.node]} = {value};"
    yield ""
    for bit, node in enumerate(netlist.outputs):
        yield f"    y[{bit}] = {names[node]};"
    if not {source for gate in netlist.gates for source in gate.sources} & set(netlist.inputs):
        yield "    (void)x;"
    if netlist.unread:
        unread = "; ".join(f"(void){names[node]}" for node in netlist.unread)
        yield "    /* Gates that nothing depends on: */"
        yield fill(f"{unread};", 116, initial_indent="    ", subsequent_indent="    ")


def _check(netlist: Netlist, expected: Bool[np.ndarray, "cases n_out"]) -> Iterator[str]:
    cases, n_out = expected.shape
    padded = np.zeros((-(-cases // _WORD) * _WORD, n_out), np.uint8)
    padded[:cases] = expected
    # Bit c of a word is case c: little-endian bytes of little-endian bits.
    words = np.packbits(padded.reshape(-1, _WORD, n_out), axis=1, bitorder="little")
    rows = np.ascontiguousarray(words.transpose(0, 2, 1)).view("<u8")[..., 0]
    lines = (", ".join(f"UINT64_C({word:#018x})" for word in row.tolist()) for row in rows)
    table = ",\n".join(
        fill(f"{{{line}}}", 118, initial_indent="    ", subsequent_indent="     ", break_on_hyphens=False)
        for line in lines
    )
    text = _MAIN.replace("@TABLE@", table)
    for key, value in {
        "NAME": netlist.name, "CHECK": f"{netlist.name.upper()}_CHECK", "CASES": str(cases),
        "WORDS": str(len(rows)), "INPUTS": str(len(netlist.inputs)), "OUTPUTS": str(n_out),
    }.items():  # fmt: skip
        text = text.replace(f"@{key}@", value)
    yield from text.splitlines()


_MAIN = """\
#ifdef @CHECK@
/* cc -O2 -D@CHECK@ @NAME@.c && ./a.out: every case against this table, 64 cases a row. */
#include <stdio.h>

static const uint64_t expected[@WORDS@][@OUTPUTS@] = {
@TABLE@
};

int main(void)
{
    for (uint64_t word = 0; word < @WORDS@; word++) {
        uint64_t x[@INPUTS@] = {0}, y[@OUTPUTS@];
        for (uint64_t c = 0; c < 64; c++)
            for (int b = 0; b < @INPUTS@; b++)
                x[b] |= ((64 * word + c) >> b & 1) << c;
        @NAME@(x, y);
        for (uint64_t c = 0; c < 64 && 64 * word + c < @CASES@; c++)
            for (int b = 0; b < @OUTPUTS@; b++)
                if ((y[b] ^ expected[word][b]) >> c & 1) {
                    printf("@NAME@: case %llu, output %d is %d and should be %d\\n",
                           (unsigned long long)(64 * word + c), b, (int)(y[b] >> c & 1),
                           (int)(expected[word][b] >> c & 1));
                    return 1;
                }
    }
    printf("@NAME@: all @CASES@ cases are right\\n");
    return 0;
}
#endif"""
