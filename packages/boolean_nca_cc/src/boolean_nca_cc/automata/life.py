"""Conway's Game of Life: the rule by counting, and as a truth table for a circuit to learn.

A cell is alive in the next generation with three living neighbours, or with two if it is alive now (M. Gardner,
Scientific American 223(4), 1970). Its neighbourhood has 2^9 = 512 cases; they are all there is to learn. Miotti et al.
(arXiv:2506.04912) learn the same rule with 336 active two-input gates.
"""

from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Shaped

from boolean_nca_cc.automata.grid import NEIGHBOURS, Boundary, check_grid, run_packed
from boolean_nca_cc.automata.settings import LifeSettings
from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData, get_task

__all__ = ["PUBLISHED_GATES", "SoupComparison", "compare_on_soups", "life_circuit", "life_generation", "life_task"]

PUBLISHED_GATES = 336
"""Active two-input gates of the circuit in arXiv:2506.04912."""

_CENTRE = 4


class SoupComparison(NamedTuple):
    """A circuit beside the rule, on random grids.

    Args:
        generations: generations at which the grids were compared.
        differing: cells that differed at each of them.
        alive: share of living cells at each of them, by the rule.
    """

    generations: Shaped[np.ndarray, " points"]
    differing: Shaped[np.ndarray, " points"]
    alive: Shaped[np.ndarray, " points"]


def life_task() -> TaskData:
    """The 512 cases: bit p of the case's number is the cell at place p of the neighbourhood, 4 being the cell itself.

    Returns:
        Inputs and the cell in the next generation.

    >>> task = life_task()
    >>> task.x.shape, int(task.y.sum())
    ((512, 9), 140)
    """

    def rule(case: Shaped[np.ndarray, " cases"]) -> Shaped[np.ndarray, " cases"]:
        bits = case[:, None] >> np.arange(NEIGHBOURS) & 1
        centre, neighbours = bits[:, _CENTRE], np.delete(bits, _CENTRE, axis=1).sum(axis=1)
        return (neighbours == 3) | (neighbours == 2) & (centre == 1)

    return get_task("custom", NEIGHBOURS, 1, function=rule)._replace(name="life")


def life_circuit(settings: LifeSettings) -> tuple[CircuitSpec, Circuit]:
    """The untrained circuit of a cell. The first layers come in groups of four, the last two in smaller ones.

    Narrow layers would lose most of what came before if their gates shared their wires.

    Args:
        settings: layers and seed.

    Returns:
        Layers and circuit.

    Raises:
        SpecError: a width that its group size does not divide.

    >>> life_circuit(LifeSettings())[0].layer_sizes
    ((9, 1), (36, 4), (32, 4), (16, 2), (4, 1), (1, 1))
    """
    widths = settings.layers
    sizes = [
        (width, group) for width, group in zip(widths, [4] * (len(widths) - 2) + [2, 1][-len(widths) :], strict=True)
    ]
    spec = CircuitSpec(((NEIGHBOURS, 1), *sizes, (1, 1)), arity=4)
    return spec, gen_circuit(jax.random.key(settings.seed), spec.layer_sizes, spec.arity)


def life_generation(
    grid: Bool[np.ndarray, "*batch height width"], boundary: Boundary = "torus"
) -> Bool[np.ndarray, "*batch height width"]:
    """One generation by counting neighbours, in plain NumPy.

    Args:
        grid: living cells.
        boundary: what lies beyond the edges.

    Returns:
        The next generation.

    Raises:
        AutomatonError: a grid too small, or an unknown boundary.

    >>> blinker = np.zeros((5, 5), bool)
    >>> blinker[2, 1:4] = True
    >>> life_generation(blinker).astype(int)[:, 2].tolist()
    [0, 1, 1, 1, 0]
    """
    height, width = grid.shape[-2:]
    check_grid(height, width, boundary)
    margin = [(0, 0)] * (grid.ndim - 2) + [(1, 1)] * 2
    framed = np.pad(grid.astype(np.uint8), margin, mode="wrap" if boundary == "torus" else "constant")
    rows = framed[..., :-2, :] + framed[..., 1:-1, :] + framed[..., 2:, :]
    with_centre = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    return (with_centre == 3) | (with_centre == 4) & grid


def compare_on_soups(circuit: Circuit, settings: LifeSettings, points: int = 100) -> SoupComparison:
    """Runs the circuit, 32 soups a machine word, beside the rule in plain NumPy, and counts cells that differ.

    Args:
        circuit: the cell's circuit, 9 → 1.
        settings: soups, their size, density, boundary, generations and seed.
        points: about how often the two are compared on the way.

    Returns:
        The counts.

    Raises:
        AutomatonError: a circuit with other inputs or outputs.

    >>> still = LifeSettings(soups=1, height=3, width=3, density=0.0, generations=2)
    >>> copy_centre = Circuit([np.array([[4]])], [np.array([[[-9.0, 9.0]]], np.float32)])
    >>> compare_on_soups(copy_centre, still).differing.tolist()
    [0, 0, 0]
    """
    shape = (settings.soups, settings.height, settings.width)
    ours: Array | np.ndarray = np.random.default_rng(settings.seed).random(shape) < settings.density
    rule = np.asarray(ours)
    ours = ours[None]
    block = max(1, settings.generations // points)
    marks = [0, *range(block, settings.generations, block), *([settings.generations] if settings.generations else [])]
    differing, alive = [0], [rule.mean()]
    for before, now in pairwise(marks):
        ours = run_packed(circuit, ours, now - before, settings.boundary)
        for _ in range(now - before):
            rule = life_generation(rule, settings.boundary)
        differing.append(int((np.asarray(ours)[0] != rule).sum()))
        alive.append(rule.mean())
    return SoupComparison(np.array(marks), np.array(differing), np.array(alive))
