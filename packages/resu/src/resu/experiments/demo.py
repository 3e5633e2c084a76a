"""A demonstration on a small task: a network trains, is pruned, and wins some of its weights back, cycle by cycle."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from resu.baselines.cycles import ResuConfig, ResuCycles
from resu.core.mask import SparseMask
from resu.errors import ConfigError
from resu.experiments.data import Part, TaskName, load_task
from resu.experiments.models import score
from resu.experiments.table import METRICS
from resu.experiments.trial import Trial, TrialSettings

__all__ = ["RESULT", "DemoCycle", "DemoLayer", "DemoResult", "run_demo"]

RESULT = "demo.json"
_STEPS: dict[TaskName, int] = {"digits": 1500, "characters": 1200}
_BATCH: dict[TaskName, int] = {"digits": 64, "characters": 256}
_RATE: dict[TaskName, float] = {"digits": 4e-3, "characters": 4e-3}
_SCORED = 8192


@dataclass(frozen=True)
class DemoCycle:
    """What became of a cycle.

    Args:
        cycle: its number, from 0.
        step: steps done at its commit.
        sparsity: of all weights that take part.
        resurrected: pruned weights that came back.
        lost: active weights that left.
        resurrection_rate: resurrected over pruned before.
        churn: resurrected and lost over all.
        jaccard: weights active before and after, over those active at either time.
        score: of the network right after the commit, on the test split.
    """

    cycle: int
    step: int
    sparsity: float
    resurrected: int
    lost: int
    resurrection_rate: float
    churn: float
    jaccard: float
    score: float


@dataclass(frozen=True)
class DemoLayer:
    """Masks of a layer.

    Args:
        first: before the first commit.
        last: at the end.
        came_back: resurrected at least once.
    """

    first: SparseMask
    last: SparseMask
    came_back: SparseMask


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration found.

    Args:
        task: which task.
        metric: what the scores are.
        history: one entry a commit.
        weights: weights that take part.
        active: of these, active at the end.
        resurrected: weights that came back at least once.
        survivors: of these, active at the end.
        score: at the end.
        score_without_survivors: the same network with the survivors set to zero.
        layers: masks of each weight, by name.
        files: what was written.
    """

    task: TaskName
    metric: str
    history: tuple[DemoCycle, ...]
    weights: int
    active: int
    resurrected: int
    survivors: int
    score: float
    score_without_survivors: float
    layers: Mapping[str, DemoLayer]
    files: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without masks and files."""
        return {name: value for name, value in asdict(self).items() if name not in ("layers", "files")}


def run_demo(
    task: TaskName,
    out_folder: Path,
    *,
    sparsity: float = 0.95,
    cycles: int = 15,
    steps: int | None = None,
    seed: int = 0,
    learning_rate: float | None = None,
    backend: str = "auto",
    progress: Callable[[int, int, str], None] | None = None,
) -> DemoResult:
    """Trains a dense network, prunes it by and by, resurrects, commits and recovers.

    The first cycle begins dense; its sparsity is half of what is asked for, and rises along a cubic to all of it. After
    the last commit a quarter of the steps is left for recovery.

    Args:
        task: "digits" or "characters".
        out_folder: where to write `demo.json`.
        sparsity: share of pruned weights at the end.
        cycles: commits.
        steps: steps in all; None = as in the accuracy table.
        seed: of weights, noise and batches.
        learning_rate: at the start; None = one that suits the task.
        backend: of the optimizer.
        progress: called with steps done, steps in all and a line of words, after each commit and at the end.

    Returns:
        The history, and what came back.

    Raises:
        ConfigError: a sparsity that prunes nothing, or too few steps for the cycles.
        MaskError: a sparsity outside [0, 1).
        MissingExtraError: digits without scikit-learn.
    """
    if sparsity <= 0:
        raise ConfigError(f"the demonstration prunes, so its sparsity is above 0; got {sparsity}. Give 0.95, say.")
    data, progress = load_task(task, seed), progress or (lambda done, total, words: None)
    total = _STEPS[task] if steps is None else steps
    changes = {
        "num_cycles": cycles, "prune_first": False, "initial_sparsity": sparsity / 2, "sparsity_schedule": "cubic",
    }  # fmt: skip
    settings = TrialSettings(
        config=ResuConfig(changes=changes), sparsity=sparsity, learning_rate=learning_rate or _RATE[task], seed=seed,
        steps=total, batch=_BATCH[task], backend=backend,
    )  # fmt: skip
    trial = Trial(data, "test", settings)
    method = cast(ResuCycles, trial.method)
    layers, part = trial.sparsifier.parameters, _first(data.test, _SCORED)
    history: list[DemoCycle] = []
    back = {name: SparseMask.zeros(sparse.mask.shape, sparse.mask.device) for name, sparse in layers.items()}
    before: dict[str, SparseMask] = {}

    def look(*_: object) -> None:
        """A step may prune before its forward pass and commit after it."""
        before.update({name: sparse.mask.clone() for name, sparse in layers.items()})

    hook, first = trial.model.register_forward_pre_hook(look), back
    for step in range(total):
        trial.step(step)
        if len(method.commits) > len(history):
            first = first if history else dict(before)
            for name, sparse in layers.items():
                back[name] = back[name] | sparse.mask.difference(before[name])
            report = method.commits[-1]
            history.append(
                DemoCycle(
                    cycle=step // method.cycle.steps_per_cycle,
                    step=step + 1,
                    sparsity=trial.sparsifier.sparsity,
                    resurrected=report.resurrected,
                    lost=report.lost,
                    resurrection_rate=report.resurrection_rate,
                    churn=report.churn,
                    jaccard=report.jaccard,
                    score=score(trial.model, data, part),
                )
            )
            progress(step + 1, total, f"{history[-1].sparsity:.1%} pruned, {history[-1].resurrected} came back")
    hook.remove()
    found = {name: DemoLayer(first[name], sparse.mask.clone(), back[name]) for name, sparse in layers.items()}
    result = _result(trial, task, part, found, tuple(history), out_folder / RESULT)
    progress(total, total, f"score {result.score:.3f}, without what came back {result.score_without_survivors:.3f}")
    out_folder.mkdir(parents=True, exist_ok=True)
    temporary = out_folder / f"{RESULT}.{os.getpid()}"
    temporary.write_text(json.dumps(result.as_dict(), indent=2) + "\n", encoding="utf-8")
    temporary.replace(out_folder / RESULT)
    return result


def _result(
    trial: Trial,
    task: TaskName,
    part: Part,
    found: dict[str, DemoLayer],
    history: tuple[DemoCycle, ...],
    path: Path,
) -> DemoResult:
    layers = trial.sparsifier.parameters
    survivors = {name: layer.came_back & layer.last for name, layer in found.items()}
    at_end = score(trial.model, trial.data, part)
    with torch.no_grad():
        kept = {name: sparse.weight.clone() for name, sparse in layers.items()}
        for name, sparse in layers.items():
            survivors[name].apply_(sparse.parameter, inverse=True)
        without = score(trial.model, trial.data, part)
        for name, sparse in layers.items():
            sparse.weight.copy_(kept[name])
    return DemoResult(
        task=task,
        metric=METRICS[task],
        history=history,
        weights=sum(sparse.mask.numel for sparse in layers.values()),
        active=sum(sparse.mask.n_active for sparse in layers.values()),
        resurrected=sum(layer.came_back.n_active for layer in found.values()),
        survivors=sum(mask.n_active for mask in survivors.values()),
        score=at_end,
        score_without_survivors=without,
        layers=found,
        files=(path,),
    )


def _first(part: Part, count: int) -> Part:
    return Part(part.inputs[:count], part.targets[:count], part.rows[:count])
