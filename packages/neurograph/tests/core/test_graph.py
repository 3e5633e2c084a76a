"""Frames, what is refused, levels and the report."""

from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurograph.core.graph import Topology, build_static_graph, connectivity_report, layered_graph
from neurograph.errors import GraphError


def _frame(sources: list[list[str]], inputs: set[int], outputs: set[int]) -> pd.DataFrame:
    n = range(len(sources))
    return pd.DataFrame(
        {
            "node_id": [f"n{i}" for i in n],
            "input_connections": sources,
            "is_input": [i in inputs for i in n],
            "is_output": [i in outputs for i in n],
        }
    )


def test_the_originals_graph_has_its_sizes() -> None:
    frame = build_static_graph()
    topology = Topology.from_frame(frame)
    assert (topology.n_nodes, len(topology.inputs), len(topology.outputs)) == (1000, 200, 10)
    assert len(topology.src) == 800 * 6
    assert topology.in_degree[200:].tolist() == [6] * 800
    assert bool((topology.level[topology.src] < topology.level[topology.dst]).all())
    assert frame.equals(build_static_graph())
    assert not frame.equals(build_static_graph(seed=43))


def test_blocks_listen_to_inputs_and_earlier_blocks_only() -> None:
    topology = Topology.from_frame(build_static_graph(10, 40, 3, cardinality=5, blocks=4))
    for src, dst in zip(topology.src.tolist(), topology.dst.tolist(), strict=True):
        if 10 <= dst < 50:
            assert src < 10 + (dst - 10) // 10 * 10


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(1, 12), st.integers(0, 99))
def test_layers_listen_to_the_layer_before_about_equally(widths: list[int], cardinality: int, seed: int) -> None:
    topology = Topology.from_frame(layered_graph(widths, cardinality=cardinality, seed=seed))
    assert topology.level.tolist() == [level for level, width in enumerate(widths) for _ in range(width)]
    start = 0
    for before, width in pairwise(widths):
        heard = [int((topology.src == row).sum()) for row in range(start, start + before)]
        assert sum(heard) == width * min(cardinality, before)
        assert max(heard) - min(heard) <= 2
        start += before


def test_levels_and_hops_by_hand() -> None:
    # n0, n1 inputs; n2 ← n0; n3 ← n2, n1; n4 ← n3 (out); n5 ← n1 (out); n6 hears nobody and nobody hears it
    frame = _frame([[], [], ["n0"], ["n2", "n1"], ["n3"], ["n1"], []], {0, 1}, {4, 5})
    topology = Topology.from_frame(frame)
    assert topology.level.tolist() == [0, 0, 1, 2, 3, 1, 0]
    report = connectivity_report(frame)
    assert report.hops == {"n4": 2, "n5": 1}
    assert (report.mean_hops, report.direct, report.unheard, report.depth) == (1.5, ("n5",), ("n6",), 4)
    assert report.to_frame().shape == (2, 3)


def test_an_output_that_nothing_reaches_is_reported() -> None:
    report = connectivity_report(_frame([[], [], ["n1"]], {0}, {2}))
    assert report.hops == {"n2": None}
    assert report.mean_hops is None
    assert report.unheard == ("n0",)


@pytest.mark.parametrize(
    ("sources", "inputs", "outputs", "message"),
    [
        ([[], ["n0", "n2"], ["n1"]], {0}, {2}, "no cycles; this one has n[12] → n[12] → n[12]"),
        ([[], ["n7"]], {0}, {1}, "'n7'"),
        ([[], ["n0", "n0"]], {0}, {1}, "lists one twice"),
        ([[], ["n0"]], set(), {1}, "at least one input"),
        ([[], ["n0"]], {0}, set(), "at least one output"),
        ([[], ["n0"]], {0, 1}, {1}, "n1 is both"),
        ([["n1"], []], {0}, {1}, "n0 has sources"),
    ],
)
def test_frames_that_are_no_graphs_are_refused(sources, inputs, outputs, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Topology.from_frame(_frame(sources, inputs, outputs))


def test_columns_and_names_are_looked_at() -> None:
    frame = _frame([[], ["n0"]], {0}, {1})
    with pytest.raises(GraphError, match="is_output is missing"):
        Topology.from_frame(frame.drop(columns="is_output"))
    with pytest.raises(GraphError, match="'n0' comes twice"):
        Topology.from_frame(frame.assign(node_id=["n0", "n0"]))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("input_connections", [[], "n0"], "a list of identifiers in each row; that of n1 is 'n0'"),
        ("input_connections", [[], float("nan")], "that of n1 is nan"),
        ("is_input", [True, None], "is_input is true or false; that of n1 is None"),
        ("is_output", ["no", True], "that of n0 is 'no'"),
    ],
)
def test_cells_of_the_wrong_kind_are_named(column: str, values, message: str) -> None:
    frame = _frame([[], ["n0"]], {0}, {1})
    frame[column] = pd.Series(values, dtype=object)
    with pytest.raises(GraphError, match=message):
        Topology.from_frame(frame)


@pytest.mark.parametrize("widths", [[3], []])
def test_a_layered_graph_has_two_layers(widths: list[int]) -> None:
    with pytest.raises(GraphError, match="inputs and outputs"):
        layered_graph(widths)


def test_counts_start_at_one() -> None:
    with pytest.raises(GraphError, match="width 1 is at least 1; got 0"):
        layered_graph([3, 0, 2])
    with pytest.raises(GraphError, match="cardinality is at least 1; got 0"):
        build_static_graph(cardinality=0)
