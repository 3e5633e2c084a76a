"""Training a rule into a run's folder, a checkpoint at a time, so that it can be stopped and resumed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Shaped
from pydantic import BaseModel, ConfigDict

from boolean_nca_cc.checkpoint import Checkpoint, load, save, write_atomically
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData
from boolean_nca_cc.errors import CheckpointError
from boolean_nca_cc.experiments.settings import TrainSettings
from boolean_nca_cc.experiments.training_run import RESULT, Report, check_same_settings, load_kind, new_circuit, task_of
from boolean_nca_cc.meta.evaluation import RuleEvaluation, evaluate_rule
from boolean_nca_cc.meta.hosts import is_main_process
from boolean_nca_cc.meta.rollout import Rule
from boolean_nca_cc.meta.settings import MetaConfig
from boolean_nca_cc.meta.spreading import local_copy, spread
from boolean_nca_cc.meta.training import MetaState, meta_epochs, seen_patterns, start_training

__all__ = ["RULE", "MetaOutcome", "MetaSettings", "TrainedRule", "load_rule", "run_meta_training"]

RULE = "rule.safetensors"

_CIRCUITS, _STEPS = 16, 10  # of each kind, in an evaluation


class MetaSettings(BaseModel):
    """One rule, the circuits that it is for, and one training.

    Args:
        base: the circuit and its task; its fit is not used.
        meta: the training.

    Raises:
        pydantic.ValidationError: a value out of range or an unknown field.

    >>> MetaSettings().base.task
    'reverse'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: TrainSettings = TrainSettings(task="reverse")
    meta: MetaConfig = MetaConfig()


@dataclass(frozen=True)
class TrainedRule:
    """A rule from its file, with what it needs to work.

    Args:
        settings: of its training.
        spec: the layers of its circuits.
        data: their task.
        rule: with trained weights.
        state: the training's.
        record: curves: `loss`, `hard_accuracy` and `worst` by epoch, the others by evaluation.
    """

    settings: MetaSettings
    spec: CircuitSpec
    data: TaskData
    rule: Rule
    state: MetaState
    record: dict[str, Shaped[np.ndarray, " points"]]


@dataclass(frozen=True)
class MetaOutcome:
    """A finished training.

    Args:
        trained: the rule and its curves.
        evaluation: the last one.
        reached: whether the target was held for as many evaluations as asked.
        files: what was written.
    """

    trained: TrainedRule
    evaluation: RuleEvaluation
    reached: bool
    files: list[Path]

    def summary(self) -> dict[str, Any]:
        """In a few numbers, for JSON."""
        leaves = jax.tree.leaves(self.trained.rule.weights)
        return {
            "parameters": int(sum(leaf.size for leaf in leaves)),
            "epochs": int(self.trained.state.epoch),
            "target_reached": self.reached,
            "hard_accuracy": self.evaluation.summary(),
        }


def run_meta_training(
    settings: MetaSettings,
    folder: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
    mesh: Mesh | None = None,
) -> MetaOutcome:
    """Trains a rule, with an evaluation and a checkpoint every `evaluate_every` epochs and at the end.

    A run that was killed goes on from its last checkpoint and ends, on the CPU, with the bits of the uninterrupted run.

    Args:
        settings: what to do.
        folder: where to write `rule.safetensors` and `result.json`.
        resume: go on with the run in the folder, if there is one.
        report: called with epochs done, epochs in all and a line of words.
        mesh: devices that share the pool and each batch, from `make_pool_mesh`; None is one device. Processes that have
            joined (`boolean_nca_cc.meta.hosts`) all call this, with a folder that all can read; the main one writes.

    Returns:
        The outcome.

    Raises:
        CheckpointError: the folder holds a run and `resume` is False, or another run than this.
        PatternError: damage that takes more gates than are hidden.
        TaskError: a task that does not exist or does not fit.
        ConfigError: a pool or a batch that does not divide evenly over the devices.
    """
    report = report or (lambda done, total, words: None)
    path, meta = folder / RULE, settings.meta
    if path.exists() and not resume:
        raise CheckpointError(
            f"a folder holds one run; {folder} already has one. Resume it (--resume), or choose another folder (--out)."
        )
    trained = _resumed(settings, path) if path.exists() else _begun(settings)
    rule, spec, data, state, record = trained.rule, trained.spec, trained.data, trained.state, dict(trained.record)
    if done := int(state.epoch):
        report(done, meta.epochs, f"resumed at epoch {done}")
    patterns = seen_patterns(meta, spec)
    key = jax.random.fold_in(jax.random.key(meta.seed), 2)
    while True:
        reached, evaluation = _reached(record, meta), None
        if int(state.epoch) >= meta.epochs or reached:
            break
        epochs = min(meta.evaluate_every - int(state.epoch) % meta.evaluate_every, meta.epochs - int(state.epoch))
        if mesh is None:
            state, curves = meta_epochs(meta, spec, rule, state, data, epochs)
        else:
            state, curves = local_copy(meta_epochs(meta, spec, rule, spread(state, mesh), data, epochs, mesh))
        rule = rule._replace(weights=state.weights)
        evaluation = evaluate_rule(
            meta, spec, rule, state.start, data, key, circuits=_CIRCUITS, steps=_STEPS, patterns=patterns
        )
        record = _appended(record, curves._asdict() | _row(int(state.epoch), evaluation))
        if is_main_process():
            save(path, _checkpoint(settings, spec, state, record))
        report(int(state.epoch), meta.epochs, _words(evaluation))
    if evaluation is None:
        evaluation = evaluate_rule(
            meta, spec, rule, state.start, data, key, circuits=_CIRCUITS, steps=_STEPS, patterns=patterns
        )
    outcome = MetaOutcome(
        TrainedRule(settings, spec, data, rule, state, record), evaluation, reached, [path, folder / RESULT]
    )
    result = {"kind": "meta-train", "settings": settings.model_dump(mode="json"), "summary": outcome.summary()}
    if is_main_process():
        write_atomically(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())
    return outcome


def load_rule(path: Path) -> TrainedRule:
    """A rule from a run's folder or its file.

    Args:
        path: the folder or the file.

    Returns:
        The rule, its circuits and its curves.

    Raises:
        CheckpointError: no rule there.
    """
    saved = load_kind(path, "meta", "a rule's file", "meta-train", RULE)
    return _resumed(MetaSettings.model_validate(saved.settings["meta"]), path / RULE if path.is_dir() else path)


def _begun(settings: MetaSettings) -> TrainedRule:
    data = task_of(settings.base)
    spec, start = new_circuit(settings.base, data.y.shape[1])
    rule, state = start_training(settings.meta, spec, start)
    return TrainedRule(settings, spec, data, rule, state, {})


def _resumed(settings: MetaSettings, path: Path) -> TrainedRule:
    new = _begun(settings)
    saved = load(path, spec=new.spec, tree=_arrays(new.state))
    check_same_settings(saved, settings.model_dump(mode="json"), path, kind="meta")
    if saved.tree is None or saved.key is None:
        raise CheckpointError(f"a rule's file holds weights, a pool and a key; {path} lacks some. Take an older one.")
    weights, opt_state, pool = saved.tree
    state = MetaState(weights, opt_state, saved.circuit, pool, saved.key, jnp.asarray(saved.step, jnp.int32))
    return TrainedRule(settings, new.spec, new.data, new.rule._replace(weights=weights), state, saved.record)


def _arrays(state: MetaState) -> tuple[Any, Any, Any]:
    return state.weights, state.opt_state, state.pool


def _checkpoint(
    settings: MetaSettings, spec: CircuitSpec, state: MetaState, record: dict[str, np.ndarray]
) -> Checkpoint:
    dumped = {"meta": settings.model_dump(mode="json")}
    return Checkpoint(spec, state.start, int(state.epoch), dumped, key=state.key, record=record, tree=_arrays(state))


def _row(epoch: int, evaluation: RuleEvaluation) -> dict[str, list[float]]:
    """One point of each curve that has a point an evaluation."""
    flat: dict[str, list[float]] = {"evaluated": [float(epoch)]}
    for name, value in evaluation.summary().items():
        if isinstance(value, dict):
            flat |= {f"{name}_{when}": [number] for when, number in value.items()}
        else:
            flat[name] = [value]
    return flat


def _appended(record: dict[str, np.ndarray], new: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate([record[name], np.asarray(part)]) if name in record else np.asarray(part)
        for name, part in new.items()
    }


def _reached(record: dict[str, np.ndarray], meta: MetaConfig) -> bool:
    """Whether the last evaluations all met the target: after configuration, and after repair if there is damage."""
    if len(record.get("evaluated", ())) < meta.patience:
        return False
    curves = ["configured", *(["unseen_damage_healed"] if meta.damage.dead else [])]
    return all((record[name][-meta.patience :] >= meta.target).all() for name in curves)


def _words(evaluation: RuleEvaluation) -> str:
    unseen = evaluation.unseen_damage
    return (
        f"hard accuracy {evaluation.configured[-1].mean():.4f}; "
        f"damaged {unseen.damaged.mean():.4f} → {unseen.healed[-1].mean():.4f}"
    )
