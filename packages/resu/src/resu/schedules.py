"""Sparsity over the course of a training, as plain functions of numbers.

With t from 0 at the start to 1 at the end, s₀ the sparsity at the start and s₁ that at the end:

==========  ==========================================================================================================
constant    s₁
linear      s₀ + t (s₁ − s₀)
quadratic   s₀ + (1 − (1 − t)²) (s₁ − s₀); the original calls it exponential
cosine      s₀ + (1 − cos πt) / 2 · (s₁ − s₀)
cubic       s₁ + (s₀ − s₁) (1 − t)³, of Zhu & Gupta, *To prune, or not to prune*, 2017, arXiv:1710.01878
==========  ==========================================================================================================
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from resu.config import CycleConfig
from resu.errors import ConfigError

__all__ = [
    "cubic_over_steps",
    "cycle_sparsities",
    "densify_linear",
    "densify_stepped",
    "listed",
    "sparsity_at",
]

# How much of the way from s₀ to s₁ is done at t.
_DONE: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "linear": lambda t: t,
    "quadratic": lambda t: 1 - (1 - t) ** 2,
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "cubic": lambda t: 1 - (1 - t) ** 3,
}
_DENSIFYING = (0.7, 0.5, 0.3, 0.1, 0.0)


def sparsity_at(t: float, start: float, end: float, schedule: str = "linear") -> float:
    """The sparsity at a point of the way; both ends are met exactly.

    Args:
        t: the point, 0 at the start and 1 at the end; beyond them the ends hold.
        start: sparsity at t = 0 (not of the schedule "constant", which is at the end all along).
        end: sparsity at t = 1.
        schedule: the curve: constant, linear, quadratic, cosine or cubic.

    Returns:
        The sparsity.

    Raises:
        ConfigError: a sparsity outside [0, 1), or no such schedule.

    >>> [round(sparsity_at(t / 4, 0.0, 0.8, "cubic"), 4) for t in range(5)]
    [0.0, 0.4625, 0.7, 0.7875, 0.8]
    """
    for name, sparsity in (("start", start), ("end", end)):
        _check(sparsity, f"the {name}")
    if schedule not in _DONE:
        raise ConfigError(f"a schedule is one of {', '.join(_DONE)}; {schedule!r} is none. Choose one of those.")
    if schedule == "constant" or t >= 1:
        return end
    if t <= 0:
        return start
    return start + _DONE[schedule](t) * (end - start)


def listed(values: Sequence[float], cycle: int) -> float:
    """A sparsity from a list whose last value repeats.

    Args:
        values: one sparsity a cycle.
        cycle: from 0.

    Returns:
        The sparsity of that cycle.

    Raises:
        ConfigError: an empty list, or a sparsity outside [0, 1).

    >>> listed([0.5, 0.7], 9)
    0.7
    """
    if not values:
        raise ConfigError("a list of sparsities has one at least; it is empty. Give one sparsity a cycle.")
    for number, sparsity in enumerate(values):
        _check(sparsity, f"number {number} of the list")
    return float(values[min(cycle, len(values) - 1)])


def cycle_sparsities(config: CycleConfig) -> tuple[float, ...]:
    """What each cycle is to end at: cycle c of C stands at t = c / max(C − 1, 1).

    Args:
        config: the settings.

    Returns:
        One sparsity a cycle.

    >>> cycle_sparsities(CycleConfig(target_sparsity=0.75, sparsity_schedule="linear", num_cycles=4))
    (0.0, 0.25, 0.5, 0.75)
    """
    cycles = range(config.num_cycles)
    if config.sparsity_schedule == "custom":
        return tuple(listed(config.sparsities or (), cycle) for cycle in cycles)
    last = max(config.num_cycles - 1, 1)
    ends = (config.initial_sparsity, config.target_sparsity)
    return tuple(sparsity_at(cycle / last, *ends, config.sparsity_schedule) for cycle in cycles)


def cubic_over_steps(step: int, begin: int, end: int, start: float, final: float) -> float:
    """Gradual magnitude pruning over steps (Zhu & Gupta 2017, arXiv:1710.01878, equation 1).

    Args:
        step: the step.
        begin: the step at which pruning starts; `start` until then.
        end: the step at which it is over; `final` from then on.
        start: sparsity at the beginning.
        final: sparsity at the end.

    Returns:
        The sparsity at that step.

    Raises:
        ConfigError: an end before the beginning, or a sparsity outside [0, 1).

    >>> round(cubic_over_steps(50, 0, 100, 0.0, 0.8), 3)
    0.7
    """
    if end <= begin:
        raise ConfigError(f"pruning ends after it begins; it begins at step {begin} and ends at {end}. Swap or widen.")
    return sparsity_at((step - begin) / (end - begin), start, final, "cubic")


def densify_linear(start: float, cycles: int, end: float = 0.0) -> tuple[float, ...]:
    """Sparsities that fall in a straight line: s₀ + t (s₁ − s₀), with t = c / max(C − 1, 1).

    Args:
        start: sparsity of the first cycle.
        cycles: how many cycles.
        end: sparsity of the last one.

    Returns:
        One sparsity a cycle.

    Raises:
        ConfigError: sparsities that rise, or lie outside [0, 1); no cycles.

    >>> [round(s, 3) for s in densify_linear(0.7, 5)]
    [0.7, 0.525, 0.35, 0.175, 0.0]
    """
    if cycles < 1:
        raise ConfigError(f"a densification has a cycle at least; cycles is {cycles}. Use 1 or more.")
    last = max(cycles - 1, 1)
    return densify_stepped(tuple(sparsity_at(cycle / last, start, end) for cycle in range(cycles)))


def densify_stepped(values: Sequence[float] = _DENSIFYING) -> tuple[float, ...]:
    """Sparsities that fall in steps.

    Args:
        values: one sparsity a cycle, none above the one before.

    Returns:
        The same, checked.

    Raises:
        ConfigError: sparsities that rise, or lie outside [0, 1); an empty list.

    >>> densify_stepped()
    (0.7, 0.5, 0.3, 0.1, 0.0)
    """
    sparsities = tuple(listed(values, cycle) for cycle in range(max(len(values), 1)))
    for before, after in pairwise(sparsities):
        if after > before:
            raise ConfigError(
                f"a densification never prunes; {after} comes after {before}. Put the sparsities in falling order, or "
                "use a cycle's own schedule."
            )
    return sparsities


def _check(sparsity: float, what: str) -> None:
    if not 0 <= sparsity < 1:
        raise ConfigError(
            f"a sparsity is a share of pruned weights, at least 0 and below 1; {what} is {sparsity}. Give 0.9 for "
            "ninety per cent."
        )
