"""Comparison finds a planted slowdown, and nothing where nothing changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from claimbench.compare import compare, comparison_text, differences
from claimbench.errors import RecordError
from claimbench.record import Environment


def _record(builder: Any, name: str, ratio: float = 0.5, **options: Any) -> Any:
    start = builder.start(**options.pop("start", {}))
    environment = Environment(where="parent", facts=options.pop("facts", builder.facts))
    return builder.write([start, environment, *builder.timed({"after": ratio}, **options)], name)


def test_exact_times_give_the_exact_ratio(builder):
    first, second = _record(builder, "a", 0.5, noise=0.0), _record(builder, "b", 0.6, noise=0.0)
    found = compare(first, second)
    assert [(c.variant, c.clock) for c in found.changes] == [("after", "process"), ("after", "wall")]
    for change in found.changes:
        assert (change.ratio, change.low, change.high) == pytest.approx((1.2, 1.2, 1.2))
        assert change.first == pytest.approx((0.5, 0.5, 0.5))
        assert change.second == pytest.approx((0.6, 0.6, 0.6))
        assert change.verdict == "slower"


@pytest.mark.parametrize(("after", "verdict"), [(0.55, "slower"), (0.45, "faster"), (0.5, "no change seen")])
def test_a_planted_change_is_found_and_its_interval_holds_the_truth(builder, after: float, verdict: str):
    """Twenty comparisons by two clocks; nominally 99 % of the intervals hold the truth."""
    changes = []
    for seed in range(20):
        first = _record(builder, f"a{seed}", seed=100 + seed)
        second = _record(builder, f"b{seed}", after, seed=200 + seed)
        changes += compare(first, second).changes
    assert len(changes) == 40
    assert sum(change.verdict == verdict for change in changes) >= 38
    assert sum(change.low <= after / 0.5 <= change.high for change in changes) >= 36


def test_a_machine_that_is_slower_today_is_no_regression(builder):
    first, second = _record(builder, "a", seed=1), _record(builder, "b", seed=2, base_ns=1.3e6)
    assert compare(first, second).regressions == []
    absolute = compare(first, second, normalise=False)
    assert {change.variant for change in absolute.regressions} == {"before", "after"}
    assert [change.ratio for change in absolute.changes] == pytest.approx([1.3] * 4, rel=0.05)


def test_one_process_cannot_tell(builder):
    found = compare(_record(builder, "a", processes=1), _record(builder, "b", 0.9, processes=1))
    assert {change.verdict for change in found.changes} == {"cannot tell"}


def test_a_change_below_the_noise_floor_is_none(builder):
    """The control against itself is off by 10 % in the second record; a slowdown of 5 % is then nothing."""
    first, second = _record(builder, "a", noise=0.001), _record(builder, "b", 0.525, noise=0.001)
    assert len(compare(first, second).regressions) == 2
    rows = copy.deepcopy(second.rows)
    for sample in rows[2:]:
        for series in sample.clocks.values():
            series["before#control"] = [1.1 * value for value in series["before#control"]]
    found = compare(first, builder.write(rows, "c"))
    assert {change.verdict for change in found.changes} == {"no change seen"}
    assert all(change.floor == pytest.approx(0.1, abs=0.005) for change in found.changes)


def test_runs_of_equal_code_seldom_differ(builder):
    """Sixty comparisons of two clocks: disjoint 99 % intervals come by chance in about one of seven thousand."""
    slower = 0
    for seed in range(60):
        first = _record(builder, f"a{seed}", seed=2 * seed, pairs=20)
        second = _record(builder, f"b{seed}", seed=2 * seed + 1, pairs=20)
        slower += len(compare(first, second).regressions)
    assert slower <= 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"facts": {"cpu": {"name": "Another CPU"}}}, "device: cpu (Imaginary  CPU 9000) and cpu (Another CPU)"),
        ({"start": {"device": "cuda"}}, "device: cpu (Imaginary  CPU 9000) and cuda"),
        (
            {"start": {"code": {"boolean.update": "changed"}}},
            "code of `before` in boolean.update: hash-of-befo and changed",
        ),
    ],
)
def test_unlike_records_are_refused_by_name(builder, changes: dict[str, Any], word: str):
    first, second = _record(builder, "a"), _record(builder, "b", 0.9, **changes)
    assert differences(first, second) == [word]
    with pytest.raises(RecordError) as raised:
        compare(first, second)
    assert word in str(raised.value)
    found = compare(first, second, override=True)
    assert found.overridden == [word]
    assert f"set aside: {word}" in comparison_text(found)


def test_a_case_that_only_one_record_has_is_no_difference(builder):
    first = _record(builder, "a", start={"code": {"boolean.update": "x", "resu.step": "y"}})
    assert differences(first, _record(builder, "b", start={"code": {"boolean.update": "x"}})) == []


def test_nothing_in_common_is_an_error(builder):
    with pytest.raises(RecordError, match="share no point"):
        compare(_record(builder, "a"), _record(builder, "b", params={"size": "small"}))


def test_what_only_one_record_has_is_listed(builder):
    rows = [
        builder.start(),
        *builder.timed({"after": 0.5, "best": 0.1}),
        *builder.timed({"after": 0.5}, params={"n": 1}),
    ]
    second = builder.write([builder.start(), *builder.timed({"after": 0.5})], "b")
    found = compare(builder.write(rows, "a"), second)
    assert found.only_first == ["boolean.update  best (process)", "boolean.update  best (wall)", "boolean.update n=1"]
    assert found.only_second == []


def test_the_text_has_a_line_for_each_change(builder):
    found = compare(_record(builder, "a", seed=1), _record(builder, "b", 0.6, seed=2))
    lines = comparison_text(found).splitlines()
    assert len([line for line in lines if line.startswith("boolean.update ") and line.endswith("slower")]) == 2
    assert lines[-1] == "2 slower outside both intervals"
