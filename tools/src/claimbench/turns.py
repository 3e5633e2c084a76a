"""Calls that take turns, for figures that one process measures once, and their intervals over rounds or seeds.

The spread between processes is not in these intervals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from claimbench import statistics

__all__ = ["Ends", "Series", "in_turns", "interval_of", "ratio_of", "seconds", "share_saved"]

Series = dict[str, np.ndarray]
Ends = tuple[float, float]


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """What a call takes.

    Args:
        call: Called once.
        clock: Which clock.
    """
    began = clock()
    call()
    return clock() - began


def in_turns(calls: Mapping[str, Callable[[], float]], rounds: int) -> Series:
    """Calls each once a round, in mirrored order every other round; the first round is thrown away.

    Args:
        calls: Name → measures itself and returns seconds.
        rounds: How many count.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            taken = calls[name]()
            if turn:
                found[name].append(taken)
    return {name: np.asarray(values) for name, values in found.items()}


def interval_of(values: Sequence[float] | np.ndarray) -> tuple[float, Ends]:
    """Mean and 99 % interval of the mean, over rounds or seeds of one process.

    Args:
        values: One a round or seed.
    """
    found = statistics.bootstrap([[np.asarray(values, float)]])
    low, high = statistics.interval(found.draws[:, 0])
    return float(found.estimate[0]), (float(low), float(high))


def ratio_of(top: np.ndarray, bottom: np.ndarray) -> tuple[float, Ends]:
    """A mean ratio with its interval: of the logarithms of pairs.

    Args:
        top: By round or seed.
        bottom: By round or seed.
    """
    mean, (low, high) = interval_of(np.log(top) - np.log(bottom))
    return float(np.exp(mean)), (float(np.exp(low)), float(np.exp(high)))


def share_saved(before: np.ndarray, after: np.ndarray) -> tuple[float, Ends]:
    """How much less in per cent, with its interval.

    Args:
        before: By round or seed.
        after: By round or seed.
    """
    ratio, (low, high) = ratio_of(after, before)
    return 100 * (1 - ratio), (100 * (1 - high), 100 * (1 - low))
