"""What the statistics find in noise of which the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from claimbench import selftest, simulate, statistics
from claimbench.figures import noise_floor


def test_no_winner_where_there_is_none_and_a_planted_slowdown_found() -> None:
    false, found = selftest.simulated(2000, found_in=500)
    assert false.passed, false.found
    assert found.passed, found.found
    assert "2000" in false.name
    assert "500" in found.name


def test_the_simulation_plants_what_it_says() -> None:
    quiet = simulate.Noise(process=0.0, pair=0.0, spike_share=0.0, drift=0.0, step=1.0)
    ratios, controls = simulate.run(np.random.default_rng(0), 1.05, processes=3, rounds=5, noise=quiet)
    assert [len(pairs) for pairs in ratios] == [10, 10, 10]
    np.testing.assert_allclose(np.concatenate(ratios), math.log(1.05), atol=1e-12)
    np.testing.assert_allclose(np.concatenate(controls), 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (simulate.Noise(process=0.0, spike_share=0.0, drift=0.0, step=1.0), 0.03),
        (simulate.Noise(pair=0.0, spike_share=0.0, drift=0.0, step=1.0), 0.02),
    ],
    ids=["pairs", "processes"],
)
def test_the_simulated_spread_is_the_one_named(noise: simulate.Noise, expected: float) -> None:
    processes, rounds = (4000, 3) if noise.process else (4, 4000)
    ratios, _ = simulate.run(np.random.default_rng(1), processes=processes, rounds=rounds, noise=noise)
    assert np.concatenate(ratios).std() == pytest.approx(expected, rel=0.05)


def test_mirroring_cancels_a_drift_that_would_fake_a_difference() -> None:
    drifting = simulate.Noise(process=0.0, pair=0.0, spike_share=0.0, drift=2.0, step=1.0)
    ratios, _ = simulate.run(np.random.default_rng(2), processes=2, rounds=2000, noise=drifting)
    # Times triple over the run; the two halves of each round carry opposite signs of the drift.
    assert abs(np.concatenate(ratios).mean()) < 2e-5


def test_spikes_hide_a_slowdown_from_a_plain_mean_but_not_from_the_winsorised_one() -> None:
    generator = np.random.default_rng(6)
    noise = simulate.Noise(process=0.002, pair=0.01, drift=0.0, step=1.0)
    plain, robust, runs = 0, 0, 60
    for run in range(runs):
        ratios, _ = simulate.run(generator, 1.02, processes=5, rounds=48, noise=noise)
        low, _ = statistics.interval(statistics.bootstrap([ratios], seed=run).draws[:, 0])
        robust += low > 0
        means = np.array([pairs.mean() for pairs in ratios])
        # Student's interval of the plain means, 99 % two-sided at 4 degrees of freedom: 4.6041.
        plain += means.mean() - 4.6041 * means.std(ddof=1) / math.sqrt(5) > 0
    assert robust >= 0.9 * runs
    assert plain <= 0.5 * runs


def test_the_floor_is_what_identical_code_seemed_to_differ_by() -> None:
    # No spread: the floor is the offset itself, as a share.
    assert noise_floor([[np.full(6, math.log(1.04))] * 3]) == pytest.approx(0.04)
    assert noise_floor([[np.zeros(6)] * 3]) == 0.0


def test_an_estimate_inside_the_floor_is_no_winner() -> None:
    ratios = [np.full(20, 0.02) + np.random.default_rng(i).normal(0, 1e-4, 20) for i in range(7)]
    quiet = [np.random.default_rng(i).normal(0, 1e-4, 20) for i in range(7)]
    noisy = [pairs + 0.03 for pairs in quiet]
    assert simulate.finds_a_winner(ratios, quiet)
    assert not simulate.finds_a_winner(ratios, noisy)
