"""What `boolean-nca knockout` shows of a study: its tables and its pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from boolean_nca_cc.experiments.knockout_study import KnockoutOutcome

__all__ = ["study_pictures", "study_tables"]


def study_pictures(plots: Any, outcome: "KnockoutOutcome", folder: Path) -> list[Path]:
    """Draws a study: how accuracies are distributed, how they recover, and how they fall with the number of dead gates.

    Args:
        plots: the module `boolean_nca_cc.plots`; passed, because importing it is the caller's choice.
        outcome: the study, finished or not.
        folder: where the pictures go.

    Returns:
        The files.
    """
    import numpy as np

    settings = outcome.settings
    what = f"{settings.base.task}, {len(outcome.dead)} patterns ({settings.mode.value})"
    rule: dict[str, Any] = {} if outcome.recovered is None else {"recovered": outcome.recovered, "rule": outcome.rule}
    dead, groups = outcome.dead, None
    if len(settings.dead) > 1:
        # Where chance decides how many gates die, the patterns of one setting are one point, at their mean.
        dead = groups = np.array([outcome.dead[outcome.asked == amount].mean() for amount in outcome.asked])
    files: list[Path] = plots.knockout_histogram(
        outcome.damaged, outcome.retrained, folder / "histogram", outcome.baseline, f"Knockouts in {what}", **rule
    )
    files += plots.recovery_curves(outcome.steps, outcome.curves, folder / "recovery", f"Recovery, {what}", dead=groups)
    if len(np.unique(dead)) > 1:
        files += plots.damage_curve(
            dead,
            outcome.damaged,
            outcome.retrained,
            folder / "damage",
            f"Accuracy against dead gates, {what}",
            baseline=outcome.baseline,
            hidden=outcome.hidden,
            **rule,
        )
    return files


def study_tables(outcome: "KnockoutOutcome") -> list[Table]:
    """The distributions as tables: over all patterns, and by number of dead gates where there are several.

    Args:
        outcome: the study.

    Returns:
        One table or two.
    """
    summary, settings = outcome.summary(), outcome.settings
    title = (
        f"{settings.base.task}: {summary['patterns']} patterns ({settings.mode.value}), "
        f"{summary['dead_gates_mean']:.1f} dead gates on average, undamaged {summary['baseline_hard_accuracy']:.4f}"
    )
    heads = {"damaged": "damaged", "retrained": "retrained", "recovered": outcome.rule}
    shown = {when: head for when, head in heads.items() if f"{when}_hard_accuracy" in summary}
    table = Table("hard accuracy", *shown.values(), title=title, title_justify="left")
    for name in summary["damaged_hard_accuracy"]:
        values = [f"{summary[f'{when}_hard_accuracy'][name]:.4f}" for when in shown]
        table.add_row("exact patterns" if name == "exact" else name.replace("_", " "), *values)
    tables = [table]
    if "by_dead_gates" in summary:
        medians = [f"{head}, median" for head in shown.values()]
        by_dead = Table("dead gates", "patterns", *medians, title="Hard accuracy", title_justify="left")
        for row in summary["by_dead_gates"]:
            values = [f"{row[f'{when}_hard_accuracy']['median']:.4f}" for when in shown]
            by_dead.add_row(f"{row['dead_gates_mean']:g}", str(row["patterns"]), *values)
        tables.append(by_dead)
    return tables
