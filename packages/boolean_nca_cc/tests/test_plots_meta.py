"""Pictures of rules: what is drawn is what was measured, and the same numbers give the same files."""

from pathlib import Path

import numpy as np
import pytest

from boolean_nca_cc import plots_meta
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.plots_meta import repair_animation, repair_curves, rule_curves

Image = pytest.importorskip("PIL.Image")
SPEC = CircuitSpec(((2, 1), (4, 2), (2, 1)), 2)
SOURCES = np.array([[0, 1], [0, 1], [1, 0], [1, 0], [2, 3], [4, 5]])


def _record() -> dict[str, np.ndarray]:
    names = ("configured", "unseen_damage_healed", "unseen_damage_damaged", "fresh_wiring")
    return {"loss": np.linspace(1, 0.1, 40), "evaluated": np.array([20.0, 40.0])} | {
        name: np.array([0.5, 0.9]) for name in names
    }


def test_curves_are_written_twice_and_again_alike(tmp_path: Path) -> None:
    first = rule_curves(_record(), tmp_path / "one")
    again = rule_curves(_record(), tmp_path / "two")
    assert [file.suffix for file in first] == [".png", ".svg"]
    assert [a.read_bytes() for a in first] == [b.read_bytes() for b in again]
    assert "on fresh wirings" in first[1].read_text() or "<path" in first[1].read_text()


def test_repair_curves_tell_patterns_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(plots_meta, "write_figure", lambda figure, _: drawn.append(figure) or [])
    damaged = np.array([0.5, 0.7])
    healed = np.array([[0.6, 0.8], [1.0, 0.9]])
    retrained = np.array([[0.5, 0.7], [0.8, 0.8]])
    repair_curves(damaged, healed, retrained, np.array([5, 10]), 1.0, tmp_path / "repair", "Two dead")
    (figure,) = drawn
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert figure.get_suptitle() == "Two dead: 2 patterns"
    assert np.allclose(lines["the rule"], [0.6, 0.7, 0.95])
    assert np.allclose(lines["gradient descent"], [0.6, 0.6, 0.8])
    assert np.allclose(lines["nothing done"], 0.6)


def test_the_animation_has_a_frame_a_state(tmp_path: Path) -> None:
    tables = np.ones((3, 6, 4))
    tables[1:, 1] = -1
    outputs = np.array([[0.5, 1.0], [0.75, 1.0], [1.0, 1.0]])
    alive = np.array([True, True, False, True, True, True, True, True])
    file = repair_animation(SPEC, SOURCES, tables, outputs, alive, tmp_path / "one.gif", milliseconds=100)
    with Image.open(file) as picture:
        assert picture.n_frames == 3
        frames = []
        durations = []
        for number in range(3):
            picture.seek(number)
            durations.append(picture.info["duration"])
            frames.append(np.asarray(picture.convert("RGB"), int))
    assert durations == [400, 100, 400]
    assert all((frames[0] != frame).any() for frame in frames[1:])
    again = repair_animation(SPEC, SOURCES, tables, outputs, alive, tmp_path / "two.gif", milliseconds=100)
    assert file.read_bytes() == again.read_bytes()
