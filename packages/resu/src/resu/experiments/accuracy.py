"""The accuracy table: every method at equal steps, tuned on a validation split, reported on a test split.

Trainings are independent of each other and fixed by their settings and their seed. Each finished one is a line in a
file of the output folder, written through to the disk at once; a killed run goes on where it stopped, and ends with the
same table. Several processes may share a folder, each with a shard of the table's entries.
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resu.baselines import MethodName, method_config
from resu.errors import CheckpointError, ConfigError
from resu.experiments.data import Stage, TaskName, load_task
from resu.experiments.settings import AccuracySettings
from resu.experiments.table import AccuracyRow, AccuracyTable, mean_and_error
from resu.experiments.trial import Trial, TrialSettings

__all__ = ["SETTINGS", "AccuracyTable", "Progress", "best_rate", "read_accuracy", "run_accuracy"]

SETTINGS = "settings.json"
_FIRST_TEST_SEED = 1000
_Cell = tuple[TaskName, float, MethodName]

Progress = Callable[[int, int, str], None]
"""Called with the number of units done, of all units and a line of words; see `run_accuracy`."""


@dataclass(frozen=True)
class _Run:
    """What fixes one training, apart from what all of a folder share."""

    task: TaskName
    sparsity: float
    method: MethodName
    variant: dict[str, Any]
    learning_rate: float
    stage: Stage
    seed: int

    def key(self) -> str:
        return json.dumps(self.__dict__, sort_keys=True)


_Measure = Callable[[_Run], float]


class _MissingError(LookupError):
    """A training that was not done yet."""


def run_accuracy(
    settings: AccuracySettings,
    out_folder: Path,
    progress: Progress | None = None,
    *,
    shard: tuple[int, int] = (0, 1),
) -> AccuracyTable:
    """Tunes, trains and scores every method, and goes on with what the folder already holds.

    Args:
        settings: what to compare.
        out_folder: where to write `settings.json` and one line for each training, in `runs-<shard>.jsonl`.
        progress: called after each training that is reported, and after each tuning; both are units of the total.
        shard: (i, n): do the i-th of n shards of the table only. Processes with other i may run at the same time in
            the same folder.

    Returns:
        The table, with all entries that the folder has trainings for.

    Raises:
        CheckpointError: the folder belongs to other settings or other versions, or a line of it is damaged.
        ConfigError: a shard that does not exist.
        MissingExtraError: digits without scikit-learn.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ConfigError(f"a shard is (i, n) with i from 0 to n − 1; got {shard}. For everything, give (0, 1).")
    progress = progress or (lambda done, total, words: None)
    cells = settings.shard(index, count)
    out_folder.mkdir(parents=True, exist_ok=True)
    _check_folder(settings, out_folder)
    scores = _read_runs(out_folder)
    own = out_folder / f"runs-{index}-of-{count}.jsonl"
    done, total = 0, len(cells) * (settings.seeds + 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def measure(run: _Run) -> float:
        if run.key() not in scores:
            start = time.perf_counter()
            value = _train(settings, run)
            _append(own, run, value, time.perf_counter() - start)
            scores[run.key()] = value
        return scores[run.key()]

    def tell(words: str) -> None:
        nonlocal done
        done += 1
        progress(done, total, words)

    try:
        for cell in cells:
            _row(settings, cell, measure, tell)
    finally:
        torch.set_num_threads(threads)
    return _table(settings, out_folder, _read_runs(out_folder))


def read_accuracy(out_folder: Path) -> AccuracyTable:
    """The table of a folder, with all entries that it has trainings for; nothing is trained.

    Args:
        out_folder: where `run_accuracy` wrote.

    Returns:
        The table.

    Raises:
        CheckpointError: no such folder, or a damaged one.
    """
    return _table(_folder_settings(out_folder)[0], out_folder, _read_runs(out_folder))


def best_rate(grid: tuple[float, ...], value: Callable[[float], float]) -> float:
    """Climbs a grid: from its middle to the better neighbour, until both neighbours are worse.

    Args:
        grid: ascending.
        value: how good a learning rate is, larger is better.

    Returns:
        The learning rate at the top.

    >>> best_rate((1.0, 2.0, 4.0, 8.0), lambda rate: -abs(rate - 7))
    8.0
    """
    known: dict[int, float] = {}

    def at(index: int) -> float:
        if index not in known:
            known[index] = value(grid[index])
        return known[index]

    here = len(grid) // 2
    while True:
        around = [here, *(i for i in (here - 1, here + 1) if 0 <= i < len(grid))]
        best = max(around, key=at)
        if best == here:
            return grid[here]
        here = best


def _row(
    settings: AccuracySettings, cell: _Cell, measure: _Measure, tell: Callable[[str], None] = lambda words: None
) -> AccuracyRow:
    """Tunes and reports one entry, through whatever `measure` does for a training."""
    task, sparsity, method = cell
    sign = 1 if task == "digits" else -1
    label = f"{task} {sparsity:.0%} {method}"

    def judged(rate: float, variant: dict[str, Any]) -> float:
        seeds = range(settings.task_settings[task].tune_seeds)
        values = [measure(_Run(task, sparsity, method, variant, rate, "tune", seed)) for seed in seeds]
        mean = sum(values) / len(values)
        return sign * mean if math.isfinite(mean) else -math.inf

    rate = best_rate(settings.learning_rates, lambda rate: judged(rate, {}))
    variant = max(settings.variants_of(method), key=lambda variant: judged(rate, variant))
    tell(f"{label}: learning rate {rate:g}{f', {variant}' if variant else ''}")
    values = []
    for seed in range(_FIRST_TEST_SEED, _FIRST_TEST_SEED + settings.seeds):
        values.append(measure(_Run(task, sparsity, method, variant, rate, "test", seed)))
        tell(f"{label}: {values[-1]:.3f}")
    mean, error = mean_and_error(values)
    on_edge = rate in (settings.learning_rates[0], settings.learning_rates[-1])
    return AccuracyRow(task, sparsity, method, mean, error, tuple(values), rate, on_edge, variant)


def _table(settings: AccuracySettings, folder: Path, scores: dict[str, float]) -> AccuracyTable:
    def look_up(run: _Run) -> float:
        if run.key() not in scores:
            raise _MissingError
        return scores[run.key()]

    rows = []
    for cell in settings.cells():
        try:
            rows.append(_row(settings, cell, look_up))
        except _MissingError:
            continue
    return AccuracyTable(settings, _folder_settings(folder)[1], tuple(rows))


def _train(settings: AccuracySettings, run: _Run) -> float:
    task = settings.task_settings[run.task]
    trial = Trial(
        load_task(run.task, run.seed, split=settings.split),
        run.stage,
        TrialSettings(
            config=method_config(run.method, **run.variant),
            sparsity=run.sparsity,
            learning_rate=run.learning_rate,
            seed=run.seed,
            steps=task.steps,
            batch=task.batch,
            weight_decay=settings.weight_decay,
            backend=settings.backend,
        ),
    )
    return trial.run()


# --- the folder -------------------------------------------------------------------------------------------------------


def _append(path: Path, run: _Run, score: float, seconds: float) -> None:
    """One line, on the disk before anything else happens; what a killed process left of a line is cut off first."""
    line = run.__dict__ | {"score": score if math.isfinite(score) else None, "seconds": round(seconds, 3)}
    with path.open("ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write((json.dumps(line) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _read_runs(folder: Path) -> dict[str, float]:
    """Scores by key; a training that diverged has none and counts as infinitely bad, which NaN stands for."""
    scores = {}
    for path in sorted(folder.glob("runs-*.jsonl")):
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
            try:
                found = json.loads(line)
                score = found.pop("score")
                found.pop("seconds")
                scores[_Run(**found).key()] = math.nan if score is None else float(score)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"a line of results is a JSON object of one training; line {number} of {path} is not. Remove that "
                    "line, and the training is done again."
                ) from error
    return scores


def _check_folder(settings: AccuracySettings, folder: Path) -> None:
    """Refuses a folder of other settings or versions, then writes the settings of this run."""
    environment = {"torch": torch.__version__, "python": platform.python_version()}
    for task in settings.tasks:
        environment |= {f"{task} {name}": value for name, value in load_task(task, split=settings.split).source.items()}
    if (folder / SETTINGS).exists():
        before, versions = _folder_settings(folder)
        shared = [task for task in settings.tasks if task in before.task_settings]
        pairs: dict[str, tuple[Any, Any]] = {
            name: (getattr(before, name), getattr(settings, name)) for name in ("weight_decay", "backend", "split")
        }
        pairs |= {f"{task}": (before.task_settings[task], settings.task_settings[task]) for task in shared}
        pairs |= {name: (versions[name], environment[name]) for name in versions if name in environment}
        for name, (old, new) in pairs.items():
            if old != new:
                raise CheckpointError(
                    f"a table is compared within one set of settings and versions; in {folder} {name} was {old} and is "
                    f"now {new}. Ask for the same again, or start in another folder."
                )
        environment = versions | environment
    whole = {"settings": settings.model_dump(mode="json"), "environment": environment}
    temporary = folder / f"{SETTINGS}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(whole, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / SETTINGS)


def _folder_settings(folder: Path) -> tuple[AccuracySettings, dict[str, str]]:
    try:
        found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        return AccuracySettings.model_validate(found["settings"]), found["environment"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"a table's folder holds {SETTINGS}; that of {folder} is missing or damaged. Give the folder that the "
            "table was made in."
        ) from error
