"""Timing at one point: mirrored blocks of all variants, so that drift falls on all of them alike.

A round times every series once in random order and then once more in the mirrored order; with two series this is ABBA
or BAAB. The control variant appears twice, as itself and as its own rival: that is the A/A control. Blocks at equal
places of two series form a pair.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from claimbench import statistics
from claimbench.case import Workload
from claimbench.record import CONTROL, Params, Samples
from claimbench.runtimes.base import Runtime

__all__ = ["block_calls", "palindrome", "time_point", "timer_cost_ns"]

TIMER_SHARE = 50
"""A block lasts at least this many times as long as reading the clocks takes."""

BLOCK_NS = 200_000
"""And at least this long, so that one interruption does not fill a block."""

MIN_ROUNDS, MAX_ROUNDS = 12, 60


def timer_cost_ns(readings: int = 200) -> float:
    """Median cost of reading both clocks at the start and end of a block, in nanoseconds."""
    costs = []
    for _ in range(readings):
        start = time.perf_counter_ns()
        time.process_time_ns(), time.perf_counter_ns(), time.perf_counter_ns(), time.process_time_ns()
        costs.append(time.perf_counter_ns() - start)
    return float(np.median(costs))


def block_calls(call_ns: float, timer_ns: float) -> int:
    """Calls in one block.

    Args:
        call_ns: Time of one call.
        timer_ns: Cost of reading the clocks.

    Returns:
        At least 1.

    Example:
        >>> block_calls(call_ns=1_000, timer_ns=500)
        200
    """
    return max(1, math.ceil(max(TIMER_SHARE * timer_ns, BLOCK_NS) / max(call_ns, 1.0)))


def palindrome(names: Sequence[str], generator: np.random.Generator) -> list[str]:
    """One round: a random order and its mirror image.

    Example:
        >>> order = palindrome(["a", "b"], np.random.default_rng(0))
        >>> order == order[::-1], len(order)
        (True, 4)
    """
    order = [names[i] for i in generator.permutation(len(names))]
    return order + order[::-1]


def _precision(series: dict[str, list[float]], control: str) -> float:
    """Standard error of the worst mean log ratio against the control, from pairs within this process."""
    base = np.log(np.asarray(series[control]))
    worst = 0.0
    for name, values in series.items():
        if name != control:
            pairs = np.log(np.asarray(values)) - base
            low, high = np.quantile(pairs, [statistics.WINSOR_SHARE, 1 - statistics.WINSOR_SHARE])
            clipped = np.clip(pairs, low, high)
            # Winsorising g values at each end shrinks the spread; n/(n − 2g) restores it (Tukey, McLaughlin, 1963).
            spread = float(clipped.std(ddof=1)) / (1 - 2 * statistics.WINSOR_SHARE)
            worst = max(worst, spread / math.sqrt(len(pairs)))
    return worst


def time_point(
    case: str,
    params: Params,
    workload: Workload,
    variants: Sequence[str],
    control: str,
    runtime: Runtime,
    *,
    budget: float,
    precision: float,
    process: int,
    seed: int,
    on_round: Callable[[int], None] = lambda _round: None,
) -> Samples:
    """Time all variants at one point within a budget.

    Args:
        case: Name of the case.
        params: The point.
        workload: Its workload; the variants were checked and so are warm.
        variants: Names of the series.
        control: Name of the series that is also timed against itself.
        runtime: Clocks and synchronisation.
        budget: Seconds; at least three rounds are timed, however long they take.
        precision: Standard error of a log ratio at which timing stops, after `MIN_ROUNDS` rounds.
        process: Number of this worker process.
        seed: Seed of inputs and order.
        on_round: Called after each round.

    Returns:
        The samples of this process.
    """
    generator = np.random.default_rng([seed, process])
    inputs = workload.inputs(seed)
    calls: dict[str, Callable[[], Any]] = {}
    for name in variants:
        calls[name] = partial(workload.variants[name], inputs)
    calls[control + CONTROL] = calls[control]

    started = time.perf_counter()
    timer = timer_cost_ns()
    sizes: dict[str, int] = {}
    for name in variants:
        runtime.time_block(calls[name], 1)
        sizes[name] = block_calls(min(runtime.time_block(calls[name], 1)[0] for _ in range(2)), timer)
    sizes[control + CONTROL] = sizes[control]

    clocks: dict[str, dict[str, list[float]]] = {c: {name: [] for name in calls} for c in ("wall", "process")}
    names, rounds, reached = list(calls), 0, False
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        while rounds < MAX_ROUNDS:
            for name in palindrome(names, generator):
                runtime.before_sample()
                wall, cpu = runtime.time_block(calls[name], sizes[name])
                clocks["wall"][name].append(wall / (sizes[name] * workload.units))
                clocks["process"][name].append(max(cpu, 1.0) / (sizes[name] * workload.units))
            rounds += 1
            on_round(rounds)
            if rounds >= MIN_ROUNDS and _precision(clocks["process"], control) <= precision:
                reached = True
                break
            if rounds >= 3 and time.perf_counter() - started > budget:
                break
    finally:
        if collecting:
            gc.enable()
    final = _precision(clocks["process"], control)
    return Samples(
        case=case,
        params=params,
        process=process,
        calls=sizes,
        clocks=clocks,
        rounds=rounds,
        seconds=time.perf_counter() - started,
        reached_precision=reached or final <= precision,
        precision=final,
        control=control,
        load=os.getloadavg()[:2] if hasattr(os, "getloadavg") else None,
    )
