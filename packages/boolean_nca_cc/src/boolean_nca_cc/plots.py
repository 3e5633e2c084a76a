"""Pictures of runs and studies: learning curves, what a knockout costs, how it recovers.

Needs the extra `plots` (matplotlib). No window is opened and no global state is touched, so it works without a display.
Every picture is written twice, as PNG and as SVG. Colours are the Okabe-Ito set, which colour-blind readers can tell
apart, and curves differ in their strokes as well.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, Shaped

from boolean_nca_cc.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "damage_curve", "knockout_histogram", "learning_curves", "new_figure", "recovery_curves", "write_figure",
]  # fmt: skip

_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#6b7278"


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
    colours = {"": _BLUE, "hard_": _ORANGE, "test_": _GREEN, "test_hard_": _GREY}
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
        (damaged, "damaged", _ORANGE, "//"),
        (retrained, "retrained", _BLUE, ""),
    ):
        label = f"{label}: mean {np.mean(values):.3f}, worst {np.min(values):.3f}"
        axes.hist(values, edges.tolist(), color=colour, alpha=0.6, hatch=hatch, edgecolor="white", label=label)
    if baseline is not None:
        axes.axvline(baseline, color=_GREY, linestyle="--", linewidth=1.2, label=f"undamaged: {baseline:.3f}")
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
    axes.fill_between(steps, lowest, highest, color=_BLUE, alpha=0.15, linewidth=0, label="worst to best pattern")
    axes.fill_between(steps, lower, upper, color=_BLUE, alpha=0.3, linewidth=0, label="middle half")
    axes.plot(steps, median, color=_BLUE, linewidth=2, label="median")
    axes.plot(steps, accuracy.mean(axis=0), "--", color=_ORANGE, linewidth=1.5, label="mean")
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
    axes.plot(dead[order], damaged[order], "s--", color=_ORANGE, markersize=4, label="damaged")
    axes.plot(dead[order], retrained[order], "o-", color=_BLUE, markersize=4, label="retrained")
    axes.set(xlabel="dead gates", ylabel="hard accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower left")
    return write_figure(figure, path)


def new_figure(title: str, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """An empty figure in the style of this package.

    Args:
        title: heading.
        columns: panels beside each other.

    Returns:
        The figure and its panels.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "pictures need matplotlib, which is not installed. From the root of the repository: "
            "pip install './packages/boolean_nca_cc[plots]'"
        ) from error
    figure = Figure(figsize=(5.2 * columns + 1.2, 4), layout="constrained")
    figure.suptitle(title)
    panels = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, panels


def write_figure(figure: "Figure", path: str | os.PathLike[str]) -> list[Path]:
    """Writes a figure; the same numbers give the same files.

    Args:
        figure: the figure.
        path: where to write; the suffix is replaced.

    Returns:
        The PNG and the SVG.
    """
    from matplotlib import rc_context

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    figure.savefig(png, dpi=150)
    # No date and no random names inside: the same numbers give the same file.
    with rc_context({"svg.hashsalt": "boolean_nca_cc"}):
        figure.savefig(svg, metadata={"Date": None})
    return [png, svg]
