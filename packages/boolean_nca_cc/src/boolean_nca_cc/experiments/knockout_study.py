"""What dead gates cost, and what is won back around them: many patterns in one trained circuit.

Each pattern is measured right after the knockout, after retraining by gradient, and, where a repair rule is given,
after its repair. With several numbers of dead gates the patterns are shared out among them, in turn.
"""

import json
from collections.abc import Callable
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
from boolean_nca_cc.errors import CheckpointError, ConfigError
from boolean_nca_cc.experiments.damage import amounts, check_damage, damage_patterns
from boolean_nca_cc.experiments.evaluation import hard_accuracies
from boolean_nca_cc.experiments.settings import KnockoutSettings
from boolean_nca_cc.experiments.training_run import RESULT, Report, check_same_settings, load_kind, task_of

__all__ = ["STUDY", "KnockoutOutcome", "RepairRule", "load_study", "run_knockout_study"]

STUDY = "study.safetensors"


@dataclass(frozen=True)
class RepairRule:
    """Something that repairs damaged circuits, to be tried beside retraining: a learned rule, say.

    Args:
        name: what tables and legends call it.
        identity: a text that another rule does not have, such as a digest of its weights: a study goes on only with
            the rule that it began with.
        recover: given the trained circuit and masks, one a pattern, the hard accuracy of each after its repair.
    """

    name: str
    identity: str
    recover: Callable[[Circuit, Bool[np.ndarray, "patterns nodes"]], Float[np.ndarray, " patterns"]]


@dataclass(frozen=True)
class KnockoutOutcome:
    """A finished study; arrays have one entry a pattern.

    Args:
        settings: what was asked.
        baseline: hard accuracy of the undamaged circuit.
        hidden: gates that knockout may choose.
        dead: dead gates.
        damaged: hard accuracy right after the knockout.
        retrained: and after retraining.
        steps: retraining steps at which the curves were recorded.
        curves: hard accuracy at these steps.
        files: what was written.
        rule: name of the repair rule; empty = none was given.
        recovered: hard accuracy after its repair.
    """

    settings: KnockoutSettings
    baseline: float
    hidden: int
    dead: Int[np.ndarray, " patterns"]
    damaged: Float[np.ndarray, " patterns"]
    retrained: Float[np.ndarray, " patterns"]
    steps: Int[np.ndarray, " points"]
    curves: Float[np.ndarray, "patterns points"]
    files: list[Path]
    rule: str = ""
    recovered: Float[np.ndarray, " patterns"] | None = None

    @property
    def asked(self) -> Int[np.ndarray, " patterns"]:
        """The number of dead gates that each pattern was drawn with."""
        return amounts(self.settings)[: len(self.dead)]

    def summary(self) -> dict[str, Any]:
        """The distributions in a few numbers, for JSON; of several numbers of dead gates each on its own as well."""
        everything = np.ones(len(self.dead), bool)
        found = {"baseline_hard_accuracy": self.baseline, "rule": self.rule or None, **self._figures(everything)}
        if len(self.settings.dead) > 1:
            asked = self.asked
            parts = [(amount, asked == amount) for amount in sorted(set(asked.tolist()))]
            found["by_dead_gates"] = [{"asked": amount, **self._figures(rows)} for amount, rows in parts]
        return found

    def _figures(self, rows: Bool[np.ndarray, " patterns"]) -> dict[str, Any]:
        found: dict[str, Any] = {"patterns": int(rows.sum()), "dead_gates_mean": float(self.dead[rows].mean())}
        measured = {"damaged": self.damaged, "retrained": self.retrained, "recovered": self.recovered}
        return found | {
            f"{when}_hard_accuracy": _distribution(values[rows])
            for when, values in measured.items()
            if values is not None
        }


def run_knockout_study(
    settings: KnockoutSettings,
    circuit: Circuit,
    spec: CircuitSpec,
    folder: Path,
    *,
    rule: RepairRule | None = None,
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
        rule: what repairs each pattern as well, from the trained circuit; None = nothing but retraining.
        resume: go on with the study in the folder, if there is one.
        report: called with patterns done, patterns in all and a line of words.

    Returns:
        The outcome.

    Raises:
        CheckpointError: the folder holds a study and `resume` is False, or one of other settings, another circuit or
            another rule.
        ConfigError: a rule that does not answer with one hard accuracy a pattern.
        PatternError: patterns that cannot be drawn.
    """
    report = report or (lambda done, total, words: None)
    check_damage(settings, spec)
    data, path, asked = task_of(settings.base), folder / STUDY, settings.model_dump(mode="json")
    rule_asked = {} if rule is None else {"rule": rule.name, "identity": rule.identity}
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
        check_same_settings(saved, rule_asked, path, kind="repair")
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
        if rule is not None:
            chunk["recovered"] = _recovered(rule, circuit, filled)[: len(rows)]
        record = {name: np.concatenate([record[name], part]) if done else part for name, part in chunk.items()}
        record["steps"] = history["step"]
        done += len(rows)
        save(path, Checkpoint(spec, circuit, done, {"knockout": asked, "repair": rule_asked}, record=record))
        report(done, total, f"hard accuracy {record['damaged'].mean():.4f} → {record['curves'][:, -1].mean():.4f}")
    name = "" if rule is None else rule.name
    outcome = _outcome(settings, circuit, spec, data, record, name, [path, folder / RESULT])
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
    saved = load_kind(folder / STUDY, "knockout", "a study's file", "knockout")
    settings = KnockoutSettings.model_validate(saved.settings["knockout"])
    name = saved.settings.get("repair", {}).get("rule", "")
    return _outcome(settings, saved.circuit, saved.spec, task_of(settings.base), saved.record, name, [folder / STUDY])


def _recovered(
    rule: RepairRule, circuit: Circuit, alive: Bool[np.ndarray, "patterns nodes"]
) -> Float[np.ndarray, " patterns"]:
    found = np.asarray(rule.recover(circuit, alive), np.float64)
    if found.shape != (len(alive),) or not ((found >= 0) & (found <= 1)).all():
        raise ConfigError(
            f"a repair rule answers with one hard accuracy from 0 to 1 for each of the {len(alive)} patterns; "
            f"{rule.name} gave an array of shape {found.shape}, {found.ravel()[:3].tolist()} … Return the share of "
            "right output bits."
        )
    return found


def _outcome(
    settings: KnockoutSettings,
    circuit: Circuit,
    spec: CircuitSpec,
    data: TaskData,
    record: dict[str, Shaped[np.ndarray, "..."]],
    rule: str,
    files: list[Path],
) -> KnockoutOutcome:
    alive, curves = record["alive"], record["curves"]
    return KnockoutOutcome(
        settings=settings,
        baseline=float(hard_accuracies(circuit, data, np.ones((1, alive.shape[1]), bool))[0]),
        hidden=spec.hidden_gates.size,
        dead=(~alive).sum(axis=1),
        damaged=record["damaged"],
        retrained=curves[:, -1],
        steps=record["steps"],
        curves=curves,
        files=files,
        rule=rule,
        recovered=record.get("recovered"),
    )


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
