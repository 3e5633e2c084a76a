"""From synthetic records with known truths to verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from claimbench.evaluate import evaluate
from claimbench.figures import noise_floor
from claimbench.findings import Finding
from claimbench.ledger import Band, Claim, Fidelity, Figure, Part, claim_ids
from claimbench.record import (
    CONTROL,
    Compile,
    End,
    Environment,
    Failure,
    Gate,
    Memory,
    Probe,
    Record,
    Samples,
    Value,
)
from claimbench.verdict import Verdict

Find = Callable[..., Finding]
END = End(complete=True, seconds=1.0)


@pytest.fixture
def find(builder: Any) -> Find:
    """Judge one claim by rows: the claim is made from a band and changes of its figure."""
    number = iter(range(1000))

    def judged(rows: list[Any], band: Band, start: dict[str, Any] | None = None, **changes: Any) -> Finding:
        record = builder.write([builder.start(**(start or {})), *rows, END], name=f"run-{next(number)}")
        fields = {
            key: changes.pop(key) for key in ("needs", "fidelity", "better", "unit", "duration") if key in changes
        }
        figure = {"case": "boolean.update", "candidate": "after", "baseline": "before", "transform": "less_time"}
        claim = builder.claim("boolean.x", band, figure=Figure.model_validate(figure | changes), **fields)
        (found,) = evaluate(record, [claim]).findings
        return found

    return judged


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


def grid(builder: Any, ratios: dict[str, float], **fields: Any) -> list[Samples]:
    return [
        row
        for seed, (size, ratio) in enumerate(ratios.items())
        for row in builder.timed({"after": ratio} | fields.get("more", {}), params={"size": size}, seed=seed)
    ]


def test_the_mean_over_rows_is_of_figures(builder: Any, find: Find) -> None:
    found = find(grid(builder, {"s": 0.2, "m": 0.4, "l": 0.6}), Band(open=True))
    assert found.estimate == pytest.approx((80 + 60 + 40) / 3, abs=0.7)
    assert [row.label for row in found.rows] == ["size=s", "size=m", "size=l"]
    assert [row.estimate for row in found.rows] == pytest.approx([80, 60, 40], abs=1.5)


def test_where_chooses_rows(builder: Any, find: Find) -> None:
    found = find(grid(builder, {"s": 0.2, "m": 0.4}), Band(open=True), where={"size": "m"})
    assert found.estimate == pytest.approx(60, abs=1.5)


def test_the_worst_row_is_the_largest(builder: Any, find: Find) -> None:
    rows = grid(builder, {"s": 1.02, "m": 1.30, "l": 1.10})
    found = find(rows, Band(at_most=20.0), transform="overhead", aggregate="worst", better="lower")
    assert found.estimate == pytest.approx(30, abs=2)
    assert found.verdict is Verdict.NOT_REPRODUCED


def test_each_row_is_judged_on_its_own(builder: Any, find: Find) -> None:
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


def test_the_spread_is_the_largest_distance_from_the_mean_of_groups(builder: Any, find: Find) -> None:
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


def part(label: str, where: dict[str, Any], band: Band, **figure: Any) -> Part:
    fields = {
        "case": "boolean.update",
        "candidate": "after",
        "baseline": "before",
        "transform": "speedup",
        "where": where,
    }
    return Part(label=label, figure=Figure.model_validate(fields | figure), band=band, unit="×", better="higher")


def parted(builder: Any, *parts: Part) -> Claim:
    fields = builder.claim("boolean.parts", Band(open=True)).model_dump(exclude={"figure", "band", "parts"})
    return Claim.model_validate(fields | {"parts": [p.model_dump() for p in parts]})


def test_parts_are_judged_by_their_own_bands(builder: Any) -> None:
    claim = parted(
        builder,
        part("small", {"size": "s"}, Band(at_least=4.0)),
        part("large", {"size": "l"}, Band(at_least=4.0)),
    )
    record = builder.write([builder.start(), *grid(builder, {"s": 0.2, "l": 0.5}), END])
    (found,) = evaluate(record, [claim]).findings
    assert [(row.label, row.verdict) for row in found.rows] == [
        ("small", Verdict.REPRODUCED),
        ("large", Verdict.NOT_REPRODUCED),
    ]
    assert [row.estimate for row in found.rows] == pytest.approx([5.0, 2.0], rel=0.03)
    assert [row.band for row in found.rows] == ["at least 4×"] * 2
    assert found.verdict is Verdict.PARTLY


@pytest.mark.parametrize("failed", [True, False])
def test_a_part_without_a_measurement_is_not_dropped(builder: Any, failed: bool) -> None:
    claim = parted(
        builder, part("small", {"size": "s"}, Band(at_least=4.0)), part("large", {"size": "l"}, Band(at_least=4.0))
    )
    rows: list[Any] = grid(builder, {"s": 0.2})
    if failed:
        rows += [Failure(case="boolean.update", params={"size": "l"}, stage="time", reason="MemoryError: no")]
    (found,) = evaluate(builder.write([builder.start(), *rows, END]), [claim]).findings
    assert found.verdict is (Verdict.ERROR if failed else Verdict.INCONCLUSIVE)
    assert "× (reproduced)" in found.reason
    assert "large (not measured)" in found.reason


@pytest.mark.parametrize("aggregate", ["mean", "worst", "each"])
def test_a_grid_with_a_hole_is_not_called_reproduced(builder: Any, find: Find, aggregate: str) -> None:
    hole = Failure(case="boolean.update", params={"size": "l"}, stage="time", reason="the worker died of SIGKILL")
    found = find([*grid(builder, {"s": 0.2, "m": 0.2}), hole], Band(at_least=50.0), aggregate=aggregate)
    assert found.verdict is (Verdict.ERROR if aggregate == "each" else Verdict.INCONCLUSIVE)
    assert "size=l" in found.reason
    assert len(found.rows) == 2


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


FAITHFUL = Figure(case="boolean.update", candidate="before", baseline="none", transform="overhead")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (300, 700, Verdict.INCORRECT),  # before is +100 % over none
        (60, 150, Verdict.REPRODUCED),
        (108, 150, Verdict.REPRODUCED),  # within the slack of 10 %: 97.2
        (118, 150, Verdict.INCORRECT),  # 106.2
    ],
)
def test_an_unfaithful_reconstruction_is_incorrect_and_its_numbers_are_printed(
    builder: Any, find: Find, low: float, high: float, verdict: Verdict
) -> None:
    demand = Fidelity(figure=FAITHFUL, low=low, high=high, source="its table")
    rows = builder.timed({"none": 0.5, "after": 0.2}, noise=0.005)
    found = find(rows, Band(at_least=50.0), fidelity=(demand,))
    assert found.verdict is verdict
    assert found.estimate == pytest.approx(80, abs=1)
    assert found.fidelity[0].estimate == pytest.approx(100, abs=2)
    if verdict is Verdict.INCORRECT:
        assert "not faithful enough" in found.reason
        assert "80" in found.reason


def test_a_fidelity_that_could_not_be_measured_is_not_taken_for_granted(builder: Any, find: Find) -> None:
    demand = Fidelity(figure=FAITHFUL, low=60, high=150, source="its table")
    found = find(builder.timed({"after": 0.2}), Band(at_least=50.0), fidelity=(demand,))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "faithful could not be measured" in found.reason


def test_counted_fidelity_is_held_to_its_range(builder: Any, find: Find) -> None:
    demand = Fidelity(
        figure=Figure(case="boolean.update", quantity="ops", candidate="before", transform="value"),
        low=613, high=613, source="operations of the original",
    )  # fmt: skip
    for ops, verdict in ((613, Verdict.REPRODUCED), (700, Verdict.INCORRECT)):
        counted = Value(case="boolean.update", params={}, name="ops", variant="before", value=ops)
        found = find([*builder.timed({"after": 0.2}), counted], Band(at_least=50.0), fidelity=(demand,))
        assert found.verdict is verdict


def wrong(variant: str, **fields: Any) -> Gate:
    values = {"case": "boolean.update", "params": {}, "variant": variant, "against": "oracle", "equal": False}
    return Gate.model_validate(values | {"reason": "4 of 4 values are off"} | fields)


@pytest.mark.parametrize("variant", ["after", "before"])
def test_a_wrong_variant_makes_the_claim_incorrect_but_is_timed(builder: Any, find: Find, variant: str) -> None:
    found = find([*builder.timed({"after": 0.2}), wrong(variant)], Band(at_least=50.0))
    assert found.verdict is Verdict.INCORRECT
    assert found.reason.startswith(f"{variant} is wrong: 4 of 4 values are off; timed all the same: 79.7 %")
    assert found.estimate == pytest.approx(80, abs=1)


def test_a_wrong_variant_elsewhere_does_not(builder: Any, find: Find) -> None:
    rows = [*builder.timed({"after": 0.2}), wrong("best"), wrong("after", case="boolean.other")]
    found = find(rows, Band(at_least=50.0))
    assert found.verdict is Verdict.REPRODUCED
    assert found.gates == []


def test_a_wrong_row_outside_the_claims_part_of_the_grid_does_not_count(builder: Any, find: Find) -> None:
    rows = [*grid(builder, {"s": 0.2, "l": 0.2}), wrong("after", params={"size": "l"})]
    assert find(rows, Band(at_least=50.0), where={"size": "s"}).verdict is Verdict.REPRODUCED
    assert find(rows, Band(at_least=50.0)).verdict is Verdict.INCORRECT


def test_only_failures_are_an_error_with_the_first_reason(find: Find) -> None:
    failures = [
        Failure(case="boolean.update", stage="time", reason="the worker died of SIGSEGV"),
        Failure(case="boolean.update", stage="time", reason="second"),
    ]
    found = find(failures, Band(at_least=50.0))
    assert found.verdict is Verdict.ERROR
    assert found.reason == "time failed: the worker died of SIGSEGV"
    assert found.failures == failures
    assert found.estimate is None


@pytest.mark.parametrize(
    ("failure", "concerns"),
    [
        (Failure(case="boolean.update", stage="time", reason="r"), True),
        (Failure(case="boolean.update", stage="gate", variant="after", reason="r"), True),
        (Failure(case="boolean.update", stage="gate", variant="best", reason="r"), False),
        (Failure(case="boolean.update", stage="memory", variant="after", reason="r"), False),
        (Failure(case="boolean.other", stage="time", reason="r"), False),
        (Failure(stage="import", package="boolean_nca_cc", reason="r"), True),
        (Failure(stage="import", package="resu", reason="resu is not installed here"), False),
        (Failure(stage="worker", reason="r"), True),
        (Failure(stage="probe", package="boolean_nca_cc", reason="r"), False),
    ],
)
def test_only_failures_that_concern_a_claim_are_told_with_it(
    builder: Any, find: Find, failure: Failure, concerns: bool
) -> None:
    measured = find([*builder.timed({"after": 0.2}), failure], Band(at_least=50.0))
    assert ("failed" in measured.reason) is concerns
    assert find([failure], Band(at_least=50.0)).verdict is (Verdict.ERROR if concerns else Verdict.NOT_RUN_HERE)


def test_hardware_that_is_missing_is_said_whatever_was_measured(builder: Any, find: Find) -> None:
    nothing = find([], Band(at_least=50.0), needs="cuda")
    assert nothing.verdict is Verdict.HARDWARE_MISSING
    assert "--device cuda" in nothing.reason
    measured = find(builder.timed({"after": 0.2}), Band(at_least=50.0), needs="cuda")
    assert measured.verdict is Verdict.HARDWARE_MISSING
    assert measured.estimate == pytest.approx(80, abs=1)
    on_gpu = find(builder.timed({"after": 0.2}), Band(at_least=50.0), needs="cuda", start={"device": "cuda"})
    assert on_gpu.verdict is Verdict.REPRODUCED


def test_a_statement_names_the_test_that_answers_it(builder: Any) -> None:
    claim = builder.claim(
        "boolean.api", Band(open=True), figure=None, kind="statement", answered_by="tests/test_api.py::test_drop_in"
    )
    (found,) = evaluate(builder.write([builder.start(), END]), [claim]).findings
    assert found.verdict is Verdict.STATED
    assert "tests/test_api.py::test_drop_in" in found.reason


def committed(builder: Any, rows: list[Any], name: str, **start: Any) -> Record:
    return builder.write([builder.start(**start), *rows, END], name=name)


def test_a_claim_not_run_here_shows_the_newest_record_that_has_it(builder: Any) -> None:
    here = builder.write([builder.start(), END], name="here")
    claim = builder.claim("boolean.x", Band(at_least=50.0))
    older = [
        committed(builder, [], "without", created="2026-03-03T00:00:00+00:00"),
        committed(builder, [Failure(case="boolean.update", stage="time", reason="died")], "broken"),
        committed(builder, builder.timed({"after": 0.2}), "newest", created="2026-03-02T00:00:00+00:00", device="cuda"),
        committed(builder, builder.timed({"after": 0.9}), "oldest", created="2026-03-01T00:00:00+00:00"),
    ]
    (found,) = evaluate(here, [claim], committed=older).findings
    assert found.verdict is Verdict.NOT_RUN_HERE
    assert found.from_record == "newest"
    assert found.reason.startswith("not run here; 2026-03-02 on cuda: reproduced – 79.7 %")
    assert found.estimate == pytest.approx(80, abs=1)


def test_a_claim_that_no_record_has_is_not_run_here(builder: Any, find: Find) -> None:
    found = find([], Band(at_least=50.0))
    assert found.verdict is Verdict.NOT_RUN_HERE
    assert found.estimate is None


def test_what_was_run_here_is_not_taken_from_an_older_record(builder: Any) -> None:
    here = builder.write([builder.start(), *builder.timed({"after": 0.5}), END], name="here")
    older = committed(builder, builder.timed({"after": 0.2}), "older")
    (found,) = evaluate(here, [builder.claim("boolean.x", Band(open=True))], committed=[older]).findings
    assert found.from_record == ""
    assert found.estimate == pytest.approx(50, abs=1.5)


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


def test_the_noise_floor_of_a_finding_is_that_of_its_own_control(builder: Any, find: Find) -> None:
    rows = builder.timed({"after": 0.98}, noise=0.05, pairs=20)
    found = find(rows, Band(at_least=0.1))
    control = [
        np.log(np.array(row.clocks["process"]["before" + CONTROL]) / np.array(row.clocks["process"]["before"]))
        for row in rows
    ]
    assert found.floor == pytest.approx(noise_floor([control]))
    assert found.verdict is Verdict.INCONCLUSIVE


def test_two_evaluations_of_a_record_are_the_same(evaluated: Any, builder: Any) -> None:
    evaluation, record = evaluated
    assert evaluate(record, builder.ledger()) == evaluation


def test_the_whole_evaluation(builder: Any) -> None:
    rows = [
        builder.start(quick=True),
        Environment(where="parent", facts={"python": "3"}),
        Probe(name="copy", value=1e9, unit="B/s"),
        *builder.timed({"after": 0.2}),
    ]
    record = builder.write(rows, garbage='{"kind": "sam')
    slow = record.rows[-1]
    slow.reached_precision, slow.load = False, (3.25, 1.0)
    claims = [
        builder.claim("boolean.update.mean", Band(open=True)),
        builder.claim("boolean.update.sgd_saved", Band(at_least=50.0), needs="cuda"),
    ]
    evaluation = evaluate(record, claims)
    assert not evaluation.complete
    assert evaluation.counts() == {"reproduced": 1, "hardware_missing": 1}
    assert set(evaluation.missing) == set(claim_ids()) - {"boolean.update.mean", "boolean.update.sgd_saved"}
    assert [probe.name for probe in evaluation.probes] == ["copy"]
    assert [e.where for e in evaluation.environments] == ["parent"]
    warnings = "\n".join(evaluation.warnings)
    for words in (
        "quick run",
        "did not come to its end",
        "1 lines of the record could not be read",
        "1 measurements used up their budget before their precision (boolean.update)",
        "other work ran beside 1 measurements (load average up to 3.2)",
    ):
        assert words in warnings
    assert len(evaluation.warnings) == 5


def test_a_good_record_has_no_warnings(builder: Any) -> None:
    record = builder.write([builder.start(), *builder.timed({"after": 0.2}), END])
    assert evaluate(record, [builder.claim("boolean.x", Band(open=True))]).warnings == []
