"""Pictures of sparse training: what each cycle did, accuracy against sparsity, where weights came back.

Needs the extra `plots` (matplotlib). No window is opened and no global state is touched, so it works without a display.
Every picture is written twice, as PNG and as SVG. Colours are the Okabe-Ito set, which colour-blind readers can tell
apart, and curves differ in their strokes and marks as well.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from resu.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["accuracy_against_sparsity", "mask_curves", "score_curve", "what_came_back"]

_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#6b7278"
_PALE = "#f3d2b8"
_LINES = (
    ("#0072b2", "-", "o"), ("#d55e00", "--", "s"), ("#009e73", "-.", "^"), ("#cc79a7", ":", "D"),
    ("#e69f00", "-", "v"), ("#56b4e9", "--", "P"), ("#000000", "-.", "X"), ("#6b7278", ":", "<"),
    ("#0072b2", "--", ">"), ("#d55e00", "-.", "*"),
)  # fmt: skip
_MANY = 30


def mask_curves(
    history: Mapping[str, Sequence[float | int]], path: str | os.PathLike[str], title: str = "What each commit did"
) -> list[Path]:
    """Sparsity, churn and resurrection rate, one point each time that the masks changed.

    Args:
        history: columns `step`, `sparsity`, `churn` and `resurrection_rate`, all as shares.
        path: where to write; the suffix is replaced.
        title: heading.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, panels = _figure(title, columns=3)
    steps = np.asarray(history["step"])
    marker = "o" if len(steps) <= _MANY else ""
    about = (
        ("sparsity", "pruned weights", _BLUE, "-"),
        ("churn", "weights that changed sides", _ORANGE, "--"),
        ("resurrection_rate", "pruned weights that came back", _GREEN, "-."),
    )
    for axes, (name, label, colour, stroke) in zip(panels, about, strict=True):
        values = 100 * np.asarray(history[name], dtype=float)
        axes.plot(steps, values, stroke, color=colour, marker=marker, markersize=4, linewidth=1.8)
        axes.set_title(name.replace("_", " "), fontsize="medium")
        axes.set(xlabel="step", ylabel=f"{label} (%)")
        axes.set_ylim(bottom=0)
        if name == "sparsity":
            axes.set_ylim(top=102)
    return _write(figure, path)


def score_curve(
    history: Mapping[str, Sequence[float | int]],
    path: str | os.PathLike[str],
    title: str = "Score while training",
    metric: str = "score",
) -> list[Path]:
    """Score and sparsity against steps.

    Args:
        history: columns `step`, `score` and `sparsity`.
        path: where to write; the suffix is replaced.
        title: heading.
        metric: what the score is.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (left, right) = _figure(title, columns=2)
    steps = np.asarray(history["step"])
    left.plot(steps, np.asarray(history["score"]), "-", color=_BLUE, marker="o", markersize=4, linewidth=1.8)
    right.plot(steps, 100 * np.asarray(history["sparsity"]), "--", color=_ORANGE, marker="s", markersize=4)
    left.set(xlabel="step", ylabel=metric.replace(", ", ",\n"))
    right.set(xlabel="step", ylabel="pruned weights (%)", ylim=(0, 102))
    return _write(figure, path)


def accuracy_against_sparsity(
    curves: Mapping[str, Sequence[tuple[float | int, float | int, float | int]]],
    path: str | os.PathLike[str],
    title: str = "Accuracy against sparsity",
    metric: str = "score",
    reference: tuple[str, float | int] | None = None,
) -> list[Path]:
    """One curve a method, with error bars of one standard error.

    The axis of sparsities shows the densities 1 − s on a logarithmic scale, so that 90, 95 and 98 % stand apart.

    Args:
        curves: name of a method → (sparsity, mean, standard error), in any order; a mean that is not finite is left
            out, and an error that is NaN has no bar.
        path: where to write; the suffix is replaced.
        title: heading.
        metric: what the score is.
        reference: name and score of a dense network, drawn as a line.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axes,) = _figure(title, size=(7.6, 4.6))
    from matplotlib.ticker import FixedLocator, NullLocator  # after _figure, which explains a missing matplotlib

    sparsities = sorted({point[0] for points in curves.values() for point in points})
    shift = 0.012
    for i, (name, points) in enumerate(curves.items()):
        colour, stroke, marker = _LINES[i % len(_LINES)]
        shown = sorted(point for point in points if math.isfinite(point[1]))
        if not shown:
            continue
        place = 10 ** (shift * ((len(curves) - 1) / 2 - i))  # side by side: bars of equal scores hide each other
        axes.errorbar(
            [(1 - s) * place for s, _, _ in shown], [mean for _, mean, _ in shown],
            [0.0 if math.isnan(error) else error for _, _, error in shown], color=colour, linestyle=stroke,
            marker=marker, markersize=5, linewidth=1.5, capsize=3, label=name,
        )  # fmt: skip
    if reference is not None:
        axes.axhline(reference[1], color=_GREY, linewidth=1.2, linestyle=(0, (1, 3)), label=reference[0])
    if sparsities:  # limits first: a logarithmic axis cannot choose its own around a single place
        axes.set_xlim((1 - sparsities[0]) * 1.25, (1 - sparsities[-1]) / 1.25)
    axes.set_xscale("log")
    if sparsities:
        axes.xaxis.set_major_locator(FixedLocator([1 - s for s in sparsities]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{100 * s:.4g}" for s in sparsities])
    axes.set(xlabel="pruned weights (%)", ylabel=metric.replace(", ", ",\n"))
    if axes.get_legend_handles_labels()[0]:  # none where every training diverged
        figure.legend(frameon=False, loc="outside right upper", fontsize="small", handlelength=3.5)
    return _write(figure, path)


def what_came_back(
    first: Bool[np.ndarray, "rows cols"],
    last: Bool[np.ndarray, "rows cols"],
    came_back: Bool[np.ndarray, "rows cols"],
    path: str | os.PathLike[str],
    title: str = "What came back",
    pixels: tuple[int, int] | None = None,
) -> list[Path]:
    """A layer's mask before and after: where weights are active, and which of them had been pruned.

    Args:
        first: active before the first commit.
        last: active at the end.
        came_back: pruned at some time and resurrected later, whether they stayed or not.
        path: where to write; the suffix is replaced.
        title: heading.
        pixels: height and width, where columns are the pixels of a picture: a third panel then counts, for each pixel,
            the active weights that read it.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    # The longer side lies flat: units across for a wide layer, inputs across for a narrow one.
    turned = first.shape[0] > first.shape[1]
    figure, panels = _figure(title, rows=2, columns=1, size=(9.4 if pixels else 7.4, 6.4), side=pixels is not None)
    from matplotlib.colors import ListedColormap
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    stayed, left = came_back & last, came_back & ~last
    after = np.where(stayed, 3, np.where(last, 2, np.where(left, 1, 0)))
    before = np.where(first, 2, 0)
    colours = ("#ffffff", _PALE, _BLUE, _ORANGE)
    names = ("output unit", "input") if turned else ("input", "output unit")
    for axes, codes, words in (
        (panels[0], before, f"before the first commit: {_count(first)} active"),
        (panels[1], after, f"at the end: {_count(last)} active, {_count(stayed)} of them came back"),
    ):
        picture = codes.T if turned else codes
        axes.imshow(
            picture, cmap=ListedColormap(colours), vmin=0, vmax=3, interpolation="nearest", aspect="auto",
            extent=(-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5),
        )  # fmt: skip
        axes.set_title(words, fontsize="medium")
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.grid(visible=False)
        axes.spines[["top", "right"]].set_visible(True)
    # What came back is rare, and a pixel of it is lost in print: marks are not.
    places = np.argwhere(stayed.T if turned else stayed)
    panels[1].plot(places[:, 1], places[:, 0], "o", color=_ORANGE, markersize=2.5, linestyle="none")
    if pixels is not None:
        _count_pixels(panels[2], figure, last.sum(axis=0).reshape(pixels))
    handles = [
        Patch(facecolor=_BLUE, label="active"),
        Line2D([], [], color=_ORANGE, marker="o", linestyle="none", label="active, came back"),
        Patch(facecolor=_PALE, label="came back, pruned again"),
        Patch(facecolor="#ffffff", edgecolor=_GREY, label="pruned"),
    ]
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=4, fontsize="small")
    return _write(figure, path)


def _count(flags: Bool[np.ndarray, "rows cols"]) -> str:
    return f"{int(flags.sum()):,}"


def _count_pixels(axes: "Axes", figure: "Figure", counts: np.ndarray) -> None:
    image = axes.imshow(counts, cmap="cividis", interpolation="nearest", vmin=0)
    axes.set_title("active weights of each pixel,\nat the end", fontsize="medium")
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=axes, shrink=0.6)


def _figure(
    title: str,
    columns: int = 1,
    rows: int = 1,
    size: tuple[float, float] | None = None,
    side: bool = False,
) -> "tuple[Figure, list[Axes]]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "pictures need matplotlib, which is not installed. From the root of the repository: "
            "pip install './packages/resu[plots]'"
        ) from error
    figure = Figure(figsize=size or (3.9 * columns + 1.2, 3.8), layout="constrained")
    figure.suptitle(title)
    if side:
        grid = figure.add_gridspec(rows, columns + 1, width_ratios=(*(3 for _ in range(columns)), 1))
        panels = [figure.add_subplot(grid[row, column]) for row in range(rows) for column in range(columns)]
        panels.append(figure.add_subplot(grid[:, columns]))
    else:
        panels = [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, panels


def _write(figure: "Figure", path: str | os.PathLike[str]) -> list[Path]:
    from matplotlib import rc_context

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    figure.savefig(png, dpi=150)
    # No date and no random names inside: the same numbers give the same file.
    with rc_context({"svg.hashsalt": "resu"}):
        figure.savefig(svg, metadata={"Date": None})
    return [png, svg]
