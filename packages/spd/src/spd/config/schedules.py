"""Learning rates over training."""

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from spd.config.base import Frozen

__all__ = ["LrSchedule", "learning_rate"]


class LrSchedule(Frozen):
    """A linear rise from 0, and then a curve that starts anew after it.

    Args:
        start_val: the learning rate that the curve starts from.
        warmup_pct: share of all steps over which the rate rises.
        final_val_frac: share of it at the end, for "cosine" and "linear".
        fn_type: "constant"; "linear" to the end; "cosine", half a wave (Loshchilov & Hutter, *SGDR*, 2017,
            arXiv:1608.03983); "quarter_cosine", cos(π t / 2), which the original's published settings were tuned with;
            "exponential".
        halflife: steps in which "exponential" halves.
    """

    start_val: PositiveFloat
    warmup_pct: Annotated[float, Field(ge=0, lt=1)] = 0.0
    final_val_frac: NonNegativeFloat = 0.0
    fn_type: Literal["constant", "linear", "cosine", "quarter_cosine", "exponential"] = "constant"
    halflife: PositiveFloat | None = None


def learning_rate(schedule: LrSchedule, step: int, steps: int) -> float:
    """The rate of a step.

    Args:
        schedule: the settings.
        step: from 0.
        steps: of the whole training.

    Returns:
        The rate.

    >>> rates = LrSchedule(start_val=1.0, fn_type="linear", warmup_pct=0.5)
    >>> [learning_rate(rates, step, 4) for step in range(4)]
    [0.0, 0.5, 1.0, 0.5]
    """
    warmup = int(schedule.warmup_pct * steps)
    if step < warmup:
        return schedule.start_val * step / warmup
    done, all_of_it = step - warmup, max(1, steps - warmup)
    low = schedule.final_val_frac
    if schedule.fn_type == "linear":
        share = 1 - (1 - low) * done / all_of_it
    elif schedule.fn_type == "cosine":
        share = low + (1 - low) * (1 + math.cos(math.pi * min(1.0, done / max(1, all_of_it - 1)))) / 2
    elif schedule.fn_type == "quarter_cosine":
        share = math.cos(math.pi * min(1.0, done / max(1, all_of_it - 1)) / 2)
    elif schedule.fn_type == "exponential":
        share = 0.5 ** (done / (schedule.halflife or all_of_it))
    else:
        share = 1.0
    return schedule.start_val * max(0.0, share)
