"""Pictures of rules: how they learn, and how damaged circuits come back, as curves and as an animation.

Needs the extra `plots` (matplotlib and pillow). Curves differ in their strokes as well as in their colours.
"""

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import MissingExtraError
from boolean_nca_cc.figures import BLUE, GREEN, GREY, ORANGE, new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["repair_animation", "repair_curves", "rule_curves"]

_WINDOW = 25  # epochs that the loss is averaged over


def rule_curves(
    record: Mapping[str, Shaped[np.ndarray, " points"]], path: str | os.PathLike[str], title: str = "Training of a rule"
) -> list[Path]:
    """The loss by epoch (logarithmic), and what the rule could do at each evaluation.

    Args:
        record: of `boolean_nca_cc.experiments.meta_run.run_meta_training`.
        path: where to write; the suffix is replaced.
        title: heading.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (left, right) = new_figure(title, columns=2)
    loss = np.asarray(record["loss"])
    left.plot(np.arange(1, len(loss) + 1), loss, color=BLUE, alpha=0.25, linewidth=0.8, label="an epoch")
    window = min(_WINDOW, len(loss))
    smooth = np.convolve(loss, np.full(window, 1 / window), "valid")
    left.plot((window + 1) / 2 + np.arange(len(smooth)), smooth, color=BLUE, linewidth=1.8, label=f"mean of {window}")
    left.legend(frameon=False)
    left.set(xlabel="epoch", ylabel="loss", yscale="log")
    curves = (
        ("configured", "configured", "-", BLUE),
        ("unseen_damage_healed", "healed", "--", ORANGE),
        ("unseen_damage_damaged", "damaged, not healed", ":", GREY),
        ("fresh_wiring", "on fresh wirings", "-.", GREEN),
    )
    for name, label, stroke, colour in curves:
        right.plot(record["evaluated"], record[name], stroke, color=colour, label=label, linewidth=1.8)
    right.set(xlabel="epoch", ylabel="hard accuracy")
    right.set_ylim(0.3, 1.02)
    right.legend(frameon=False, loc="lower right", ncols=2)
    return write_figure(figure, path)


def repair_curves(
    damaged: Float[np.ndarray, " patterns"],
    healed: Float[np.ndarray, "steps patterns"],
    retrained: Float[np.ndarray, "points patterns"],
    retrained_steps: Int[np.ndarray, " points"],
    baseline: float,
    path: str | os.PathLike[str],
    title: str = "A damaged circuit coming back",
) -> list[Path]:
    """Hard accuracy against steps: of the rule, of gradient descent, of nothing.

    A line is the mean over patterns, the band around it runs from the lower to the upper quartile.

    Args:
        damaged: right after the damage.
        healed: after each step of the rule.
        retrained: after steps of gradient descent.
        retrained_steps: which ones.
        baseline: before the damage.
        path: where to write; the suffix is replaced.
        title: heading.

    Returns:
        The PNG and the SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, (axes,) = new_figure(f"{title}: {len(damaged)} patterns")
    by_rule = np.concatenate([damaged[None], healed])
    by_gradient = np.concatenate([damaged[None], retrained])
    _band(axes, np.arange(len(by_rule)), by_rule, "-", BLUE, "the rule")
    _band(axes, np.concatenate([[0], retrained_steps]), by_gradient, "--", ORANGE, "gradient descent")
    axes.axhline(baseline, color=GREY, linestyle="-.", linewidth=1.2, label="before the damage")
    axes.axhline(float(damaged.mean()), color=GREY, linestyle=":", linewidth=1.6, label="nothing done")
    axes.set(xlabel="step after the damage", ylabel="hard accuracy")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= max(len(healed), *retrained_steps)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    figure.legend(frameon=False, loc="outside lower center", ncols=4)
    figure.set_size_inches(7.2, 4.4)
    return write_figure(figure, path)


def repair_animation(
    spec: CircuitSpec,
    sources: Int[np.ndarray, "gates arity"],
    tables: Float[np.ndarray, "states gates entries"],
    outputs: Float[np.ndarray, "states n_out"],
    alive: Bool[np.ndarray, " nodes"],
    path: str | os.PathLike[str],
    milliseconds: int = 500,
) -> Path:
    """A damaged circuit while a rule repairs it, as a GIF.

    On the left the circuit, layers from left to right: a square is a gate, the darker the more entries of its hard
    table differ from what they were at the damage; a cross is a dead one. Outputs carry a ring, broken where some case
    is wrong. On the right the hard accuracy so far.

    Args:
        spec: the circuit's layers.
        sources: which node every input of every gate reads.
        tables: logits at the damage and after each step.
        outputs: the share of right cases of each output, likewise.
        alive: the damage.
        path: where to write; the suffix is replaced.
        milliseconds: a frame; the first one and the last stay four times as long.

    Returns:
        The file.

    Raises:
        MissingExtraError: matplotlib or pillow is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "animations need matplotlib and pillow, which are not installed. From the root of the repository: "
            "pip install './packages/boolean_nca_cc[plots]'"
        ) from error
    images = []
    for state in range(len(tables)):
        figure = _scene(spec, sources, tables, outputs, alive, state)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    durations = [milliseconds * (4 if index in (0, len(images) - 1) else 1) for index in range(len(images))]
    content = BytesIO()
    images = [image.convert("P", palette=Image.Palette.ADAPTIVE, colors=128) for image in images]
    images[0].save(content, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    file = Path(path).with_suffix(".gif")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.getvalue())
    return file


def _scene(
    spec: CircuitSpec,
    sources: Int[np.ndarray, "gates arity"],
    tables: Float[np.ndarray, "states gates entries"],
    outputs: Float[np.ndarray, "states n_out"],
    alive: Bool[np.ndarray, " nodes"],
    state: int,
) -> "Figure":
    from matplotlib.collections import LineCollection

    words = "right after the damage" if state == 0 else f"step {state} of the rule"
    figure, (left, right) = new_figure(f"{int((~alive).sum())} dead gates, {words}", columns=2)
    figure.set_size_inches(11.6, 5.4)
    place = _places(spec)
    changed = np.mean((tables[state] > 0) != (tables[0] > 0), axis=1)
    readers = np.repeat(np.arange(spec.n_in, spec.n_nodes), spec.arity)
    heard = alive[sources.ravel()] & alive[readers]
    # A group's gates read the same wires and stand side by side: lines end at the first of them.
    wires = np.unique(np.stack([sources.ravel(), _first_of_group(spec)[readers]], axis=1)[heard], axis=0)
    left.add_collection(LineCollection(list(place[wires]), colors="#c9c9c2", linewidths=0.5, zorder=1))
    gates = np.arange(spec.n_in, spec.n_nodes)
    standing = gates[alive[gates]]
    left.scatter(place[: spec.n_in, 0], place[: spec.n_in, 1], marker="o", s=22, color=GREY, zorder=2)
    left.scatter(
        place[standing, 0],
        place[standing, 1],
        c=changed[standing - spec.n_in],
        cmap="Blues",
        vmin=0,
        vmax=0.3,
        marker="s",
        s=44,
        edgecolors="#50575d",
        linewidths=0.6,
        zorder=3,
    )
    left.scatter(place[~alive, 0], place[~alive, 1], marker="x", s=60, color=ORANGE, linewidths=2.2, zorder=4)
    last = place[-spec.n_out :]
    for right_ones, colour, stroke in ((True, GREEN, "-"), (False, ORANGE, ":")):
        ringed = last[(outputs[state] == 1.0) == right_ones]
        left.scatter(
            ringed[:, 0],
            ringed[:, 1],
            marker="o",
            s=190,
            facecolors="none",
            edgecolors=colour,
            linestyles=stroke,
            linewidths=1.8,
            zorder=5,
        )
    left.set_axis_off()
    left.set_title(
        "square: gate, the darker the more of its table changed; cross: dead;\n"
        "ring: output, broken: wrong in some case",
        fontsize=9,
        color=GREY,
    )
    accuracy = outputs.mean(axis=1)
    right.plot(np.arange(state + 1), accuracy[: state + 1], "-o", color=BLUE, markersize=4, linewidth=1.8)
    right.set(xlabel="step after the damage", ylabel="hard accuracy", xlim=(-0.3, len(tables) - 0.7))
    right.locator_params(axis="x", integer=True)
    right.set_ylim(min(0.9, float(accuracy.min())) - 0.02, 1.01)
    return figure


def _places(spec: CircuitSpec) -> Float[np.ndarray, "nodes 2"]:
    """Layers from left to right, one row a group, its gates side by side."""
    columns: Sequence[np.ndarray] = [
        np.stack([layer + 0.12 * (np.arange(n) % s), -_even(np.arange(n) // s)], axis=1)
        for layer, (n, s) in enumerate(spec.layer_sizes)
    ]
    return np.concatenate(columns)


def _first_of_group(spec: CircuitSpec) -> Int[np.ndarray, " nodes"]:
    """For each node the first gate of its group."""
    return np.concatenate(
        [start + np.arange(n) // s * s for start, (n, s) in zip(spec.offsets, spec.layer_sizes, strict=True)]
    )


def _even(rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Rows at equal distances between 0 and 1."""
    return (rows + 0.5) / (rows[-1] + 1)


def _band(
    axes: "Axes",
    steps: Shaped[np.ndarray, " n"],
    values: Float[np.ndarray, "n m"],
    stroke: str,
    colour: str,
    label: str,
) -> None:
    axes.plot(steps, values.mean(axis=1), stroke, color=colour, label=label, linewidth=1.8)
    low, high = np.quantile(values, [0.25, 0.75], axis=1)
    axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
