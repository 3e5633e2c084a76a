"""Neighbourhoods and steps against loops in plain Python; packed, hard and soft runs against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.automata.cells import cell_circuit, cell_spec
from boolean_nca_cc.automata.grid import check_grid, neighbourhoods, run_hard, run_packed, step_cells
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.wiring import check_wires
from boolean_nca_cc.errors import AutomatonError

BOUNDARIES = ("torus", "fixed")


def read(grid: np.ndarray, row: int, column: int, boundary: str) -> float:
    height, width = grid.shape
    if boundary == "torus":
        return float(grid[row % height, column % width])
    inside = 0 <= row < height and 0 <= column < width
    return float(grid[row, column]) if inside else 0.0


def plain_step(circuit: Circuit, state: np.ndarray, boundary: str) -> np.ndarray:
    """One hard step of one grid (channels, height, width), cell by cell and gate by gate."""
    channels, height, width = state.shape
    new = np.zeros_like(state)
    for row in range(height):
        for column in range(width):
            values = [
                int(read(state[c], row + p // 3 - 1, column + p % 3 - 1, boundary))
                for c in range(channels)
                for p in range(9)
            ]
            for wires, logits in zip(circuit.wires, circuit.logits, strict=True):
                out = []
                for group, tables in enumerate(np.asarray(logits)):
                    sources = np.asarray(wires)[:, group]
                    address = sum(values[source] << j for j, source in enumerate(sources))
                    out += [int(table[address] > 0) for table in tables]
                values = out
            new[:, row, column] = values
    return new


def random_cell(seed: int, channels: int = 2) -> Circuit:
    wires, logits = cell_circuit(jax.random.key(seed), channels, (12, 4), (8,))
    rng = np.random.default_rng(seed)
    return Circuit(wires, [jnp.asarray(rng.normal(size=layer.shape), jnp.float32) for layer in logits])


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_neighbourhoods_are_those_of_a_loop(boundary: str) -> None:
    state = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    found = np.asarray(neighbourhoods(jnp.asarray(state), boundary)).reshape(2, 9, 3, 4, 5)
    for channel, place, grid, row, column in np.ndindex(*found.shape):
        wanted = read(state[channel, grid], row + place // 3 - 1, column + place % 3 - 1, boundary)
        assert found[channel, place, grid, row, column] == np.float32(wanted)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_hard_steps_are_those_of_a_loop(boundary: str) -> None:
    circuit = random_cell(1)
    state = np.random.default_rng(1).integers(0, 2, (2, 5, 4))
    states = np.asarray(run_hard(circuit, state, 3, boundary))
    assert states.shape == (4, 2, 5, 4)
    assert np.array_equal(states[0], state)
    for t in range(3):
        assert np.array_equal(states[t + 1], plain_step(circuit, states[t].astype(int), boundary))
    assert not np.array_equal(states[0], states[1])


@pytest.mark.parametrize(("boundary", "grids"), [("torus", 33), ("fixed", 1)])
def test_packed_runs_are_hard_runs(boundary: str, grids: int) -> None:
    circuit = random_cell(2)
    state = np.random.default_rng(2).random((2, grids, 7, 5)) < 0.5
    packed = np.asarray(run_packed(circuit, state, 4, boundary))
    assert np.array_equal(packed, np.asarray(run_hard(circuit, state, 4, boundary))[-1])


def test_grids_larger_than_a_tile_of_words_are_cut_and_joined() -> None:
    circuit = random_cell(3, channels=1)
    state = np.random.default_rng(3).random((1, 1, 50, 61)) < 0.5  # 3050 words, a tile holds 2048
    assert np.array_equal(run_packed(circuit, state, 2, "torus"), run_hard(circuit, state, 2, "torus")[-1])


def test_a_saturated_soft_step_is_the_hard_one() -> None:
    seed = 6
    circuit = random_cell(seed)
    saturated = Circuit(circuit.wires, [jnp.sign(layer) * 30 for layer in circuit.logits])
    state = jnp.asarray(np.random.default_rng(seed).integers(0, 2, (2, 4, 4)), jnp.float32)
    np.testing.assert_allclose(
        step_cells(saturated, state, "fixed"), step_cells(circuit, state, "fixed", hard=True), atol=1e-9
    )


def test_cells_that_do_not_fire_keep_their_bits() -> None:
    circuit = random_cell(4)
    state = np.random.default_rng(4).integers(0, 2, (2, 6, 6))
    all_cells = np.asarray(run_hard(circuit, state, 1))[-1]
    states = np.asarray(run_hard(circuit, state, 1, fire_rate=0.5, key=jax.random.key(0)))
    fired = (states[1] != states[0]).any(axis=0)
    assert 0 < fired.sum() < (all_cells != state).any(axis=0).sum()
    assert np.array_equal(states[1][:, fired], all_cells[:, fired])
    again = run_hard(circuit, state, 1, fire_rate=0.5, key=jax.random.key(0))
    assert np.array_equal(states, again)


def test_cells_of_packed_grids_fire_each_for_itself() -> None:
    """A cell that turns over whenever it fires: after one step the changed cells are those that fired."""
    flip = Circuit([jnp.array([[4]])], [jnp.array([[[9.0, -9.0]]])])
    state = np.zeros((1, 40, 8, 8), bool)
    once = np.asarray(run_packed(flip, state, 1, fire_rate=0.25, key=jax.random.key(0)))[0]
    assert 0.2 < once.mean() < 0.3
    assert len({grid.tobytes() for grid in once}) == 40
    again = np.asarray(run_packed(flip, state, 2, fire_rate=0.25, key=jax.random.key(0)))[0]
    assert 0.05 < (once & ~again).mean() < 0.08  # fired in the second step as well: a quarter of a quarter


def test_perceive_layers_read_one_channel_and_every_neighbour() -> None:
    spec = cell_spec(3, (12, 8), (16,))
    wires, logits = cell_circuit(jax.random.key(0), 3, (12, 8), (16,))
    check_wires(wires, spec)
    assert [layer.shape[0] * layer.shape[1] for layer in logits] == [36, 24, 16, 3]
    for layer, (sources, groups) in enumerate([(9, 3), (12, 2)]):
        channel = np.asarray(wires[layer]) // sources
        assert np.array_equal(channel, np.repeat(np.arange(3), groups)[None].repeat(4, axis=0))
    assert set(np.asarray(wires[0]).ravel().tolist()) == set(range(27))


def test_channels_that_no_output_hears_are_refused() -> None:
    """Four channels, one update gate of four inputs: some channels reach no output on most wirings."""
    with pytest.raises(AutomatonError, match=r"channel\(s\) \[.*\] of 8 are dead. Widen the update layers"):
        cell_circuit(jax.random.key(0), 8, (4,), (1,))
    with pytest.raises(AutomatonError, match="channels is 0"):
        cell_spec(0, (12,), (8,))


def test_fresh_gates_copy_an_input() -> None:
    circuit = cell_circuit(jax.random.key(5), 1, (), ())
    source = int(circuit.wires[0][0, 0])
    state = np.random.default_rng(5).integers(0, 2, (1, 4, 4))
    moved = np.asarray(run_hard(circuit, state, 1, "torus"))[1, 0]
    assert np.array_equal(moved, np.roll(state[0], (1 - source // 3, 1 - source % 3), (0, 1)))


@pytest.mark.parametrize(
    ("height", "width", "boundary", "message"),
    [
        (2, 8, "torus", r"it is 2 × 8 cells. Use at least 3 rows"),
        (8, 1, "fixed", r"it is 8 × 1 cells"),
        (8, 8, "mirror", "the boundary is 'torus'"),
    ],
)
def test_grids_that_cannot_be_are_refused(height: int, width: int, boundary: str, message: str) -> None:
    with pytest.raises(AutomatonError, match=message):
        check_grid(height, width, boundary)


def test_runs_that_cannot_be_are_refused() -> None:
    circuit, state = random_cell(0), np.zeros((2, 4, 4))
    with pytest.raises(AutomatonError, match="circuit of 27 inputs and 3 outputs"):
        run_hard(circuit, np.zeros((3, 4, 4)), 1)
    with pytest.raises(AutomatonError, match="a cell of 1 bit"):
        run_packed(circuit, np.zeros((1, 1, 4, 4), bool), 1)
    with pytest.raises(AutomatonError, match=r"it is 0\.0"):
        run_hard(circuit, state, 1, fire_rate=0.0)
    with pytest.raises(AutomatonError, match="key is None"):
        run_hard(circuit, state, 1, fire_rate=0.5)
    with pytest.raises(AutomatonError, match="steps -1"):
        run_hard(circuit, state, -1)
    with pytest.raises(AutomatonError, match="multiple"):
        cell_spec(1, (10,), ())
