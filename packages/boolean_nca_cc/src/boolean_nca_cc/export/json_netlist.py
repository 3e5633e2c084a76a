"""A netlist as JSON, and back."""

import json
from typing import Any

from boolean_nca_cc.errors import ExportError
from boolean_nca_cc.export.netlist import Gate, Netlist

__all__ = ["from_json", "to_json"]

_FORMAT, _VERSION = "boolean_nca_cc.netlist", 1


def to_json(netlist: Netlist) -> str:
    """Writes a JSON document, one line a gate.

    | field | |
    |---|---|
    | format, version | "boolean_nca_cc.netlist", 1 |
    | name | of the netlist |
    | inputs, outputs | numbers of nodes, bit 0 first |
    | gates | in order of evaluation: `node`, `layer`, `sources` (lowest address bit first), `table` (entry 0 first) |

    Args:
        netlist: the netlist.

    Returns:
        The document.

    >>> print(to_json(Netlist("parity", (0, 1), (Gate(2, 1, (0, 1), (0, 1, 1, 0)),))))
    {
      "format": "boolean_nca_cc.netlist",
      "version": 1,
      "name": "parity",
      "inputs": [0, 1],
      "outputs": [2],
      "gates": [
        {"node": 2, "layer": 1, "sources": [0, 1], "table": "0110"}
      ]
    }
    <BLANKLINE>
    """
    head = {
        "format": _FORMAT,
        "version": _VERSION,
        "name": netlist.name,
        "inputs": netlist.inputs,
        "outputs": netlist.outputs,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    gates = [
        json.dumps(
            {
                "node": gate.node,
                "layer": gate.layer,
                "sources": gate.sources,
                "table": "".join(str(bit) for bit in gate.table),
            }
        )
        for gate in netlist.gates
    ]
    return "\n".join(["{", *lines, '  "gates": [', ",\n".join(f"    {gate}" for gate in gates), "  ]", "}"]) + "\n"


def from_json(text: str) -> Netlist:
    """Reads what `to_json` wrote.

    Args:
        text: the document.

    Returns:
        The netlist, equal to the one that was written.

    Raises:
        ExportError: no JSON, another kind of document or a later version, fields that are missing or of another type,
            or gates that are no netlist.

    >>> netlist = Netlist("parity", (0, 1), (Gate(2, 1, (0, 1), (0, 1, 1, 0)),))
    >>> from_json(to_json(netlist)) == netlist
    True
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ExportError(f"a netlist is a JSON document; this text is none: {error}. Export it again.") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ExportError(
            f"a netlist's format is {_FORMAT!r}; this document is of another kind. Give what `to_json` wrote."
        )
    if document.get("version") != _VERSION:
        raise ExportError(
            f"this version reads netlists of version {_VERSION}; this one has {document.get('version')!r}. Read it "
            "with the boolean_nca_cc that wrote it."
        )
    try:
        gates = tuple(
            Gate(
                _integer(gate["node"]),
                _integer(gate["layer"]),
                tuple(_integer(source) for source in gate["sources"]),
                tuple("01".index(bit) for bit in gate["table"]),
            )
            for gate in document["gates"]
        )
        netlist = Netlist(_text(document["name"]), tuple(_integer(node) for node in document["inputs"]), gates)
        outputs = tuple(_integer(node) for node in document["outputs"])
    except ExportError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"a netlist has the fields that `to_json` writes; in this document one is missing or of another type: "
            f"{error!r}. Export it again."
        ) from error
    if netlist.outputs != outputs:
        raise ExportError(
            f"a netlist's outputs are the gates of its last layer, {list(netlist.outputs)} here; the document says "
            f"{list(outputs)}. Export it again."
        )
    return netlist


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
