"""Pictures that cells of logic gates grow, keep and repair: how exactly the hard automaton does on fresh seeds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from boolean_nca_cc.experiments.growth_run import grow_settings, run_growth
from claimbench.case import Case, Counted, Workload
from claimbench.errors import CaseError
from claimbench.record import Params

__all__ = ["CASES"]


def _not_timed(params: Params) -> Workload:
    raise CaseError(f"this case is checked, not timed; got {params}")


def _growth(params: Params) -> Iterable[Counted]:
    """Every seed draws its own wires, starts, damage and firing; none was used in choosing the settings."""
    picture, first, seeds = str(params["picture"]), int(params["first"]), int(params["seeds"])
    outcomes = []
    for seed in range(first, first + seeds):
        with TemporaryDirectory() as folder:
            outcomes.append(run_growth(grow_settings(picture, seed=seed), Path(folder)))
    settings, words = outcomes[0].settings, f"{picture}, seeds {first} to {first + seeds - 1}"
    words += f", {settings.height} × {settings.width} cells, 32 grids each: nothing, one cell, random bits"
    for name in ("synchronous", "asynchronous"):
        repairs = [getattr(outcome, name) for outcome in outcomes]
        for part in ("grown", "kept", "damaged", "repaired"):
            share = 100 * float(np.mean([getattr(repair, part) for repair in repairs]))
            yield Counted(f"{part}, {name}", share, "best", "%", words)
        worst = 100 * min(repair.worst for repair in repairs)
        yield Counted(f"worst grid, {name}", worst, "best", "%", words)
    exact = sum(outcome.hard_accuracy == 1 for outcome in outcomes)
    yield Counted("exact seeds", exact, "best", "", words)
    gates = float(np.mean([outcome.pruned for outcome in outcomes]))
    yield Counted("gates", gates, "best", "", f"{picture}: of four inputs, pruned, mean")


CASES = (
    Case(
        "boolean.growth",
        "pictures grown and repaired by hard cells",
        "jax",
        _not_timed,
        values=_growth,
        values_grid=tuple({"picture": picture, "first": 200, "seeds": 3} for picture in ("checkerboard", "lizard")),
        quick_values=(),
    ),
)
