"""The Game of Life: learned by a circuit, counted in gates, and run beside the rule on random soups."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from boolean_nca_cc.automata.gate_count import two_input_gates
from boolean_nca_cc.automata.grid import run_hard
from boolean_nca_cc.automata.life import PUBLISHED_GATES, SoupComparison, compare_on_soups, life_circuit, life_task
from boolean_nca_cc.automata.settings import LifeSettings
from boolean_nca_cc.automata.simplification import simplify
from boolean_nca_cc.checkpoint import Checkpoint, load, save, write_atomically
from boolean_nca_cc.circuits.fit import fit
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import CheckpointError
from boolean_nca_cc.experiments.evaluation import evaluate
from boolean_nca_cc.experiments.training_run import CHECKPOINT, RESULT, Report, check_same_settings, load_kind
from boolean_nca_cc.knockout.liveness import prune
from boolean_nca_cc.optim import make_optimizer
from boolean_nca_cc.plots_automata import Frame, contact_sheet, gif

__all__ = ["GateCounts", "LifeOutcome", "count_gates", "draw_life", "load_life", "run_life"]

_FILM_SIDE, _FILM_STEPS = 48, 80  # cells and generations that are drawn


@dataclass(frozen=True)
class GateCounts:
    """How large a rule's circuit is.

    Args:
        trained: gates of four inputs as trained.
        pruned: those that an output can hear.
        pruned_two_input: two-input gates of the pruned circuit, an upper bound; see `automata.gate_count`.
        simplified: gates of four inputs after simplification on the 512 cases; see `automata.simplification`.
        simplified_two_input: two-input gates of that circuit, entries that no case reads being free.
        published_two_input: active gates of the circuit in arXiv:2506.04912.
    """

    trained: int
    pruned: int
    pruned_two_input: int
    simplified: int
    simplified_two_input: int
    published_two_input: int = PUBLISHED_GATES


@dataclass(frozen=True)
class LifeOutcome:
    """A finished run.

    Args:
        settings: what was asked.
        spec: the circuit's layers.
        circuit: the trained circuit.
        step: training steps done: training ends at the first checkpoint at which all cases are right.
        hard_accuracy: share of the 512 cases that are right.
        gates: how large it is.
        comparison: the circuit beside the rule.
        files: what was written.
    """

    settings: LifeSettings
    spec: CircuitSpec
    circuit: Circuit
    step: int
    hard_accuracy: float
    gates: GateCounts
    comparison: SoupComparison
    files: list[Path]

    def as_dict(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        return {
            "steps": self.step,
            "hard_accuracy": self.hard_accuracy,
            "gates": vars(self.gates),
            "generations": int(self.comparison.generations[-1]),
            "soups": self.settings.soups,
            "differing_cells": int(self.comparison.differing.sum()),
        }


def run_life(
    settings: LifeSettings, folder: Path, *, resume: bool = False, report: Report | None = None
) -> LifeOutcome:
    """Trains until every case is right, or for `fit.steps`; then counts gates and compares on soups.

    Args:
        settings: what to do.
        folder: where to write `checkpoint.safetensors` and `result.json`.
        resume: go on with the run in the folder, if there is one.
        report: called with steps done, steps in all and a line of words.

    Returns:
        The outcome.

    Raises:
        CheckpointError: the folder holds a run and `resume` is False, or another run than this.
        SpecError: layers that describe no circuit.
    """
    report = report or (lambda done, total, words: None)
    path = folder / CHECKPOINT
    data, dumped = life_task(), settings.model_dump(mode="json")
    spec, circuit = life_circuit(settings)
    step, opt_state, history = 0, None, dict[str, np.ndarray]()
    if path.exists():
        if not resume:
            raise CheckpointError(
                f"a folder holds one run; {folder} already has one. Resume it (--resume), or choose another "
                "folder (--out)."
            )
        saved = load(path, spec=spec, opt_state=make_optimizer(settings.fit.optimizer).init(circuit.logits))
        check_same_settings(saved, dumped, path, "life", may_grow="fit.steps")
        circuit, step, opt_state, history = saved.circuit, saved.step, saved.opt_state, saved.record
        report(step, settings.fit.steps, f"resumed at step {step}")
    while not path.exists() or (step < settings.fit.steps and history["hard_accuracy"][-1] < 1):
        steps = min(settings.checkpoint_every - step % settings.checkpoint_every, settings.fit.steps - step)
        config = settings.fit.model_copy(update={"steps": steps})
        piece = fit(circuit, data.x, data.y, config, opt_state=opt_state, start_step=step)
        circuit, opt_state, step = piece.circuit, piece.opt_state, step + steps
        history = {
            name: np.concatenate([history[name], part]) if name in history else part
            for name, part in piece.history.items()
        }
        save(path, Checkpoint(spec, circuit, step, {"life": dumped}, opt_state, None, history))
        report(step, settings.fit.steps, f"hard accuracy {history['hard_accuracy'][-1]:.4f}")
    comparison = compare_on_soups(circuit, settings)
    accuracy = evaluate(circuit, spec, data).hard_accuracy
    files = [path, folder / RESULT]
    outcome = LifeOutcome(settings, spec, circuit, step, accuracy, count_gates(circuit, spec), comparison, files)
    result = {"kind": "life", "settings": dumped, **outcome.as_dict()}
    write_atomically(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())
    return outcome


def count_gates(circuit: Circuit, spec: CircuitSpec) -> GateCounts:
    """Counts a rule's gates as trained, pruned, and simplified on the 512 cases.

    Args:
        circuit: the rule's circuit, 9 → 1.
        spec: its layers.

    Returns:
        The counts. A table that only passes on an input counts as a gate of four inputs and as none of two.
    """
    x = life_task().x
    pruned, simplified = prune(circuit, spec), simplify(circuit, spec, x)
    return GateCounts(
        spec.n_gates,
        pruned.spec.n_gates,
        int(two_input_gates(pruned.circuit, pruned.spec).sum()),
        simplified.spec.n_gates,
        int(two_input_gates(simplified.circuit, simplified.spec, x).sum()),
    )


def load_life(path: Path) -> tuple[LifeSettings, Checkpoint]:
    """A learned rule and its settings, from a run's folder or its checkpoint.

    Args:
        path: the folder or the file.

    Returns:
        Settings and checkpoint; the optimiser's state is left aside.

    Raises:
        CheckpointError: no checkpoint of such a run.
    """
    saved = load_kind(path, "life", "a checkpoint of the Game of Life", "life")
    return LifeSettings.model_validate(saved.settings["life"]), saved


def draw_life(settings: LifeSettings, circuit: Circuit, folder: Path, generations: int = _FILM_STEPS) -> list[Path]:
    """Draws one soup as the circuit runs it, as an animation and as a contact sheet.

    Args:
        settings: density, boundary and seed of the soup; its sides, up to 48 cells.
        circuit: the rule's circuit.
        folder: where to write `soup.gif` and `soup.png`.
        generations: how long it runs.

    Returns:
        The files.

    Raises:
        MissingExtraError: pillow is not installed.
    """
    shape = (min(settings.height, _FILM_SIDE), min(settings.width, _FILM_SIDE))
    soup: Shaped[np.ndarray, "height width"] = np.random.default_rng(settings.seed).random(shape) < settings.density
    states = np.asarray(run_hard(circuit, jnp.asarray(soup)[None], generations, settings.boundary))[:, 0]
    frames = [Frame(state, f"generation {t}") for t, state in enumerate(states)]
    sheet = frames[:: max(1, generations // 11)]
    return [gif(frames, folder / "soup", pixels=6), contact_sheet(sheet, folder / "soup", pixels=4, columns=4)]
