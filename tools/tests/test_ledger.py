"""How published figures are read, which TOML is refused, and which claims a pattern chooses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from claimbench import ledger
from claimbench.errors import LedgerError
from claimbench.ledger import (
    Band,
    Claim,
    Fidelity,
    Figure,
    Part,
    Source,
    claim_ids,
    figure_of_log_ratio,
    load_claims,
    packages,
    select,
)

BUILT = ("boolean_nca_cc", "neurograph", "resu", "spd", "dredge")
"""Packages whose claims are written: each id of theirs in the ledger has its claim."""

TIME = Figure(case="boolean.update", candidate="after", baseline="before", transform="less_time")


def claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "id": "boolean.update.mean", "title": "t", "published": "p", "plain": "Plain.", "kind": "percentage",
        "source": Source(note="n", where="w", provenance="measured"), "figure": TIME, "band": Band(about=50.0),
    }  # fmt: skip
    return Claim(**{**fields, **changes})


@pytest.mark.parametrize(
    ("transform", "figure"),
    # The candidate takes a quarter of the baseline's time.
    [("ratio", 0.25), ("speedup", 4.0), ("less_time", 75.0), ("overhead", -75.0), ("value", math.log(0.25))],
)
def test_figures_of_a_quarter_of_the_time(transform: ledger.Transform, figure: float) -> None:
    assert figure_of_log_ratio(math.log(0.25), transform) == pytest.approx(figure)


@pytest.mark.parametrize(
    ("band", "transform", "low", "high"),
    [
        # ±20 % of the effect as a log ratio: 4^0.8 to 4^1.2.
        (Band(about=4.0), "speedup", 4**0.8, 4**1.2),
        (Band(about=0.25), "ratio", 4**-1.2, 4**-0.8),
        # 75 % less time is a ratio of a quarter: 1 - 4^-0.8 to 1 - 4^-1.2.
        (Band(about=75.0), "less_time", 100 * (1 - 4**-0.8), 100 * (1 - 4**-1.2)),
        # 300 % overhead is a ratio of four.
        (Band(about=300.0), "overhead", 100 * (4**0.8 - 1), 100 * (4**1.2 - 1)),
        # The published 494 %: 5.94^0.8 = 4.1595, 5.94^1.2 = 8.4826.
        (Band(about=494.0), "overhead", 315.95, 748.26),
        # A slowdown keeps its direction: -50 % less time is twice the time.
        (Band(about=-100.0), "less_time", 100 * (1 - 2**1.2), 100 * (1 - 2**0.8)),
        # Numbers are their own effect.
        (Band(about=50.0), "value", 40.0, 60.0),
        (Band(about=-50.0), "value", -60.0, -40.0),
        (Band(about=4.0, tolerance=0.5, tolerance_reason="r"), "speedup", 2.0, 8.0),
        (Band(about=55.9, points=10, tolerance_reason="r"), "less_time", 45.9, 65.9),
        (Band(between=(20.0, 30.0)), "less_time", 20.0, 30.0),
        (Band(at_least=2.0), "speedup", 2.0, math.inf),
        (Band(at_most=5.0), "overhead", -math.inf, 5.0),
        (Band(up_to=30.0), "less_time", 0.0, 30.0),
        (Band(up_to=3.0), "speedup", 1.0, 3.0),
        (Band(same=10.0), "overhead", -10.0, 10.0),
        (Band(same=0.1), "ratio", 0.9, 1.1),
        (Band(exact=42.0), "value", 42.0, 42.0),
        (Band(open=True), "ratio", -math.inf, math.inf),
    ],
)
def test_bounds_by_hand(band: Band, transform: ledger.Transform, low: float, high: float) -> None:
    assert band.bounds(transform) == pytest.approx((low, high), rel=1e-4)


@pytest.mark.parametrize(
    ("band", "words"),
    [
        (Band(about=55.9, points=10, tolerance_reason="r"), "about 55.9 %, ±10"),
        (Band(about=4.0), "about 4 %, ±20% of the effect"),
        (Band(about=4.0, tolerance=0.4, tolerance_reason="r"), "about 4 %, ±40% of the effect"),
        (Band(between=(1, 11)), "1 to 11 %"),
        (Band(at_least=20), "at least 20 %"),
        (Band(at_most=5), "at most 5 %"),
        (Band(up_to=30), "up to 30 %"),
        (Band(exact=0), "exactly 0 %"),
        (Band(same=10), "same, ±10 %"),
        (Band(open=True), "no bar"),
    ],
)
def test_bands_in_words(band: Band, words: str) -> None:
    assert band.words(" %") == words


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one reading"),
        ({"about": 1.0, "at_least": 1.0}, "exactly one reading"),
        ({"open": True, "exact": 1.0}, "exactly one reading"),
        ({"about": 2.0, "tolerance": 0.5}, "tolerance_reason"),
        ({"about": 2.0, "points": 1.0}, "tolerance_reason"),
        ({"about": 2.0, "points": 1.0, "tolerance": 0.1, "tolerance_reason": "r"}, "not both"),
        ({"at_least": 2.0, "points": 1.0, "tolerance_reason": "r"}, "belong to an 'about' band"),
        ({"between": (3.0, 3.0)}, "lower end below"),
        ({"between": (4.0, 3.0)}, "lower end below"),
        ({"about": math.nan}, "finite number"),
        ({"about": 2.0, "points": -1.0, "tolerance_reason": "r"}, "greater than 0"),
        ({"about": 2.0, "tolerance": 0.0, "tolerance_reason": "r"}, "greater than 0"),
        ({"same": 0.0}, "greater than 0"),
        ({"about": 2.0, "tolerence": 0.3}, "Extra inputs are not permitted"),
    ],
)
def test_a_band_that_cannot_be_read_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Band(**fields)


@pytest.mark.parametrize(
    ("figure", "band", "message"),
    [
        ("less_time", Band(about=100.0), "no less_time"),
        ("less_time", Band(about=120.0), "no less_time"),
        ("overhead", Band(about=-100.0), "no overhead"),
        ("ratio", Band(about=0.0), "no ratio"),
        ("overhead", Band(about=0.0), "lower end below"),  # a fifth of no effect is no width
        ("ratio", Band(up_to=0.5), "lower end below"),  # a benefit below 1 is written as less time
    ],
)
def test_a_band_that_no_time_can_lie_in_is_refused(figure: ledger.Transform, band: Band, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        claim(figure=TIME.model_copy(update={"transform": figure}), band=band)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"case": "c", "candidate": "a"}, "needs a candidate and a baseline"),
        ({"case": "c", "transform": "value", "candidate": "a", "baseline": "b"}, "has no baseline"),
        ({"case": "c", "candidate": "a", "baseline": "b", "aggregate": "spread"}, "set group"),
        ({"case": "c", "candidate": "a", "baseline": "b", "minus": "n"}, "difference of percentages"),
        ({"case": "c", "quantity": "ops", "transform": "overhead", "candidate": "a", "baseline": "b", "minus": "n"},
         "difference of percentages"),
    ],
)  # fmt: skip
def test_a_figure_that_cannot_be_made_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Figure(**fields)


PART = Part(label="small", figure=TIME, band=Band(at_least=20.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answered_by": "tests/x.py::y"}, "exactly one"),
        ({"figure": None}, "exactly one"),
        ({"kind": "statement"}, "answered by a test"),
        ({"id": "Boolean update"}, "match pattern"),
        ({"surprise": 1}, "Extra inputs"),
        ({"parts": (PART,)}, "remove figure and band"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        claim(**changes)


def parted(*parts: Part) -> Claim:
    fields = claim().model_dump(exclude={"figure", "band", "parts"})
    return Claim.model_validate(fields | {"parts": [part.model_dump() for part in parts]})


def test_the_first_part_stands_for_the_claim_and_all_parts_name_cases() -> None:
    other = Part(label="mask", figure=TIME.model_copy(update={"case": "boolean.mask"}), band=Band(at_most=5.0))
    both = parted(PART, other)
    assert both.figure == TIME
    assert both.limits() == (20.0, math.inf)
    assert both.cases == ("boolean.update", "boolean.mask")


def test_two_parts_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="label of its own"):
        parted(PART, PART)


def test_a_part_is_held_to_the_same_bands() -> None:
    with pytest.raises(ValidationError, match="no less_time"):
        parted(PART, PART.model_copy(update={"label": "other", "band": Band(about=150.0)}))


def test_fidelity_allows_its_slack_on_both_sides_of_any_range() -> None:
    for low, high, expected in ((300, 700, (270, 770)), (-2, 4, (-2.2, 4.4)), (0, 10, (0, 11))):
        assert Fidelity(figure=TIME, low=low, high=high, source="s").bounds() == pytest.approx(expected)


def test_cases_of_fidelity_are_measured_too() -> None:
    demand = Fidelity(figure=TIME.model_copy(update={"case": "boolean.step"}), low=1, high=11, source="s")
    assert claim(fidelity=(demand,)).cases == ("boolean.update", "boolean.step")


ROW = """
[[claim]]
id = "boolean.update.{name}"
title = "t"
published = "p"
plain = "Plain."
kind = "percentage"
source = {{ note = "n", where = "w", provenance = "measured" }}
band = {{ about = 50.0 }}
figure = {{ case = "boolean.update", candidate = "after", baseline = "before", transform = "less_time" }}
{more}
"""


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[Claim, ...]:
    (folder / "claims").mkdir()
    (folder / "claims" / "boolean_nca_cc.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("claimbench.ledger.resources.files", lambda _package: folder)
    return load_claims.__wrapped__("boolean_nca_cc")


def test_toml_is_read_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ROW.format(name="b", more="") + ROW.format(name="a", more='duration = "long"')
    found = written(tmp_path, monkeypatch, text)
    assert [(c.id, c.duration) for c in found] == [("boolean.update.b", "normal"), ("boolean.update.a", "long")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW.format(name="a", more="surprise = 1"), "surprise"),
        (ROW.format(name="a", more="") * 2, "given twice: boolean.update.a"),
        (ROW.format(name="a", more="").replace("about = 50.0", "about = 50.0, at_least = 1.0"), "one reading"),
        (ROW.format(name="a", more="").replace("about = 50.0", "about = 50.0, points = 4.0"), "tolerance_reason"),
        ("[[claim]\n", "cannot be read"),
        ("[other]\n", "cannot be read"),
    ],
    ids=["extra key", "double id", "two readings", "no reason", "no TOML", "no claims"],
)
def test_toml_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    with pytest.raises(LedgerError, match=message):
        written(tmp_path, monkeypatch, text)


def test_the_ledger_holds_each_id_once_and_every_built_claim_is_in_it() -> None:
    ids = claim_ids()
    assert len(set(ids)) == len(ids)
    written_ids = {c.id for c in load_claims()}
    assert written_ids <= set(ids)
    for package in BUILT:
        prefix = package.split("_")[0] + "."
        assert {name for name in ids if name.startswith(prefix)} == {c.id for c in load_claims(package)}


def test_every_written_claim_belongs_to_its_file_and_its_package() -> None:
    for package in packages():
        assert all(c.package == package for c in load_claims(package))


def test_a_claim_of_a_note_names_the_note_and_one_of_ours_does_not() -> None:
    for found in load_claims():
        assert bool(found.source.note) != found.ours, found.id


def test_select_by_id_and_by_beginning() -> None:
    claims = [claim(id=name) for name in ("boolean.update.mean", "boolean.update.memory", "boolean.updates.x", "spd.a")]
    names = ["boolean.update.mean", "boolean.update.memory"]
    assert [c.id for c in select(claims, [])] == [c.id for c in claims]
    assert [c.id for c in select(claims, ["boolean.update"])] == names
    assert [c.id for c in select(claims, ["boolean.update."])] == names
    assert [c.id for c in select(claims, ["spd.a", "boolean.update.mean"])] == ["boolean.update.mean", "spd.a"]


@pytest.mark.parametrize("pattern", ["boolean.upd", "boolean.update.me", "nothing"])
def test_a_pattern_that_chooses_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(LedgerError, match=f"no claim is called '{pattern}'"):
        select([claim()], [pattern])
