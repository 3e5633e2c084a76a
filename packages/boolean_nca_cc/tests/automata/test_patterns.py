"""Pictures, places, starts and damage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.automata.patterns import (
    PICTURES,
    checkerboard,
    damage,
    draw_pattern,
    place_code,
    place_code_length,
    random_state,
    seed_state,
)
from boolean_nca_cc.errors import AutomatonError


@pytest.mark.parametrize("square", [1, 2, 3])
def test_checkerboards_alternate(square: int) -> None:
    board = checkerboard(7, 12, square)
    for row, column in np.ndindex(7, 12):
        assert board[row, column] == ((row // square + column // square) % 2 == 1)


def test_pictures_stand_in_the_middle() -> None:
    for name, dots in PICTURES.items():
        picture = draw_pattern(name, 20, 20)
        assert picture.sum() == dots.sum() > 0
        rows, columns = np.nonzero(picture)
        assert abs(rows.min() - (19 - rows.max())) <= 1
        assert abs(columns.min() - (19 - columns.max())) <= 1
    letter = draw_pattern("T", 16, 16, scale=2)
    assert letter[1:3, 3:13].all()
    assert letter.sum() == 4 * (5 + 6)


def test_a_picture_may_fill_its_grid() -> None:
    assert draw_pattern("G", 14, 10, scale=2).shape == (14, 10)
    assert np.array_equal(draw_pattern("heart", 10, 12), PICTURES["heart"])


@pytest.mark.parametrize(
    ("name", "height", "width", "scale", "message"),
    [
        ("G", 13, 10, 2, "14 × 10 cells, the grid is 13 × 10"),
        ("heart", 10, 11, 1, "10 × 12 cells, the grid is 10 × 11"),
        ("cat", 16, 16, 1, "there is no picture 'cat'. Use checkerboard, lizard, heart, or one"),
        ("", 16, 16, 1, "there is no picture ''"),
        (" ", 16, 16, 1, "there is no picture ' '"),
        ("é", 16, 16, 1, "there is no picture 'é'"),
        ("G", 16, 16, 0, "scale is the side of a dot in cells, at least 1; it is 0"),
        ("checkerboard", 8, 8, 5, "Use a scale from 1 to 4"),
    ],
)
def test_pictures_that_cannot_be_are_refused(name: str, height: int, width: int, scale: int, message: str) -> None:
    with pytest.raises(AutomatonError, match=message):
        draw_pattern(name, height, width, scale)


@pytest.mark.parametrize(("height", "width"), [(3, 4), (16, 16), (5, 33)])
def test_a_place_code_tells_all_cells_apart_and_follows_from_the_neighbours(height: int, width: int) -> None:
    code = place_code(height, width)
    columns = -(-width // 2)
    assert len(code) == place_code_length(height, width) == columns + -(-height // 2)
    assert len({tuple(cell) for cell in code.reshape(len(code), -1).T.tolist()}) == height * width
    for bit, row, column in np.ndindex(*code.shape):
        is_column = bit < columns
        first, last = (0, columns - 1) if is_column else (columns, len(code) - 1)
        at = (row, column - 1) if is_column else (row - 1, column)
        read = code[(last if bit == first else bit - 1, *at)] if min(at) >= 0 else False  # beyond the edge all is 0
        assert code[bit, row, column] == (not read if bit == first else read)


def test_a_seed_is_one_cell() -> None:
    seed = np.asarray(seed_state(3, 5, 8))
    assert seed.sum() == 3
    assert (seed[:, 2, 4] == 1).all()


def test_random_states_have_five_densities() -> None:
    state = np.asarray(random_state(jax.random.key(3), 2, 40, 64, 64))
    assert set(np.unique(state)) == {0.0, 1.0}
    shares = state.mean(axis=(0, 2, 3)).tolist()
    assert {round(share, 1) for share in shares} == {0.0, 0.2, 0.5, 0.8, 1.0}


def test_damage_is_a_square_within_the_grid_elsewhere_in_every_grid() -> None:
    hurt = np.asarray(damage(jax.random.key(1), jnp.ones((2, 64, 6, 9)), side=3)) == 0
    assert (hurt.sum(axis=(2, 3)) == 9).all()
    assert np.array_equal(hurt[0], hurt[1])
    corners = set()
    for grid in hurt[0]:
        rows, columns = np.nonzero(grid)
        assert (np.ptp(rows), np.ptp(columns)) == (2, 2)
        corners.add((int(rows.min()), int(columns.min())))
    assert {row for row, _ in corners} == set(range(4))
    assert {column for _, column in corners} == set(range(7))


def test_squares_may_differ_in_size_and_filling() -> None:
    filling = jnp.full((1, 3, 5, 5), 0.25)
    hurt = np.asarray(damage(jax.random.key(2), jnp.ones((1, 3, 5, 5)), jnp.array([1, 3, 5]), filling))
    assert (hurt == 0.25).sum(axis=(0, 2, 3)).tolist() == [1, 9, 25]


@pytest.mark.parametrize("side", [0, 7])
def test_damage_outside_the_grid_is_refused(side: int) -> None:
    with pytest.raises(AutomatonError, match=f"its side is {side}, the grid 6 × 8. Use a side from 1 to 6"):
        damage(jax.random.key(0), jnp.ones((1, 2, 6, 8)), side)
