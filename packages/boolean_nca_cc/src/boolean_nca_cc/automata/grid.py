"""A grid of cells that all run one circuit: soft in training, hard after, 32 grids a word when only bits matter.

A cell holds `channels` bits. Its circuit reads the 3 × 3 neighbourhood of every channel and writes the cell's next
bits, so that it has 9 · channels inputs and `channels` outputs:

    s_c(t + 1, cell) = f_c(s_0(t, neighbourhood of the cell), …, s_{C-1}(t, neighbourhood of the cell)).

Input 9 c + p is channel c of the neighbour at place p, row by row from the top left: 0 is north-west, 4 the cell
itself, 8 south-east. On a "torus" opposite edges are neighbours; with "fixed" edges every cell beyond the grid is 0.
This is the arrangement of differentiable logic cellular automata (P. Miotti, E. Niklasson, E. Randazzo, A. Mordvintsev,
2025, arXiv:2506.04912) with look-up tables for gates.

A state is an array (channels, *batch, height, width). Cells are the cases of the circuit, the last axis of its kernels.
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from boolean_nca_cc.circuits.kernels import evaluate_packed, forward, pack_cases, unpack_cases
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import AutomatonError

__all__ = ["NEIGHBOURS", "Boundary", "check_grid", "neighbourhoods", "run_hard", "run_packed", "step_cells"]

Boundary = Literal["torus", "fixed"]
NEIGHBOURS = 9

_KERNEL = 3  # cells on a side of the neighbourhood
_LANES = 32  # grids a machine word
_TILE = 2048  # words that a circuit works on at once: its intermediate results then stay in the cache


def check_grid(height: int, width: int, boundary: str) -> None:
    """Refuses a grid on which the neighbourhood is not what it says, and an unknown boundary.

    Args:
        height: rows of cells.
        width: columns of cells.
        boundary: "torus" or "fixed".

    Raises:
        AutomatonError: fewer than three rows or columns, where a torus would count a neighbour twice and fixed edges
            leave no cell with a whole neighbourhood; a boundary that does not exist.

    >>> check_grid(2, 8, "torus")
    Traceback (most recent call last):
        ...
    boolean_nca_cc.errors.AutomatonError: a grid holds the 3 × 3 neighbourhood at least once; it is 2 × 8 cells. Use \
at least 3 rows and 3 columns.
    """
    if boundary not in ("torus", "fixed"):
        raise AutomatonError(f"the boundary is 'torus' (edges meet) or 'fixed' (0 outside); it is {boundary!r}.")
    if height < _KERNEL or width < _KERNEL:
        raise AutomatonError(
            f"a grid holds the 3 × 3 neighbourhood at least once; it is {height} × {width} cells. "
            "Use at least 3 rows and 3 columns."
        )


def neighbourhoods(
    state: Shaped[Array, "channels *batch height width"], boundary: Boundary
) -> Shaped[Array, "inputs cells"]:
    """What every cell's circuit reads.

    Args:
        state: bits, soft bits or packed words.
        boundary: what lies beyond the edges.

    Returns:
        Row 9 c + p is channel c of the neighbour at place p; columns are the cells of all grids in order.

    >>> grid = jnp.arange(9).reshape(1, 3, 3)
    >>> neighbourhoods(grid, "fixed")[:, 0].tolist()
    [0, 0, 0, 0, 0, 1, 0, 3, 4]
    >>> neighbourhoods(grid, "torus")[:, 0].tolist()
    [8, 6, 7, 2, 0, 1, 5, 3, 4]
    """
    height, width = state.shape[-2:]
    margin = [(0, 0)] * (state.ndim - 2) + [(1, 1)] * 2
    framed = jnp.pad(state, margin, mode="wrap" if boundary == "torus" else "constant")
    shifted = [framed[..., row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return jnp.stack(shifted, axis=1).reshape(state.shape[0] * NEIGHBOURS, -1)


def step_cells(
    circuit: Circuit,
    state: Float[Array, "channels *batch height width"],
    boundary: Boundary,
    *,
    hard: bool = False,
    firing: Bool[Array, "*batch height width"] | None = None,
) -> Float[Array, "channels *batch height width"]:
    """One step of all cells. Differentiable; meant for use inside a compiled loop, so it checks nothing.

    Args:
        circuit: the cell's circuit.
        state: values in [0, 1].
        boundary: what lies beyond the edges.
        hard: round the tables.
        firing: cells that take their new bits, the others keep theirs (an asynchronous step); None = all.

    Returns:
        The next state.

    >>> copy_west = Circuit([jnp.array([[3]])], [jnp.array([[[-9.0, 9.0]]])])
    >>> step_cells(copy_west, jnp.eye(3)[None], "torus", hard=True)[0].astype(int).tolist()
    [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    """
    new = forward(circuit.logits, circuit.wires, neighbourhoods(state, boundary), hard=hard)[-1].reshape(state.shape)
    return new if firing is None else jnp.where(firing, new, state)


def run_hard(
    circuit: Circuit,
    state: Shaped[Array | np.ndarray, "channels *batch height width"],
    steps: int,
    boundary: Boundary = "fixed",
    *,
    fire_rate: float = 1.0,
    key: Shaped[Array, "..."] | None = None,
) -> Bool[Array, "times channels *batch height width"]:
    """Runs the hard automaton and keeps every step.

    Args:
        circuit: the cell's circuit.
        state: where to start; values above one half are 1.
        steps: how many steps.
        boundary: what lies beyond the edges.
        fire_rate: probability that a cell updates in a step; 1 is synchronous.
        key: random key of the cells that fire; needed where `fire_rate` is below 1.

    Returns:
        The states, the start first: `steps + 1` of them.

    Raises:
        AutomatonError: a grid too small, an unknown boundary, a circuit for other cells, a rate outside 0 to 1 or
            without its key.

    >>> copy_west = Circuit([jnp.array([[3]])], [jnp.array([[[-9.0, 9.0]]])])
    >>> run_hard(copy_west, jnp.eye(3)[None], 2, "torus")[:, 0, 0].astype(int).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    _check_cells(circuit, state, steps, boundary)
    _check_firing(fire_rate, key)
    start = (jnp.asarray(state) > 0.5).astype(jnp.float32)
    keys = jax.random.split(jax.random.key(0) if key is None else key, steps)
    return _run_hard(circuit, start, keys, boundary, fire_rate)


@partial(jax.jit, static_argnums=(3, 4))
def _run_hard(circuit: Circuit, start: Array, keys: Array, boundary: Boundary, fire_rate: float) -> Array:
    def step(state: Array, key: Array) -> tuple[Array, Array]:
        firing = None if fire_rate == 1 else jax.random.bernoulli(key, fire_rate, state.shape[1:])
        state = step_cells(circuit, state, boundary, hard=True, firing=firing)
        return state, state > 0.5

    _, states = jax.lax.scan(step, start, keys)
    return jnp.concatenate([start[None] > 0.5, states])


def run_packed(
    circuit: Circuit,
    state: Bool[Array | np.ndarray, "channels grids height width"],
    steps: int,
    boundary: Boundary = "torus",
    *,
    fire_rate: float = 1.0,
    key: Shaped[Array, "..."] | None = None,
) -> Bool[Array, "channels grids height width"]:
    """Runs many grids, 32 a machine word: bit g of a cell's word is the cell of grid g.

    Neighbours in the same grid are then the same bit of other words, so that a step needs no shifts of bits. Only the
    last state is kept. A number of grids that 32 does not divide is filled up with empty ones.

    Args:
        circuit: the cell's circuit.
        state: where to start.
        steps: how many steps.
        boundary: what lies beyond the edges.
        fire_rate: probability that a cell updates in a step; 1 is synchronous.
        key: random key of the cells that fire; needed where `fire_rate` is below 1.

    Returns:
        The last state.

    Raises:
        AutomatonError: a grid too small, an unknown boundary, a circuit for other cells, a rate outside 0 to 1 or
            without its key.

    >>> copy_west = Circuit([jnp.array([[3]])], [jnp.array([[[-9.0, 9.0]]])])
    >>> run_packed(copy_west, np.eye(3, dtype=bool)[None, None], 2)[0, 0].astype(int).tolist()
    [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    """
    _check_cells(circuit, state, steps, boundary)
    _check_firing(fire_rate, key)
    channels, grids, height, width = state.shape
    cells = np.asarray(state).swapaxes(0, 1).reshape(grids, -1)  # grids are what a word holds: the cases
    words = [pack_cases(cells[first : first + _LANES])[:, 0] for first in range(0, grids, _LANES)]
    packed = jnp.stack(words, axis=1).reshape(channels, height, width, -1).transpose(0, 3, 1, 2)
    packed = _run_packed(circuit, packed, steps, boundary, fire_rate, jax.random.key(0) if key is None else key)
    rows = packed.transpose(1, 0, 2, 3).reshape(packed.shape[1], -1)
    unpacked = [unpack_cases(row[:, None], min(_LANES, grids - _LANES * n)) for n, row in enumerate(rows)]
    return jnp.concatenate(unpacked).reshape(grids, channels, height, width).swapaxes(0, 1)


@partial(jax.jit, static_argnums=(3, 4))
def _run_packed(
    circuit: Circuit, state: Array, steps: int | Array, boundary: Boundary, fire_rate: float, key: Array
) -> Array:
    def step(number: Array, state: Array) -> Array:
        inputs = neighbourhoods(state, boundary)
        cells = inputs.shape[1]
        tile = min(_TILE, cells)
        tiles = jnp.pad(inputs, ((0, 0), (0, -cells % tile))).reshape(inputs.shape[0], -1, tile)
        outputs = jax.lax.map(partial(evaluate_packed, circuit), tiles.swapaxes(0, 1))
        new = outputs.swapaxes(0, 1).reshape(state.shape[0], -1)[:, :cells].reshape(state.shape)
        if fire_rate == 1:
            return new
        fires = jax.random.bernoulli(jax.random.fold_in(key, number), fire_rate, (*state.shape[1:], _LANES))
        firing = (fires.astype(jnp.uint32) << jnp.arange(_LANES, dtype=jnp.uint32)).sum(-1, dtype=jnp.uint32)
        return state ^ ((state ^ new) & firing)

    return jax.lax.fori_loop(0, steps, step, state)


def _check_firing(fire_rate: float, key: Array | None) -> None:
    if not 0 < fire_rate <= 1:
        raise AutomatonError(
            f"fire_rate is the share of cells that update in a step, above 0, at most 1; it is {fire_rate}."
        )
    if fire_rate < 1 and key is None:
        raise AutomatonError(f"cells that fire at random (fire_rate {fire_rate}) need a random key; key is None.")


def _check_cells(circuit: Circuit, state: Array | np.ndarray, steps: int, boundary: str) -> None:
    check_grid(state.shape[-2], state.shape[-1], boundary)
    spec = CircuitSpec.from_logits(circuit.logits, NEIGHBOURS * state.shape[0])
    sources = int(np.max(np.asarray(circuit.wires[0])))
    if spec.n_out != state.shape[0] or sources >= spec.n_in:
        raise AutomatonError(
            f"a cell of {state.shape[0]} bit(s) has a circuit of {spec.n_in} inputs and {state.shape[0]} outputs; this "
            f"one reads input {sources} and has {spec.n_out} output(s). Use the circuit of cells with as many channels."
        )
    if steps < 0 or not math.prod(state.shape):
        raise AutomatonError(
            f"there is at least one grid and no negative step; the state is {state.shape}, steps {steps}."
        )
