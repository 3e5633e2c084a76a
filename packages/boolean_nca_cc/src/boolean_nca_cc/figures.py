"""What the pictures of this package share: an empty figure in its style, its colours, and how it is written.

Needs the extra `plots` (matplotlib). No window is opened and no global state is touched, so it works without a
display. Colours are of the set of M. Okabe and K. Ito (*Color Universal Design*, 2008), which colour-blind readers can
tell apart.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from boolean_nca_cc.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "new_figure", "write_figure"]

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#6b7278"


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
