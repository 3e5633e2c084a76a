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
    *,
    recovered: Float[np.ndarray, " patterns"] | None = None,
    rule: str = "the rule",
) -> list[Path]:
    """How the patterns' hard accuracies are distributed, before and after retraining around the damage.

    Args:
        damaged: hard accuracy of each pattern right after the knockout.
        retrained: and after retraining.
        path: where to write; the suffix is replaced.
        baseline: hard accuracy of the undamaged circuit, drawn as a line.
        title: heading.
        recovered: hard accuracy after the repair by a rule.
        rule: the rule's name.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axes,) = new_figure(title)
    low = min(float(np.min(values)) for values in (damaged, retrained, recovered) if values is not None)
    # Edges half a bin off, so that 1.0 (solved) has the last bin to itself and does not share it with 0.97.
    width = (1.0 - low) / 24 or 0.01
    edges = 1.0 + width / 2 - width * np.arange(26)[::-1]
    for values, label, colour, hatch in (
        (damaged, "damaged", ORANGE, "//"),
        (retrained, "retrained", BLUE, ""),
    ):
        label = f"{label}: mean {np.mean(values):.3f}, worst {np.min(values):.3f}"
        axes.hist(values, edges.tolist(), color=colour, alpha=0.6, hatch=hatch, edgecolor="white", label=label)
    if recovered is not None:  # an outline: a third filling would hide what is behind it
        label = f"repaired by {rule}: mean {np.mean(recovered):.3f}, worst {np.min(recovered):.3f}"
        axes.hist(recovered, edges.tolist(), histtype="step", linewidth=2.2, edgecolor=GREEN, label=label)
    if baseline is not None:
        axes.axvline(baseline, color=GREY, linestyle="--", linewidth=1.2, label=f"undamaged: {baseline:.3f}")
    axes.set(xlabel="hard accuracy (share of output bits)", ylabel=f"patterns, of {len(damaged)}")
    figure.legend(frameon=False, loc="outside lower center", ncols=2 if recovered is None else 1)
    return write_figure(figure, path)


def recovery_curves(
    steps: Int[np.ndarray, " points"],
    accuracy: Float[np.ndarray, "patterns points"],
    path: str | os.PathLike[str],
    title: str = "Recovery around dead gates",
    *,
    dead: Float[np.ndarray, " patterns"] | Int[np.ndarray, " patterns"] | None = None,
) -> list[Path]:
    """Hard accuracy while retraining: the median pattern, the middle half, all of them.

    With several numbers of dead gates, the median and the middle half of each.

    Args:
        steps: retraining steps of the points.
        accuracy: hard accuracy of each pattern.
        path: where to write; the suffix is replaced.
        title: heading.
        dead: dead gates of each pattern, or the mean of the group that is to be drawn as one curve; None = all
            patterns are of one kind.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axes,) = new_figure(title)
    groups = np.unique(dead) if dead is not None else np.empty(0)
    if len(groups) > 1:
        from matplotlib.colors import LinearSegmentedColormap  # after new_figure, which explains a missing matplotlib

        # The more dead gates, the darker: lightness is told apart by every eye.
        shades = LinearSegmentedColormap.from_list("damage", ["#7cc0ea", BLUE, "#001a2b"])
        for place, group in enumerate(groups):
            shade, stroke = shades(place / (len(groups) - 1)), ("-", "--", "-.", ":")[place % 4]
            lower, median, upper = np.quantile(accuracy[dead == group], (0.25, 0.5, 0.75), axis=0)
            axes.fill_between(steps, lower, upper, color=shade, alpha=0.12, linewidth=0)
            axes.plot(steps, median, stroke, color=shade, linewidth=1.8, label=f"{group:.3g} dead gates")
    else:
        lowest, lower, median, upper, highest = np.quantile(accuracy, (0, 0.25, 0.5, 0.75, 1), axis=0)
        axes.fill_between(steps, lowest, highest, color=BLUE, alpha=0.15, linewidth=0, label="worst to best pattern")
        axes.fill_between(steps, lower, upper, color=BLUE, alpha=0.3, linewidth=0, label="middle half")
        axes.plot(steps, median, color=BLUE, linewidth=2, label="median")
        axes.plot(steps, accuracy.mean(axis=0), "--", color=ORANGE, linewidth=1.5, label="mean")
    shown = "; line: median, band: middle half" if len(groups) > 1 else ""
    axes.set(
        xlabel=f"retraining step\n({len(accuracy)} patterns{shown})", ylabel="hard accuracy (share of output bits)"
    )
    figure.legend(frameon=False, loc="outside lower center", ncols=4 if len(groups) < 5 else 3)
    return write_figure(figure, path)


def damage_curve(
    dead: Float[np.ndarray, " patterns"] | Int[np.ndarray, " patterns"],
    damaged: Float[np.ndarray, " patterns"],
    retrained: Float[np.ndarray, " patterns"],
    path: str | os.PathLike[str],
    title: str = "Hard accuracy against dead gates",
    *,
    recovered: Float[np.ndarray, " patterns"] | None = None,
    rule: str = "the rule",
    baseline: float | None = None,
    hidden: int | None = None,
) -> list[Path]:
    """Hard accuracy against the number of dead gates: median and middle half of the patterns that share a number.

    Args:
        dead: dead gates of each pattern, or the mean of the group that is to be drawn as one point.
        damaged: hard accuracy right after the knockout.
        retrained: and after retraining.
        path: where to write; the suffix is replaced.
        title: heading.
        recovered: hard accuracy after the repair by a rule.
        rule: the rule's name.
        baseline: hard accuracy of the undamaged circuit, drawn as a line.
        hidden: gates that could have died, for the axis.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axes,) = new_figure(title)
    from matplotlib.ticker import MaxNLocator  # after new_figure, which explains a missing matplotlib

    groups, counts = np.unique(dead, return_counts=True)
    if baseline is not None:
        axes.axhline(baseline, color=GREY, linestyle=":", linewidth=1.2, label=f"undamaged: {baseline:.3f}")
    curves = [(damaged, "s--", ORANGE, "right after the damage"), (retrained, "o-", BLUE, "recovered by retraining")]
    if recovered is not None:
        curves.append((recovered, "^-.", GREEN, f"recovered by {rule}"))
    for values, stroke, colour, label in curves:
        lower, median, upper = np.array([np.quantile(values[dead == group], (0.25, 0.5, 0.75)) for group in groups]).T
        if counts.max() > 1:
            axes.fill_between(groups, lower, upper, color=colour, alpha=0.2, linewidth=0)
        axes.plot(groups, median, stroke, color=colour, markersize=5, linewidth=1.8, label=label)
    least, most = int(counts.min()), int(counts.max())
    patterns = f"{least} pattern{'s' * (most > 1)}" if least == most else f"{least} to {most} patterns"
    shown = "; line: median, band: middle half" if most > 1 else ""
    axes.set(
        xlabel=f"dead gates{'' if hidden is None else f', of {hidden} hidden ones'}\n({patterns} a point{shown})",
        ylabel="hard accuracy (share of output bits)",
    )
    if len(groups) <= 8:
        axes.set_xticks(groups, [f"{group:.3g}" for group in groups])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(left=0)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    return write_figure(figure, path)
