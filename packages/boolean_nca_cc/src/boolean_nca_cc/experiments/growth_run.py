"""Growing a picture: training into a run's folder, a checkpoint at a time, and what the hard automaton makes of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Shaped

from boolean_nca_cc.automata.grid import NEIGHBOURS, run_hard
from boolean_nca_cc.automata.growth import (
    ASYNCHRONOUS,
    GrowthState,
    Repair,
    evaluate_growth,
    start_growth,
    train_growth,
)
from boolean_nca_cc.automata.patterns import damage, draw_pattern, place_code_length, seed_state
from boolean_nca_cc.automata.settings import GrowSettings
from boolean_nca_cc.checkpoint import Checkpoint, load, save, write_atomically
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import CheckpointError
from boolean_nca_cc.experiments.training_run import CHECKPOINT, RESULT, Report, check_same_settings, load_kind
from boolean_nca_cc.knockout.liveness import prune
from boolean_nca_cc.plots_automata import Frame, contact_sheet, gif

__all__ = ["GrowthOutcome", "draw_growth", "grow_settings", "load_growth", "picture_of", "run_growth"]

_OPTIMIZER = {"name": "adam", "b1": 0.9, "b2": 0.99}
_FREE: Mapping[str, Any] = MappingProxyType(
    {"update": (64, 32), "unroll": 12, "settle": 4, "batch": 8, "steps": 40, "train_steps": 2000}
    # Gradients through many steps explode now and then; clipped, such a step is one among others.
    | {"optimizer": _OPTIMIZER | {"learning_rate": 0.15, "clip_norm": 1.0}}
)
_GUIDED: Mapping[str, Any] = MappingProxyType(
    {"guide": "place", "scale": 1, "update": (384, 192, 96), "unroll": 1, "settle": 0, "batch": 6, "train_steps": 6000}
    | {"steps": 40, "checkpoint_every": 200, "optimizer": _OPTIMIZER | {"learning_rate": 0.2, "clip_norm": 100.0}}
)
_PRACTICE = 8  # side of the grid that a checkerboard is practised on

_SHEET = 18  # frames on a contact sheet, about
_STILL = 3  # frames of a picture that changes no more


@dataclass(frozen=True)
class GrowthOutcome:
    """A finished run.

    Args:
        settings: what was asked.
        spec: the layers of a cell's circuit.
        circuit: the trained circuit.
        step: training steps done: training ends at the second checkpoint in a row at which all is right.
        history: by name: `step`, `loss`, `hard_accuracy` (the worst grid, all cells at once) and its parts.
        synchronous: the trained circuit, all cells at once.
        asynchronous: the trained circuit, six cells in ten at a time.
        pruned: gates of a cell that an output can hear.
        files: what was written.
    """

    settings: GrowSettings
    spec: CircuitSpec
    circuit: Circuit
    step: int
    history: dict[str, Shaped[np.ndarray, " points"]]
    synchronous: Repair
    asynchronous: Repair
    pruned: int
    files: list[Path]

    @property
    def hard_accuracy(self) -> float:
        """The least share of right cells in any grid: grown, kept or repaired, all cells at once."""
        return self.synchronous.worst

    def as_dict(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        return {
            "steps": self.step,
            "hard_accuracy": self.hard_accuracy,
            "synchronous": _summary(self.synchronous),
            "asynchronous": _summary(self.asynchronous),
            "gates": self.spec.n_gates,
            "pruned_gates": self.pruned,
        }


def grow_settings(pattern: str, learning_rate: float | None = None, **changes: Any) -> GrowSettings:
    """Settings that suit a picture: a checkerboard needs no guide, other pictures do.

    Args:
        pattern: what to grow.
        learning_rate: of the optimiser; None is the usual one.
        changes: fields of `GrowSettings` that should be otherwise; None is the usual value.

    Returns:
        The settings.

    Raises:
        pydantic.ValidationError: a value out of range.

    >>> grow_settings("G", width=12).channels, grow_settings("checkerboard", scale=None).scale
    (15, 2)
    """
    wanted: dict[str, Any] = {"pattern": pattern, **{name: v for name, v in changes.items() if v is not None}}
    sides = [wanted.get(side, GrowSettings.model_fields[side].default) for side in ("height", "width")]
    if wanted.get("guide", "none" if pattern == "checkerboard" else "place") == "place":
        wanted = {**_GUIDED, "channels": 1 + place_code_length(*sides), **wanted}
    else:
        practice = {"practice": _PRACTICE} if pattern == "checkerboard" and min(sides) > _PRACTICE else {}
        wanted = {**_FREE, **practice, **wanted}
    if learning_rate is not None:
        wanted["optimizer"] = wanted["optimizer"] | {"learning_rate": learning_rate}
    return GrowSettings.model_validate(wanted)


def run_growth(
    settings: GrowSettings, folder: Path, *, resume: bool = False, report: Report | None = None
) -> GrowthOutcome:
    """Trains until every grid is exact at two checkpoints in a row, or for `train_steps`.

    A run that was killed goes on from its last checkpoint and ends, on the CPU, with the bits of the uninterrupted run.
    More training steps than before may be asked for; everything else must be as it was.

    Args:
        settings: what to do.
        folder: where to write `checkpoint.safetensors` and `result.json`.
        resume: go on with the run in the folder, if there is one.
        report: called with steps done, steps in all and a line of words.

    Returns:
        The outcome.

    Raises:
        AutomatonError: a picture that does not exist or does not fit, or a channel that no gate reads.
        CheckpointError: the folder holds a run and `resume` is False, or another run than this.
    """
    report = report or (lambda done, total, words: None)
    path = folder / CHECKPOINT
    dumped, picture = settings.model_dump(mode="json"), picture_of(settings)
    lesson = picture
    if settings.practice is not None:
        lesson = draw_pattern(settings.pattern, settings.practice, settings.practice, settings.scale)
    state = start_growth(settings)
    spec = CircuitSpec.from_logits(state.circuit.logits, NEIGHBOURS * settings.channels)
    history = dict[str, np.ndarray]()
    if path.exists():
        if not resume:
            raise CheckpointError(
                f"a folder holds one run; {folder} already has one. Resume it (--resume), or choose another "
                "folder (--out)."
            )
        saved = load(path, spec=spec, opt_state=state.opt_state)
        check_same_settings(saved, dumped, path, "grow", may_grow="train_steps")
        history, state = saved.record, GrowthState(saved.circuit, saved.opt_state, saved.step)
        report(state.step, settings.train_steps, f"resumed at step {state.step}")
    while not path.exists() or (state.step < settings.train_steps and not _settled(history)):
        steps = min(
            settings.checkpoint_every - state.step % settings.checkpoint_every, settings.train_steps - state.step
        )
        state, losses = train_growth(settings, state, lesson, steps)
        point = _point(state.step, losses, evaluate_growth(settings, state.circuit, picture))
        history = {name: np.append(history.get(name, np.zeros(0)), value) for name, value in point.items()}
        save(path, Checkpoint(spec, state.circuit, state.step, {"grow": dumped}, state.opt_state, None, history))
        words = ", ".join(f"{name} {point[name]:.4g}" for name in ("loss", "grown", "kept", "repaired"))
        report(state.step, settings.train_steps, words)
    outcome = GrowthOutcome(
        settings,
        spec,
        state.circuit,
        state.step,
        history,
        evaluate_growth(settings, state.circuit, picture),
        evaluate_growth(settings, state.circuit, picture, ASYNCHRONOUS),
        prune(state.circuit, spec).spec.n_gates,
        [path, folder / RESULT],
    )
    result = {"kind": "grow", "settings": dumped, **outcome.as_dict()}
    write_atomically(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())
    return outcome


def picture_of(settings: GrowSettings) -> Bool[np.ndarray, "height width"]:
    """The picture that the settings ask for.

    Args:
        settings: the settings.

    Returns:
        True where a cell is 1.

    Raises:
        AutomatonError: a picture that does not exist or does not fit.

    >>> int(picture_of(GrowSettings(pattern="checkerboard", scale=2)).sum())
    128
    """
    return draw_pattern(settings.pattern, settings.height, settings.width, settings.scale)


def load_growth(path: Path) -> tuple[GrowSettings, Checkpoint]:
    """A trained cell and its settings, from a run's folder or its checkpoint.

    Args:
        path: the folder or the file.

    Returns:
        Settings and checkpoint; the optimiser's state is left aside.

    Raises:
        CheckpointError: no checkpoint of such a run.
    """
    saved = load_kind(path, "grow", "a checkpoint of a growing picture", "grow")
    return GrowSettings.model_validate(saved.settings["grow"]), saved


def draw_growth(
    settings: GrowSettings, circuit: Circuit, folder: Path, fire_rate: float = 1.0, seed: int = 0
) -> list[Path]:
    """Draws growth from one cell, damage and repair, as an animation and as a contact sheet; wrong cells are marked.

    Args:
        settings: as in training.
        circuit: the trained circuit.
        folder: where to write `growth.gif` and `growth.png`.
        fire_rate: share of the cells that update in a step.
        seed: of the place of the damage, and of the cells that fire.

    Returns:
        The files.

    Raises:
        MissingExtraError: pillow is not installed.
    """
    picture = picture_of(settings)
    grow_key, place_key, bit_key, repair_key = jax.random.split(jax.random.key(seed), 4)
    start = seed_state(settings.channels, *picture.shape)
    steps = settings.steps if fire_rate == 1 else round(2 * settings.steps / fire_rate)
    run = partial(run_hard, boundary="fixed", fire_rate=fire_rate)
    grown = run(circuit, start, steps, key=grow_key)
    noise = jax.random.bernoulli(bit_key, 0.5, (settings.channels, 1, *picture.shape)).astype(jnp.float32)
    hurt = damage(place_key, grown[-1][:, None].astype(jnp.float32), settings.damage, noise)[:, 0]
    repaired = run(circuit, hurt, steps, key=repair_key)
    growth, repair = _until_still(np.asarray(grown[:, 0])), _until_still(np.asarray(repaired[:, 0]))
    frames = [Frame(state, f"step {t}", picture) for t, state in enumerate(growth)]
    frames += [Frame(state, f"repair {t}" if t else "damage", picture) for t, state in enumerate(repair)]
    every = max(1, len(frames) // _SHEET)
    kept = [
        frame
        for n, frame in enumerate(frames)
        if n % every == 0 or frame.caption == "damage" or n in (len(growth) - 1, len(frames) - 1)
    ]
    side = max(picture.shape)
    return [
        gif(frames, folder / "growth", pixels=max(4, 240 // side)),
        contact_sheet(kept, folder / "growth", pixels=max(3, 112 // side)),
    ]


def _until_still(states: Bool[np.ndarray, "times height width"]) -> Bool[np.ndarray, "fewer height width"]:
    """All steps up to the last that changed something, and a few more."""
    changing = np.flatnonzero((states != states[-1]).any(axis=(1, 2)))
    return states[: changing.max(initial=0) + 2 + _STILL]


def _summary(repair: Repair) -> dict[str, float]:
    means = {name: float(shares.mean()) for name, shares in repair._asdict().items()}
    return means | {"worst": repair.worst, "repaired_exactly": float((repair.repaired == 1).mean())}


def _point(step: int, losses: Shaped[np.ndarray, " steps"], repair: Repair) -> dict[str, float]:
    means = {name: float(shares.mean()) for name, shares in repair._asdict().items()}
    loss = float(losses[-10:].mean()) if losses.size else float("nan")
    return {"step": float(step), "loss": loss, "hard_accuracy": repair.worst, **means}


def _settled(history: dict[str, Shaped[np.ndarray, " points"]]) -> bool:
    return bool(history["hard_accuracy"].size > 1 and (history["hard_accuracy"][-2:] == 1).all())
