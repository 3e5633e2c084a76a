"""Simulated noise with a known truth, to prove the statistics: what they find is counted against what was planted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from claimbench import statistics
from claimbench.figures import noise_floor

__all__ = ["Noise", "finds_a_winner", "run"]


@dataclass(frozen=True)
class Noise:
    """How the simulated machine behaves.

    Attributes:
        process: Standard deviation between processes of a pair's log ratio.
        pair: Standard deviation between pairs of one process.
        spike_share: Share of timings that are spikes.
        spike: Factor of a spike.
        drift: Relative growth of all times from the first timing to the last.
        step: One sudden factor on all times, at a random moment (a frequency step).
    """

    process: float = 0.02
    pair: float = 0.03
    spike_share: float = 0.05
    spike: float = 1.5
    drift: float = 0.10
    step: float = 1.20


def run(
    generator: np.random.Generator,
    effect: float = 1.0,
    *,
    processes: int = 7,
    rounds: int = 24,
    noise: Noise | None = None,
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Simulate one run of two variants and the control, timed in mirrored rounds as on a real machine.

    Args:
        generator: Source of the noise.
        effect: True ratio of the candidate's time to the baseline's.
        processes: Worker processes.
        rounds: Mirrored rounds in each.
        noise: How the machine behaves.

    Returns:
        Log ratios of candidate to baseline, and of the control to the baseline; one array of pairs a process.
    """
    noise = noise or Noise()
    total, at = processes * rounds * 6, 0
    step_at = int(generator.integers(0, total))
    ratios, controls = [], []
    for _ in range(processes):
        # A pair's log ratio is a difference of two series: each series carries half of its variance.
        own = generator.normal(0, noise.process / np.sqrt(2), 3) + np.array([0.0, 0.0, np.log(effect)])
        order = np.argsort(generator.random((rounds, 3)), axis=1)
        order = np.concatenate([order, order[:, ::-1]], axis=1)  # (rounds, 6): which series each timing is of
        moment = at + np.arange(rounds * 6).reshape(rounds, 6)
        at += rounds * 6
        logs = own[order] + generator.normal(0, noise.pair / np.sqrt(2), order.shape)
        logs += np.log1p(noise.drift * moment / total) + np.where(moment >= step_at, np.log(noise.step), 0.0)
        logs += np.where(generator.random(order.shape) < noise.spike_share, np.log(noise.spike), 0.0)
        series = np.empty((3, 2, rounds))
        for half in (0, 1):
            places = order[:, 3 * half : 3 * half + 3]
            values = logs[:, 3 * half : 3 * half + 3]
            for name in range(3):
                series[name, half] = values[places == name]
        ratios.append((series[2] - series[0]).ravel())
        controls.append((series[1] - series[0]).ravel())
    return ratios, controls


def finds_a_winner(ratios: list[NDArray[np.float64]], controls: list[NDArray[np.float64]], seed: int = 0) -> bool:
    """Whether the statistics would declare that one variant is faster.

    Args:
        ratios: Log ratios, one array a process.
        controls: The same of the control against itself.
        seed: Seed of the resampling.

    Returns:
        True where the interval excludes 1 and the estimate lies outside the noise floor.
    """
    replicates = statistics.bootstrap([ratios], seed=seed)
    low, high = statistics.interval(replicates.draws[:, 0])
    floor = np.log1p(noise_floor([controls], seed))
    return bool((low > 0 or high < 0) and abs(replicates.estimate[0]) > floor)
