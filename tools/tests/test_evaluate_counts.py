"""From bytes, first calls and counted values to figures and verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from claimbench.findings import Finding
from claimbench.ledger import Band
from claimbench.record import Compile, Memory, Value
from claimbench.verdict import Verdict

Find = Callable[..., Finding]


def memory(variant: str, peaks: list[float], case: str = "boolean.update") -> list[Memory]:
    return [
        Memory(case=case, params={}, variant=variant, peak_bytes=peak, method="m", process=i)
        for i, peak in enumerate(peaks)
    ]


def test_memory_is_a_ratio_of_peaks_with_the_range_of_repetitions(find: Find) -> None:
    rows = [*memory("before", [4e6, 4e6, 5e6]), *memory("after", [2e6, 2e6, 2.5e6])]
    found = find(rows, Band(about=2.0), quantity="memory", transform="speedup", unit="×")
    assert found.estimate == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((4 / 2.5, 5 / 2))
    assert found.verdict is Verdict.INCONCLUSIVE  # 2^0.8 is 1.74
    rows = [*memory("before", [4e6]), *memory("after", [2e6])]
    steady = find(rows, Band(about=2.0), quantity="memory", transform="speedup")
    assert steady.verdict is Verdict.REPRODUCED


def test_first_calls_are_a_ratio_of_seconds(find: Find) -> None:
    rows = [
        Compile(case="boolean.update", params={}, variant=variant, seconds=seconds + p / 100, process=p)
        for variant, seconds in (("before", 2.0), ("after", 1.0))
        for p in range(3)
    ]
    found = find(rows, Band(open=True), quantity="compile", transform="ratio")
    assert found.estimate == pytest.approx(0.5, rel=0.02)


def counted(**values: float) -> list[Value]:
    return [
        Value(case="boolean.update", params={}, name="ops", variant=v, value=n, detail="aten operations")
        for v, n in values.items()
    ]


def test_counts_are_values_and_ratios(find: Find) -> None:
    rows = counted(before=100, after=42)
    value = find(rows, Band(exact=42), quantity="ops", baseline="", transform="value")
    assert (value.verdict, value.estimate) == (Verdict.REPRODUCED, 42)
    assert "aten operations" in value.rows[0].reason
    fewer = find(rows, Band(about=58.0), quantity="ops")
    assert fewer.estimate == pytest.approx(58.0)
    assert fewer.verdict is Verdict.REPRODUCED
    assert fewer.floor == 0.0
    more = find(rows, Band(exact=41), quantity="ops", baseline="", transform="value", better="lower")
    assert more.verdict is Verdict.NOT_REPRODUCED


@pytest.mark.parametrize(
    ("before", "after", "transform", "estimate", "verdict"),
    [
        (100, 0, "less_time", 100.0, Verdict.REPRODUCED),
        (100, 0, "ratio", 0.0, Verdict.REPRODUCED),
        (100, 0, "speedup", math.inf, Verdict.ERROR),
        (0, 5, "overhead", math.nan, Verdict.ERROR),
        (0, 0, "ratio", math.nan, Verdict.ERROR),
        (5, -1, "ratio", math.nan, Verdict.ERROR),
    ],
)
def test_counts_of_nought_are_figures_or_errors_and_no_crash(
    find: Find, before: float, after: float, transform: str, estimate: float, verdict: Verdict
) -> None:
    found = find(counted(before=before, after=after), Band(open=True), quantity="ops", transform=transform)
    assert found.verdict is verdict
    assert found.estimate == pytest.approx(estimate, nan_ok=True)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.35, 1.05), Verdict.REPRODUCED), ((0.2, 1.2), Verdict.INCONCLUSIVE), ((-0.1, 0.25), Verdict.NOT_REPRODUCED)],
)
def test_a_mean_over_seeds_is_judged_by_its_interval(
    find: Find, interval: tuple[float, float], verdict: Verdict
) -> None:
    low, high = interval
    mean = Value(
        case="boolean.update", params={}, name="margin", variant="after", value=(low + high) / 2, low=low, high=high
    )
    found = find([mean], Band(at_least=0.3), quantity="margin", baseline="", transform="value")
    assert (found.verdict, found.low, found.high) == (verdict, low, high)


def test_a_ratio_does_not_take_over_the_interval_of_its_upper_number(find: Find) -> None:
    rows = [row.model_copy(update={"low": 1.0, "high": 90.0}) for row in counted(before=100, after=42)]
    found = find(rows, Band(about=58.0), quantity="ops")
    assert (found.low, found.high) == (pytest.approx(58.0), pytest.approx(58.0))


def test_the_spread_of_counted_groups(find: Find) -> None:
    rows = [
        Value(case="boolean.update", params={"size": size, "seed": seed}, name="accuracy", variant="after", value=value)
        for size, seed, value in (("s", 0, 0.90), ("s", 1, 0.92), ("l", 0, 0.95), ("l", 1, 0.97))
    ]
    # Groups at 0.91 and 0.96 lie 0.025 around their mean.
    found = find(
        rows, Band(at_most=0.03), quantity="accuracy", baseline="", transform="value", aggregate="spread", group="size"
    )
    assert found.estimate == pytest.approx(0.025)


def test_a_value_that_is_not_finite_is_an_error(find: Find) -> None:
    found = find(counted(after=math.nan), Band(exact=42), quantity="ops", baseline="", transform="value")
    assert found.verdict is Verdict.ERROR
