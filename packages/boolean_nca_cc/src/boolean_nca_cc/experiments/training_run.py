"""Training one circuit into a run's folder, a checkpoint at a time, so that it can be stopped and resumed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from boolean_nca_cc.checkpoint import Checkpoint, load, save, write_atomically
from boolean_nca_cc.circuits.fit import fit
from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData, get_task, split
from boolean_nca_cc.errors import CheckpointError
from boolean_nca_cc.experiments.evaluation import Evaluation, evaluate
from boolean_nca_cc.experiments.settings import TrainSettings
from boolean_nca_cc.optim import make_optimizer

__all__ = ["CHECKPOINT", "RESULT", "TrainOutcome", "load_run", "new_circuit", "run_training", "task_of"]

CHECKPOINT = "checkpoint.safetensors"
RESULT = "result.json"

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TrainOutcome:
    """A finished run.

    Args:
        settings: what was asked.
        spec: the circuit's layers.
        circuit: the trained circuit.
        history: learning curves by name; see `boolean_nca_cc.circuits.fit.FitResult`.
        evaluation: the circuit on all cases.
        files: what was written.
    """

    settings: TrainSettings
    spec: CircuitSpec
    circuit: Circuit
    history: dict[str, Shaped[np.ndarray, " points"]]
    evaluation: Evaluation
    files: list[Path]


def task_of(settings: TrainSettings) -> TaskData:
    """The truth table that the settings ask for.

    Args:
        settings: the settings.

    Returns:
        All cases.

    Raises:
        TaskError: an unknown task, or one that is undefined at this width.

    >>> task_of(TrainSettings(task="copy", bits=3)).y.shape
    (8, 3)
    """
    return get_task(settings.task, settings.bits, settings.outputs, seed=settings.seed, text=settings.text)


def new_circuit(settings: TrainSettings, n_out: int) -> tuple[CircuitSpec, Circuit]:
    """The untrained circuit that the settings ask for.

    Args:
        settings: the settings.
        n_out: output bits of the task.

    Returns:
        Layers and circuit.

    Raises:
        SpecError: settings that describe no circuit.

    >>> new_circuit(TrainSettings(bits=4, arity=2), n_out=3)[0].n_gates
    41
    """
    spec = CircuitSpec.default(settings.bits, n_out, settings.arity, settings.hidden, settings.width)
    return spec, gen_circuit(jax.random.key(settings.seed), spec.layer_sizes, spec.arity)


def run_training(
    settings: TrainSettings, folder: Path, *, resume: bool = False, report: Report | None = None
) -> TrainOutcome:
    """Trains a circuit, with a checkpoint every `checkpoint_every` steps and at the end.

    A run that was killed goes on from its last checkpoint and ends, on the CPU, with the bits of the uninterrupted run.
    More steps than before may be asked for; everything else must be as it was.

    Args:
        settings: what to do.
        folder: where to write `checkpoint.safetensors` and `result.json`.
        resume: go on with the run in the folder, if there is one.
        report: called with steps done, steps in all and a line of words.

    Returns:
        The outcome.

    Raises:
        CheckpointError: the folder holds a run and `resume` is False, or another run than this.
        TaskError: a task that does not exist or does not fit.
    """
    report = report or (lambda done, total, words: None)
    path = folder / CHECKPOINT
    data = task_of(settings)
    spec, circuit = new_circuit(settings, data.y.shape[1])
    train, test = split(data, settings.test_fraction, settings.seed) if settings.test_fraction else (data, None)
    step, opt_state, history = 0, None, dict[str, np.ndarray]()
    if path.exists():
        if not resume:
            raise CheckpointError(
                f"a folder holds one run; {folder} already has one. Resume it (--resume), or choose another "
                "folder (--out)."
            )
        saved = load(path, spec=spec, opt_state=make_optimizer(settings.fit.optimizer).init(circuit.logits))
        check_same_settings(saved, settings.model_dump(mode="json"), path, may_grow="fit.steps")
        circuit, step, opt_state, history = saved.circuit, saved.step, saved.opt_state, saved.record
        report(step, settings.fit.steps, f"resumed at step {step}")
    while step < settings.fit.steps or not path.exists():
        steps = min(settings.checkpoint_every - step % settings.checkpoint_every, settings.fit.steps - step)
        piece = fit(
            circuit,
            train.x,
            train.y,
            settings.fit.model_copy(update={"steps": steps}),
            test=test,
            opt_state=opt_state,
            start_step=step,
        )
        circuit, opt_state, step = piece.circuit, piece.opt_state, step + steps
        history = {
            name: np.concatenate([history[name], part]) if name in history else part
            for name, part in piece.history.items()
        }
        dumped = settings.model_dump(mode="json")
        save(path, Checkpoint(spec, circuit, step, {"train": dumped}, opt_state, None, history))
        report(step, settings.fit.steps, _words(history))
    evaluation = evaluate(circuit, spec, data)
    result = {"kind": "train", "settings": settings.model_dump(mode="json"), "evaluation": evaluation.as_dict()}
    write_atomically(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())
    return TrainOutcome(settings, spec, circuit, history, evaluation, [path, folder / RESULT])


def load_run(path: Path) -> tuple[TrainSettings, Checkpoint]:
    """A trained circuit and its settings, from a run's folder or its checkpoint.

    Args:
        path: the folder or the file.

    Returns:
        Settings and checkpoint; the optimiser's state is left aside.

    Raises:
        CheckpointError: no checkpoint of a training run.
    """
    saved = load_kind(path, "train", "a training run's checkpoint", "train")
    return TrainSettings.model_validate(saved.settings["train"]), saved


def load_kind(path: Path, kind: str, what: str, command: str, name: str = CHECKPOINT) -> Checkpoint:
    """A checkpoint of a certain kind of run, from its folder or its file.

    Args:
        path: the folder or the file.
        kind: the entry of its settings that a run of this kind has.
        what: it is called.
        command: of `boolean-nca`, that writes it.
        name: of the file in a folder.

    Returns:
        The checkpoint; the optimiser's state is left aside.

    Raises:
        CheckpointError: no checkpoint there, or one of another kind.
    """
    saved = load(path / name if path.is_dir() else path)
    if kind not in saved.settings:
        raise CheckpointError(
            f"{what} is needed; {path} is of another kind. Give the folder of `boolean-nca {command}`."
        )
    return saved


def check_same_settings(
    saved: Checkpoint, asked: dict[str, Any], path: Path, kind: str = "train", may_grow: str = ""
) -> None:
    """Refuses to go on with a run under other settings."""
    found = _flat(saved.settings.get(kind, {}))
    wanted = _flat(asked)
    different = [name for name in sorted(found | wanted) if found.get(name) != wanted.get(name) and name != may_grow]
    if different:
        changes = ", ".join(f"{name} was {found.get(name)!r} and is now {wanted.get(name)!r}" for name in different)
        raise CheckpointError(
            f"a run goes on as it began; in {path} {changes}. Ask for the same again, or start in another "
            "folder (--out)."
        )
    if may_grow and saved.step > wanted[may_grow]:
        raise CheckpointError(
            f"a run cannot go back; {path} has done {saved.step} steps, {wanted[may_grow]} are asked for. Ask for more."
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _words(history: dict[str, np.ndarray]) -> str:
    return f"loss {history['loss'][-1]:.4g}, hard accuracy {history['hard_accuracy'][-1]:.4f}"
