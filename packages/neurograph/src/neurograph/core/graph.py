"""Graphs as pandas frames, and what an engine needs of them as tensors.

A frame has one row a node: `node_id` (text), `input_connections` (identifiers of the nodes that it listens to),
`is_input` and `is_output` (booleans). Edges go from sources to the node that lists them; there are no cycles.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

from neurograph.errors import GraphError

__all__ = ["COLUMNS", "ConnectivityReport", "Topology", "build_static_graph", "connectivity_report", "layered_graph"]

COLUMNS = ("node_id", "input_connections", "is_input", "is_output")
"""Of a frame."""

Rows = Int64[Tensor, " _"]


def _frame(ids: Sequence[str], sources: Sequence[list[str]], n_inputs: int, n_outputs: int) -> pd.DataFrame:
    n = len(ids)
    return pd.DataFrame(
        {
            "node_id": ids,
            "input_connections": sources,
            "is_input": [row < n_inputs for row in range(n)],
            "is_output": [row >= n - n_outputs for row in range(n)],
        }
    )


def _checked_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise GraphError(f"{name} is at least 1; got {count}. Take more.")


def build_static_graph(
    n_inputs: int = 200,
    n_hidden: int = 790,
    n_outputs: int = 10,
    *,
    cardinality: int = 6,
    blocks: int = 4,
    seed: int = 42,
) -> pd.DataFrame:
    """A random graph of the original's kind: hidden nodes in blocks, each listening to inputs and earlier blocks.

    Outputs listen to hidden nodes and inputs. Sources are drawn uniformly and without replacement.

    Args:
        n_inputs: input nodes.
        n_hidden: hidden nodes.
        n_outputs: output nodes.
        cardinality: sources of each node, or all there are if fewer.
        blocks: of hidden nodes.
        seed: of the draws.

    Returns:
        A frame; identifiers are n0, n1, …: inputs, hidden nodes, outputs.

    Raises:
        GraphError: a count below 1.

    >>> frame = build_static_graph(4, 8, 2, cardinality=3)
    >>> len(frame), frame["is_output"].sum(), [len(s) for s in frame["input_connections"]][:5]
    (14, np.int64(2), [0, 0, 0, 0, 3])
    """
    _checked_counts(n_inputs=n_inputs, n_hidden=n_hidden, n_outputs=n_outputs, cardinality=cardinality, blocks=blocks)
    generator = np.random.default_rng(seed)
    size = max(1, n_hidden // blocks)
    ids = [f"n{row}" for row in range(n_inputs + n_hidden + n_outputs)]
    sources: list[list[str]] = [[] for _ in range(n_inputs)]
    for row in range(n_hidden + n_outputs):
        block = min(row // size, blocks - 1)
        allowed = n_inputs + (n_hidden if row >= n_hidden else block * size)
        drawn = generator.choice(allowed, size=min(cardinality, allowed), replace=False)
        sources.append([ids[source] for source in sorted(drawn)])
    return _frame(ids, sources, n_inputs, n_outputs)


def layered_graph(widths: Sequence[int], *, cardinality: int = 16, seed: int = 0) -> pd.DataFrame:
    """Layers, each node of which listens to nodes of the layer before.

    Sources are dealt from shuffled decks, so that all nodes of a layer are listened to about equally often.

    Args:
        widths: nodes of each layer, inputs first, outputs last.
        cardinality: sources of each node, or the whole layer before if that is smaller.
        seed: of the draws.

    Returns:
        A frame; identifiers are n0, n1, … in the order of the layers.

    Raises:
        GraphError: fewer than two layers, or an empty one.

    >>> layered_graph([2, 3, 1], cardinality=2)["input_connections"].tolist()[2:4]
    [['n0', 'n1'], ['n0', 'n1']]
    """
    if len(widths) < 2:
        raise GraphError(f"a layered graph has inputs and outputs; got widths {list(widths)}. Give at least two.")
    _checked_counts(cardinality=cardinality, **{f"width {place}": width for place, width in enumerate(widths)})
    generator = np.random.default_rng(seed)
    ids = [f"n{row}" for row in range(sum(widths))]
    sources: list[list[str]] = [[] for _ in range(widths[0])]
    start = 0
    for before, width in pairwise(widths):
        dealt = _dealt(before, width, min(cardinality, before), generator)
        sources += [[ids[start + source] for source in sorted(hand)] for hand in dealt]
        start += before
    return _frame(ids, sources, widths[0], widths[-1])


def _dealt(n: int, hands: int, size: int, generator: np.random.Generator) -> list[set[int]]:
    """Hands of distinct cards from decks of n, shuffled one after another."""
    deck: list[int] = []
    found = []
    for _ in range(hands):
        hand: set[int] = set()
        while len(hand) < size:
            if not set(deck) - hand:
                deck += generator.permutation(n).tolist()
            place = next(place for place, card in enumerate(deck) if card not in hand)
            hand.add(deck.pop(place))
        found.append(hand)
    return found


@dataclass(frozen=True)
class Topology:
    """A graph as tensors. Rows are the frame's.

    Args:
        ids: identifiers by row.
        inputs: rows of inputs, in order.
        outputs: rows of outputs, in order.
        src: source of each edge.
        dst: the node that listens; edges are sorted by it.
        level: longest way from a node without sources, by row.
    """

    ids: tuple[str, ...]
    inputs: Rows
    outputs: Rows
    src: Rows
    dst: Rows
    level: Rows

    @classmethod
    def from_frame(cls, frame: Any) -> "Topology":
        """Checks a frame and lays it out.

        Args:
            frame: with the columns `COLUMNS`.

        Returns:
            The topology.

        Raises:
            GraphError: a missing column, a node that is named twice or does not exist, an input that listens, no
                inputs, no outputs, or a cycle.
        """
        columns = list(getattr(frame, "columns", []))
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise GraphError(f"a frame has the columns {', '.join(COLUMNS)}; {', '.join(missing)} is missing. Add it.")
        ids = tuple(str(name) for name in frame["node_id"])
        index = {name: row for row, name in enumerate(ids)}
        if len(index) < len(ids):
            twice = next(name for row, name in enumerate(ids) if index[name] != row)
            raise GraphError(f"each node is named once; {twice!r} comes twice. Rename one of them.")
        flags = {name: list(frame[name]) for name in ("is_input", "is_output")}
        for name, marks in flags.items():
            odd = next((row for row, mark in enumerate(marks) if mark not in (True, False)), None)
            if odd is not None:
                raise GraphError(f"{name} is true or false; that of {ids[odd]} is {marks[odd]!r}. Fill it in.")
        listens: dict[int, list[int]] = {}
        for row, sources in enumerate(frame["input_connections"]):
            if isinstance(sources, str) or not isinstance(sources, Collection):
                raise GraphError(
                    f"input_connections holds a list of identifiers in each row; that of {ids[row]} is {sources!r}. "
                    "Write a list, empty for a node without sources."
                )
            unknown = next((name for name in sources if name not in index), None)
            if unknown is not None:
                raise GraphError(
                    f"nodes listen to nodes of the frame; {ids[row]} to {unknown!r}, which is none. Add it."
                )
            listens[row] = sorted({index[name] for name in sources})
            if len(listens[row]) < len(sources):
                raise GraphError(f"a node lists each source once; {ids[row]} lists one twice. Remove the second.")
        inputs = [row for row, flag in enumerate(flags["is_input"]) if flag]
        outputs = [row for row, flag in enumerate(flags["is_output"]) if flag]
        for name, rows in (("input", inputs), ("output", outputs)):
            if not rows:
                raise GraphError(f"a graph has at least one {name}; no row has is_{name}. Mark one.")
        both = set(inputs) & set(outputs)
        if both:
            raise GraphError(f"a node is an input or an output; {ids[min(both)]} is both. Unmark one of them.")
        listening = next((row for row in inputs if listens[row]), None)
        if listening is not None:
            raise GraphError(f"inputs listen to nobody; {ids[listening]} has sources. Empty its input_connections.")
        level = _levels(listens, ids)
        edges = [(source, row) for row in range(len(ids)) for source in listens[row]]
        src, dst = (torch.tensor([edge[side] for edge in edges], dtype=torch.long) for side in (0, 1))
        return cls(ids, torch.tensor(inputs), torch.tensor(outputs), src, dst, torch.tensor(level))

    @property
    def n_nodes(self) -> int:
        """Nodes."""
        return len(self.ids)

    @property
    def index(self) -> dict[str, int]:
        """Rows by identifier."""
        return {name: row for row, name in enumerate(self.ids)}

    @property
    def in_degree(self) -> Rows:
        """Sources of each node."""
        return torch.bincount(self.dst, minlength=self.n_nodes)

    @property
    def levels(self) -> list[Rows]:
        """Rows of each level, ascending."""
        return [(self.level == number).nonzero().squeeze(1) for number in range(int(self.level.max()) + 1)]

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.src.device

    def to(self, device: torch.device | str) -> "Topology":
        """The same graph elsewhere.

        Args:
            device: where.

        Returns:
            A copy.
        """
        parts = (self.inputs, self.outputs, self.src, self.dst, self.level)
        return Topology(self.ids, *(part.to(device) for part in parts))


def _levels(listens: dict[int, list[int]], ids: Sequence[str]) -> list[int]:
    try:
        order = list(TopologicalSorter(listens).static_order())
    except CycleError as error:
        way = " → ".join(ids[row] for row in error.args[1])
        raise GraphError(f"a graph has no cycles; this one has {way}. Remove one of these edges.") from error
    level = [0] * len(ids)
    for row in order:
        level[row] = max((level[source] + 1 for source in listens[row]), default=0)
    return level


@dataclass(frozen=True)
class ConnectivityReport:
    """How inputs reach outputs.

    Args:
        hops: fewest hops from any input, by output's identifier; None = not reached.
        mean_hops: over outputs that are reached; None = none is.
        reached: outputs that some input reaches.
        direct: outputs that listen to an input.
        unheard: nodes that reach no output, inputs among them.
        depth: levels.
    """

    hops: dict[str, int | None]
    mean_hops: float | None
    reached: tuple[str, ...]
    direct: tuple[str, ...]
    unheard: tuple[str, ...]
    depth: int

    def to_frame(self) -> pd.DataFrame:
        """One row an output."""
        return pd.DataFrame(
            [{"output": name, "hops": hops, "direct": name in self.direct} for name, hops in self.hops.items()]
        )


def connectivity_report(graph: Any) -> ConnectivityReport:
    """Follows edges from inputs, breadth first.

    Args:
        graph: a frame or a `Topology`.

    Returns:
        What is reached.

    Raises:
        GraphError: a frame that is no graph.

    >>> report = connectivity_report(layered_graph([4, 6, 2], cardinality=2))
    >>> report.mean_hops, report.depth, len(report.reached)
    (2.0, 3, 2)
    """
    topology = graph if isinstance(graph, Topology) else Topology.from_frame(graph)
    n, edges = topology.n_nodes, list(zip(topology.src.tolist(), topology.dst.tolist(), strict=True))
    hops = _distances(n, topology.inputs.tolist(), edges)
    back = _distances(n, topology.outputs.tolist(), [(dst, src) for src, dst in edges])
    outputs = {topology.ids[row]: hops[row] for row in topology.outputs.tolist()}
    reached = tuple(name for name, hop in outputs.items() if hop is not None)
    found = [hop for hop in outputs.values() if hop is not None]
    return ConnectivityReport(
        outputs,
        sum(found) / len(found) if found else None,
        reached,
        tuple(name for name, hop in outputs.items() if hop == 1),
        tuple(topology.ids[row] for row in range(n) if back[row] is None),
        int(topology.level.max()) + 1,
    )


def _distances(n: int, start: Sequence[int], edges: Sequence[tuple[int, int]]) -> list[int | None]:
    heard_by: list[list[int]] = [[] for _ in range(n)]
    for src, dst in edges:
        heard_by[src].append(dst)
    found: list[int | None] = [None] * n
    for row in start:
        found[row] = 0
    front, hop = list(start), 0
    while front:
        hop += 1
        front = [dst for dst in dict.fromkeys(d for src in front for d in heard_by[src]) if found[dst] is None]
        for row in front:
            found[row] = hop
    return found
