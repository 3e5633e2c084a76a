"""Pictures of runs: what they show, that they are written twice, and what happens without matplotlib."""

import builtins
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from boolean_nca_cc import plots
from boolean_nca_cc.errors import MissingExtraError

RNG = np.random.default_rng(0)
HISTORY = {
    "step": np.arange(0, 101, 10),
    "loss": np.geomspace(300, 1e-4, 11),
    "hard_loss": np.r_[np.geomspace(500, 1, 6), np.zeros(5)],
    "accuracy": np.linspace(0.5, 1, 11),
    "hard_accuracy": np.linspace(0.5, 1, 11),
    "test_loss": np.geomspace(100, 1, 11),
    "test_accuracy": np.linspace(0.5, 0.9, 11),
}
DAMAGED, RETRAINED = RNG.uniform(0.5, 0.8, 50), np.r_[np.ones(30), RNG.uniform(0.9, 1, 20)]


def draw_all(folder: Path) -> list[Path]:
    files = plots.learning_curves(HISTORY, folder / "deep" / "curves", "one")
    files += plots.knockout_histogram(DAMAGED, RETRAINED, folder / "histogram.any", 1.0)
    files += plots.recovery_curves(np.arange(5), RNG.uniform(0, 1, (50, 5)), folder / "recovery")
    return files + plots.damage_curve(np.arange(50)[::-1], DAMAGED, RETRAINED, folder / "damage")


def drawn(axes_module: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What is plotted from here on: x and y by label."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    original = axes_module.Axes.plot

    def recording(self: object, x: np.ndarray, y: np.ndarray, *args: object, **kwargs: Any) -> object:
        found[kwargs["label"]] = np.asarray(x), np.asarray(y)
        return original(self, x, y, *args, **kwargs)

    monkeypatch.setattr(axes_module.Axes, "plot", recording)
    return found


@pytest.mark.needs_extra("matplotlib")
def test_every_picture_is_a_png_and_an_svg(tmp_path: Path) -> None:
    files = draw_all(tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        f"{name}.{kind}" for name in ("deep/curves", "histogram", "recovery", "damage") for kind in ("png", "svg")
    ]
    for png, svg in zip(files[::2], files[1::2], strict=True):
        assert png.read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")


@pytest.mark.needs_extra("matplotlib")
def test_the_same_numbers_give_the_same_svg(tmp_path: Path) -> None:
    first, second = (
        plots.learning_curves(HISTORY, tmp_path / name, "same")[1].read_bytes() for name in ("first", "second")
    )
    assert first == second


@pytest.mark.needs_extra("matplotlib")
def test_the_histogram_counts_every_pattern_and_gives_solved_ones_their_own_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes_module = pytest.importorskip("matplotlib.axes")
    counted: list[tuple[np.ndarray, np.ndarray]] = []
    original = axes_module.Axes.hist

    def recording(self: object, *args: object, **kwargs: object) -> object:
        result = original(self, *args, **kwargs)
        counted.append((np.asarray(result[0]), np.asarray(result[1])))
        return result

    monkeypatch.setattr(axes_module.Axes, "hist", recording)
    plots.knockout_histogram(DAMAGED, RETRAINED, tmp_path / "h")
    assert [int(counts.sum()) for counts, _ in counted] == [50, 50]
    (_, edges), (counts, _) = counted
    assert counts[-1] == (edges[-2] < RETRAINED).sum()
    assert edges[-2] > 1 - (1 - DAMAGED.min()) / 40
    plots.knockout_histogram(np.ones(3), np.ones(3), tmp_path / "solved", recovered=np.ones(3))
    assert [counts.tolist()[-1] for counts, _ in counted[2:]] == [3, 3, 3]


@pytest.mark.needs_extra("matplotlib")
def test_the_damage_curve_is_the_median_of_the_patterns_that_share_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpl = pytest.importorskip("matplotlib")
    found = drawn(pytest.importorskip("matplotlib.axes"), monkeypatch)
    dead = np.resize([40, 2, 10], 50)
    with mpl.rc_context({"svg.fonttype": "none"}):
        files = plots.damage_curve(
            dead,
            DAMAGED,
            RETRAINED,
            tmp_path / "x",
            "t",
            recovered=DAMAGED + 0.1,
            rule="LogicGNN",
            baseline=1.0,
            hidden=160,
        )
    assert set(found) == {"right after the damage", "recovered by retraining", "recovered by LogicGNN"}
    numbers, medians = found["right after the damage"]
    assert numbers.tolist() == [2, 10, 40]
    # 17 patterns have a middle one, the ninth; 16 have two.
    low, middle, high = (np.sort(DAMAGED[dead == number]) for number in (2, 10, 40))
    np.testing.assert_allclose(medians, [low[8], (middle[7] + middle[8]) / 2, high[8]])
    texts = "\n".join(ElementTree.parse(files[1]).getroot().itertext())
    for words in (
        "dead gates, of 160 hidden ones",
        "16 to 17 patterns a point",
        "undamaged: 1.000",
        "band: middle half",
    ):
        assert words in texts


@pytest.mark.needs_extra("matplotlib")
def test_recovery_has_a_curve_for_each_number_of_dead_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = drawn(pytest.importorskip("matplotlib.axes"), monkeypatch)
    accuracy = np.stack([np.linspace(low, 1, 5) for low in (0.2, 0.4, 0.6, 0.8)])
    plots.recovery_curves(np.arange(5), accuracy, tmp_path / "r", dead=np.array([9, 3, 9, 3]))
    assert list(found) == ["3 dead gates", "9 dead gates"]
    np.testing.assert_allclose(found["3 dead gates"][1], (accuracy[1] + accuracy[3]) / 2)


def test_without_matplotlib_the_error_names_the_extra_and_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def without_matplotlib(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(MissingExtraError, match=r"pip install '\./packages/boolean_nca_cc\[plots\]'"):
        plots.learning_curves(HISTORY, tmp_path / "x")
    assert not list(tmp_path.iterdir())
