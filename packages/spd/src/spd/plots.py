"""Pictures of a decomposition: importances of single features, components, and how training went.

Needs the extra `plots` (matplotlib). No window is opened and no global state is touched, so that it works without a
display and leaves no figure in memory. Every picture is written as PNG and as SVG.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from spd.errors import DataError, MissingExtraError
from spd.eval import Evaluation
from spd.metrics.ci_tables import G_EDGES, Z_EDGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "draw",
    "plot_activation_density",
    "plot_components",
    "plot_histograms",
    "plot_importances",
    "plot_mean_importances",
    "plot_training",
]

VISIBLE = 0.01
"""Components whose importance is below it for every feature are left out of heat maps."""

_LEFT_OUT = f"components that are below {VISIBLE:g} for every feature come last, and are left out"

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#6b7278"
_LINES = (
    ("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("#cc79a7", (0, (1, 1))), ("#e69f00", "-"),
    ("#56b4e9", "--"), ("#000000", "-."), ("#6b7278", (0, (1, 1))), ("#0072b2", "--"), ("#d55e00", "-."),
)  # fmt: skip
_PANELS = 12
_CELL, _LEAST, _MOST = 0.23, 1.9, 6.5
_ALL_TICKS = 25

Tables = Mapping[str, Shaped[Tensor, "..."]]
BySite = Mapping[str, Tables]


def draw(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draws whatever tables an evaluation has.

    Args:
        evaluation: a slow one; a quick one has no tables, and nothing is drawn.
        folder: where to; made if it is not there.

    Returns:
        The files, PNG and SVG of each picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    kinds: dict[str, dict[str, dict[str, Tensor]]] = {}
    for key, table in evaluation.tables.items():
        metric, site, *what = key.split("/")
        kinds.setdefault(metric, {}).setdefault(site, {})["/".join(what)] = table
    drawn: list[Path] = []
    for metric, sites in kinds.items():
        kind, _, again = metric.partition("_")
        for start in range(0, len(sites), _PANELS):
            some = dict(islice(sites.items(), start, start + _PANELS))
            part = f"_part{start // _PANELS + 1}" if len(sites) > _PANELS else ""
            name, plot = _KINDS[kind]
            drawn += plot(some, folder / f"{name}{f'_{again}' if again else ''}{part}")
    return drawn


def plot_importances(sites: BySite, path: Path) -> list[Path]:
    """Heat maps of g for each feature alone, features by components.

    Args:
        sites: by site: `importances` (features, C) in the components' own order, and `order`, in which they are drawn.
            What comes last and is never visible is left out.
        path: where to write; a suffix is added.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    shown = {site: _shown(tables["importances"], tables["order"]) for site, tables in sites.items()}
    sizes = [(len(columns), sites[site]["importances"].shape[0]) for site, columns in shown.items()]
    title = f"Causal importance of each feature alone\n{_LEFT_OUT}"
    figure, panels = _figure(title, *_panel_sizes(sizes, 4), len(sites))
    image = None
    for axes, (site, columns) in zip(panels, shown.items(), strict=True):
        g = sites[site]["importances"].numpy()
        image = _heat_map(axes, g[:, columns], columns, "Blues", 0.0, 1.0)
        axes.set_title(f"{site}\n{_how_many(g.shape[1], len(columns))}", fontsize="medium")
        axes.set_ylabel("feature")
    if image is not None:
        figure.colorbar(image, ax=panels, label="importance g", shrink=0.9, pad=0.02)
    return _write(figure, path)


def plot_components(sites: BySite, path: Path) -> list[Path]:
    """Heat maps of V and of U, transposed, with the same components in the same order as in `plot_importances`.

    Args:
        sites: by site: `V` (d_in, C), `U` (C, d_out), and `importances` and `order` as there.
        path: where to write; a suffix is added.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    shown = {site: _shown(tables["importances"], tables["order"]) for site, tables in sites.items()}
    sizes = [
        (len(columns), rows)
        for site, columns in shown.items()
        for rows in (sites[site]["V"].shape[0], sites[site]["U"].shape[1])
    ]
    title = f"What components read, V, and what they write, U\n{_LEFT_OUT}"
    figure, panels = _figure(title, *_panel_sizes(sizes, 2), len(sizes))
    places = iter(panels)
    for site, columns in shown.items():
        v, u = sites[site]["V"].numpy(), sites[site]["U"].numpy().T
        for matrix, title, rows in ((v, "V", "input"), (u, "Uᵀ", "output")):
            axes, some = next(places), matrix[:, columns]
            limit = max(float(np.abs(some).max(initial=0.0)), 1e-12)
            image = _heat_map(axes, some, columns, "RdBu_r", -limit, limit)
            axes.set_title(f"{site}: {title}\n{_how_many(matrix.shape[1], len(columns))}", fontsize="medium")
            axes.set_ylabel(rows)
            # Beside the matrix and as high as it is, which may be much lower than the panel.
            figure.colorbar(image, cax=axes.inset_axes((1.04, 0.0, 0.05, 1.0)))
    return _write(figure, path)


def plot_histograms(sites: BySite, path: Path) -> list[Path]:
    """Histograms of importances before the sigmoid and after it; counts on a logarithmic axis.

    Args:
        sites: by site: counts `g` and `z`, in the bins of `spd.metrics.ci_tables`.
        path: where to write; a suffix is added.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, panels = _figure("Causal importances over all positions", [3.4, 3.4], [2.0] * len(sites), 2 * len(sites))
    places = iter(panels)
    for site, counts in sites.items():
        before, after = next(places), next(places)
        z, edges = _occupied(counts["z"].numpy(), np.linspace(Z_EDGES[0], Z_EDGES[1], Z_EDGES[2] + 1))
        g, unit = counts["g"].numpy(), np.linspace(G_EDGES[0], G_EDGES[1], G_EDGES[2] + 1)
        for axes, heights, at, label in ((before, z, edges, "before the sigmoid, z"), (after, g, unit, "after it, g")):
            axes.stairs(heights, at, fill=True, color=_BLUE)
            if heights.any():
                axes.set_yscale("log")
                axes.set_ylim(0.5, 2 * float(heights.max()))
            axes.set_title(site, fontsize="medium")
            axes.set(xlabel=label, ylabel="count")
        if counts["z"][0] or counts["z"][-1]:
            before.set_xlabel("before the sigmoid, z; the outermost bins hold all beyond", fontsize="small")
        for bound in (0.0, 1.0):
            if edges[0] <= bound <= edges[-1]:
                before.axvline(bound, color=_ORANGE, linewidth=1, linestyle="--")
    return _write(figure, path)


def plot_mean_importances(sites: BySite, path: Path) -> list[Path]:
    """Each component's mean importance, in descending order, on a logarithmic axis.

    Args:
        sites: by site: means under "".
        path: where to write; a suffix is added.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, panels = _figure("Mean causal importance of each component", *_grid(len(sites), 3, 3.2, 2.2), len(sites))
    for axes, (site, tables) in zip(panels, sites.items(), strict=True):
        means = np.sort(tables[""].numpy())[::-1]
        used = means[means > 0]
        axes.plot(np.arange(1, len(used) + 1), used, "-", color=_BLUE, linewidth=1.2, marker="o", markersize=3)
        if len(used):
            axes.set_yscale("log")
            axes.set_ylim(0.5 * float(used.min()), 1.5)
        axes.set_xlim(0, len(means) + 1)
        axes.locator_params("x", integer=True)
        zero = len(means) - len(used)
        if zero:
            axes.axvspan(len(used) + 0.5, len(means) + 1, color="#eeeeee", linewidth=0)
        axes.set_title(f"{site}\n{zero} of {len(means)} are 0", fontsize="medium")
        axes.set(xlabel="component, in descending order", ylabel="mean g")
    return _write(figure, path)


def plot_activation_density(sites: BySite, path: Path) -> list[Path]:
    """Histograms over components of the share of positions at which each is active.

    Args:
        sites: by site: shares under "".
        path: where to write; a suffix is added.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, panels = _figure("How often components are active", *_grid(len(sites), 3, 3.2, 2.2), len(sites))
    for axes, (site, tables) in zip(panels, sites.items(), strict=True):
        shares = tables[""].numpy().astype(float)
        used = shares[shares > 0]
        low = min(-2, int(np.floor(np.log10(used.min())))) if len(used) else -2
        counts, edges = np.histogram(np.log10(used), bins=-4 * low, range=(low, 0))
        never = len(shares) - len(used)
        axes.stairs(counts, edges, fill=True, color=_BLUE)
        axes.bar(low - 1, never, width=0.5, color=_GREY)
        axes.annotate(str(never), (low - 1, never), ha="center", va="bottom", fontsize="small")
        axes.set_xticks([low - 1, *range(low, 1)], ["never", *(f"$10^{{{power}}}$" for power in range(low, 0)), "1"])
        axes.set_ylim(0, 1.15 * max(1, never, int(counts.max())))
        axes.locator_params("y", integer=True, nbins=5)
        axes.set_title(site, fontsize="medium")
        axes.set(xlabel="share of positions", ylabel="components")
    return _write(figure, path)


def plot_training(log_lines: Sequence[Mapping[str, float | int | None]], folder: Path) -> list[Path]:
    """Losses, and active components of each site, over the steps.

    Args:
        log_lines: lines of a run's log: "step", and of these whatever is there: "loss/…", "L0/…". Other lines,
            those of evaluations for example, are passed over, and so are figures that are None.
        folder: where to; made if it is not there.

    Returns:
        The PNG and the SVG.

    Raises:
        DataError: no line has a loss.
        MissingExtraError: matplotlib is not installed.
    """
    losses = _curves(log_lines, lambda key: key.startswith("loss/"))
    if not losses:
        raise DataError(
            f"a picture of training needs figures named loss/…; none of {len(log_lines)} lines has one. Log "
            "at least once, with train_log_freq."
        )
    active = _curves(log_lines, lambda key: key.startswith("L0/"))
    figure, panels = _figure("Training", *_grid(2 if active else 1, 2, 4.6, 3.4), 2 if active else 1)
    _draw_curves(panels[0], losses)
    panels[0].set(xlabel="step", ylabel="loss")
    if any(value > 0 for _, values in losses.values() for value in values):
        panels[0].set_yscale("log", nonpositive="mask")
    if active:
        _draw_curves(panels[1], active)
        panels[1].set(xlabel="step", ylabel="active components per position")
        panels[1].set_ylim(bottom=0)
    return _write(figure, folder / "training")


_KINDS: dict[str, tuple[str, Callable[[BySite, Path], list[Path]]]] = {
    "PermutedCIPlots": ("importances", plot_importances),
    "UVPlots": ("components", plot_components),
    "CIHistograms": ("histograms", plot_histograms),
    "CIMeanPerComponent": ("mean_importances", plot_mean_importances),
    "ComponentActivationDensity": ("activation_density", plot_activation_density),
}


def _curves(
    lines: Sequence[Mapping[str, float | int | None]], wanted: Callable[[str], bool]
) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values by what is drawn."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        for key, value in line.items():
            step = line["step"]
            if wanted(key) and value is not None and step is not None:
                steps, values = found.setdefault(key, ([], []))
                steps.append(float(step))
                values.append(float(value))
    return found


def _draw_curves(axes: "Axes", curves: Mapping[str, tuple[list[float], list[float]]]) -> None:
    """Lines with a legend below; where there are too many to tell apart, thin ones without."""
    many = len(curves) > len(_LINES)
    for place, (key, (steps, values)) in enumerate(curves.items()):
        colour, stroke = _LINES[place % len(_LINES)]
        marker = "o" if len(steps) == 1 else ""
        style: dict[str, Any] = {"color": colour, "linestyle": stroke, "linewidth": 1.3, "marker": marker}
        if many and key != "loss/total":
            style |= {"color": _GREY, "linestyle": "-", "linewidth": 0.6, "alpha": 0.7}
        axes.plot(steps, values, label=key.removeprefix("loss/").removeprefix("L0/"), **style)
    if many:
        axes.set_title(f"{len(curves)} lines", fontsize="medium")
    else:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), fontsize="small", frameon=False, ncols=2)


def _shown(importances: Float[Tensor, "features C"], order: Int[Tensor, " C"]) -> Int[np.ndarray, " shown"]:
    """Components in their order, up to the last one that is visible for any feature; at least one."""
    seen = (importances.amax(0)[order] >= VISIBLE).nonzero()
    last = int(seen.max()) + 1 if seen.numel() else 0
    return order[: max(last, 1)].numpy()


def _how_many(c: int, shown: int) -> str:
    return f"all {c} components" if shown == c else f"{shown} of {c} components"


def _heat_map(
    axes: "Axes",
    matrix: Float[np.ndarray, "rows columns"],
    names: Int[np.ndarray, " columns"],
    colours: str,
    low: float,
    high: float,
) -> Any:
    rows, columns = matrix.shape
    square = 0.1 <= rows / columns <= 10
    image = axes.imshow(
        matrix, cmap=colours, vmin=low, vmax=high, interpolation="nearest", aspect="equal" if square else "auto"
    )
    axes.grid(visible=False)
    axes.spines[["top", "right"]].set_visible(True)
    if columns <= _ALL_TICKS:
        axes.set_xticks(range(columns), [str(name) for name in names], fontsize="x-small", rotation=90)
    axes.set_xlabel("component" if columns <= _ALL_TICKS else "component, by its place in this order")
    if rows <= _ALL_TICKS:
        axes.set_yticks(range(rows), [str(row) for row in range(rows)], fontsize="x-small")
    return image


def _panel_sizes(shapes: Sequence[tuple[int, int]], columns: int) -> tuple[list[float], list[float]]:
    """Inches for heat maps of so many columns and rows, cells all of one size: widths and heights of a grid."""
    most = max(shape[0] for shape in shapes)
    cell = max(min(_CELL, _MOST / most), _LEAST / most)
    columns = min(columns, len(shapes))
    widest = [max(shape[0] for shape in shapes[at::columns]) for at in range(columns)]
    highest = [max(shape[1] for shape in shapes[at : at + columns]) for at in range(0, len(shapes), columns)]
    widths, heights = ([min(max(cell * n, _LEAST), _MOST) for n in counts] for counts in (widest, highest))
    return widths, heights


def _grid(n: int, columns: int, width: float, height: float) -> tuple[list[float], list[float]]:
    """The same for n panels of one size."""
    columns = min(n, columns)
    return [width] * columns, [height] * ceil(n / columns)


def _occupied(
    counts: Float[np.ndarray, " bins"], edges: Float[np.ndarray, " edges"]
) -> tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]:
    """The bins from the first to the last that has any, several in one where they are many."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return counts, edges
    first, last = int(filled[0]), int(filled[-1]) + 1
    # So many in one that 0, in the middle, stays an edge.
    each = next(each for each in (1, 2, 4, 5, 10) if (last - first) / each <= 80)
    first, last = first - first % each, each * ceil(last / each)
    starts = np.arange(first, last, each)
    return np.add.reduceat(counts[:last], starts), edges[[*starts, last]]


def _figure(title: str, widths: Sequence[float], heights: Sequence[float], n: int) -> "tuple[Figure, list[Axes]]":
    """A figure with n panels in a grid of so many inches, filled row by row."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "pictures need matplotlib, which is not installed. From the root of the repository: "
            "pip install './packages/spd[plots]'"
        ) from error
    around = 1.35  # title, ticks and label
    across, down = ([side + around for side in sides] for sides in (widths, heights))
    figure = Figure(figsize=(sum(across) + 0.8, sum(down) + 0.3 + 0.3 * len(title.splitlines())), layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(len(down), len(across), width_ratios=across, height_ratios=down)
    panels = [figure.add_subplot(grid[place // len(across), place % len(across)]) for place in range(n)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, panels


def _write(figure: "Figure", path: Path) -> list[Path]:
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    # Not with_suffix: a name may have a dot of its own.
    png, svg = (path.with_name(path.name + suffix) for suffix in (".png", ".svg"))
    figure.savefig(png, dpi=150)
    figure.set_layout_engine("none")  # it stays as it was laid out, which takes longer than the drawing
    # No date and no random names inside: the same numbers give the same file.
    with rc_context({"svg.hashsalt": "spd"}):
        figure.savefig(svg, metadata={"Date": None})
    return [png, svg]
