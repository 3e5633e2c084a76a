"""What dead gates cost, and what retraining around them wins back: many patterns in one trained circuit."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from boolean_nca_cc.checkpoint import Checkpoint, load, save, write_atomically
from boolean_nca_cc.circuits.fit import fit_many
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData
from boolean_nca_cc.errors import CheckpointError
from boolean_nca_cc.experiments.evaluation import hard_accuracies
from boolean_nca_cc.experiments.settings import DamageMode, KnockoutSettings
from boolean_nca_cc.experiments.training_run import RESULT, Report, check_same_settings, task_of
from boolean_nca_cc.knockout import greedy, greedy_order, vocabulary

__all__ = ["STUDY", "KnockoutOutcome", "damage_patterns", "load_study", "run_knockout_study"]

STUDY = "study.safetensors"


@dataclass(frozen=True)
class KnockoutOutcome:
    """A finished study; arrays have one entry a pattern.

    Args:
        settings: what was asked.
        baseline: hard accuracy of the undamaged circuit.
        dead: dead gates.
        damaged: hard accuracy right after the knockout.
        retrained: and after retraining.
        steps: retraining steps at which the curves were recorded.
        curves: hard accuracy at these steps.
        files: what was written.
    """

    settings: KnockoutSettings
    baseline: float
    dead: Int[np.ndarray, " patterns"]
    damaged: Float[np.ndarray, " patterns"]
    retrained: Float[np.ndarray, " patterns"]
    steps: Int[np.ndarray, " points"]
    curves: Float[np.ndarray, "patterns points"]
    files: list[Path]

    def summary(self) -> dict[str, Any]:
        """The distributions in a few numbers, for JSON."""
        return {
            "patterns": len(self.dead),
            "dead_gates_mean": float(self.dead.mean()),
            "baseline_hard_accuracy": self.baseline,
            "damaged_hard_accuracy": _distribution(self.damaged),
            "retrained_hard_accuracy": _distribution(self.retrained),
        }


def run_knockout_study(
    settings: KnockoutSettings,
    circuit: Circuit,
    spec: CircuitSpec,
    folder: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> KnockoutOutcome:
    """Knocks patterns of gates out of a trained circuit and retrains it around each, a chunk of patterns at a time.

    After each chunk the results so far are saved, so that a killed study goes on from its last chunk.

    Args:
        settings: what to do.
        circuit: the trained circuit; each pattern starts from it, with a fresh optimiser state.
        spec: its layers.
        folder: where to write `study.safetensors` (patterns and results) and `result.json` (the summary).
        resume: go on with the study in the folder, if there is one.
        report: called with patterns done, patterns in all and a line of words.

    Returns:
        The outcome.

    Raises:
        CheckpointError: the folder holds a study and `resume` is False, or one of other settings or another circuit.
        PatternError: patterns that cannot be drawn.
    """
    report = report or (lambda done, total, words: None)
    data, path, asked = task_of(settings.base), folder / STUDY, settings.model_dump(mode="json")
    record = dict[str, np.ndarray]()
    done = 0
    if path.exists():
        if not resume:
            raise CheckpointError(
                f"a folder holds one study; {folder} already has one. Resume it (--resume), or choose another folder "
                "(--out)."
            )
        saved = load(path, spec=spec)
        check_same_settings(saved, asked, path, kind="knockout")
        _check_same_circuit(saved.circuit, circuit, path)
        record, done = saved.record, saved.step
    alive = damage_patterns(settings, circuit, spec, data)
    total = len(alive)
    if done:
        report(done, total, f"resumed after {done} patterns")
    while done < total:
        rows = np.arange(done, min(done + settings.chunk, total))
        # The last chunk is filled up with its last pattern: one shape, one compilation.
        filled = alive[np.minimum(np.arange(done, done + min(settings.chunk, total)), total - 1)]
        history = fit_many(circuit, data.x, data.y, filled, settings.retrain).history
        chunk = {
            "alive": alive[rows],
            "damaged": hard_accuracies(circuit, data, filled)[: len(rows)],
            "curves": history["hard_accuracy"][: len(rows)],
        }
        record = {name: np.concatenate([record[name], part]) if done else part for name, part in chunk.items()}
        record["steps"] = history["step"]
        done += len(rows)
        save(path, Checkpoint(spec, circuit, done, {"knockout": asked}, record=record))
        report(done, total, f"hard accuracy {record['damaged'].mean():.4f} → {record['curves'][:, -1].mean():.4f}")
    outcome = _outcome(settings, circuit, data, record, [path, folder / RESULT])
    result = {"kind": "knockout", "settings": asked, "summary": outcome.summary()}
    write_atomically(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())
    return outcome


def load_study(folder: Path) -> KnockoutOutcome:
    """A study's results so far, from its folder.

    Args:
        folder: where `run_knockout_study` wrote.

    Returns:
        The outcome of the patterns that are done.

    Raises:
        CheckpointError: no study in the folder.
    """
    saved = load(folder / STUDY)
    if "knockout" not in saved.settings:
        raise CheckpointError(
            f"a study's file is needed; {folder / STUDY} is of another kind. Give the folder of `boolean-nca knockout`."
        )
    settings = KnockoutSettings.model_validate(saved.settings["knockout"])
    return _outcome(settings, saved.circuit, task_of(settings.base), saved.record, [folder / STUDY])


def damage_patterns(
    settings: KnockoutSettings, circuit: Circuit, spec: CircuitSpec, data: TaskData
) -> Bool[np.ndarray, "patterns nodes"]:
    """The patterns of a study, a function of its settings and, for greedy damage, of the circuit.

    Args:
        settings: what was asked.
        circuit: the trained circuit.
        spec: its layers.
        data: the task.

    Returns:
        One mask a pattern.

    Raises:
        PatternError: patterns that cannot be drawn.

    >>> from boolean_nca_cc.experiments.settings import TrainSettings
    >>> from boolean_nca_cc.experiments.training_run import new_circuit
    >>> settings = KnockoutSettings(base=TrainSettings(task="copy", bits=2), patterns=4, dead=3)
    >>> data = task_of(settings.base)
    >>> spec, circuit = new_circuit(settings.base, n_out=2)
    >>> (~damage_patterns(settings, circuit, spec, data)).sum(axis=1).tolist()
    [3, 3, 3, 3]
    """
    if settings.mode != DamageMode.GREEDY:
        key = jax.random.key(settings.seed)
        return np.asarray(vocabulary(key, spec, settings.patterns, settings.mode.value, settings.dead))
    order = greedy_order(circuit, data.x, data.y, settings.dead)
    count = max(1, min(settings.patterns, len(order)))
    sizes = np.ceil(np.arange(1, count + 1) * len(order) / count).astype(int)
    return np.asarray(jax.vmap(lambda size: greedy(spec, order, size))(jnp.asarray(sizes)))


def _outcome(
    settings: KnockoutSettings,
    circuit: Circuit,
    data: TaskData,
    record: dict[str, Shaped[np.ndarray, "..."]],
    files: list[Path],
) -> KnockoutOutcome:
    alive, curves = record["alive"], record["curves"]
    baseline = float(hard_accuracies(circuit, data, np.ones((1, alive.shape[1]), bool))[0])
    dead = (~alive).sum(axis=1)
    return KnockoutOutcome(settings, baseline, dead, record["damaged"], curves[:, -1], record["steps"], curves, files)


def _check_same_circuit(found: Circuit, asked: Circuit, path: Path) -> None:
    same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), found, asked)
    if not all(jax.tree.leaves(same)):
        raise CheckpointError(
            f"a study goes on with the circuit it began with; the tables or wires in {path} are others. Give the same "
            "checkpoint again, or start in another folder (--out)."
        )


def _distribution(values: Float[np.ndarray, " patterns"]) -> dict[str, float]:
    quantiles = {"worst": 0.0, "lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75, "best": 1.0}
    return {
        "mean": float(values.mean()),
        **{name: float(np.quantile(values, q)) for name, q in quantiles.items()},
        "exact": float((values == 1.0).mean()),
    }
