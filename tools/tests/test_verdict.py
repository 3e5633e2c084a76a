"""Verdicts: intervals against bands and floors; never forced, never in the wrong direction."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claimbench.ledger import Band, Claim, Figure, Source
from claimbench.verdict import Measured, Verdict, combine, judge

R, E, P, N, U = (
    Verdict.REPRODUCED,
    Verdict.EXCEEDED,
    Verdict.PARTLY,
    Verdict.NOT_REPRODUCED,
    Verdict.INCONCLUSIVE,
)
CONCLUSIVE = {R, E, N}


def claim(band: Band, transform: str = "less_time", better: str = "higher", **changes: Any) -> Claim:
    figure = Figure.model_validate(
        {
            "case": "c",
            "candidate": "after",
            "baseline": "" if transform == "value" else "before",
            "transform": transform,
        }
        | changes
    )
    return Claim(
        id="boolean.x", title="t", published="p", plain="P.", kind="percentage", band=band, better=better,
        figure=figure, unit=" %", source=Source(note="n", where="w", provenance="measured"),
    )  # fmt: skip


def timed(low: float, high: float, floor: float = 0.0, processes: int = 7) -> Measured:
    return Measured((low + high) / 2, low, high, floor=floor, processes=processes, timed=True)


BETWEEN = Band(between=(20.0, 30.0))


@pytest.mark.parametrize(
    ("band", "better", "low", "high", "floor", "expected"),
    [
        # wholly inside, over either edge, beyond either edge
        (BETWEEN, "higher", 21, 29, 0.01, R),
        (BETWEEN, "higher", 20, 30, 0.01, R),
        (BETWEEN, "higher", 29, 31, 0.01, U),
        (BETWEEN, "higher", 19, 21, 0.01, U),
        (BETWEEN, "higher", 10, 40, 0.01, U),
        (BETWEEN, "higher", 31, 33, 0.01, E),
        (BETWEEN, "higher", 11, 13, 0.01, N),
        (BETWEEN, "lower", 11, 13, 0.01, E),
        (BETWEEN, "lower", 31, 33, 0.01, N),
        (BETWEEN, "neither", 31, 33, 0.01, N),
        (BETWEEN, "neither", 11, 13, 0.01, N),
        # one-sided bands have nothing beyond their open side
        (Band(at_least=20.0), "higher", 90, 95, 0.01, R),
        (Band(at_least=20.0), "higher", 5, 19, 0.01, N),
        (Band(at_least=20.0), "higher", 19, 21, 0.01, U),
        (Band(at_most=5.0), "lower", -4, -3, 0.01, R),
        (Band(at_most=5.0), "lower", 6, 9, 0.01, N),
        # up to: any benefit up to the figure, but a benefit
        (Band(up_to=30.0), "higher", 5, 10, 0.01, R),
        (Band(up_to=30.0), "higher", 31, 35, 0.01, E),
        (Band(up_to=30.0), "higher", -10, -5, 0.01, N),
        (Band(up_to=30.0), "higher", -1, 5, 0.001, U),
        (Band(up_to=30.0), "higher", 0.2, 1.0, 0.02, U),  # inside the band and inside the noise
        # a difference that is claimed and lies within the floor (5 % is 4.76 points of less time)
        (Band(between=(1.0, 30.0)), "higher", 2, 3, 0.05, U),
        (Band(between=(1.0, 30.0)), "higher", 6, 8, 0.05, R),
        (Band(at_least=1.0), "higher", 2, 3, 0.05, U),
        # no difference: the band is the margin, and the floor must be narrower
        (Band(same=10.0), "neither", -3, 4, 0.05, R),
        (Band(same=10.0), "neither", -3, 4, 0.20, U),
        (Band(same=10.0), "neither", 8, 12, 0.05, U),
        (Band(same=10.0), "neither", 12, 15, 0.05, N),
        (Band(same=10.0), "lower", -15, -12, 0.05, E),
        # no bar: reported, unless it is noise
        (Band(open=True), "higher", 40, 50, 0.05, R),
        (Band(open=True), "higher", 2, 3, 0.05, U),
    ],
)
def test_timed_verdicts(band: Band, better: str, low: float, high: float, floor: float, expected: Verdict) -> None:
    assert judge(claim(band, better=better), timed(low, high, floor)).verdict is expected


@pytest.mark.parametrize(
    ("band", "transform", "better", "value", "expected"),
    [
        (Band(exact=42.0), "value", "neither", 42.0, R),
        (Band(exact=42.0), "value", "lower", 41.0, E),
        (Band(exact=42.0), "value", "lower", 43.0, N),
        (Band(exact=0.0), "value", "lower", 0.0, R),
        (Band(about=2.0), "speedup", "higher", 2.0, R),
        (Band(about=2.0), "speedup", "higher", 2.5, E),
        (Band(about=2.0), "speedup", "higher", 1.5, N),
        (Band(same=5.0), "overhead", "lower", 0.0, R),
    ],
)
def test_counted_figures_need_no_second_process(
    band: Band, transform: str, better: str, value: float, expected: Verdict
) -> None:
    assert judge(claim(band, transform, better), Measured(value, value, value)).verdict is expected


@pytest.mark.parametrize("band", [BETWEEN, Band(at_least=1.0), Band(same=50.0), Band(open=True)])
@pytest.mark.parametrize(("low", "high"), [(24.0, 26.0), (90.0, 95.0), (-80.0, -70.0)])
def test_one_process_never_declares_a_timed_verdict(band: Band, low: float, high: float) -> None:
    judged = judge(claim(band), timed(low, high, processes=1))
    assert judged.verdict is U
    assert "one process" in judged.reason


@pytest.mark.parametrize("band", [BETWEEN, Band(same=50.0), Band(open=True)])
@pytest.mark.parametrize("values", [(math.nan, 25.0, 26.0), (25.0, math.nan, 26.0), (25.0, 24.0, math.nan)])
def test_a_figure_that_is_not_finite_is_an_error(band: Band, values: tuple[float, float, float]) -> None:
    assert judge(claim(band), Measured(*values, processes=7, timed=True)).verdict is Verdict.ERROR
    assert judge(claim(band), Measured(math.inf, 25.0, math.inf)).verdict is Verdict.ERROR


@pytest.mark.parametrize("band", [BETWEEN, Band(same=50.0), Band(open=True), Band(at_least=90.0)])
def test_a_clock_that_saw_no_spread_at_all_cannot_tell(band: Band) -> None:
    judged = judge(claim(band), timed(25.0, 25.0))
    assert judged.verdict is U
    assert "no spread" in judged.reason


def test_a_gain_in_points_is_no_difference_at_nought() -> None:
    gain = claim(Band(at_least=1.0), "overhead", minus="other")
    # 2 points lie within a floor of 5 %, 8 do not.
    assert judge(gain, timed(1.5, 2.5, floor=0.05)).verdict is U
    assert judge(gain, timed(7.5, 8.5, floor=0.05)).verdict is R


def test_a_speedup_has_its_floor_around_one() -> None:
    faster = claim(Band(at_least=1.01), "speedup")
    assert judge(faster, timed(1.02, 1.03, floor=0.05)).verdict is U
    assert judge(faster, timed(1.07, 1.09, floor=0.05)).verdict is R


def test_every_verdict_shows_the_figure_and_its_interval() -> None:
    for band, low, high in ((BETWEEN, 21.0, 29.0), (BETWEEN, 31.0, 33.0), (BETWEEN, 19.0, 21.0), (BETWEEN, 1.0, 2.0)):
        reason = judge(claim(band), timed(low, high, floor=0.001)).reason
        assert f"[{low:.3g}, {high:.3g}]" in reason
        assert "20 to 30 %" in reason


bands = st.one_of(
    st.tuples(st.floats(-50, 50), st.floats(0.1, 60)).map(lambda ends: Band(between=(ends[0], ends[0] + ends[1]))),
    st.floats(-50, 90).map(lambda value: Band(at_least=value)),
    st.floats(-50, 90).map(lambda value: Band(at_most=value)),
    st.floats(0.1, 90).map(lambda value: Band(up_to=value)),
    st.floats(0.1, 50).map(lambda value: Band(same=value)),
)
betters = st.sampled_from(["higher", "lower", "neither"])


@given(bands, betters, st.floats(-90, 90), st.floats(0.01, 20), st.floats(0, 40), st.floats(0, 40), st.floats(0, 0.3))
def test_widening_an_interval_never_makes_an_undecided_verdict_conclusive(
    band: Band, better: str, low: float, width: float, more_below: float, more_above: float, floor: float
) -> None:
    estimate, high = low + width / 2, low + width
    narrow = judge(claim(band, better=better), Measured(estimate, low, high, floor, 7, timed=True)).verdict
    wide = judge(
        claim(band, better=better), Measured(estimate, low - more_below, high + more_above, floor, 7, timed=True)
    ).verdict
    assert wide in {narrow, U}


@given(bands, betters, st.floats(-90, 90), st.floats(0.01, 20), st.floats(0, 0.3), st.floats(0, 0.3))
def test_a_wider_floor_never_makes_an_undecided_verdict_conclusive(
    band: Band, better: str, low: float, width: float, floor: float, more: float
) -> None:
    quiet = judge(claim(band, better=better), timed(low, low + width, floor)).verdict
    noisy = judge(claim(band, better=better), timed(low, low + width, floor + more)).verdict
    assert noisy in {quiet, U}


@given(bands, st.floats(-90, 90), st.floats(0.01, 20))
def test_only_the_better_side_is_exceeded(band: Band, low: float, width: float) -> None:
    verdicts = {
        b: judge(claim(band, better=b), timed(low, low + width)).verdict for b in ("higher", "lower", "neither")
    }
    assert verdicts["neither"] is not E
    if E in verdicts.values():
        assert sorted(verdicts.values()) == sorted([E, N, N])
    else:
        assert len(set(verdicts.values())) == 1


@given(bands, betters, st.floats(-90, 90), st.floats(0.01, 20), st.floats(0, 0.3))
def test_a_conclusive_verdict_follows_from_where_the_whole_interval_lies(
    band: Band, better: str, low: float, width: float, floor: float
) -> None:
    bottom, top = claim(band, better=better).limits()
    verdict = judge(claim(band, better=better), timed(low, low + width, floor)).verdict
    if verdict is R:
        assert bottom <= low
        assert low + width <= top
    if verdict in {E, N}:
        assert low > top or low + width < bottom


@dataclass
class Row:
    label: str
    verdict: Verdict


X, M = Verdict.ERROR, Verdict.NOT_RUN_HERE


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([R, R], R), ([E, E], E), ([N, N], N), ([U, U], U), ([X, X], X), ([M], M),
        ([R, E], R),
        ([R, N], P), ([E, N], P), ([R, N, U], P), ([R, N, X], P),
        ([R, U], U), ([E, U], U), ([N, U], U), ([R, M], U), ([N, M], U),
        ([R, X], X), ([N, X], X), ([U, X], X),
        ([], U),
    ],
)  # fmt: skip
def test_one_verdict_from_the_rows_of_a_grid(rows: list[Verdict], expected: Verdict) -> None:
    for order in itertools.permutations(rows):
        judged = combine([Row(f"row {i}", verdict) for i, verdict in enumerate(order)])
        assert judged.verdict is expected
        assert all(f"row {i}: {verdict.value.replace('_', ' ')}" in judged.reason for i, verdict in enumerate(order))


@given(st.lists(st.sampled_from([R, E, N, U, X, M]), min_size=1, max_size=6), st.sampled_from([U, X, M]))
def test_a_row_that_cannot_tell_never_turns_a_verdict_into_reproduced(rows: list[Verdict], more: Verdict) -> None:
    def verdict(kinds: list[Verdict]) -> Verdict:
        return combine([Row("r", kind) for kind in kinds]).verdict

    assert verdict([*rows, more]) not in {R, E}
    if verdict([*rows, more]) is P:
        assert verdict(rows) is P
