"""One training of a small network by one method, kept in a folder: checkpoint, weights, result.

A killed run goes on from its last checkpoint and, on the CPU, ends with the bits of the run that was never killed.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from resu.baselines import MethodName, method_config
from resu.checkpoint import Checkpoint, load, restore, save
from resu.core.mask import SparseMask
from resu.errors import CheckpointError
from resu.experiments.data import Part, TaskName, load_task
from resu.experiments.models import score
from resu.experiments.table import METRICS
from resu.experiments.trial import Trial, TrialSettings
from resu.export.weights import save_weights

__all__ = ["CHECKPOINT", "RESULT", "WEIGHTS", "MaskChange", "RunOutcome", "RunSettings", "run_training"]

CHECKPOINT, RESULT, WEIGHTS = "checkpoint.safetensors", "result.json", "weights.safetensors"
_SCORED = 8192
_POINTS = 20
_MAY_CHANGE = ("checkpoint_every",)


class RunSettings(BaseModel):
    """What a run is asked to do.

    Args:
        task: "digits" or "characters".
        method: a key of `resu.baselines.METHODS`.
        sparsity: share of pruned weights at the end.
        steps: optimizer steps.
        batch: examples of a step.
        learning_rate: at the start; it falls to 0 along half a cosine.
        weight_decay: of AdamW.
        seed: of weights, masks and batches.
        backend: of the optimizer.
        checkpoint_every: steps between checkpoints.

    Raises:
        pydantic.ValidationError: a value out of range, or an unknown field.

    >>> RunSettings(method="rigl").sparsity
    0.95
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: TaskName = "digits"
    method: MethodName = "shadow"
    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.95
    steps: PositiveInt = 1500
    batch: PositiveInt = 64
    learning_rate: PositiveFloat = 4e-3
    weight_decay: NonNegativeFloat = 0.01
    seed: NonNegativeInt = 0
    backend: Literal["auto", "eager", "compile", "triton"] = "eager"
    checkpoint_every: PositiveInt = 250


@dataclass(frozen=True)
class MaskChange:
    """What became of the masks in a step that changed them.

    Args:
        step: steps done.
        sparsity: of all weights that take part, from then on.
        resurrected: pruned before, active now.
        lost: active before, pruned now.
        resurrection_rate: resurrected over pruned before.
        churn: resurrected and lost over all.
        jaccard: weights active before and now, over those active at either time.
    """

    step: int
    sparsity: float
    resurrected: int
    lost: int
    resurrection_rate: float
    churn: float
    jaccard: float


@dataclass(frozen=True)
class RunOutcome:
    """What a run found.

    Args:
        settings: what was asked.
        metric: what the score is.
        score: at the end, on the test split.
        sparsity: at the end.
        changes: one entry for each change of the masks.
        points: step, sparsity and score, now and then.
        files: what was written.
    """

    settings: RunSettings
    metric: str
    score: float
    sparsity: float
    changes: tuple[MaskChange, ...]
    points: tuple[dict[str, float | int], ...]
    files: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without the files."""
        return {
            "settings": self.settings.model_dump(mode="json"), "metric": self.metric, "score": self.score,
            "sparsity": self.sparsity, "changes": [asdict(change) for change in self.changes],
            "points": list(self.points),
        }  # fmt: skip


def run_training(
    settings: RunSettings,
    folder: Path,
    *,
    resume: bool = False,
    force: bool = False,
    report: Callable[[int, int, str], None] | None = None,
) -> RunOutcome:
    """Trains, and writes `checkpoint.safetensors`, `weights.safetensors` and `result.json`.

    Args:
        settings: what to do.
        folder: where to write; it is made if need be.
        resume: go on with the run in the folder, if there is one.
        force: replace the run in the folder.
        report: called with steps done, steps in all and a line of words.

    Returns:
        What was found.

    Raises:
        CheckpointError: the folder has a run already, or one with other settings, or a damaged checkpoint.
        ConfigError: too few steps for the method.
        MissingExtraError: digits without scikit-learn.
    """
    path, report = folder / CHECKPOINT, report or (lambda done, total, words: None)
    if not (resume or force):
        _refuse_a_run(folder)
    saved = load(path) if resume and path.exists() else None
    if saved is not None:
        _check_settings(settings, saved, path)
    data = load_task(settings.task, settings.seed)
    part = Part(data.test.inputs[:_SCORED], data.test.targets[:_SCORED], data.test.rows[:_SCORED])
    with _one_thread():
        trial = Trial(data, "test", _trial_settings(settings))
        first: int = 0
        changes: list[MaskChange] = []
        points: list[dict[str, float | int]] = []
        if saved is not None:
            first, changes, points = _go_on(trial, saved, path)
            report(first, settings.steps, f"resumed at step {first}")
        for step in range(first, settings.steps):
            before = {name: sparse.mask.clone() for name, sparse in trial.sparsifier.parameters.items()}
            trial.step(step)
            changes += _changes(trial, before, step + 1)
            done = step + 1
            if done % max(1, settings.steps // _POINTS) == 0 or done == settings.steps:
                now = {"step": done, "sparsity": trial.sparsifier.sparsity, "score": score(trial.model, data, part)}
                points.append(now)
                report(done, settings.steps, f"{now['sparsity']:.1%} pruned, score {now['score']:.3f}")
            if done % settings.checkpoint_every == 0 or done == settings.steps:
                _save(path, trial, settings, done, changes, points)
        final = trial.score()
    outcome = RunOutcome(
        settings=settings, metric=METRICS[settings.task], score=final, sparsity=trial.sparsifier.sparsity,
        changes=tuple(changes), points=tuple(points), files=(path, folder / WEIGHTS, folder / RESULT),
    )  # fmt: skip
    save_weights(
        folder / WEIGHTS, trial.model, extra={"settings": settings.model_dump(mode="json"), "score": outcome.score}
    )
    temporary = folder / f".{RESULT}.partial"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(outcome.as_dict(), indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / RESULT)
    return outcome


def _trial_settings(settings: RunSettings) -> TrialSettings:
    return TrialSettings(
        config=method_config(settings.method), sparsity=settings.sparsity, learning_rate=settings.learning_rate,
        seed=settings.seed, steps=settings.steps, batch=settings.batch, weight_decay=settings.weight_decay,
        backend=settings.backend,
    )  # fmt: skip


@contextmanager
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _changes(trial: Trial, before: Mapping[str, SparseMask], step: int) -> list[MaskChange]:
    masks = {name: sparse.mask for name, sparse in trial.sparsifier.parameters.items()}
    if all(masks[name] == was for name, was in before.items()):
        return []
    numel = sum(mask.numel for mask in masks.values())
    pruned = sum(was.n_pruned for was in before.values())
    back = sum(masks[name].difference(was).n_active for name, was in before.items())
    lost = sum(was.difference(masks[name]).n_active for name, was in before.items())
    stayed = numel - pruned - lost
    return [
        MaskChange(
            step=step, sparsity=trial.sparsifier.sparsity, resurrected=back, lost=lost,
            resurrection_rate=back / pruned if pruned else 0.0, churn=(back + lost) / numel,
            jaccard=stayed / (stayed + back + lost),
        )
    ]  # fmt: skip


# --- the folder -------------------------------------------------------------------------------------------------------


def _refuse_a_run(folder: Path) -> None:
    found = next((name for name in (CHECKPOINT, RESULT, WEIGHTS) if (folder / name).exists()), None)
    if found is not None:
        raise CheckpointError(
            f"a run has a folder of its own; {folder} already has one ({found}). Resume it (--resume), replace it "
            "(--force), or name another folder (--out)."
        )


def _check_settings(settings: RunSettings, saved: Checkpoint, path: Path) -> None:
    if saved.cycle is None or "changes" not in saved.cycle:
        raise CheckpointError(
            f"a run goes on from a checkpoint of a run; {path} is that of another training. Name another "
            "folder (--out)."
        )
    for name, value in settings.model_dump(mode="json").items():
        if name not in _MAY_CHANGE and saved.settings.get(name) != value:
            raise CheckpointError(
                f"a run goes on with the settings that it began with; in {path} {name} is "
                f"{saved.settings.get(name)!r}, and {value!r} was asked for. Ask for the same, replace the run "
                "(--force), or name another folder (--out)."
            )


def _save(
    path: Path,
    trial: Trial,
    settings: RunSettings,
    step: int,
    changes: list[MaskChange],
    points: list[dict[str, float | int]],
) -> None:
    save(
        path,
        Checkpoint(
            model=trial.model.state_dict(),
            sparsifier=trial.sparsifier.state_dict(),
            optimizer=trial.optimizer.state_dict(),
            cycle={
                "step": step, "changes": [asdict(change) for change in changes], "points": points,
                "method": trial.method.state_dict(),
            },
            settings=settings.model_dump(mode="json"),
            about={
                "task": settings.task, "method": settings.method, "step": step,
                "phase": str(trial.sparsifier.phase), "sparsity": trial.sparsifier.sparsity,
            },
        ),
    )  # fmt: skip


def _go_on(trial: Trial, saved: Checkpoint, path: Path) -> tuple[int, list[MaskChange], list[dict[str, float | int]]]:
    restore(saved, trial.model, trial.sparsifier, trial.optimizer, source=path)
    cycle = saved.cycle or {}
    trial.method.load_state_dict(cycle["method"])
    points = [{name: point[name] for name in ("step", "sparsity", "score")} for point in cycle["points"]]
    return cycle["step"], [MaskChange(**change) for change in cycle["changes"]], points
