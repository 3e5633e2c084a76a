"""Pictures of a fit: samples, the sum, each packet, and what is left. Needs the extra `inr` (matplotlib).

No window is opened and no global state is touched. Every picture is written as PNG and as SVG, in colours that can be
told apart without seeing red or green.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from dredge.errors import ModelError, needed
from dredge.files import write_whole
from dredge.quasimoto.fitting import EpochRow
from dredge.quasimoto.packets import Packet, WavePackets

__all__ = ["plot_history", "plot_packets"]

_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#8a9198"
_DPI = 150
_MOST_LINES = 16
_LINE = 1200
_PIXELS = 96


def plot_packets(
    model: WavePackets,
    coords: Float[np.ndarray, "N d"],
    values: Float[np.ndarray, "N"],
    path: str | Path,
    *,
    title: str = "",
) -> list[Path]:
    """Draws samples and fit, each packet, and the residual; on more than two axes, values against fit.

    Args:
        model: with one output.
        coords: of the samples.
        values: of the samples.
        path: where to write; a suffix is added.
        title: above the picture.

    Returns:
        The PNG and the SVG.

    Raises:
        ModelError: a model of other sizes.
        MissingExtraError: matplotlib is not installed.
    """
    if model.out != 1 or coords.shape[1] != model.dim:
        raise ModelError(
            f"a picture is of packets with one output, on the axes of the samples; got {model.out} outputs, "
            f"{model.dim} axes and samples on {coords.shape[1]}. Draw one output."
        )
    fitted = _at(model, coords)
    draw = {1: _draw_line, 2: _draw_image}.get(model.dim, _draw_scatter)
    return _write(draw(model, coords, values, fitted, title), path)


def plot_history(history: Sequence[EpochRow], path: str | Path) -> list[Path]:
    """Draws how a training went.

    Args:
        history: one row an epoch.
        path: where to write; a suffix is added.

    Returns:
        The PNG and the SVG.

    Raises:
        ModelError: no epoch was done.
        MissingExtraError: matplotlib is not installed.
    """
    if not history:
        raise ModelError("a picture of training needs an epoch; got none. Train first.")
    figure = _figure(6.0, 3.4)
    axes = figure.subplots()
    epochs = [row.epoch for row in history]
    axes.plot(epochs, [row.loss for row in history], color=_BLUE, linewidth=1.5, label="training")
    if history[0].validation is not None:
        axes.plot(epochs, [row.validation for row in history], color=_ORANGE, linewidth=1.5, label="held back")
    if all(row.loss > 0 for row in history):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="mean squared error", title="Training")
    axes.legend(frameon=False)
    return _write(figure, path)


def _figure(width: float, height: float) -> Any:
    return needed("matplotlib.figure", "inr", "drawing").Figure(figsize=(width, height), layout="constrained")


def _at(model: WavePackets, coords: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N"]:
    with torch.no_grad():
        return model(torch.from_numpy(coords).to(model.centre))[:, 0].double().cpu().numpy()


def _draw_line(
    model: WavePackets, coords: Float[np.ndarray, "N 1"], values: Float[np.ndarray, "N"],
    fitted: Float[np.ndarray, "N"], title: str,
) -> Any:  # fmt: skip
    table = model.to_table()[:_MOST_LINES]
    figure = _figure(8.0, 5.2 + 0.28 * len(table))
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[2.2, 0.4 + 0.3 * len(table), 1])
    x = np.linspace(coords.min(), coords.max(), _LINE)
    grid = torch.from_numpy(x[:, None]).to(model.centre)
    with torch.no_grad():
        waves = (model.quadratures(grid) * model.head.weight[0]).double().cpu().numpy()
    each = waves[:, : model.n] + waves[:, model.n :]
    order = np.argsort(coords[:, 0], kind="stable")
    size = 5.0 if len(values) <= 300 else 2.0
    top.plot(coords[:, 0], values, ".", color=_GREY, markersize=size, label="samples", rasterized=len(values) > 2000)
    top.plot(x, _at(model, x[:, None]), color=_BLUE, linewidth=1.2, label="fit")
    top.legend(frameon=False, loc="upper right")
    top.set(ylabel="value", title=title or f"{model.n} packets")
    apart = 2.2 * float(np.median([np.abs(each[:, packet.index]).max() for packet in table])) or 1.0
    for row, packet in enumerate(table):
        tall = max(1.0, np.abs(each[:, packet.index]).max() / (0.6 * apart))
        middle.plot(x, each[:, packet.index] / tall - row * apart, color=_GREEN, linewidth=1.0)
    middle.set_yticks([-row * apart for row in range(len(table))], [_label(packet) for packet in table], fontsize=7)
    middle.set_ylim(-(len(table) - 0.3) * apart, 0.9 * apart)
    middle.set_ylabel("packets, the strongest first")
    bottom.plot(coords[order, 0], (values - fitted)[order], color=_ORANGE, linewidth=0.9)
    rms = float(np.sqrt(np.mean((values - fitted) ** 2)))
    bottom.set(xlabel="coordinate", ylabel="residual")
    bottom.set_title(f"residual, rms {rms:.2g}", fontsize="medium")
    for axes in (top, bottom):
        axes.axhline(0, color=_GREY, linewidth=0.5, zorder=0)
    return figure


def _label(packet: Packet) -> str:
    return f"{packet.cycles[0]:.3g} cycles, amplitude {packet.amplitude:.2g}"


def _draw_image(
    model: WavePackets, coords: Float[np.ndarray, "N 2"], values: Float[np.ndarray, "N"],
    fitted: Float[np.ndarray, "N"], title: str,
) -> Any:  # fmt: skip
    figure = _figure(11.0, 3.6)
    panels = figure.subplots(1, 3)
    low, high = coords.min(0), coords.max(0)
    axes_of = [np.linspace(a, b, _PIXELS) for a, b in zip(low, high, strict=True)]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes_of, indexing="ij")], axis=1)
    limits = {"vmin": float(values.min()), "vmax": float(values.max()), "cmap": "viridis"}
    most = float(np.abs(values - fitted).max()) or 1.0
    size = max(1.0, 200 / np.sqrt(len(values)) * 1.1) ** 2
    scatter = {"s": size, "marker": "s", "linewidths": 0, "rasterized": True}
    panels[0].scatter(coords[:, 1], coords[:, 0], c=values, **scatter, **limits)
    picture = panels[1].imshow(
        _at(model, grid).reshape(_PIXELS, _PIXELS), extent=(low[1], high[1], high[0], low[0]), aspect="auto", **limits
    )
    table = model.to_table()[:_MOST_LINES]
    turned = np.linspace(0, 2 * np.pi, 60)
    for packet in table:
        panels[1].plot(
            packet.centre[1] + packet.width[1] * np.cos(turned), packet.centre[0] + packet.width[0] * np.sin(turned),
            color="white", linewidth=0.8, alpha=0.8,
        )  # fmt: skip
    left = panels[2].scatter(
        coords[:, 1], coords[:, 0], c=values - fitted, cmap="PuOr", vmin=-most, vmax=most, **scatter
    )
    rms = float(np.sqrt(np.mean((values - fitted) ** 2)))
    names = ("samples", f"fit, widths of {len(table)} packets", f"residual, rms {rms:.2g}")
    for panel, name in zip(panels, names, strict=True):
        panel.set(xlim=(low[1], high[1]), ylim=(high[0], low[0]), xlabel="second coordinate")
        panel.set_title(name, fontsize="medium")
    panels[0].set_ylabel("first coordinate")
    figure.colorbar(picture, ax=panels[1])
    figure.colorbar(left, ax=panels[2])
    figure.suptitle(title or f"{model.n} packets")
    return figure


def _draw_scatter(
    model: WavePackets, coords: Float[np.ndarray, "N d"], values: Float[np.ndarray, "N"],
    fitted: Float[np.ndarray, "N"], title: str,
) -> Any:  # fmt: skip
    figure = _figure(8.0, 3.8)
    left, right = figure.subplots(1, 2)
    ends = [float(values.min()), float(values.max())]
    left.plot(ends, ends, color=_GREY, linewidth=0.8)
    left.plot(values, fitted, ".", color=_BLUE, markersize=2, rasterized=True)
    left.set(xlabel="value", ylabel="fit", title=title or f"{model.n} packets on {model.dim} axes")
    table = model.to_table()[:_MOST_LINES]
    right.bar(range(1, len(table) + 1), [packet.energy for packet in table], color=_GREEN)
    right.set(xlabel="packet", ylabel="energy", title="packets, the strongest first")
    return figure


def _write(figure: Any, path: str | Path) -> list[Path]:
    matplotlib = needed("matplotlib", "inr", "drawing")
    stem = Path(path)
    stem = stem.with_suffix("") if stem.suffix in (".png", ".svg") else stem
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    # With a salt of its own and without a date, the same fit gives the same files.
    with matplotlib.rc_context({"svg.hashsalt": "dredge"}):
        write_whole(files[0], lambda file: figure.savefig(file, format="png", dpi=_DPI))
        write_whole(files[1], lambda file: figure.savefig(file, format="svg", metadata={"Date": None}))
    return files
