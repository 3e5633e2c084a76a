"""Pictures: written, not blank, with what they should show, and without a trace in matplotlib's global state."""

import gc
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from neurograph import drawing, plots
from neurograph.core.graph import Topology, build_static_graph, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.errors import DataError, MissingExtraError
from neurograph.train.trainer import EpochRow

# Nothing of matplotlib is imported here, so that the mark decides whether a missing extra skips or fails.
pytestmark = pytest.mark.needs_extra("matplotlib")

TOPOLOGY = Topology.from_frame(layered_graph([4, 6, 3], cardinality=2))
HISTORY = [EpochRow(1, 0.9, 0.5, 0.8), EpochRow(2, 0.2, None, 0.4), EpochRow(3, 0.1, 0.9, 0.1)]


def looks_whole(files: list[Path], stem: str) -> None:
    from matplotlib.image import imread

    assert sorted(files[0].parent.glob("*.part")) == []
    assert [path.name for path in files] == [f"{stem}.png", f"{stem}.svg"]
    assert ElementTree.parse(files[1]).getroot().tag.endswith("svg")
    pixels = imread(files[0])
    assert min(pixels.shape[:2]) > 100
    assert pixels[..., :3].std() > 0.02  # something is on it


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pixels are drawn sooner."""
    monkeypatch.setattr(drawing, "DPI", 40)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures as they are written."""
    kept: list[Any] = []
    write: Callable[..., list[Path]] = drawing.save_figure

    def spy(figure: Any, path: Any) -> list[Path]:
        kept.append(figure)
        return write(figure, path)

    monkeypatch.setattr(plots, "save_figure", spy)
    return kept


def texts(figure: Any) -> set[str]:
    from matplotlib.text import Text

    return {text.get_text() for text in figure.findobj(Text)}


def test_training_shows_every_epoch(tmp_path: Path, drawn: list[Any]) -> None:
    looks_whole(plots.plot_training(HISTORY, tmp_path / "new" / "training"), "training")
    loss, accuracy, moved = drawn[0].axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[1, 0.9], [2, 0.2], [3, 0.1]])
    np.testing.assert_allclose(accuracy.lines[0].get_xydata(), [[1, 50], [3, 90]])
    np.testing.assert_allclose(moved.lines[0].get_ydata(), [80, 40, 10])
    assert loss.get_yscale() == "linear"  # from 0.9 to 0.1 is no decade, which a logarithmic axis needs for its numbers
    looks_whole(plots.plot_training([EpochRow(1, 0.5, None, 0.0)], tmp_path / "one.epoch"), "one.epoch")
    assert len(drawn[1].axes) == 2
    assert [place for place in drawn[1].axes[0].get_xticks() if 0.5 <= place <= 1.5] == [1.0]
    long = [EpochRow(epoch, 0.5**epoch, None, 0.5) for epoch in range(1, 9)]
    plots.plot_training(long, tmp_path / "long")
    assert drawn[2].axes[0].get_yscale() == "log"
    assert {"0.01", "0.02", "0.05", "0.1", "0.2"} <= texts(drawn[2])
    plots.plot_training([EpochRow(1, 0.0, None, 0.0), long[0]], tmp_path / "nought")
    assert drawn[3].axes[0].get_yscale() == "linear"
    with pytest.raises(DataError, match="needs an epoch"):
        plots.plot_training([], tmp_path / "none")


def test_indices_are_all_counted_and_those_of_inputs_magnitudes_are_not(tmp_path: Path, drawn: list[Any]) -> None:
    tables = HighResolutionLookupTables(64, 128)
    store = NodeStore.random(TOPOLOGY, 5, tables)
    looks_whole(plots.plot_indices(store, tmp_path / "indices"), "indices")
    circle, straight, curve = drawn[0].axes
    heights = [patch.get_height() for patch in circle.patches]
    assert sum(heights) == 13 * 5
    expected = np.histogram(store.phase.numpy(), bins=32, range=(0, 64))[0]
    assert heights == expected.tolist()
    assert sum(patch.get_height() for patch in straight.patches) == 9 * 5
    np.testing.assert_allclose(curve.lines[0].get_ydata(), tables.mag.numpy())


def test_a_small_graph_shows_each_edge(tmp_path: Path, drawn: list[Any]) -> None:
    looks_whole(plots.plot_graph(TOPOLOGY, tmp_path / "graph"), "graph")
    (axes,) = drawn[0].axes
    assert len(axes.collections[0].get_segments()) == 18
    assert {"4 inputs", "3 outputs", "6 hidden"} <= texts(drawn[0])
    assert any("all 18 edges" in text for text in texts(drawn[0]))
    assert [int(end[0] - start[0]) for start, end in axes.collections[0].get_segments()] == [1] * 18


def test_a_large_graph_is_thinned_out_and_says_so(tmp_path: Path, drawn: list[Any]) -> None:
    topology = Topology.from_frame(build_static_graph(20, 60, 5, cardinality=6))
    looks_whole(plots.plot_graph(topology, tmp_path / "graph", most_edges=50), "graph")
    shown = plots._some_edges(topology, 50)
    assert 40 <= len(set(shown.tolist())) == len(shown) <= 50
    level = topology.level[topology.dst]
    assert set(level[torch.from_numpy(shown)].tolist()) == set(level.tolist())  # every level keeps some
    assert any(f"{len(shown)} of 390 edges" in text for text in texts(drawn[0]))


def test_radiation_counts_who_chose_whom(tmp_path: Path, drawn: list[Any]) -> None:
    sources = torch.tensor([0, 5])
    targets = torch.tensor([[[7, 12], [-1, 11]], [[7, 8], [10, 11]]])
    looks_whole(plots.plot_radiation(TOPOLOGY, sources, targets, tmp_path / "radiation"), "radiation")
    map_, bars = drawn[0].axes[:2]
    shares = map_.images[0].get_array().filled(0)
    expected = np.zeros((13, 13))
    expected[0, [7, 8, 12]], expected[5, [10, 11]] = (1.0, 0.5, 0.5), (0.5, 1.0)
    np.testing.assert_allclose(shares, expected)
    np.testing.assert_allclose(bars.patches[0].get_data().values, expected.sum(0))
    assert {"inputs", "level 1", "outputs"} <= texts(drawn[0])
    plots.plot_radiation(TOPOLOGY, sources, targets, tmp_path / "off", used=False)
    assert any("would choose" in text for text in texts(drawn[1]))
    with pytest.raises(DataError, match="needs a link"):
        plots.plot_radiation(TOPOLOGY, sources, torch.full((2, 2, 2), -1), tmp_path / "none")


def test_a_large_radiation_map_keeps_its_strongest_pair(tmp_path: Path, drawn: list[Any]) -> None:
    topology = Topology.from_frame(layered_graph([100, 200, 50], cardinality=2))
    plots.plot_radiation(topology, torch.tensor([7]), torch.tensor([[[341]]]), tmp_path / "radiation")
    shares = drawn[0].axes[0].images[0].get_array().filled(0)
    assert shares.shape == (117, 117)  # 3 × 3 pairs a cell
    assert np.argwhere(shares).tolist() == [[2, 113]]
    assert shares.max() == 1


def test_confusions_stand_where_they_belong(tmp_path: Path, drawn: list[Any]) -> None:
    counts = torch.tensor([[30, 2, 0], [0, 0, 0], [1, 0, 7]])
    names = ("setosa", "versicolor", "virginica")
    looks_whole(plots.plot_confusion(counts, names, tmp_path / "confusion"), "confusion")
    axes = drawn[0].axes[0]
    written = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "30", (0, 1): "2", (2, 0): "1", (2, 2): "7"}
    assert "37 of 40 right (92.50 %)" in texts(drawn[0])
    plots.plot_confusion(np.eye(47, dtype=np.int64), [str(one) for one in range(47)], tmp_path / "many")
    with pytest.raises(DataError, match="3 classes and 2 names"):
        plots.plot_confusion(counts, ("a", "b"), tmp_path / "none")


def test_codes_and_read_outs_are_drawn_as_they_are(tmp_path: Path, drawn: list[Any]) -> None:
    codes = torch.tensor([[1.0, 1, -1, -1], [1.0, -1, 1, -1]])
    means = torch.tensor([[0.5, 0.1, -0.2, 0.0], [torch.nan] * 4])
    looks_whole(plots.plot_codes(codes, means, 2, ("a", "b"), tmp_path / "codes"), "codes")
    first, second = drawn[0].axes[:2]
    np.testing.assert_array_equal(first.images[0].get_array(), codes.numpy())
    np.testing.assert_array_equal(second.images[0].get_array()[0], means[0].numpy())
    assert second.images[0].get_clim() == (-0.5, 0.5)  # white is 0
    assert "Codes of 2 classes: 2 output nodes × 2 real parts" in texts(drawn[0])
    plots.plot_codes(codes, means, 1, ("a", "b"), tmp_path / "one")
    assert "Codes of 2 classes: 1 output node × 4 real parts" in texts(drawn[1])


def test_the_same_numbers_give_the_same_file(tmp_path: Path) -> None:
    one, two = (plots.plot_graph(TOPOLOGY, tmp_path / name) for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_labels_that_would_run_into_each_other_are_left_out() -> None:
    kept = plots._apart(np.array([1.0, 5.0, 5.5, 9.0]), ["a", "b", "c", "d"], 1.0)
    assert kept == ([1.0, 5.0, 9.0], ["a", "b", "d"])


def test_no_figure_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    alive: list[weakref.ref[Figure]] = []
    start: Callable[..., None] = Figure.__init__

    def remember(self: Figure, *args: object, **kwargs: object) -> None:
        start(self, *args, **kwargs)
        alive.append(weakref.ref(self))

    monkeypatch.setattr(Figure, "__init__", remember)
    had_pyplot = "matplotlib.pyplot" in sys.modules
    plots.plot_training(HISTORY, tmp_path / "training")
    gc.collect()
    assert len(alive) == 1
    assert alive[0]() is None
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


def test_without_matplotlib_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install './packages/neurograph\[plots\]'"):
        plots.plot_graph(TOPOLOGY, tmp_path / "graph")
