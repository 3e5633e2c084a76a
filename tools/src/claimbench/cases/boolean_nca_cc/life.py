"""The Game of Life from its 512 cases: exact on how many fresh wirings, in how many gates, and run beside the rule."""

from __future__ import annotations

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from boolean_nca_cc.automata.grid import run_hard
from boolean_nca_cc.automata.life import compare_on_soups, life_circuit, life_task
from boolean_nca_cc.automata.settings import LifeSettings
from boolean_nca_cc.circuits.fit import fit
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.experiments.life_run import count_gates
from claimbench.case import Case, Counted, Workload
from claimbench.errors import CaseError
from claimbench.record import Params

__all__ = ["CASES"]

SOUPS, SIDE, GENERATIONS = 32, 64, 256


def _not_timed(params: Params) -> Workload:
    raise CaseError(f"this case is checked, not timed; got {params}")


def _glider_off(circuit: Circuit) -> int:
    """Cells that differ from where a glider should be, in 64 generations on a torus of 16 by 16 cells."""
    grid = np.zeros((16, 16), bool)
    grid[[0, 1, 2, 2, 2], [1, 2, 0, 1, 2]] = True
    states = np.asarray(run_hard(circuit, jnp.asarray(grid)[None], 64, "torus"))[::4, 0]
    return int(sum((state != np.roll(grid, (n, n), (0, 1))).sum() for n, state in enumerate(states)))


def _life(params: Params) -> Iterable[Counted]:
    first, wirings = int(params["first"]), int(params["wirings"])
    task, exact, off = life_task(), 0, 0
    counts = []
    for seed in range(first, first + wirings):
        settings = LifeSettings(seed=seed, soups=SOUPS, height=SIDE, width=SIDE, generations=GENERATIONS)
        spec, circuit = life_circuit(settings)
        result = fit(circuit, task.x, task.y, settings.fit)
        if result.history["hard_accuracy"][-1] < 1:
            continue
        exact += 1
        counts.append(count_gates(result.circuit, spec))
        off += int(compare_on_soups(result.circuit, settings, points=8).differing.sum()) + _glider_off(result.circuit)
    words = f"wirings {first} to {first + wirings - 1}, at most {LifeSettings().fit.steps} steps each"
    yield Counted("exact wirings", exact, "best", "", words)
    if not counts:
        return
    yield Counted("gates", max(count.trained for count in counts), "best", "", "of four inputs, as trained")
    yield Counted("two-input gates", max(count.pruned_two_input for count in counts), "best", "", "pruned, most of all")
    mean = float(np.mean([count.pruned_two_input for count in counts]))
    yield Counted("two-input gates, mean", mean, "best", "", "pruned, formulas of each table alone")
    mean = float(np.mean([count.simplified_two_input for count in counts]))
    yield Counted("simplified two-input gates, mean", mean, "best", "", "without what no case tells apart")
    words = f"{SOUPS} soups of {SIDE} × {SIDE} cells over {GENERATIONS} generations, and a glider over 64, each wiring"
    yield Counted("cells off", off, "best", "", words)


CASES = (
    Case(
        "boolean.life",
        "the Game of Life in fewer than a hundred gates of four inputs",
        "jax",
        _not_timed,
        values=_life,
        values_grid=({"first": 100, "wirings": 10},),
        quick_values=(),
    ),
)
