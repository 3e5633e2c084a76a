"""Times of a few calls that take turns, for figures that one process measures once: shares, stalls, costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from claimbench import statistics

__all__ = ["Series", "in_turns", "seconds", "share_saved"]

Series = dict[str, np.ndarray]


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


def share_saved(before: np.ndarray, after: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Less time in per cent, with its interval over rounds; of one process, so that spread between them is not in it.

    Args:
        before: Seconds by round.
        after: Seconds by round.
    """
    found = statistics.bootstrap([[np.log(after) - np.log(before)]])
    low, high = statistics.interval(found.draws[:, 0])

    def less(log: float) -> float:
        return 100 * (1 - float(np.exp(log)))

    return less(float(found.estimate[0])), (less(high), less(low))
