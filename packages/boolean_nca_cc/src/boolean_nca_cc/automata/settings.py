"""What an automaton is asked to do: frozen settings, refused when they are built. Imports no framework."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from boolean_nca_cc.config import FitConfig, OptimizerConfig

__all__ = ["GrowSettings", "LifeSettings"]

_Side = Annotated[int, Field(ge=3, le=1024)]
_ARITY = 4


class LifeSettings(BaseModel):
    """The Game of Life learned from its 512 neighbourhoods, then run beside the rule itself.

    Args:
        layers: gates of each layer before the output's one; see `boolean_nca_cc.automata.life.life_circuit` for groups.
        seed: seeds wires and soups.
        fit: steps, optimiser and loss.
        checkpoint_every: training steps from one checkpoint to the next, a multiple of `fit.log_every`.
        soups: random grids to compare on.
        height: rows of a soup.
        width: columns of a soup.
        density: share of cells alive at the start.
        generations: how long they run.
        boundary: "torus", or "fixed" with dead cells outside.

    Raises:
        pydantic.ValidationError: a value out of range or an unknown field.

    >>> LifeSettings().layers
    (36, 32, 16, 4)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (36, 32, 16, 4)
    seed: NonNegativeInt = 0
    fit: FitConfig = FitConfig(steps=500)
    checkpoint_every: PositiveInt = 100
    soups: PositiveInt = 32
    height: _Side = 64
    width: _Side = 64
    density: Annotated[float, Field(ge=0, le=1)] = 0.35
    generations: NonNegativeInt = 1000
    boundary: Literal["torus", "fixed"] = "torus"

    @model_validator(mode="after")
    def _align_checkpoints_with_records(self) -> "LifeSettings":
        if self.checkpoint_every % self.fit.log_every:
            raise ValueError(
                f"checkpoints stand where metrics are recorded; checkpoint_every {self.checkpoint_every} is no "
                f"multiple of log_every {self.fit.log_every}. Choose one that is."
            )
        return self


class GrowSettings(BaseModel):
    """A picture that a cell's circuit learns to grow from any state, to keep, and to repair.

    Args:
        pattern: "checkerboard", a hand-drawn picture, or one character; see `boolean_nca_cc.automata.patterns`.
        scale: cells on a side of a dot of the picture.
        height: rows of the grid.
        width: columns of the grid.
        practice: side of the smaller grid to train on; None is the grid itself. Only a checkerboard looks the same in
            small.
        channels: bits of a cell; the first is the picture.
        perceive: gates of the layers that read one channel's neighbourhood each, for every channel, multiples of four.
        update: gates of the layers that mix the channels, multiples of four but for the last, before the output's one
            gate a channel.
        guide: "none" leaves the other bits to the cells; "place" gives targets to as many of them as tell a cell its
            column and row too, see `boolean_nca_cc.automata.patterns.place_code`, and training runs of one step will
            do.
        nop_scale: size of the initial logits; the gates start as copies of one input each.
        steps: time steps to grow and to repair in, all cells at once.
        unroll: time steps of a training run.
        settle: the loss is taken at a random one of the last `settle + 1` steps, so that the picture has to stay.
        scramble: side of the largest square that is random at the start of a training run without a guide; outside it
            a run starts from the picture. Sides are drawn from 1 up; None is the whole grid. News travel a cell a step,
            so that what is larger than `unroll` teaches little.
        fire_rate: share of the cells that update in a step of training; 1 is synchronous.
        round_states: round the bits between time steps in training, and let the gradient pass as if they were not.
        damage: side of the square that the trained automaton has to repair.
        batch: runs of a training step.
        train_steps: optimiser steps.
        optimizer: which optimiser.
        loss: "l4" or "bce", over the cells.
        seed: seeds wires, starts, damage and firing.
        checkpoint_every: optimiser steps from one checkpoint, and one hard evaluation, to the next.

    Raises:
        pydantic.ValidationError: a value out of range, an unknown field, damage larger than the grid, a guide with too
            few channels.

    >>> GrowSettings(pattern="G", scale=2).height
    16
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str = "checkerboard"
    scale: PositiveInt = 2
    height: _Side = 16
    width: _Side = 16
    practice: _Side | None = None
    channels: Annotated[int, Field(ge=1, le=64)] = 8
    perceive: tuple[PositiveInt, ...] = (12,)
    update: tuple[PositiveInt, ...] = (96, 64, 32)
    guide: Literal["none", "place"] = "none"
    nop_scale: Annotated[float, Field(gt=0, le=20)] = 3.0
    steps: PositiveInt = 40
    unroll: PositiveInt = 20
    settle: NonNegativeInt = 4
    scramble: PositiveInt | None = None
    fire_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    round_states: bool = True
    damage: PositiveInt = 6
    batch: PositiveInt = 8
    train_steps: NonNegativeInt = 1000
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=0.2, b1=0.9, b2=0.99, clip_norm=100.0)
    loss: Literal["l4", "bce"] = "bce"
    seed: NonNegativeInt = 0
    checkpoint_every: PositiveInt = 100

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> "GrowSettings":
        for name, side in (("damage", self.damage), ("practice", self.practice), ("scramble", self.scramble)):
            if side is not None and side > min(self.height, self.width):
                raise ValueError(
                    f"{name} is the side of a square inside the grid; it is {side}, the grid {self.height} × "
                    f"{self.width}. Use at most {min(self.height, self.width)}."
                )
        if self.practice is not None and (self.pattern != "checkerboard" or self.guide != "none"):
            raise ValueError(
                f"only a checkerboard without a guide is practised on a smaller grid; practice is {self.practice}, the "
                f"pattern {self.pattern!r}, the guide {self.guide!r}. Leave it out."
            )
        if self.settle >= self.unroll:
            raise ValueError(
                f"the loss is taken at one of the last settle + 1 steps of a run; settle is {self.settle}, a run has "
                f"{self.unroll} steps. Use at most {self.unroll - 1}."
            )
        if self.channels < self.guided:
            raise ValueError(
                f"the picture and the places on {self.height} × {self.width} cells take {self.guided} bits a cell; "
                f"channels is {self.channels}. Use at least {self.guided}, or no guide."
            )
        if self.guide != "none" and self.scramble is not None:
            raise ValueError(
                f"with a guide whole columns and rows are random at the start, not a square; scramble is "
                f"{self.scramble}. Leave it out, or the guide."
            )
        for name, widths in (("perceive", self.perceive), ("update", self.update[:-1])):
            if any(width % _ARITY for width in widths):
                raise ValueError(f"gates come in groups of {_ARITY}; {name} is {widths}. Use multiples of {_ARITY}.")
        return self

    @property
    def guided(self) -> int:
        """How many of a cell's bits have targets: the picture, and with a guide the place code."""
        return 1 if self.guide == "none" else 1 - (-self.width // 2) - (-self.height // 2)

    @property
    def largest_scramble(self) -> int:
        """The side of the largest square that is random at the start of a training run."""
        return self.scramble or self.practice or min(self.height, self.width)
