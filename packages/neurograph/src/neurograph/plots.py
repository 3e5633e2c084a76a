"""Pictures of a network: how training went, what its integers are, its graph, and what it mistakes for what.

Needs the extra `plots` (matplotlib). No window is opened and no global state is touched, so that it works without a
display and leaves no figure in memory. Every picture is written as PNG and as SVG, in colours that can be told apart
without seeing red or green.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurograph.core.graph import Topology
from neurograph.core.node_store import NodeStore
from neurograph.drawing import log_ticks, name_ticks, new_figure, save_figure, whole_ticks
from neurograph.errors import DataError
from neurograph.train.trainer import EpochRow

__all__ = [
    "plot_codes",
    "plot_confusion",
    "plot_graph",
    "plot_indices",
    "plot_radiation",
    "plot_training",
]

_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#8a9198"
_MOST_EDGES = 400
_MOST_CELLS = 160
_SECTORS = 32
_FEW = 12
"""Labels on an axis up to which each has its own."""


def plot_training(history: Sequence[EpochRow], path: str | Path) -> list[Path]:
    """Loss, accuracy on the test samples and share of integers that moved, over the epochs.

    Args:
        history: one row an epoch.
        path: where to write; a suffix is added.

    Returns:
        The PNG and the SVG.

    Raises:
        DataError: no epoch was done.
        MissingExtraError: matplotlib is not installed.
    """
    if not history:
        raise DataError("a picture of training needs an epoch; got none. Train first.")
    epochs = [row.epoch for row in history]
    measured = [(row.epoch, 100 * row.accuracy) for row in history if row.accuracy is not None]
    figure, panels = new_figure("Training", [3.6] * (3 if measured else 2), [2.8])
    curves: list[tuple[str, Sequence[int], Sequence[float], str]] = [
        ("mean loss of the epoch", epochs, [row.loss for row in history], _BLUE)
    ]
    if measured:
        at, values = [epoch for epoch, _ in measured], [value for _, value in measured]
        curves.append(("accuracy on test samples, %", at, values, _ORANGE))
    curves.append(("integers that moved, %", epochs, [100 * row.moved for row in history], _GREEN))
    for axes, (label, places, heights, colour) in zip(panels, curves, strict=True):
        axes.plot(places, heights, "-", color=colour, linewidth=1.6, marker="o", markersize=3)
        axes.set(xlabel="epoch", ylabel=label)
        whole_ticks(axes.xaxis)
        axes.set_xlim(0.5, max(epochs) + 0.5)
        axes.set_title(f"last: {heights[-1]:.4g}", fontsize="medium")
    losses = [row.loss for row in history]
    if min(losses) > 0 and max(losses) > 10 * min(losses):
        panels[0].set_yscale("log")
        log_ticks(panels[0].yaxis)
    return save_figure(figure, path)


def plot_indices(store: NodeStore, path: str | Path) -> list[Path]:
    """Histograms of the trained phase indices, around the circle, and of the trained magnitude indices.

    Args:
        store: the indices.
        path: where to write; a suffix is added.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    tables = store.tables
    phase = store.phase[store.train_phase].flatten().cpu().numpy()
    mag = store.mag[store.train_mag].flatten().cpu().numpy()
    figure, panels = new_figure("Trained integers", [3.2, 4.4], [3.2], polar=(0,))
    round_: Any = panels[0]
    straight = panels[1]
    sectors = min(_SECTORS, tables.phase_bins)
    counts, edges = np.histogram(phase, bins=sectors, range=(0, tables.phase_bins))
    angles = edges * 2 * np.pi / tables.phase_bins
    round_.bar(angles[:-1], counts, width=np.diff(angles), align="edge", color=_BLUE, edgecolor="white", linewidth=0.6)
    round_.set_xticks(np.arange(8) * np.pi / 4, [f"{tables.phase_bins * eighth // 8}" for eighth in range(8)])
    round_.set_ylim(0, 1.1 * max(1, int(counts.max(initial=0))))
    round_.set_yticks([])
    each = f"{int(counts.min())} to {int(counts.max())} in each of {sectors} sectors"
    round_.set_title(f"{len(phase):,} phase indices of {tables.phase_bins} bins\n{each}", fontsize="medium", pad=14)
    bins = min(64, tables.mag_bins)
    straight.hist(mag, bins=bins, range=(0, tables.mag_bins), color=_BLUE, label="indices")
    straight.set(xlabel="magnitude index", ylabel="how many", xlim=(0, tables.mag_bins))
    whole_ticks(straight.yaxis)
    straight.set_title(f"{len(mag):,} magnitude indices of {tables.mag_bins} bins", fontsize="medium")
    curve = straight.twinx()
    curve.plot(np.arange(tables.mag_bins) + 0.5, tables.mag.cpu().numpy(), color=_ORANGE, linewidth=1.6)
    curve.set_ylabel("magnitude of an index (line)", color=_ORANGE)
    curve.tick_params(axis="y", colors=_ORANGE)
    curve.set_ylim(bottom=0)
    curve.grid(visible=False)
    curve.spines["top"].set_visible(False)
    return save_figure(figure, path)


def plot_graph(topology: Topology, path: str | Path, *, most_edges: int = _MOST_EDGES) -> list[Path]:
    """The graph, levels as columns, messages going right.

    Args:
        topology: the graph.
        path: where to write; a suffix is added.
        most_edges: more are thinned out, the same number for each level of listeners, and the title says so.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    levels = [rows.cpu().numpy() for rows in topology.levels]
    place = np.zeros((topology.n_nodes, 2))
    for column, rows in enumerate(levels):
        place[rows, 0] = column
        place[rows, 1] = 0.5 if len(rows) == 1 else np.linspace(0, 1, len(rows))
    n_edges = len(topology.src)
    shown = _some_edges(topology, most_edges)
    src, dst = (ends.cpu().numpy()[shown] for ends in (topology.src, topology.dst))
    how_many = f"all {n_edges:,} edges" if len(shown) == n_edges else f"{len(shown):,} of {n_edges:,} edges are drawn"
    title = f"{topology.n_nodes:,} nodes on {len(levels)} levels\n{how_many}"
    figure, (axes,) = new_figure(title, [min(10.0, 2.2 + 1.6 * len(levels))], [4.6])
    from matplotlib.collections import LineCollection

    lines = list(np.stack([place[src], place[dst]], axis=1))
    axes.add_collection(LineCollection(lines, colors=_GREY, linewidths=0.6, alpha=max(0.4, 1 - len(shown) / 500)))
    kinds = np.zeros(topology.n_nodes, int)
    kinds[topology.inputs.cpu().numpy()], kinds[topology.outputs.cpu().numpy()] = 1, 2
    for kind, (name, colour, marker) in enumerate(
        (("hidden", _GREY, "o"), ("input", _BLUE, "s"), ("output", _ORANGE, "D"))
    ):
        rows = np.flatnonzero(kinds == kind)
        if len(rows):
            size = float(np.clip(900 / max(map(len, levels)), 5, 36))
            label = f"{len(rows):,} {name}{'s' if kind and len(rows) > 1 else ''}"
            axes.scatter(place[rows, 0], place[rows, 1], s=size, c=colour, marker=marker, label=label, zorder=3)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_yticks([])
    every = ceil(len(levels) / 20)
    at = range(0, len(levels), every)
    axes.set_xticks(at, [f"{column}\n({len(levels[column]):,})" for column in at])
    axes.set_xlabel("level (nodes on it)")
    axes.margins(0.06)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    return save_figure(figure, path)


def plot_radiation(
    topology: Topology,
    sources: Int[Tensor, " S"],
    targets: Int[Tensor, "B S k"],
    path: str | Path,
    *,
    used: bool = True,
) -> list[Path]:
    """Who radiates to whom: how often each source chose each target, and how often each target was chosen at all.

    Args:
        topology: the graph.
        sources: rows of the nodes that radiate.
        targets: rows of the nodes that each of them chose, sample by sample; −1 where there was none to choose.
        path: where to write; a suffix is added.
        used: whether the network radiates; else the title says that this is what it would do.

    Returns:
        The PNG and the SVG.

    Raises:
        DataError: nothing was chosen.
        MissingExtraError: matplotlib is not installed.
    """
    n, samples = topology.n_nodes, max(1, targets.shape[0])
    there = targets >= 0
    if not bool(there.any()):
        raise DataError("a radiation map needs a link; got none. Let a source choose, with top_k of 1 or more.")
    # Nodes in the order of their levels, so that levels are stripes.
    order = torch.cat(topology.levels).to(targets.device)
    rank = order.argsort()
    source = rank[sources.to(targets.device)][None, :, None].expand_as(targets)[there]
    target = rank[targets.clamp(min=0).long()][there]
    counts = torch.bincount(source * n + target, minlength=n * n).reshape(n, n).double().cpu().numpy() / samples
    each = ceil(n / _MOST_CELLS)
    cells = ceil(n / each)
    padded = np.pad(counts, (0, cells * each - n)).reshape(cells, each, cells, each)
    # Each cell holds each × each pairs; the strongest of them is shown, which a mean would hide.
    shown = padded.max(axis=(1, 3))
    kept = f"each cell is the strongest of {each} × {each} pairs" if each > 1 else "each cell is one pair"
    who = "who chose whom" if used else "who would choose whom (it is off here)"
    title = f"Radiation: {who}, {samples:,} samples\n{kept}"
    figure, (axes, bars) = new_figure(title, [4.6, 2.4], [4.4])
    masked = np.ma.masked_equal(shown, 0)
    image = axes.imshow(masked, cmap="viridis_r", vmin=0, extent=(0, n, n, 0), interpolation="nearest", aspect="equal")
    borders = np.cumsum([len(rows) for rows in topology.levels])
    middles = borders - np.array([len(rows) for rows in topology.levels]) / 2
    few = len(middles) <= _FEW
    for border in borders[:-1] if few else ():
        for draw in (axes.axhline, axes.axvline, bars.axhline):
            draw(border, color=_GREY, linewidth=0.7)
    axes.grid(visible=False)
    axes.spines[["top", "right"]].set_visible(True)
    names = _level_names(topology)
    if few:
        places, names = _apart(middles, names, n / 25)
        axes.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, names)
    axes.set(xlabel="chosen" if few else "chosen, by level", ylabel="radiating" if few else "radiating, by level")
    figure.colorbar(image, ax=axes, label="share of samples", shrink=0.85, pad=0.03)
    chosen = counts.sum(0)
    bars.stairs(chosen, np.arange(n + 1), orientation="horizontal", fill=True, color=_BLUE)
    bars.set(xlim=(0, None), ylim=(n, 0), xlabel="times chosen per sample", ylabel="" if few else "node, by level")
    if few:
        bars.set_yticks(places, names)
    return save_figure(figure, path)


def plot_confusion(
    counts: Int[Tensor, "C C"] | Int[np.ndarray, "C C"], classes: Sequence[str], path: str | Path
) -> list[Path]:
    """How many samples of each class were taken for which.

    Args:
        counts: rows are true classes, columns predicted ones.
        classes: their names.
        path: where to write; a suffix is added.

    Returns:
        The PNG and the SVG.

    Raises:
        DataError: names that do not fit the counts.
        MissingExtraError: matplotlib is not installed.
    """
    table = np.asarray(counts.cpu() if isinstance(counts, Tensor) else counts)
    _fit(len(table), classes)
    n, whole = len(classes), max(1, int(table.sum()))
    side = float(np.clip(0.42 * n, 2.6, 8.0))
    right = int(np.trace(table))
    figure, (axes,) = new_figure(f"{right:,} of {whole:,} right ({100 * right / whole:.2f} %)", [side + 0.7], [side])
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.grid(visible=False)
    axes.spines[["top", "right"]].set_visible(True)
    if n <= 20:
        for row, column in zip(*np.nonzero(table), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{table[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    name_ticks(axes, classes, x=True)
    name_ticks(axes, classes, x=False)
    axes.set(xlabel="predicted", ylabel="true")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.85)
    return save_figure(figure, path)


def plot_codes(
    codes: Float[Tensor, "C L"],
    readouts: Float[Tensor, "C L"],
    n_outputs: int,
    classes: Sequence[str],
    path: str | Path,
) -> list[Path]:
    """The classes' codes, and the mean read-out of each class's samples below.

    Args:
        codes: ±1.
        readouts: means, not a number for a class without samples.
        n_outputs: output nodes; a line is drawn between their parts.
        classes: names.
        path: where to write; a suffix is added.

    Returns:
        The PNG and the SVG.

    Raises:
        DataError: names that do not fit the codes.
        MissingExtraError: matplotlib is not installed.
    """
    _fit(len(codes), classes)
    length, dim = codes.shape[1], codes.shape[1] // n_outputs
    high = float(np.clip(0.26 * len(classes), 1.2, 5.0))
    nodes = f"{n_outputs} output node{'s' if n_outputs > 1 else ''}"
    title = f"Codes of {len(classes)} classes: {nodes} × {dim} real parts"
    figure, panels = new_figure(title, [float(np.clip(0.1 * length, 4.5, 9.0))], [high, high])
    found = readouts.detach().cpu().numpy()
    limit = max(float(np.nan_to_num(np.abs(found)).max(initial=0.0)), 1e-9)
    what = (("class codes", codes.detach().cpu().numpy(), 1.0), ("mean read-outs on test samples", found, limit))
    for axes, (name, matrix, bound) in zip(panels, what, strict=True):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest", aspect="auto")
        axes.grid(visible=False)
        axes.spines[["top", "right"]].set_visible(True)
        axes.set_title(name, fontsize="medium")
        name_ticks(axes, classes, x=False)
        if n_outputs <= 40:
            for border in range(dim, length, dim):
                axes.axvline(border - 0.5, color="white" if axes is panels[0] else "#33383d", linewidth=1.0)
            middles = np.arange(n_outputs) * dim + (dim - 1) / 2
            every = ceil(n_outputs / 20)
            axes.set_xticks(middles[::every], [str(output) for output in range(0, n_outputs, every)])
        axes.set(xlabel="output node", ylabel="class")
        figure.colorbar(image, ax=axes, pad=0.02, aspect=12, ticks=[-1, 1] if axes is panels[0] else None)
    return save_figure(figure, path)


def _fit(n: int, classes: Sequence[str]) -> None:
    if n != len(classes):
        raise DataError(f"each class has a name; got {n} classes and {len(classes)} names. Give one for each.")


def _some_edges(topology: Topology, most: int) -> Int[np.ndarray, " shown"]:
    """Numbers of edges to draw: the same share of what is allowed for each level of listeners, evenly over its own."""
    n_edges = len(topology.src)
    if n_edges <= most:
        return np.arange(n_edges)
    level = topology.level[topology.dst].cpu().numpy()
    listening = np.unique(level)
    share = max(1, most // len(listening))
    chosen = []
    for number in listening:
        edges = np.flatnonzero(level == number)
        chosen.append(edges[np.unique(np.linspace(0, len(edges) - 1, share).round().astype(int))])
    return np.concatenate(chosen)


def _apart(places: Float[np.ndarray, " n"], names: Sequence[str], least: float) -> tuple[list[float], list[str]]:
    """Labels that do not run into the one before."""
    kept: list[tuple[float, str]] = []
    for place, name in zip(places.tolist(), names, strict=True):
        if not kept or place - kept[-1][0] >= least:
            kept.append((place, name))
    return [place for place, _ in kept], [name for _, name in kept]


def _level_names(topology: Topology) -> list[str]:
    inputs, outputs = set(topology.inputs.tolist()), set(topology.outputs.tolist())
    names = []
    for number, rows in enumerate(topology.levels):
        there = set(rows.tolist())
        names.append("inputs" if there <= inputs else "outputs" if there <= outputs else f"level {number}")
    return names
