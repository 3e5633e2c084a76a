"""Settings of the optimiser and of a fit: frozen, and refused when they are built rather than when they are used."""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

__all__ = ["FitConfig", "OptimizerConfig", "StatePolicy"]

StatePolicy = Literal["keep", "freeze", "reset"]

_Decay = Annotated[float, Field(ge=0, lt=1)]
_DECAYS_WEIGHTS = {"adamw": 0.1, "lion": 0.0, "adafactor": 0.0}  # and their decay where none is set
_HAS_MOMENTUM = ("sgd", "rmsprop")


class OptimizerConfig(BaseModel):
    """Which optimiser, and its numbers; the defaults configure an 8-bit circuit within a hundred steps.

    Args:
        name: the optax optimiser.
        learning_rate: in logits a step. Kept in the optimiser's state, so that another value compiles nothing.
        b1: decay of the first moment (adam, adamw, lion).
        b2: decay of the second moment (adam, adamw, lion, rmsprop).
        weight_decay: decoupled decay (adamw, lion, adafactor); None is 0.1 for adamw, 0 for the others.
        momentum: of sgd and rmsprop.
        clip_norm: clip the gradient's global norm to this before everything else; None for no clipping.

    Raises:
        pydantic.ValidationError: a value out of range, an unknown field, or one that the optimiser does not have.

    >>> OptimizerConfig().name
    'adamw'
    >>> OptimizerConfig(name="sgd", learning_rate=0.1, momentum=0.9).momentum
    0.9
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["sgd", "adam", "adamw", "rmsprop", "lion", "adafactor"] = "adamw"
    learning_rate: PositiveFloat = 1.0
    b1: _Decay = 0.8
    b2: _Decay = 0.8
    weight_decay: NonNegativeFloat | None = None
    momentum: _Decay = 0.0
    clip_norm: PositiveFloat | None = None

    @model_validator(mode="after")
    def _refuse_what_the_optimizer_ignores(self) -> "OptimizerConfig":
        if self.weight_decay and self.name not in _DECAYS_WEIGHTS:
            raise ValueError(
                f"{self.name} has no weight decay; weight_decay is {self.weight_decay}. "
                f"Leave it out, or use {', '.join(_DECAYS_WEIGHTS)}."
            )
        if self.momentum and self.name not in _HAS_MOMENTUM:
            raise ValueError(
                f"{self.name} has no separate momentum; momentum is {self.momentum}. "
                f"Set b1 instead, or use {' or '.join(_HAS_MOMENTUM)}."
            )
        return self

    @property
    def decay(self) -> float:
        """The weight decay that applies: the one set, or the optimiser's own."""
        return _DECAYS_WEIGHTS.get(self.name, 0.0) if self.weight_decay is None else self.weight_decay


class FitConfig(BaseModel):
    """How a circuit is trained.

    Args:
        steps: optimiser steps.
        optimizer: which optimiser.
        loss: "l4", the sum of fourth powers of residuals, or "bce", the binary cross-entropy.
        log_every: record metrics each time this many steps are done; metrics cost about two forward runs.
        state_policy: the optimiser's moments of dead gates go on decaying (keep), stay as they are (freeze) or become
            zero (reset).
        sparsity: penalty that pulls table entries to 0 or 1.
        sparsity_weight: its factor.

    Raises:
        pydantic.ValidationError: a value out of range or an unknown field.

    >>> FitConfig(steps=20, loss="bce").log_every
    10
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: NonNegativeInt = 100
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: Literal["l4", "bce"] = "l4"
    log_every: PositiveInt = 10
    state_policy: StatePolicy = "keep"
    sparsity: Literal["none", "l1", "binary", "entropy"] = "none"
    sparsity_weight: NonNegativeFloat = 1e-3
