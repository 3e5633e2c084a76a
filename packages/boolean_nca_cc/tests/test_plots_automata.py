"""Pictures of states: what is drawn, read back from the files."""

from pathlib import Path

import numpy as np
import pytest

from boolean_nca_cc.errors import AutomatonError
from boolean_nca_cc.plots_automata import Frame, contact_sheet, draw_frame, gif

Pillow = pytest.importorskip("PIL.Image", reason="pillow draws the animations")

EYE = np.eye(8, dtype=bool)
DARK, GROUND, WRONG = (29, 35, 41), (253, 253, 251), (213, 94, 0)


def grid_of(image: np.ndarray, pixels: int) -> np.ndarray:
    """The colour of the upper left pixel of each cell of an 8 × 8 grid, found by its frame."""
    line = np.all(image == (212, 212, 206), axis=-1)
    rows, columns = np.flatnonzero(line.any(axis=1)), np.flatnonzero(line.any(axis=0))
    cells = image[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]]
    assert cells.shape == (8 * pixels, 8 * pixels, 3)
    return cells[::pixels, ::pixels]


def test_every_cell_is_drawn_where_it_is() -> None:
    cells = grid_of(draw_frame(Frame(EYE, "step 0"), 5), 5)
    assert np.array_equal(np.all(cells == DARK, axis=-1), EYE)
    assert np.array_equal(np.all(cells == GROUND, axis=-1), ~EYE)


def test_cells_that_should_be_otherwise_are_marked() -> None:
    wanted = EYE.copy()
    wanted[0, 0], wanted[3, 5] = False, True
    image = draw_frame(Frame(EYE, "", wanted), 6)
    marked = np.all(image == WRONG, axis=-1)
    assert marked.sum() == 2 * 4  # two dots of two by two pixels
    assert not np.all(draw_frame(Frame(EYE, "", EYE), 6) == WRONG, axis=-1).any()


def test_the_animation_has_every_frame_and_holds_its_ends(tmp_path: Path) -> None:
    frames = [Frame(np.roll(EYE, t, axis=0), f"step {t}") for t in range(12)]
    path = gif(frames, tmp_path / "new" / "film.png", pixels=4, milliseconds=100, hold=5)
    assert path == tmp_path / "new" / "film.gif"
    with Pillow.open(path) as film:
        assert film.n_frames == 12
        assert film.info["loop"] == 0
        durations = []
        for t, frame in enumerate(frames):
            film.seek(t)
            durations.append(film.info["duration"])
            cells = grid_of(np.asarray(film.convert("RGB")), 4)
            assert np.array_equal(np.all(cells == DARK, axis=-1), frame.cells)
    assert durations == [500, *[100] * 10, 500]


def test_the_contact_sheet_has_every_frame(tmp_path: Path) -> None:
    frames = [Frame(np.roll(EYE, t, axis=1), f"t={t}") for t in range(5)]
    path = contact_sheet(frames, tmp_path / "sheet", pixels=3, columns=2)
    with Pillow.open(path) as sheet:
        image = np.asarray(sheet)
    height, width = image.shape[0] // 3, image.shape[1] // 2
    for t, frame in enumerate(frames):
        tile = image[t // 2 * height : (t // 2 + 1) * height, t % 2 * width : (t % 2 + 1) * width]
        assert np.array_equal(np.all(grid_of(tile, 3) == DARK, axis=-1), frame.cells)
    assert np.all(image[2 * height :, width:] == GROUND)


def test_the_same_frames_are_the_same_file(tmp_path: Path) -> None:
    frames = [Frame(EYE, "a"), Frame(~EYE, "b")]
    for draw in (gif, contact_sheet):
        assert draw(frames, tmp_path / "one").read_bytes() == draw(frames, tmp_path / "two").read_bytes()


def test_frames_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AutomatonError, match="there is none"):
        gif([], tmp_path / "a")
    with pytest.raises(AutomatonError, match="have one size"):
        contact_sheet([Frame(EYE, "a"), Frame(EYE[:4], "b")], tmp_path / "a")
    with pytest.raises(AutomatonError, match="pixels is 0"):
        gif([Frame(EYE, "a")], tmp_path / "a", pixels=0)
    assert not list(tmp_path.iterdir())
