"""Pictures: written, not blank, the same twice, and without a trace in matplotlib's global state."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from dredge.errors import ModelError
from dredge.quasimoto.fitting import EpochRow
from dredge.quasimoto.packets import WavePackets
from dredge.quasimoto.plots import plot_history, plot_packets
from dredge.quasimoto.pursuit import pursue

pytestmark = pytest.mark.needs_extra("torch")


def looks_whole(files: list[Path], stem: str) -> None:
    from matplotlib.image import imread

    assert [path.name for path in files] == [f"{stem}.png", f"{stem}.svg"]
    assert ElementTree.parse(files[1]).getroot().tag.endswith("svg")
    pixels = imread(files[0])
    assert min(pixels.shape[:2]) > 200
    assert pixels[..., :3].std() > 0.02


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_packets_are_drawn(tmp_path: Path, dim: int) -> None:
    axis = np.linspace(-2, 2, {1: 100, 2: 16, 3: 8}[dim])
    coords = np.stack([grid.ravel() for grid in np.meshgrid(*[axis] * dim, indexing="ij")], axis=1)
    values = np.exp(-(coords**2).sum(1)) * np.cos(3 * coords[:, 0])
    model = pursue(coords, values[:, None], atoms=2, final_steps=5)
    files = plot_packets(model, coords, values, tmp_path / "fit.png", title="A wave")
    looks_whole(files, "fit")
    before = files[1].read_bytes()
    assert plot_packets(model, coords, values, tmp_path / "fit", title="A wave")[1].read_bytes() == before
    import sys

    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_training_is_drawn(tmp_path: Path) -> None:
    rows = [EpochRow(1, 1.0, 1.1), EpochRow(2, 0.5, 0.8)]
    looks_whole(plot_history(rows, tmp_path / "training"), "training")
    with pytest.raises(ModelError, match="needs an epoch"):
        plot_history([], tmp_path / "none")


def test_other_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="one output"):
        plot_packets(WavePackets(1, 1, 2), np.zeros((4, 1)), np.zeros(4), tmp_path / "a")
    with pytest.raises(ModelError, match="2 axes"):
        plot_packets(WavePackets(2, 1), np.zeros((4, 1)), np.zeros(4), tmp_path / "a")
