"""Figures of one look: made, ticked and saved.

Needs the extra `plots` (matplotlib), and touches none of its global state.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurograph.errors import MissingExtraError
from neurograph.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["DPI", "log_ticks", "name_ticks", "new_figure", "save_figure", "whole_ticks"]

DPI = 150
"""Pixels of an inch of a PNG."""


def new_figure(
    title: str, widths: Sequence[float], heights: Sequence[float], *, polar: Sequence[int] = ()
) -> "tuple[Figure, list[Axes]]":
    """A figure with a panel for each width and height, filled row by row.

    Args:
        title: above all.
        widths: of the columns, in inches.
        heights: of the rows, in inches.
        polar: numbers of the panels that are circles.

    Returns:
        The figure and its panels.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingExtraError(
            "pictures need matplotlib, which is not installed. From the root of the repository: "
            "pip install './packages/neurograph[plots]'"
        ) from error
    around = 0.9  # ticks and labels
    size = (sum(widths) + around * len(widths), sum(heights) + around * len(heights) + 0.3 * len(title.splitlines()))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06))
    figure.suptitle(title)
    grid = figure.add_gridspec(len(heights), len(widths), width_ratios=widths, height_ratios=heights)
    panels = [
        figure.add_subplot(grid[place // len(widths), place % len(widths)], polar=place in polar)
        for place in range(len(widths) * len(heights))
    ]
    for place, axes in enumerate(panels):
        if place not in polar:
            axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e3e6e8", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, panels


def save_figure(figure: "Figure", path: str | Path) -> list[Path]:
    """Writes a figure, each file whole or not at all; the same numbers give the same files.

    Args:
        figure: which.
        path: where to; a suffix is added.

    Returns:
        The PNG and the SVG.
    """
    from matplotlib import rc_context

    path = Path(path)
    # Not with_suffix: a name may have a dot of its own.
    png, svg = (path.with_name(path.name + suffix) for suffix in (".png", ".svg"))
    write_whole(png, lambda temporary: figure.savefig(temporary, format="png", dpi=DPI))
    figure.set_layout_engine("none")  # it stays as it was laid out, which takes longer than the drawing
    # No date and no random names inside.
    with rc_context({"svg.hashsalt": "neurograph"}):
        write_whole(svg, lambda temporary: figure.savefig(temporary, format="svg", metadata={"Date": None}))
    return [png, svg]


def name_ticks(axes: "Axes", names: Sequence[str], *, x: bool) -> None:
    """Names along an axis, no more than thirty, slanted where they are long.

    Args:
        axes: whose.
        names: of the places 0, 1, ….
        x: whether below; else at the left.
    """
    every = ceil(len(names) / 30)
    places, texts = range(0, len(names), every), list(names)[::every]
    if x:
        long = max(map(len, texts)) > 2
        turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if long else {}
        axes.set_xticks(places, texts, **turned)
    else:
        axes.set_yticks(places, texts)


def log_ticks(axis: "Axis") -> None:
    """A logarithmic axis with readable numbers at 1, 2 and 5.

    Args:
        axis: which.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def whole_ticks(axis: "Axis") -> None:
    """Ticks at whole numbers alone, be there only one.

    Args:
        axis: which.
    """
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
