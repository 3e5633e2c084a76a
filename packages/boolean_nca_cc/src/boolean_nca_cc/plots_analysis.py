"""Pictures of an analysis: what is live, which gates are critical, the worst damage, how far configurations are apart.

Needs the extra `plots` (matplotlib). Every picture is written twice, as PNG and as SVG.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boolean_nca_cc.analysis import Criticality, HammingDistance, LayerLiveness, WorstDamage
from boolean_nca_cc.figures import BLUE, GREY, ORANGE, new_figure, write_figure

__all__ = ["criticality_map", "hamming_bars", "liveness_bars", "worst_damage_curve"]

_PALE = "#e3e6e8"


def liveness_bars(
    layers: Sequence[LayerLiveness], path: str | os.PathLike[str], title: str = "What each layer contributes"
) -> list[Path]:
    """How many nodes of each layer are there, alive, wired to an output, and depended upon.

    Args:
        layers: one entry a layer, the input first.
        path: where to write; the suffix is replaced.
        title: heading.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axes,) = new_figure(title)
    place = np.arange(len(layers))
    shown = (
        ("dead", [layer.nodes for layer in layers], "#ffffff", "xx"),
        ("no wire leads on", [layer.alive for layer in layers], _PALE, ""),
        ("no output depends on it", [layer.wired for layer in layers], GREY, "//"),
        ("live", [layer.live for layer in layers], BLUE, ""),
    )
    # Each bar covers the lower part of the one before: what is left to see of it is the difference.
    for order, (label, counts, colour, hatch) in enumerate(shown):
        if order < 3 and counts == shown[order + 1][1]:
            continue  # nothing of it is left to see
        edge = GREY if colour == "#ffffff" else "white"
        axes.bar(place, counts, 0.72, color=colour, hatch=hatch, edgecolor=edge, label=label, zorder=2 + order)
    for x, layer in zip(place, layers, strict=True):
        axes.annotate(
            f"{layer.live} of {layer.nodes}",
            (x, layer.nodes),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    names = ["inputs", *(f"layer {layer.layer}" for layer in layers[1:-1]), "outputs"]
    axes.set_xticks(place, names)
    axes.set(ylabel="nodes")
    axes.margins(y=0.12)
    axes.legend(frameon=False, loc="upper right", reverse=True)
    return write_figure(figure, path)


def criticality_map(
    result: Criticality, path: str | os.PathLike[str], title: str = "Hard accuracy lost with each gate"
) -> list[Path]:
    """Every gate's worth, in its place and in order.

    Args:
        result: what each gate costs.
        path: where to write; the suffix is replaced.
        title: heading.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (left, right) = new_figure(title, columns=2)
    layers = result.by_layer()
    grid = np.full((len(layers), max(map(len, layers))), np.nan)
    for row, layer in zip(grid, layers, strict=True):
        row[: len(layer)] = layer
    from matplotlib.colors import LinearSegmentedColormap  # after new_figure, which explains a missing matplotlib

    # White is no loss. Where a death wins accuracy, that side is orange and the scale is symmetric.
    reach = max(float(np.abs(result.lost).max()), 1e-9)
    wins = float(result.lost.min()) < 0
    shades = ["#5e2400", ORANGE, "#ffffff", BLUE, "#00263d"][0 if wins else 2 :]
    colours = LinearSegmentedColormap.from_list("worth", shades).with_extremes(bad=_PALE)
    image = left.imshow(
        grid, aspect="auto", cmap=colours, vmin=-reach if wins else 0, vmax=reach, interpolation="nearest"
    )
    left.grid(visible=False)
    left.set_yticks(np.arange(len(layers)), [f"layer {n}" for n in range(1, len(layers))] + ["outputs"])
    left.set(xlabel="gate of the layer")
    figure.colorbar(image, ax=left)
    ranked = np.sort(result.lost)[::-1]
    rank = np.arange(1, len(ranked) + 1)
    right.fill_between(rank, ranked, step="mid", color=BLUE, alpha=0.25, linewidth=0)
    right.step(rank, ranked, where="mid", color=BLUE, linewidth=1.5)
    critical = int((ranked > 0).sum())
    right.axvline(critical + 0.5, color=ORANGE, linestyle="--", linewidth=1.2)
    late = critical > 0.6 * len(ranked)  # then there is no room on the right of the line
    right.annotate(
        f"{critical} of {len(ranked)} gates are critical", (critical + 0.5, ranked[0]), (-6 if late else 6, -4),
        textcoords="offset points", ha="right" if late else "left", va="top", fontsize=9, color=ORANGE,
    )  # fmt: skip
    right.set(xlabel="gates, the most critical first", ylabel="hard accuracy lost")
    return write_figure(figure, path)


def worst_damage_curve(
    result: WorstDamage, path: str | os.PathLike[str], title: str = "Greedy worst damage"
) -> list[Path]:
    """Hard accuracy against dead gates: the greedy worst order, and random orders.

    Args:
        result: order and curves.
        path: where to write; the suffix is replaced.
        title: heading.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axes,) = new_figure(title)
    from matplotlib.ticker import MaxNLocator  # after new_figure, which explains a missing matplotlib

    if len(result.random):
        label = f"{len(result.random)} random orders, worst to best"
        lowest, highest = result.random.min(axis=0), result.random.max(axis=0)
        axes.fill_between(result.dead, lowest, highest, color=BLUE, alpha=0.2, linewidth=0, label=label)
        axes.plot(result.dead, result.random.mean(axis=0), "--", color=BLUE, linewidth=1.6, label="their mean")
    axes.plot(result.dead, result.accuracy, "o-", color=ORANGE, markersize=4, label="greedy worst order")
    axes.set(xlabel="dead gates", ylabel="hard accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return write_figure(figure, path)


def hamming_bars(
    distance: HammingDistance, path: str | os.PathLike[str], title: str = "Hamming distance of two configurations"
) -> list[Path]:
    """The three distances, layer by layer and gate by gate.

    Args:
        distance: the distances.
        path: where to write; the suffix is replaced.
        title: heading.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (left, right) = new_figure(title, columns=2)
    layers = distance.by_layer()
    gates = {"tables": distance.tables, "read entries": distance.read_entries, "behaviour": distance.behaviour}
    styles = {"tables": (GREY, "//", "-."), "read entries": (BLUE, "", "-"), "behaviour": (ORANGE, "..", "--")}
    place = np.arange(distance.spec.n_layers)
    for index, (name, (colour, hatch, stroke)) in enumerate(styles.items()):
        left.bar(
            place + (index - 1) * 0.27, layers[name], 0.25, color=colour, hatch=hatch, edgecolor="white", label=name
        )
        ranked = np.sort(gates[name])[::-1]
        right.plot(np.arange(1, len(ranked) + 1), ranked, stroke, color=colour, linewidth=1.8, label=name)
    left.set_xticks(place, [f"layer {n + 1}" for n in place[:-1]] + ["outputs"])
    left.set(ylabel="share of bits that differ")
    right.set(xlabel="gates, the most different first", ylabel="share of the gate's bits that differ")
    for axes in (left, right):
        axes.set_ylim(0, max(0.05, axes.get_ylim()[1]))
    figure.legend(*left.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)
    return write_figure(figure, path)
