"""Accuracy at equal steps: the table of `resu.experiments.accuracy`, trained here or read from a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from scipy.stats import t as student

import resu
from claimbench.case import Case, Counted, Workload
from claimbench.errors import CaseError
from claimbench.record import Params
from claimbench.statistics import CONFIDENCE
from resu.baselines import MethodName
from resu.experiments.accuracy import read_accuracy, run_accuracy
from resu.experiments.data import TaskName
from resu.experiments.settings import AccuracySettings
from resu.experiments.table import METRICS, AccuracyTable

__all__ = ["CASES", "FOLDER"]

FOLDER = "RESU_ACCURACY_FOLDER"
"""Environment variable: a folder of trainings that is read as it is, and nothing is trained."""

RIVAL: MethodName = "rigl"


def _not_timed(params: Params) -> Workload:
    raise CaseError(f"this case trains to a quality, it is not timed; got {params}")


def own_folder() -> Path:
    """Where trainings are kept, below the working directory: a run that is killed goes on with those that it finished.

    Its name holds a digest of the package's code, so that other code starts anew.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(resu.__path__[0]).rglob("*.py")):
        digest.update(path.read_bytes())
    return Path("bench") / f"resu-accuracy-{digest.hexdigest()[:12]}"


def _table(task: TaskName, sparsity: float) -> AccuracyTable:
    if FOLDER in os.environ:
        return read_accuracy(Path(os.environ[FOLDER]))
    return run_accuracy(AccuracySettings(tasks=(task,), sparsities=(sparsity,)), own_folder())


def _interval(mean: float, error: float, n: int) -> tuple[float, float] | None:
    """Student's 99 % interval of a mean over n seeds, from its standard error."""
    if n < 2:
        return None
    reach = float(student.ppf(0.5 + CONFIDENCE / 2, n - 1)) * error
    return mean - reach, mean + reach


def _accuracy(params: Params) -> Iterable[Counted]:
    task, sparsity = cast(TaskName, params["task"]), float(params["sparsity"])
    table = _table(task, sparsity)
    rows = [row for row in table.rows if row.task == task and row.sparsity in (0.0, sparsity)]
    if not rows:
        raise CaseError(f"the table has no entry for {task} at {sparsity:g}; train it with `resu bench accuracy`")
    unit = "%" if task == "digits" else "bits"
    for row in rows:
        words = f"{METRICS[task]}; ± {row.error:.3g} over {len(row.values)} seeds, learning rate {row.learning_rate:g}"
        yield Counted("score", row.mean, row.method, unit, words, _interval(row.mean, row.error, len(row.values)))
    for row in rows:
        if row.method != RIVAL and row.sparsity:
            margin, error = table.margin(task, sparsity, row.method, RIVAL)
            words = f"better than tuned RigL by this much, ± {error:.3g}, seed by seed"
            yield Counted("margin", margin, row.method, unit, words, _interval(margin, error, len(row.values)))


CASES = (
    Case(
        "resu.accuracy",
        "every method at equal steps, tuned on a validation split",
        "torch",
        _not_timed,
        values=_accuracy,
        values_grid=tuple(
            {"task": task, "sparsity": sparsity} for sparsity in (0.98, 0.9, 0.95) for task in ("digits", "characters")
        ),
        original=(AccuracySettings,),
        # Hours rather than seconds: what bounds a worker that trains is twice this.
        budget=6 * 3600.0,
    ),
)
