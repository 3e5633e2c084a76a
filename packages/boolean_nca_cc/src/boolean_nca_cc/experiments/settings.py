"""What an experiment is asked to do: frozen settings, refused when they are built. Imports no framework."""

from enum import StrEnum
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from boolean_nca_cc.config import FitConfig

__all__ = ["DamageMode", "KnockoutSettings", "TrainSettings"]


class DamageMode(StrEnum):
    """How the gates to kill are chosen; see `boolean_nca_cc.knockout.patterns`."""

    SHOTGUN = "shotgun"
    BERNOULLI = "bernoulli"
    STRIP = "strip"
    GREEDY = "greedy"


class TrainSettings(BaseModel):
    """One circuit, one task, one training run.

    Args:
        task: name of the task; `boolean-nca tasks` lists them.
        bits: input bits; the truth table has 2^bits cases.
        outputs: output bits; None is the task's own number.
        text: what the task `text` draws.
        arity: inputs of a gate.
        hidden: hidden layers.
        width: factor of the wide layers.
        seed: seeds wires, task and split.
        test_fraction: share of cases held out from training.
        fit: steps, optimiser and loss.
        checkpoint_every: steps from one checkpoint to the next, a multiple of `fit.log_every`.

    Raises:
        pydantic.ValidationError: a value out of range or an unknown field.

    >>> TrainSettings(task="copy", bits=4).fit.steps
    200
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = "add"
    bits: Annotated[int, Field(ge=1, le=16)] = 8
    outputs: PositiveInt | None = None
    text: str = "Hello"
    arity: Annotated[int, Field(ge=1, le=8)] = 4
    hidden: PositiveInt = 3
    width: PositiveInt = 2
    seed: NonNegativeInt = 0
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fit: FitConfig = FitConfig(steps=200)
    checkpoint_every: PositiveInt = 100

    @model_validator(mode="after")
    def _align_checkpoints_with_records(self) -> "TrainSettings":
        if self.checkpoint_every % self.fit.log_every:
            raise ValueError(
                f"checkpoints stand where metrics are recorded; checkpoint_every {self.checkpoint_every} is no "
                f"multiple of log_every {self.fit.log_every}. Choose one that is."
            )
        return self


def _several(dead: object) -> object:
    """One number is a choice of one."""
    return (dead,) if isinstance(dead, int) else dead


class KnockoutSettings(BaseModel):
    """Many patterns of dead gates in one trained circuit, each retrained around its damage.

    Args:
        base: the circuit to damage, and its task.
        patterns: how many patterns.
        dead: dead gates of a pattern (shotgun), expected dead gates (bernoulli), width of the strip, or the most dead
            gates (greedy, whose patterns are the first 1, 2, … gates of the greedy order, evenly thinned out to
            `patterns`). Of several numbers, pattern i has the i-th, over and over again, so that a study that is
            half done has half of each; a greedy one has a pattern for each number.
        mode: how they are chosen.
        seed: seeds the patterns.
        retrain: steps, optimiser and loss of the retraining; every pattern starts from the trained circuit with a fresh
            optimiser state.
        chunk: patterns between two checkpoints.

    Raises:
        pydantic.ValidationError: a value out of range or an unknown field.

    >>> KnockoutSettings(patterns=16, mode="strip").mode.value
    'strip'
    >>> KnockoutSettings(dead=7).dead, KnockoutSettings(dead=[2, 5]).dead
    ((7,), (2, 5))
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: TrainSettings = TrainSettings()
    patterns: PositiveInt = 256
    dead: Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_several), Field(min_length=1)] = (20,)
    mode: DamageMode = DamageMode.SHOTGUN
    seed: NonNegativeInt = 0
    retrain: FitConfig = FitConfig(steps=100)
    chunk: PositiveInt = 32

    @field_validator("dead")
    @classmethod
    def _each_number_once(cls, dead: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(dead)) != len(dead):
            raise ValueError(f"each number of dead gates stands once; it is {list(dead)}. Drop the repeats")
        return dead

    @model_validator(mode="after")
    def _a_pattern_for_each_number(self) -> "KnockoutSettings":
        if self.mode != DamageMode.GREEDY and self.patterns < len(self.dead):
            raise ValueError(
                f"patterns are shared out among the numbers of dead gates; {self.patterns} are too few for "
                f"{len(self.dead)} numbers. Ask for {len(self.dead)} or more."
            )
        return self
