"""From timings with known truths to figures: ratios, means, groups, spreads, differences, and the other clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from claimbench.figures import noise_floor
from claimbench.findings import Finding
from claimbench.ledger import Band
from claimbench.record import CONTROL, Failure, Samples
from claimbench.verdict import Verdict

Find = Callable[..., Finding]
Grid = Callable[..., list[Samples]]


def exact_samples(ratios: dict[str, list[float]], **fields: Any) -> Samples:
    """One process whose series are the given times; the control is 1, 1, …"""
    count = len(next(iter(ratios.values())))
    series = {"before": [1.0] * count, "before" + CONTROL: [1.0] * count} | ratios
    values: dict[str, Any] = {
        "case": "boolean.update", "params": {}, "process": 0, "calls": dict.fromkeys(series, 1),
        "clocks": {"wall": series, "process": series}, "rounds": count // 2, "seconds": 1.0, "reached_precision": True,
        "precision": 0.01, "control": "before",
    }  # fmt: skip
    return Samples.model_validate(values | fields)


@pytest.mark.parametrize(
    ("transform", "expected"),
    [("less_time", 80.0), ("overhead", -80.0), ("ratio", 0.2), ("speedup", 5.0)],
)
def test_the_estimate_is_the_planted_ratio(builder: Any, find: Find, transform: str, expected: float) -> None:
    found = find(builder.timed({"after": 0.2}, processes=7, seed=1), Band(open=True), transform=transform)
    assert found.estimate == pytest.approx(expected, rel=0.03)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= expected <= found.high
    assert found.high - found.low < 0.1 * abs(expected)
    assert found.processes == 7
    assert found.verdict is Verdict.REPRODUCED


@pytest.mark.parametrize(
    ("band", "verdict"),
    [
        (Band(between=(75.0, 85.0)), Verdict.REPRODUCED),
        (Band(between=(50.0, 60.0)), Verdict.EXCEEDED),
        (Band(at_least=90.0), Verdict.NOT_REPRODUCED),
        (Band(at_least=80.0), Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts_of_80_per_cent_less_time(builder: Any, find: Find, band: Band, verdict: Verdict) -> None:
    found = find(builder.timed({"after": 0.2}), band)
    assert found.verdict is verdict
    assert (found.band_low, found.band_high) == band.bounds("less_time")


def test_a_quick_run_declares_nothing(builder: Any, find: Find) -> None:
    found = find(builder.timed({"after": 0.2}, processes=1), Band(at_least=50.0), start={"quick": True})
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.estimate == pytest.approx(80.0, abs=1)


def test_the_figure_is_the_mean_over_processes_of_winsorised_log_ratios(find: Find) -> None:
    first = exact_samples({"after": [0.5, 0.5, 0.5, 0.5, 50.0]})
    second = exact_samples({"after": [0.25] * 5}, process=1)
    found = find([first, second], Band(open=True), transform="ratio")
    assert found.estimate == pytest.approx(math.sqrt(0.5 * 0.25))
    assert found.rows[0].baseline_ns == 1.0
    assert found.rows[0].candidate_ns == pytest.approx(0.375)  # median of 0.25 ×5, 0.5 ×4 and 50
    assert found.rows[0].pairs[1] == pytest.approx([0.25] * 5)


def test_a_process_that_is_told_twice_counts_once(builder: Any, find: Find) -> None:
    rows = builder.timed({"after": 0.2}, processes=1)
    found = find(rows * 3, Band(at_least=50.0))
    assert found.processes == 1
    assert found.verdict is Verdict.INCONCLUSIVE


def test_the_mean_over_rows_is_of_figures(builder: Any, find: Find, grid: Grid) -> None:
    found = find(grid(builder, {"s": 0.2, "m": 0.4, "l": 0.6}), Band(open=True))
    assert found.estimate == pytest.approx((80 + 60 + 40) / 3, abs=0.7)
    assert [row.label for row in found.rows] == ["size=s", "size=m", "size=l"]
    assert [row.estimate for row in found.rows] == pytest.approx([80, 60, 40], abs=1.5)


def test_where_chooses_rows(builder: Any, find: Find, grid: Grid) -> None:
    found = find(grid(builder, {"s": 0.2, "m": 0.4}), Band(open=True), where={"size": "m"})
    assert found.estimate == pytest.approx(60, abs=1.5)


def test_the_worst_row_is_the_largest(builder: Any, find: Find, grid: Grid) -> None:
    rows = grid(builder, {"s": 1.02, "m": 1.30, "l": 1.10})
    found = find(rows, Band(at_most=20.0), transform="overhead", aggregate="worst", better="lower")
    assert found.estimate == pytest.approx(30, abs=2)
    assert found.verdict is Verdict.NOT_REPRODUCED


def test_each_row_is_judged_on_its_own(builder: Any, find: Find, grid: Grid) -> None:
    rows = grid(builder, {"s": 0.2, "m": 0.4, "l": 0.6})
    found = find(rows, Band(at_least=50.0), aggregate="each")
    assert [row.verdict for row in found.rows] == [Verdict.REPRODUCED, Verdict.REPRODUCED, Verdict.NOT_REPRODUCED]
    assert found.verdict is Verdict.PARTLY


def test_each_group_is_judged_by_its_mean(builder: Any, find: Find) -> None:
    rows = [
        row
        for seed, (size, optimizer, ratio) in enumerate(
            [("s", "sgd", 0.2), ("l", "sgd", 0.4), ("s", "adam", 0.7), ("l", "adam", 0.9)]
        )
        for row in builder.timed({"after": ratio}, params={"size": size, "optimizer": optimizer}, seed=seed)
    ]
    found = find(rows, Band(at_least=50.0), aggregate="each", group="optimizer")
    assert {row.label: row.verdict for row in found.rows} == {
        "adam": Verdict.NOT_REPRODUCED,
        "sgd": Verdict.REPRODUCED,
    }
    assert [row.estimate for row in found.rows] == pytest.approx([20, 70], abs=2)


def test_the_spread_is_the_largest_distance_from_the_mean_of_groups(builder: Any, find: Find, grid: Grid) -> None:
    # Groups at 80, 60 and 40 % less time lie 20 points around their mean.
    found = find(grid(builder, {"s": 0.2, "m": 0.4, "l": 0.6}), Band(at_most=30.0), aggregate="spread", group="size")
    assert found.estimate == pytest.approx(20, abs=1.5)
    assert found.verdict is Verdict.REPRODUCED


def test_a_gain_in_points_is_the_difference_of_two_overheads(builder: Any, find: Find) -> None:
    rows = builder.timed({"none": 0.5, "after": 0.55})  # before: +100 % over none, after: +10 %
    found = find(rows, Band(at_least=50.0), candidate="before", minus="after", baseline="none", transform="overhead")
    assert found.estimate == pytest.approx(90, abs=4)
    assert found.verdict is Verdict.REPRODUCED


def test_what_two_candidates_share_cancels_in_their_difference(find: Find) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for process in range(5):
        shared = np.exp(generator.normal(0, 0.2, 20))
        same = {"after": (2 * shared).tolist(), "best": (2 * shared).tolist(), "none": [1.0] * 20}
        rows.append(exact_samples(same, process=process))
    found = find(rows, Band(open=True), candidate="after", minus="best", baseline="none", transform="overhead")
    assert found.estimate == pytest.approx(0.0, abs=1e-9)
    assert found.high == pytest.approx(0.0, abs=1e-9)


def test_a_variant_that_broke_in_one_process_costs_that_process(builder: Any, find: Find) -> None:
    rows = builder.timed({"after": 0.2, "other": 0.9}, processes=7)
    lame = rows[3].model_copy(
        update={
            "calls": {k: v for k, v in rows[3].calls.items() if k != "after"},
            "clocks": {c: {k: v for k, v in s.items() if k != "after"} for c, s in rows[3].clocks.items()},
        }
    )
    failure = Failure(case="boolean.update", variant="after", stage="gate", reason="ValueError: once", process=3)
    found = find([*rows[:3], lame, *rows[4:], failure], Band(at_least=50.0))
    assert found.processes == 6
    assert found.verdict is Verdict.REPRODUCED
    assert "1 rows failed, the first: ValueError: once" in found.reason


def test_a_second_candidate_that_was_never_timed_is_no_crash(builder: Any, find: Find) -> None:
    rows = builder.timed({"none": 0.5, "after": 0.55})
    failure = Failure(case="boolean.update", variant="gone", stage="gate", reason="ValueError: no")
    found = find(
        [*rows, failure], Band(open=True), candidate="before", minus="gone", baseline="none", transform="overhead"
    )
    assert found.verdict is Verdict.ERROR


def test_the_other_reading_of_faster_is_printed(find: Find) -> None:
    rows = [exact_samples({"after": [0.25, 0.2501, 0.2499, 0.25]}, process=process) for process in range(3)]
    # 75 % less time is four times as fast: 300 % faster.
    found = find(rows, Band(open=True))
    assert found.other_reading == "the other reading of “faster”, before ÷ after − 1: 300 %"
    assert find(rows, Band(open=True), transform="overhead").other_reading == ""


def test_the_clock_that_does_not_decide_is_printed_beside(find: Find) -> None:
    rows = []
    for process in range(3):
        sample = exact_samples({"after": [0.5, 0.5001, 0.4999, 0.5]}, process=process)
        sample.clocks["process"] = sample.clocks["process"] | {"after": [0.25, 0.2501, 0.2499, 0.25]}
        rows.append(sample)
    by_process = find(rows, Band(open=True))
    by_wall = find(rows, Band(open=True), clock="wall")
    assert by_process.estimate == pytest.approx(75, abs=0.1)
    assert by_process.other_clock.startswith("wall clock: 50")
    assert by_wall.estimate == pytest.approx(50, abs=0.1)
    assert by_wall.other_clock.startswith("process clock: 75")


def test_the_noise_floor_of_a_finding_is_that_of_its_own_control(builder: Any, find: Find) -> None:
    rows = builder.timed({"after": 0.98}, noise=0.05, pairs=20)
    found = find(rows, Band(at_least=0.1))
    control = [
        np.log(np.array(row.clocks["process"]["before" + CONTROL]) / np.array(row.clocks["process"]["before"]))
        for row in rows
    ]
    assert found.floor == pytest.approx(noise_floor([control]))
    assert found.verdict is Verdict.INCONCLUSIVE
