"""The estimate and its interval, against hand calculations and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claimbench import statistics
from claimbench.statistics import bootstrap, interval, small_sample_factor, winsorised_mean


def test_winsorised_mean_by_hand() -> None:
    # Ten values, share 0.2: the two lowest become 3, the two highest become 8.
    values = np.array([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, -50.0])
    # sorted: -50 1 2 3 4 5 6 7 8 100 -> 2 2 2 3 4 5 6 7 7 7
    assert winsorised_mean(values) == pytest.approx((2 * 3 + 3 + 4 + 5 + 6 + 7 * 3) / 10)


def test_a_share_of_nothing_is_the_plain_mean() -> None:
    assert winsorised_mean(np.array([1.0, 2.0, 9.0]), share=0.0) == pytest.approx(4.0)


def test_winsorised_mean_works_along_the_last_axis() -> None:
    table = np.array([[1.0, 1.0, 1.0, 1.0, 99.0], [0.0, 2.0, 4.0, 6.0, 1000.0]])
    # second row: 0 -> 2 and 1000 -> 6
    np.testing.assert_allclose(winsorised_mean(table), [1.0, (2 + 2 + 4 + 6 + 6) / 5])


@pytest.mark.parametrize("share", [-0.1, 0.5, 0.9])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 0.5\)"):
        winsorised_mean(np.ones(4), share)


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        winsorised_mean(np.empty(0))


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.4]),
)
def test_winsorised_mean_is_the_mean_of_pulled_in_values(values: list[float], share: float) -> None:
    count = len(values)
    pulled = math.floor(share * count)
    ordered = sorted(values)
    expected = math.fsum(ordered[min(max(i, pulled), count - 1 - pulled)] for i in range(count)) / count
    assert winsorised_mean(np.array(values), share) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_small_sample_factor_by_tables() -> None:
    # Two-sided 99 % points of Student's t from any table: 6 degrees of freedom 3.7074, 4: 4.6041; normal 2.5758.
    for processes, student in ((7, 3.7074), (5, 4.6041)):
        expected = math.sqrt(processes / (processes - 1)) * (student / 2.5758) ** 0.5
        assert small_sample_factor(processes) == pytest.approx(expected, rel=1e-4)


def test_one_process_is_not_widened_and_more_are_widened_less() -> None:
    factors = [small_sample_factor(processes) for processes in range(2, 30)]
    assert small_sample_factor(1) == 1.0
    assert factors == sorted(factors, reverse=True)
    assert min(factors) > 1.0


@pytest.mark.parametrize(
    "rows",
    [
        [[np.full(5, 0.25)] * 3],
        [[np.zeros(1)]],
        [[np.full(7, 0.1), np.full(3, 0.1)], [np.full(4, -0.3)] * 2],
    ],
    ids=["constant", "one pair", "two rows"],
)
def test_pairs_without_spread_give_a_point_and_never_nan(rows: list[list[np.ndarray]]) -> None:
    found = bootstrap(rows)
    assert found.degenerate
    assert np.isfinite(found.draws).all()
    for column, row in enumerate(rows):
        low, high = interval(found.draws[:, column])
        assert low == high == pytest.approx(float(row[0][0]), abs=1e-12)


def test_a_spread_between_or_within_processes_is_not_degenerate() -> None:
    assert not bootstrap([[np.zeros(4), np.ones(4)]]).degenerate
    assert not bootstrap([[np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])]]).degenerate


@pytest.mark.parametrize("rows", [[], [[]], [[np.zeros(3)], []], [[np.zeros(3), np.empty(0)]]])
def test_a_row_without_pairs_is_refused(rows: list[list[np.ndarray]]) -> None:
    with pytest.raises(ValueError, match="needs pairs from at least one process"):
        bootstrap(rows)


def test_the_estimate_is_the_mean_over_processes_of_winsorised_means() -> None:
    first, second = np.array([0.0, 0.1, 0.2, 0.3, 9.0]), np.array([1.0, 1.0, 1.0])
    # first: 0 -> 0.1, 9 -> 0.3, mean (0.1 + 0.1 + 0.2 + 0.3 + 0.3) / 5 = 0.2
    found = bootstrap([[first, second]])
    assert found.estimate[0] == pytest.approx((0.2 + 1.0) / 2)
    assert found.processes == 2


def test_processes_are_drawn_jointly_over_the_rows() -> None:
    # What moves a whole process moves its rows together: with no spread within a process the replicates of two rows
    # that moved alike are the same draw by draw, and their difference has no spread at all.
    offsets = [-0.2, 0.0, 0.1, 0.4, 0.5]
    rows = [[np.full(8, offset + row) for offset in offsets] for row in (0.0, 1.0)]
    found = bootstrap(rows)
    assert np.ptp(found.draws[:, 0]) > 0.1
    np.testing.assert_allclose(found.draws[:, 1] - found.draws[:, 0], 1.0, atol=1e-12)


def test_the_spread_of_replicates_is_the_widened_standard_error() -> None:
    # Without spread within processes the replicates are means of K draws from K numbers: their variance is s²/K, with
    # s² the mean squared deviation, times the square of the factor.
    offsets = np.array([-0.02, 0.03, 0.01, -0.05, 0.02, 0.04, -0.03])
    found = bootstrap([[np.full(6, offset) for offset in offsets]], draws=20_000)
    expected = small_sample_factor(7) * offsets.std() / math.sqrt(7)
    assert found.draws[:, 0].std() == pytest.approx(expected, rel=0.03)


def test_pairs_are_resampled_within_a_process() -> None:
    # One process, whose winsorised mean of 40 pairs is close to a mean: the replicates spread like its standard error.
    pairs = np.random.default_rng(4).normal(0.0, 0.1, 40)
    ordered = np.sort(pairs)
    clipped = np.clip(pairs, ordered[8], ordered[31])
    spread = clipped.std(ddof=1) / (1 - 2 * statistics.WINSOR_SHARE) / math.sqrt(40)  # Tukey and McLaughlin, 1963
    assert bootstrap([[pairs]]).draws[:, 0].std() == pytest.approx(spread, rel=0.25)


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = [[np.random.default_rng(i).normal(size=20) for i in range(4)]]
    np.testing.assert_array_equal(bootstrap(rows, seed=3).draws, bootstrap(rows, seed=3).draws)
    assert (bootstrap(rows, seed=3).draws != bootstrap(rows, seed=4).draws).any()


def test_interval_takes_the_outer_half_per_cents() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx((5.0, 995.0))
    assert interval(np.arange(1001.0), confidence=0.5) == pytest.approx((250.0, 750.0))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=12), min_size=1, max_size=6),
    st.floats(-3, 3),
)
def test_a_common_factor_moves_estimate_and_interval_alike(processes: list[list[float]], shift: float) -> None:
    here = bootstrap([[np.array(pairs) for pairs in processes]], draws=200)
    there = bootstrap([[np.array(pairs) + shift for pairs in processes]], draws=200)
    assert there.estimate[0] == pytest.approx(here.estimate[0] + shift, abs=1e-9)
    np.testing.assert_allclose(there.draws, here.draws + shift, atol=1e-9)


def test_the_nominal_99_per_cent_interval_holds_the_truth() -> None:
    # Processes and pairs drawn here, not by claimbench.simulate: offsets of 2 %, pairs of 3 %, one in ten a spike.
    generator = np.random.default_rng(11)
    truth, held, runs = math.log(1.3), 0, 600
    for run in range(runs):
        row = []
        for _ in range(7):
            pairs = truth + generator.normal(0, 0.02) + generator.normal(0, 0.03, 48)
            spikes = generator.random(48) < 0.1
            row.append(pairs + spikes * generator.choice([-1, 1], 48) * math.log(1.5))
        low, high = interval(bootstrap([row], seed=run).draws[:, 0])
        held += low <= truth <= high
    assert held / runs >= 0.98
