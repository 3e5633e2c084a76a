"""The accuracy table itself: numbers, differences and Markdown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resu.baselines import MethodName
from resu.errors import ConfigError
from resu.experiments.data import TaskName
from resu.experiments.settings import AccuracySettings

__all__ = ["METRICS", "AccuracyRow", "AccuracyTable", "mean_and_error"]

METRICS: dict[TaskName, str] = {
    "digits": "test accuracy in per cent, larger is better",
    "characters": "bits per character on the test text, smaller is better",
}

_LABELS: dict[str, str] = {
    "dense": "dense", "static": "static random", "set": "SET", "rigl": "RigL", "snfs": "SNFS", "shadow": "SHADOW",
    "gmp": "GMP", "acdc": "AC/DC", "topkast": "Top-KAST", "resu": "RESU", "resu_paper": "RESU as published",
}  # fmt: skip


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error s / √n, with the unbiased s; the error of a single value is NaN.

    >>> mean_and_error([1.0, 2.0, 3.0])[0], round(mean_and_error([1.0, 2.0, 3.0])[1], 4)
    (2.0, 0.5774)
    """
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)


@dataclass(frozen=True)
class AccuracyRow:
    """One entry of the table.

    Args:
        task: which task.
        sparsity: share of pruned weights; 0 for "dense".
        method: which method.
        mean: of the scores; NaN where a training diverged.
        error: standard error of the mean.
        values: one score a seed.
        learning_rate: as tuned.
        on_edge: whether the grid ended there, so that a better rate may lie beyond it.
        variant: settings as tuned, beside the method's own.
    """

    task: TaskName
    sparsity: float
    method: MethodName
    mean: float
    error: float
    values: tuple[float, ...]
    learning_rate: float
    on_edge: bool
    variant: Mapping[str, Any]


@dataclass(frozen=True)
class AccuracyTable:
    """What `resu.experiments.accuracy.run_accuracy` found.

    Args:
        settings: what was compared.
        environment: versions, and the data's sources and SHA-256.
        rows: the entries that are complete.
    """

    settings: AccuracySettings
    environment: Mapping[str, str]
    rows: tuple[AccuracyRow, ...]

    def row(self, task: TaskName, sparsity: float, method: MethodName) -> AccuracyRow:
        """An entry.

        Args:
            task: which task.
            sparsity: which sparsity; any for "dense".
            method: which method.

        Returns:
            The entry.

        Raises:
            ConfigError: the table has no such entry.
        """
        wanted = 0.0 if method == "dense" else sparsity
        for row in self.rows:
            if (row.task, row.sparsity, row.method) == (task, wanted, method):
                return row
        raise ConfigError(
            f"the table has no entry for {method} on {task} at {sparsity:g}. Train it first, with the same folder."
        )

    def margin(self, task: TaskName, sparsity: float, method: MethodName, over: MethodName) -> tuple[float, float]:
        """How much better a method is than another: the mean difference, seed by seed, and its standard error.

        Both methods start from the same weights and see the same batches for a seed.

        Args:
            task: which task.
            sparsity: which sparsity.
            method: the one.
            over: the other.

        Returns:
            Difference and standard error; positive where the first is better, in points or in bits per character.

        Raises:
            ConfigError: an entry that the table does not have.
        """
        sign = 1 if task == "digits" else -1
        pair = (self.row(task, sparsity, name).values for name in (method, over))
        return mean_and_error([sign * (a - b) for a, b in zip(*pair, strict=True)])

    def markdown(self, command: str | None = None) -> str:
        """The table for a reader: one part a task, one line a method.

        Args:
            command: what made it, to be quoted.

        Returns:
            Markdown.
        """
        settings, lines = self.settings, ["# Accuracy at equal steps", ""]
        lines += [
            f"Mean ± standard error over {settings.seeds} seeds, and the learning rate. Rate and variant of a method "
            "were chosen on a validation split, with seeds of their own; models were then trained on both splits and "
            "scored on a test split that took no part. Layer densities are ERK, the optimizer is AdamW with a cosine.",
            "",
        ]
        if command:
            lines += ["```", command, "```", ""]
        for task in settings.tasks:
            lines += [*self._part(task), ""]
        lines += ["## Versions", "", *(f"- {name}: {value}" for name, value in sorted(self.environment.items()))]
        return "\n".join(lines) + "\n"

    def _part(self, task: TaskName) -> list[str]:
        trained = self.settings.task_settings[task]
        sparsities = self.settings.sparsities
        head = " | ".join(f"{sparsity:.4g} % pruned" for sparsity in (100 * s for s in sparsities))
        lines = [
            f"## {task}: {METRICS[task]}", "", f"{trained.steps} steps, batches of {trained.batch}.", "",
            f"| method | {head} |", "|---|" + "---|" * len(sparsities),
        ]  # fmt: skip
        found = {(row.method, row.sparsity): row for row in self.rows if row.task == task}
        notes = []
        for method in self.settings.methods:
            rows = [found.get((method, 0.0 if method == "dense" else sparsity)) for sparsity in sparsities]
            if any(rows):
                lines.append(f"| {_LABELS[method]} | {' | '.join(_entry(row) for row in rows)} |")
            notes += [
                f"{_LABELS[row.method]} at {100 * row.sparsity:.4g} %: {_words(row.variant)}"
                for row in rows
                if row and row.variant
            ]
        if notes:
            lines += ["", "Variants that were chosen: " + "; ".join(notes) + "."]
        if any(row.on_edge for row in found.values()):
            lines += ["", "† The best learning rate was at the end of the grid."]
        return lines


def _entry(row: AccuracyRow | None) -> str:
    if row is None:
        return "–"
    if not math.isfinite(row.mean):
        bad = sum(not math.isfinite(value) for value in row.values)
        return f"diverged in {bad} of {len(row.values)} ({row.learning_rate:g})"
    digits = 2 if row.task == "digits" else 3
    error = "" if math.isnan(row.error) else f" ± {row.error:.{digits}f}"
    return f"{row.mean:.{digits}f}{error} ({row.learning_rate:g}{'†' if row.on_edge else ''})"


def _words(variant: Mapping[str, Any]) -> str:
    return ", ".join(
        _words(value) if isinstance(value, Mapping) else f"{name} {value}" for name, value in variant.items()
    )
