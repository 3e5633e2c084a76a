"""Pictures of runs and studies: learning curves, what a knockout costs, how it recovers.

Needs the extra `plots` (matplotlib). Every picture is written twice, as PNG and as SVG; curves differ in their strokes
as well as in their colours.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from boolean_nca_cc.figures import BLUE, GREEN, GREY, ORANGE, new_figure, write_figure

__all__ = ["damage_curve", "knockout_histogram", "learning_curves", "recovery_curves"]


def learning_curves(
    history: Mapping[str, Shaped[np.ndarray, " points"]], path: str | os.PathLike[str], title: str = "Learning curves"
) -> list[Path]:
    """Loss (logarithmic) and accuracy against steps, soft and hard.

    Args:
        history: columns `step`, and any of `loss`, `hard_loss`, `accuracy`, `hard_accuracy`, each also with a `test_`
            before it.
        path: where to write; the suffix is replaced.
        title: heading.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (left, right) = new_figure(title, columns=2)
    steps = history["step"]
    strokes = {"": "-", "hard_": "--", "test_": "-.", "test_hard_": ":"}
    colours = {"": BLUE, "hard_": ORANGE, "test_": GREEN, "test_hard_": GREY}
    for axes, quantity in ((left, "loss"), (right, "accuracy")):
        for prefix, stroke in strokes.items():
            values = history.get(f"{prefix}{quantity}")
            if values is not None:
                label = f"{prefix}{quantity}".replace("_", " ")
                axes.plot(steps, values, stroke, color=colours[prefix], label=label, linewidth=1.8)
        axes.set(xlabel="step", ylabel=quantity)
        axes.legend(frameon=False)
    # The hard loss of a solved task is 0, which a logarithm cannot show; it is linear below 0.1.
    left.set_yscale("symlog", linthresh=0.1)
    left.set_ylim(bottom=0)
    right.set_ylim(top=1.02)
    return write_figure(figure, path)


def knockout_histogram(
    damaged: Float[np.ndarray, " patterns"],
    retrained: Float[np.ndarray, " patterns"],
    path: str | os.PathLike[str],
    baseline: float | None = None,
    title: str = "Hard accuracy after a knockout",
) -> list[Path]:
    """How the patterns' hard accuracies are distributed, before and after retraining around the damage.

    Args:
        damaged: hard accuracy of each pattern right after the knockout.
        retrained: and after retraining.
        path: where to write; the suffix is replaced.
        baseline: hard accuracy of the undamaged circuit, drawn as a line.
        title: heading.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axes,) = new_figure(title)
    low = min(float(np.min(damaged)), float(np.min(retrained)))
    # Edges half a bin off, so that 1.0 (solved) has the last bin to itself and does not share it with 0.97.
    width = (1.0 - low) / 24 or 0.01
    edges = 1.0 + width / 2 - width * np.arange(26)[::-1]
    for values, label, colour, hatch in (
        (damaged, "damaged", ORANGE, "//"),
        (retrained, "retrained", BLUE, ""),
    ):
        label = f"{label}: mean {np.mean(values):.3f}, worst {np.min(values):.3f}"
        axes.hist(values, edges.tolist(), color=colour, alpha=0.6, hatch=hatch, edgecolor="white", label=label)
    if baseline is not None:
        axes.axvline(baseline, color=GREY, linestyle="--", linewidth=1.2, label=f"undamaged: {baseline:.3f}")
    axes.set(xlabel="hard accuracy (fraction of output bits)", ylabel=f"patterns, of {len(damaged)}")
    axes.legend(frameon=False, loc="upper left")
    return write_figure(figure, path)


def recovery_curves(
    steps: Int[np.ndarray, " points"],
    accuracy: Float[np.ndarray, "patterns points"],
    path: str | os.PathLike[str],
    title: str = "Recovery around dead gates",
) -> list[Path]:
    """Hard accuracy while retraining: the median pattern, the middle half, all of them.

    Args:
        steps: retraining steps of the points.
        accuracy: hard accuracy of each pattern.
        path: where to write; the suffix is replaced.
        title: heading.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axes,) = new_figure(title)
    lowest, lower, median, upper, highest = np.quantile(accuracy, (0, 0.25, 0.5, 0.75, 1), axis=0)
    axes.fill_between(steps, lowest, highest, color=BLUE, alpha=0.15, linewidth=0, label="worst to best pattern")
    axes.fill_between(steps, lower, upper, color=BLUE, alpha=0.3, linewidth=0, label="middle half")
    axes.plot(steps, median, color=BLUE, linewidth=2, label="median")
    axes.plot(steps, accuracy.mean(axis=0), "--", color=ORANGE, linewidth=1.5, label="mean")
    axes.set(xlabel="retraining step", ylabel="hard accuracy")
    axes.legend(frameon=False, loc="lower right")
    return write_figure(figure, path)


def damage_curve(
    dead: Int[np.ndarray, " patterns"],
    damaged: Float[np.ndarray, " patterns"],
    retrained: Float[np.ndarray, " patterns"],
    path: str | os.PathLike[str],
    title: str = "Hard accuracy against dead gates",
) -> list[Path]:
    """Hard accuracy against the number of dead gates, before and after retraining; one point a pattern.

    Args:
        dead: dead gates of each pattern.
        damaged: hard accuracy right after the knockout.
        retrained: and after retraining.
        path: where to write; the suffix is replaced.
        title: heading.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axes,) = new_figure(title)
    from matplotlib.ticker import MaxNLocator  # after new_figure, which explains a missing matplotlib

    order = np.argsort(dead, kind="stable")
    axes.plot(dead[order], damaged[order], "s--", color=ORANGE, markersize=4, label="damaged")
    axes.plot(dead[order], retrained[order], "o-", color=BLUE, markersize=4, label="retrained")
    axes.set(xlabel="dead gates", ylabel="hard accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower left")
    return write_figure(figure, path)
