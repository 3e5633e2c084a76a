"""What the cases share: pictures, the original at two sizes, and slopes of times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from claimbench import statistics
from claimbench.case import Workload
from claimbench.errors import CaseError
from claimbench.record import Params
from neurograph.glyphs import synthetic_glyphs
from neurograph.reference.original import OriginalSettings

__all__ = ["FULL", "SMALL", "interval_of", "not_timed", "pictures", "settings_of", "slopes"]

FULL, SMALL = 1000, 120
"""Nodes of the original, and of a quick run's network of the same shape."""


def not_timed(params: Params) -> Workload:
    """Stands for the set-up of a case that is only counted."""
    raise CaseError(f"this case is counted, not timed; got {params}")


def settings_of(nodes: int, inputs: int | None = None, max_steps: int = 25) -> OriginalSettings:
    """The original's settings at a number of nodes, ten of which are outputs.

    Args:
        nodes: All nodes.
        inputs: Input nodes; a fifth by default, as in the original.
        max_steps: Where the forward loop stops at the latest.
    """
    inputs = nodes // 5 if inputs is None else inputs
    return OriginalSettings(n_inputs=inputs, n_hidden=nodes - inputs - 10, n_outputs=10, max_steps=max_steps)


@cache
def pictures() -> tuple[Tensor, tuple[int, ...]]:
    """A training stream: scikit-learn's digits in their order, or drawn glyphs where it is not installed."""
    if find_spec("sklearn") is not None:
        digits = import_module("sklearn.datasets").load_digits()
        return torch.tensor(digits.images / 16).float(), tuple(int(label) for label in digits.target)
    drawn, labels = synthetic_glyphs(500, seed=0)
    return drawn, tuple(labels.tolist())


def interval_of(values: Sequence[float] | np.ndarray) -> tuple[float, tuple[float, float]]:
    """Mean and 99 % interval of the mean of numbers that were measured in turns.

    Args:
        values: One a round.
    """
    found = statistics.bootstrap([[np.asarray(values, float)]])
    low, high = statistics.interval(found.draws[:, 0])
    return float(found.estimate[0]), (low, high)


def slopes(calls: Mapping[int, Callable[[], object]], rounds: int = 9) -> tuple[float, tuple[float, float]]:
    """Slope of log time on log N, with its interval over rounds.

    Args:
        calls: N → what is timed. Each is called for about a millisecond at a time, in turns.
        rounds: How many count; one more is thrown away.

    Returns:
        The mean slope of the rounds, and its interval.
    """
    repeats = {}
    for size, call in calls.items():
        call()
        began = time.process_time_ns()
        call()
        repeats[size] = max(1, int(1e6 // max(1, time.process_time_ns() - began)))
    found = []
    x = np.log(np.array(list(calls), float))
    for _ in range(rounds + 1):
        taken = []
        for size, call in calls.items():
            began = time.process_time_ns()
            for _ in range(repeats[size]):
                call()
            taken.append(max(1.0, (time.process_time_ns() - began) / repeats[size]))
        found.append(float(np.polyfit(x, np.log(taken), 1)[0]))
    return interval_of(found[1:])
