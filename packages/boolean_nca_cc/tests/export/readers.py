"""Independent readers of exported text: each gives what the text computes in every case. Nothing of the package helps.

A signal is one Python integer whose bit c is its value in case c, so that a whole truth table is one number.
"""

import json
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import numpy as np


def input_signals(n_in: int) -> list[int]:
    """Input b of case c is bit b of c."""
    return [sum((case >> bit & 1) << case for case in range(1 << n_in)) for bit in range(n_in)]


def table_of(outputs: Sequence[int], cases: int) -> np.ndarray:
    """Signals as a truth table, one row a case."""
    return np.array([[signal >> case & 1 for signal in outputs] for case in range(cases)], bool)


def look_up(table: str, sources: Sequence[int], everywhere: int) -> int:
    """A table of characters 0 and 1, entry 0 first, applied to signals, the first being the lowest address bit."""
    result = 0
    for entry, bit in enumerate(table):
        if bit == "1":
            here = everywhere
            for place, signal in enumerate(sources):
                here &= signal if entry >> place & 1 else everywhere & ~signal
            result |= here
    return result


class Expression:
    """Evaluates ~, &, ^, | with the precedence of C and Verilog (~ before & before ^ before |) and parentheses."""

    _TOKEN = re.compile(r"\s*(~|&|\^|\||\(|\)|[^\s~&^|()]+(?:\(0\))?)")

    def __init__(self, text: str, signals: Mapping[str, int], everywhere: int) -> None:
        self._tokens = self._TOKEN.findall(text)
        assert "".join(self._tokens) == "".join(text.split()), text
        self._signals, self._everywhere = signals, everywhere

    def value(self) -> int:
        result = self._chain(0)
        assert not self._tokens, f"left over: {self._tokens}"
        return result

    def _chain(self, level: int) -> int:
        if level == 3:
            return self._unary()
        result = self._chain(level + 1)
        while self._tokens and self._tokens[0] == "|^&"[level]:
            operator = self._tokens.pop(0)
            other = self._chain(level + 1)
            result = {"|": result | other, "^": result ^ other, "&": result & other}[operator]
        return result

    def _unary(self) -> int:
        token = self._tokens.pop(0)
        if token == "~":
            return self._everywhere & ~self._unary()
        if token == "(":
            result = self._chain(0)
            assert self._tokens.pop(0) == ")"
            return result
        return self._signals[token]


def read_verilog(text: str) -> np.ndarray:
    """Every statement of the module in its order."""
    text = re.sub(r"//.*", "", text)
    head = re.fullmatch(
        r"\s*module (\w+) \(\s*input\s+wire \[(\d+):0\] x,\s*output wire \[(\d+):0\] y\s*\);(.*)endmodule\s*",
        text,
        re.DOTALL,
    )
    assert head is not None, text[:200]
    n_in, n_out = int(head[2]) + 1, int(head[3]) + 1
    everywhere = (1 << (1 << n_in)) - 1
    signals = {f"x[{bit}]": signal for bit, signal in enumerate(input_signals(n_in))}
    signals |= {"1'b0": 0, "1'b1": everywhere}
    for statement in head[4].split(";"):
        if statement.strip():
            words = re.fullmatch(r"\s*(wire (n\d+)|assign (y\[\d+\])) = (.*)", statement, re.DOTALL)
            assert words is not None, statement
            target = words[2] or words[3]
            assert target not in signals, f"{target} is driven twice"
            signals[target] = Expression(words[4], signals, everywhere).value()
    return table_of([signals[f"y[{bit}]"] for bit in range(n_out)], 1 << n_in)


def read_blif(text: str) -> np.ndarray:
    """Every `.names` block in its order."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith(".model ")
    assert lines[-1] == ".end"
    inputs, outputs = lines[1].split()[1:], lines[2].split()[1:]
    assert (lines[1].split()[0], lines[2].split()[0]) == (".inputs", ".outputs")
    everywhere = (1 << (1 << len(inputs))) - 1
    signals = dict(zip(inputs, input_signals(len(inputs)), strict=True))
    target, sources = "", list[str]()
    for line in lines[3:-1]:
        if line.startswith(".names "):
            *sources, target = line.split()[1:]
            assert target not in signals, f"{target} is driven twice"
            signals[target] = 0
            continue
        cube, value = line.split() if sources else ("", line)
        assert value == "1"
        assert len(cube) == len(sources)
        here = everywhere
        for character, source in zip(cube, sources, strict=True):
            here &= {"1": signals[source], "0": everywhere & ~signals[source], "-": everywhere}[character]
        signals[target] |= here
    return table_of([signals[name] for name in outputs], 1 << len(inputs))


def read_json(text: str) -> np.ndarray:
    """The document's gates in its order."""
    document = json.loads(text)
    n_in = len(document["inputs"])
    everywhere = (1 << (1 << n_in)) - 1
    signals = dict(zip(document["inputs"], input_signals(n_in), strict=True))
    for gate in document["gates"]:
        signals[gate["node"]] = look_up(gate["table"], [signals[source] for source in gate["sources"]], everywhere)
    return table_of([signals[node] for node in document["outputs"]], 1 << n_in)


def read_dot(text: str) -> np.ndarray:
    """Tables from the nodes' labels, places of bits from the edges'."""
    gates = {
        name: table.replace("\\n", "") for name, table in re.findall(r'(n\d+) \[label="\d+\\n([01\\n]+)"\];', text)
    }
    sources: dict[str, dict[int, str]] = {name: {} for name in gates}
    for source, target, place in re.findall(r'([xn]\d+) -> (n\d+) \[label="(\d+)"\];', text):
        sources[target][int(place)] = source
    outputs = {int(bit): source for source, bit in re.findall(r"(n\d+) -> y(\d+);", text)}
    n_in = len(re.findall(r"(x\d+) \[shape=circle\];", text))
    everywhere = (1 << (1 << n_in)) - 1
    signals = {f"x{bit}": signal for bit, signal in enumerate(input_signals(n_in))}
    for name, table in gates.items():
        wires = [signals[sources[name][place]] for place in range(len(sources[name]))]
        signals[name] = look_up(table, wires, everywhere)
    return table_of([signals[outputs[bit]] for bit in range(len(outputs))], 1 << n_in)


def read_svg(text: str) -> np.ndarray:
    """The nodes' names, which say what each reads and holds."""
    root = ElementTree.fromstring(text)
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    n_in = sum(title.startswith("input bit ") for title in titles)
    everywhere = (1 << (1 << n_in)) - 1
    layers = [input_signals(n_in)]
    for title in titles:
        words = re.match(r"node \d+: layer (\d+), gate (\d+) .*, reads nodes ([\d, ]+) of .*, table ([01]+) ", title)
        if words is not None:
            layer = int(words[1])
            if layer == len(layers):
                layers.append([])
            wires = [layers[layer - 1][int(source)] for source in words[3].split(", ")]
            assert int(words[2]) == len(layers[layer])
            layers[layer].append(look_up(words[4], wires, everywhere))
    return table_of(layers[-1], 1 << n_in)
