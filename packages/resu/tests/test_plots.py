"""Pictures: what they show, that they are written twice, and what happens without matplotlib."""

import builtins
import math
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from resu import plots
from resu.errors import MissingExtraError

RNG = np.random.default_rng(0)
HISTORY = {
    "step": [10, 20, 30, 40],
    "sparsity": [0.5, 0.7, 0.8, 0.8],
    "churn": [0.3, 0.2, 0.1, 0.05],
    "resurrection_rate": [0.2, 0.1, 0.05, 0.02],
    "score": [80.0, 85.0, 90.0, 92.0],
}
CURVES = {
    "rigl": [(0.98, 94.8, 0.4), (0.9, 97.0, 0.2), (0.95, 96.0, 0.3)],
    "shadow": [(0.9, 97.1, 0.2), (0.95, math.nan, math.nan), (0.98, 95.9, math.nan)],
    "never": [(0.9, math.nan, math.nan)],
}
FIRST, LAST, BACK = (RNG.random((30, 16)) < share for share in (0.5, 0.1, 0.2))


def draw_all(folder: Path) -> list[Path]:
    files = plots.mask_curves(HISTORY, folder / "deep" / "masks")
    files += plots.score_curve(HISTORY, folder / "score.any", metric="accuracy, larger is better")
    files += plots.accuracy_against_sparsity(CURVES, folder / "accuracy", reference=("dense", 98.0))
    files += plots.what_came_back(FIRST, LAST, BACK, folder / "narrow", pixels=(4, 4))
    return files + plots.what_came_back(FIRST.T, LAST.T, BACK.T, folder / "wide")


@pytest.mark.needs_extra("matplotlib")
def test_every_picture_is_a_png_and_an_svg(tmp_path: Path) -> None:
    files = draw_all(tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        f"{name}.{kind}" for name in ("deep/masks", "score", "accuracy", "narrow", "wide") for kind in ("png", "svg")
    ]
    for png, svg in zip(files[::2], files[1::2], strict=True):
        assert png.read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")


@pytest.mark.needs_extra("matplotlib")
def test_the_same_numbers_give_the_same_svg(tmp_path: Path) -> None:
    first, second = (plots.what_came_back(FIRST, LAST, BACK, tmp_path / name)[1].read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.needs_extra("matplotlib")
def test_error_bars_are_standard_errors_and_what_diverged_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes_module = pytest.importorskip("matplotlib.axes")
    drawn: dict[str, tuple[list[float], list[float]]] = {}
    places: dict[str, list[float]] = {}

    original = axes_module.Axes.errorbar

    def recording(self: object, x: Any, y: Any, error: Any, *, label: str, **rest: object) -> object:
        drawn[label], places[label] = (list(y), list(error)), list(x)
        return original(self, x, y, error, label=label, **rest)

    monkeypatch.setattr(axes_module.Axes, "errorbar", recording)
    plots.accuracy_against_sparsity(CURVES, tmp_path / "x")
    assert drawn == {"rigl": ([97.0, 96.0, 94.8], [0.2, 0.3, 0.4]), "shadow": ([97.1, 95.9], [0.2, 0.0])}
    assert places["rigl"] == pytest.approx([0.1, 0.05, 0.02], rel=0.05)
    plots.accuracy_against_sparsity({"never": CURVES["never"]}, tmp_path / "all diverged")
    assert "never" not in drawn
    assert places["rigl"][0] > places["shadow"][0]  # beside each other, in their order: the axis is turned round


@pytest.mark.needs_extra("matplotlib")
def test_a_mask_is_drawn_with_its_longer_side_flat_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes_module = pytest.importorskip("matplotlib.axes")
    shown: list[np.ndarray] = []
    original = axes_module.Axes.imshow

    def recording(self: object, values: np.ndarray, **rest: object) -> object:
        shown.append(np.asarray(values))
        return original(self, values, **rest)

    monkeypatch.setattr(axes_module.Axes, "imshow", recording)
    _, svg = plots.what_came_back(FIRST, LAST, BACK, tmp_path / "x", pixels=(4, 4))
    before, after, pixels = shown
    assert before.shape == after.shape == (16, 30)
    assert [(after == code).sum() for code in range(4)] == [
        (~LAST & ~BACK).sum(), (~LAST & BACK).sum(), (LAST & ~BACK).sum(), (LAST & BACK).sum()
    ]  # fmt: skip
    assert ((before == 2) == FIRST.T).all()
    assert (pixels.ravel() == LAST.sum(axis=0)).all()
    assert f"at the end: {LAST.sum()} active, {(LAST & BACK).sum()} of them came back" in svg.read_text()


def test_without_matplotlib_the_error_names_the_extra_and_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import: Any = builtins.__import__

    def without_matplotlib(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(MissingExtraError, match=r"pip install '\./packages/resu\[plots\]'"):
        plots.mask_curves(HISTORY, tmp_path / "x")
    assert not list(tmp_path.iterdir())
