"""Pictures for an automaton to grow, what it grows from, and the damage that it repairs.

A picture is a boolean array (height, width). It is the first bit of every cell; the cell's other bits are its own
affair, or tell it where it is.
"""

from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from boolean_nca_cc.circuits.font import GLYPH_HEIGHT, GLYPH_WIDTH, render
from boolean_nca_cc.errors import AutomatonError

__all__ = [
    "PICTURES",
    "checkerboard",
    "damage",
    "draw_pattern",
    "place_code",
    "place_code_length",
    "random_state",
    "seed_state",
]

_LIZARD = """
......##......
.....####.....
.##..####..##.
..##..##..##..
...########...
.....####.....
.....####.....
...########...
..##.####.##..
.##...##...##.
......##......
......##......
.......##.....
........###...
"""
_HEART = """
..###..###..
.##########.
############
############
############
.##########.
..########..
...######...
....####....
.....##.....
"""
_DENSITIES = (0.0, 0.2, 0.5, 0.8, 1.0)


def _parse(text: str) -> Bool[np.ndarray, "rows columns"]:
    return np.array([[dot == "#" for dot in line] for line in text.strip().splitlines()])


PICTURES: Mapping[str, Bool[np.ndarray, "rows columns"]] = MappingProxyType(
    {"lizard": _parse(_LIZARD), "heart": _parse(_HEART)}
)


def checkerboard(height: int, width: int, square: int = 2) -> Bool[np.ndarray, "height width"]:
    r"""Squares of ones and zeros in turn; the first is 0.

    Args:
        height: rows.
        width: columns.
        square: cells on a side of a square.

    Returns:
        True where a cell is 1.

    Raises:
        AutomatonError: a square below one cell, or so large that the grid does not hold two.

    >>> print("\n".join("".join("-#"[cell] for cell in row) for row in checkerboard(2, 4, 1).astype(int)))
    -#-#
    #-#-
    """
    if not 1 <= square <= max(height, width) // 2:
        raise AutomatonError(
            f"a checkerboard has at least two squares of at least one cell; scale {square} on a grid of {height} × "
            f"{width} has not. Use a scale from 1 to {max(1, max(height, width) // 2)}, or a larger grid."
        )
    row, column = np.mgrid[:height, :width] // square
    return np.asarray((row + column) % 2 == 1)


def draw_pattern(name: str, height: int, width: int, scale: int = 1) -> Bool[np.ndarray, "height width"]:
    r"""A picture by its name, in the middle of the grid.

    Args:
        name: "checkerboard", a name of `PICTURES`, or one printable character, drawn in the package's font.
        height: rows of the grid.
        width: columns of the grid.
        scale: cells on a side of a dot; of a checkerboard, on a side of a square.

    Returns:
        True where a cell is 1.

    Raises:
        AutomatonError: no such picture, or one that does not fit.

    >>> print("\n".join("".join("-#"[cell] for cell in row) for row in draw_pattern("T", 9, 7).astype(int)))
    -------
    -#####-
    ---#---
    ---#---
    ---#---
    ---#---
    ---#---
    ---#---
    -------
    >>> draw_pattern("G", 8, 8, scale=2)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    boolean_nca_cc.errors.AutomatonError: a picture fits its grid; 'G' at scale 2 is 14 × 10 cells, the grid is 8 × 8...
    """
    if scale < 1:
        raise AutomatonError(f"scale is the side of a dot in cells, at least 1; it is {scale}.")
    if name == "checkerboard":
        return checkerboard(height, width, scale)
    if name in PICTURES:
        dots = PICTURES[name]
    elif len(name) == 1 and name.isascii() and name.isprintable() and name != " ":
        dots = render(name, GLYPH_WIDTH, GLYPH_HEIGHT)
    else:
        raise AutomatonError(
            f"there is no picture {name!r}. Use checkerboard, {', '.join(PICTURES)}, or one printable ASCII character."
        )
    drawn = dots.repeat(scale, axis=0).repeat(scale, axis=1)
    rows, columns = drawn.shape
    if rows > height or columns > width:
        raise AutomatonError(
            f"a picture fits its grid; {name!r} at scale {scale} is {rows} × {columns} cells, the grid is {height} × "
            f"{width}. Use a larger grid or a smaller scale."
        )
    picture = np.zeros((height, width), bool)
    top, left = (height - rows) // 2, (width - columns) // 2
    picture[top : top + rows, left : left + columns] = drawn
    return picture


def place_code(height: int, width: int) -> Bool[np.ndarray, "bits height width"]:
    """Bits that tell every cell of a grid its column and its row, and that cells can hold up among themselves.

    Along each side runs a twisted ring (a Johnson counter): k = ⌈cells / 2⌉ bits, of which the first is the opposite of
    the west (north) neighbour's last, and every other one is that neighbour's bit before. The zeros beyond the edge
    start it, so that from any state whatever the right code spreads from the edge by a cell a step:

        bit_0(p) = 1 − bit_{k−1}(p − 1),    bit_j(p) = bit_{j−1}(p − 1),    bit_j(−1) = 0.

    No two cells have the same code, and one place is told from all others by two bits a side. Cells that know where
    they are can draw anything (L. Wolpert: Positional information and the spatial pattern of cellular differentiation,
    Journal of Theoretical Biology 25, 1969).

    Args:
        height: rows.
        width: columns.

    Returns:
        The bits of the column, then those of the row.

    >>> place_code(1, 6).astype(int)[:, 0].tolist()
    [[1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
    """
    columns, rows = _twisted_ring(width), _twisted_ring(height)
    of_columns = np.broadcast_to(columns[:, None, :], (len(columns), height, width))
    of_rows = np.broadcast_to(rows[:, :, None], (len(rows), height, width))
    return np.concatenate([of_columns, of_rows])


def place_code_length(height: int, width: int) -> int:
    """How many bits the place code of a grid has: half as many as it has rows and columns.

    >>> place_code_length(16, 9), len(place_code(16, 9))
    (13, 13)
    """
    return -(-width // 2) - (-height // 2)


def _twisted_ring(cells: int) -> Bool[np.ndarray, "bits cells"]:
    bits = -(-cells // 2)
    since_edge = np.arange(cells) - np.arange(bits)[:, None]
    return (since_edge >= 0) & (since_edge < bits)


def seed_state(channels: int, height: int, width: int) -> Float[Array, "channels height width"]:
    """One cell of ones in the middle, every other cell 0.

    Args:
        channels: bits of a cell.
        height: rows.
        width: columns.

    Returns:
        The state.

    >>> seed_state(1, 3, 3)[0].astype(int).tolist()
    [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    """
    return jnp.zeros((channels, height, width)).at[:, height // 2, width // 2].set(1)


def random_state(
    key: Shaped[Array, "..."], channels: int, grids: int, height: int, width: int
) -> Float[Array, "channels grids height width"]:
    """Random bits, each grid with a share of ones of its own: none, a fifth, half, four fifths or all.

    Args:
        key: random key.
        channels: bits of a cell.
        grids: how many.
        height: rows.
        width: columns.

    Returns:
        The states.

    >>> state = random_state(jax.random.key(0), 2, 64, 8, 8)
    >>> sorted({round(share, 1) for share in jnp.mean(state, axis=(0, 2, 3)).tolist()} & {0.0, 1.0})
    [0.0, 1.0]
    """
    density_key, bit_key = jax.random.split(key)
    density = jax.random.choice(density_key, jnp.array(_DENSITIES), (1, grids, 1, 1))
    shape = (channels, grids, height, width)
    return jax.random.bernoulli(bit_key, jnp.broadcast_to(density, shape)).astype(jnp.float32)


def damage(
    key: Shaped[Array, "..."],
    state: Float[Array, "channels grids height width"],
    side: int | Int[Array, " grids"],
    filling: Float[Array, "channels grids height width"] | float = 0.0,
) -> Float[Array, "channels grids height width"]:
    """Replaces a square of cells, in every grid another one, wholly inside the grid.

    Args:
        key: random key of the places.
        state: states.
        side: cells on a side of the square; or one number a grid, which is not checked.
        filling: what stands there afterwards.

    Returns:
        The damaged states.

    Raises:
        AutomatonError: a square that does not fit the grid, or below one cell.

    >>> hurt = damage(jax.random.key(0), jnp.ones((2, 5, 8, 8)), side=3)
    >>> jnp.sum(hurt == 0, axis=(0, 2, 3)).tolist()
    [18, 18, 18, 18, 18]
    """
    _, grids, height, width = state.shape
    if isinstance(side, int) and not 1 <= side <= min(height, width):
        raise AutomatonError(
            f"damage is a square of cells inside the grid; its side is {side}, the grid {height} × {width}. "
            f"Use a side from 1 to {min(height, width)}."
        )
    sides = jnp.broadcast_to(side, (grids,))[:, None, None]
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (grids, 1, 1), 0, height - sides + 1)
    left = jax.random.randint(column_key, (grids, 1, 1), 0, width - sides + 1)
    row, column = jnp.arange(height)[:, None], jnp.arange(width)
    hit = (row >= top) & (row < top + sides) & (column >= left) & (column < left + sides)
    return jnp.where(hit, filling, state)
