"""The gate: what is wrong is named, what is right passes, and what raises is kept apart."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claimbench.case import Lossy, Tolerance, Workload
from claimbench.cases import planted
from claimbench.errors import CaseError
from claimbench.gate import check, difference
from claimbench.record import Gate
from claimbench.runtimes.base import Runtime

EXACT = Tolerance()
CLOSE = Tolerance(relative=1e-3, absolute=0.0, reason="float32")


def gates(
    variants: dict[str, Callable[[Any], Any]], names: tuple[str, ...] | None = None, **fields: Any
) -> dict[str, Gate | Exception]:
    workload = Workload(
        inputs=lambda seed: {"a": np.arange(1.0, 5.0) + seed}, variants=variants, **{"tolerance": EXACT, **fields}
    )
    found = check("c", {"size": 4}, workload, names or tuple(variants), "before", Runtime(), seed=0)
    return {g.variant if isinstance(g, Gate) else g[0]: g if isinstance(g, Gate) else g[1] for g in found}


def gate_of(variant: Callable[[Any], Any], **fields: Any) -> Gate:
    found = gates({"before": lambda x: x["a"] * 2, "after": variant}, ("after",), **fields)["after"]
    assert isinstance(found, Gate), found
    return found


def test_the_same_result_passes_and_says_against_what() -> None:
    gate = gate_of(lambda x: x["a"] + x["a"])
    assert gate.equal
    assert gate.reason == ""
    assert (gate.against, gate.tolerance, gate.max_abs, gate.max_rel) == ("before", "bit for bit", 0.0, 0.0)
    assert gate.params == {"size": 4}


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        (lambda x: x["a"] * 2 * [1, np.nan, 1, 1], "1 values that are not finite"),
        (lambda x: x["a"] * 2 * [1, 1, np.inf, np.inf], "2 values that are not finite"),
        (lambda x: (x["a"] * 2)[:-1], r"shape \(3,\), the reference \(4,\)"),
        (lambda x: (x["a"] * 2)[None], r"shape \(1, 4\)"),
        (lambda x: (x["a"] * 2, 1.0), "other parts: 0, 1, value"),
        (lambda x: {"result": x["a"] * 2}, "other parts: result, value"),
        (lambda x: x["a"] * 2 * 1.001, "4 of 4 values of value are off by up to 0.008"),
        (lambda x: x["a"] * 2 + [0, 0, 0, 1e-12], "1 of 4 values"),
        (lambda _x: None, "other parts: value"),
    ],
)
def test_a_wrong_result_is_named(variant: Callable[[Any], Any], reason: str) -> None:
    gate = gate_of(variant)
    assert not gate.equal
    assert re.search(reason, gate.reason), gate.reason


def test_off_by_a_thousandth_is_wrong_by_what_it_says() -> None:
    gate = gate_of(lambda x: x["a"] * 2 * 1.001)
    assert gate.max_rel == pytest.approx(1e-3, rel=1e-6)
    assert gate.max_abs == pytest.approx(8e-3, rel=1e-6)  # the largest element is 8


def test_a_tolerance_lets_through_what_lies_within_it_and_is_written_down() -> None:
    assert gate_of(lambda x: x["a"] * 2 * 1.0009, tolerance=CLOSE).equal
    assert not gate_of(lambda x: x["a"] * 2 * 1.0011, tolerance=CLOSE).equal
    assert gate_of(lambda x: x["a"] * 2, tolerance=CLOSE).tolerance == "relative 0.001, absolute 0: float32"


def test_one_variant_may_have_a_tolerance_of_its_own() -> None:
    variants = {"before": lambda x: x["a"], "after": lambda x: x["a"] * 1.0005, "best": lambda x: x["a"] * 1.0005}
    found = gates(variants, tolerances={"after": CLOSE})
    assert {name for name, gate in found.items() if isinstance(gate, Gate) and gate.equal} == {"before", "after"}


def test_a_tolerance_without_a_reason_is_refused() -> None:
    with pytest.raises(CaseError, match="needs a reason"):
        Tolerance(relative=1e-3)


def test_inputs_that_were_changed_are_named_even_where_the_result_is_right() -> None:
    def mutates(x: dict[str, np.ndarray]) -> np.ndarray:
        result = x["a"] * 2
        x["a"] += 1
        return result

    def adds(x: dict[str, np.ndarray]) -> np.ndarray:
        x["b"] = x["a"]
        return x["a"] * 2

    for variant in (mutates, adds):
        gate = gate_of(variant)
        assert not gate.equal
        assert gate.reason == "it changed its inputs"


def test_inputs_with_nan_are_not_taken_for_changed() -> None:
    variants = dict.fromkeys(("before", "after"), lambda x: x["a"][0])
    workload = Workload(inputs=lambda _seed: {"a": np.array([1.0, np.nan])}, variants=variants)
    assert all(isinstance(g, Gate) and g.equal for g in check("c", {}, workload, ("after",), "before", Runtime(), 0))


def test_nan_where_the_reference_has_nan_is_right_and_infinities_keep_their_sign() -> None:
    reference = {"v": np.array([np.nan, np.inf, -np.inf, 1.0])}
    assert difference({"v": reference["v"].copy()}, reference, EXACT).reason == ""
    flipped = {"v": np.array([np.nan, np.inf, np.inf, 1.0])}
    assert "1 values" in difference(flipped, reference, EXACT).reason


def test_an_exception_belongs_to_its_variant_and_the_others_are_checked() -> None:
    def raises(_x: Any) -> Any:
        raise MemoryError("planted")

    found = gates({"before": lambda x: x["a"], "raises": raises, "after": lambda x: x["a"]})
    assert isinstance(found["raises"], MemoryError)
    assert isinstance(found["after"], Gate)
    assert found["after"].equal


@pytest.mark.parametrize("result", ["text", object(), np.array(["a"])], ids=["text", "object", "texts"])
def test_a_result_that_is_no_number_belongs_to_its_variant(result: Any) -> None:
    found = gates({"before": lambda _x: 1.0, "odd": lambda _x: result, "after": lambda _x: 1.0})
    assert isinstance(found["odd"], Exception) or not found["odd"].equal
    assert isinstance(found["after"], Gate)
    assert found["after"].equal


def test_a_reference_that_returns_nothing_is_refused() -> None:
    with pytest.raises(CaseError, match="returns nothing to compare"):
        gates({"before": lambda _x: None, "after": lambda _x: None})


def test_the_oracle_is_the_reference_where_there_is_one() -> None:
    found = gates({"before": lambda x: x["a"] + 1, "after": lambda x: x["a"]}, oracle=lambda x: x["a"])
    before, after = found["before"], found["after"]
    assert isinstance(before, Gate)
    assert isinstance(after, Gate)
    assert not before.equal
    assert after.equal
    assert {before.against, after.against} == {"oracle"}


def test_each_variant_gets_fresh_inputs() -> None:
    def spoils(x: dict[str, np.ndarray]) -> np.ndarray:
        x["a"] *= 0
        return x["a"]

    found = gates({"before": lambda x: x["a"] * 2, "spoils": spoils, "after": lambda x: x["a"] * 2})
    after = found["after"]
    assert isinstance(after, Gate)
    assert after.equal


def test_only_what_variants_have_in_common_is_compared() -> None:
    found = gates(
        {"before": lambda x: {"y": x["a"], "extra": 1.0}, "after": lambda x: {"y": x["a"]}},
        compare=lambda result: {"y": result["y"]},
    )
    after = found["after"]
    assert isinstance(after, Gate)
    assert after.equal


def lossy(bound: float) -> dict[str, Any]:
    return {
        "lossy": {"after": Lossy(lambda a, b: float(np.abs(a["value"] - b["value"]).max()), bound, "largest error")}
    }


def test_a_lossy_variant_is_held_to_its_own_measure() -> None:
    inside, outside = (gate_of(lambda x: x["a"] * 2 + 0.5, **lossy(bound)) for bound in (0.6, 0.4))
    assert inside.equal
    assert inside.lossy
    assert inside.reason == "largest error: 0.5, allowed 0.6"
    assert inside.max_abs == pytest.approx(0.5)
    assert not outside.equal
    assert outside.lossy


@pytest.mark.parametrize(
    "variant",
    [lambda x: x["a"] * math.nan, lambda x: (x["a"] * 2)[:-1], lambda x: {"other": x["a"]}],
    ids=["nan", "shape", "parts"],
)
def test_a_lossy_variant_still_does_the_same_work(variant: Callable[[Any], Any]) -> None:
    gate = gate_of(variant, **lossy(1e9))
    assert not gate.equal
    assert gate.reason


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_whole_numbers_beyond_float64_are_told_apart(dtype: type) -> None:
    # 2**53 + 1 and 2**53 are the same float64.
    assert float(2**53 + 1) == float(2**53)
    assert difference({"v": np.array([2**53 + 1], dtype)}, {"v": np.array([2**53], dtype)}, EXACT).reason


def test_imaginary_parts_are_compared() -> None:
    found = difference({"v": np.array([1 + 2j])}, {"v": np.array([1 + 3j])}, EXACT)
    assert found.reason
    assert found.max_abs == pytest.approx(1.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.floats(0, 10), st.floats(0, 0.5), st.floats(-20, 20))
def test_tolerance_is_absolute_plus_relative_of_the_reference(
    values: list[float], absolute: float, relative: float, offset: float
) -> None:
    reference = np.array(values)
    result = reference + offset
    tolerance = Tolerance(relative, absolute, reason="test")
    within = all(abs(a - b) <= absolute + relative * abs(b) for a, b in zip(result, reference, strict=True))
    assert (difference({"v": result}, {"v": reference}, tolerance).reason == "") is within


def test_planted_wrong_variants_are_all_named() -> None:
    case = next(case for case in planted.CASES if case.id == "planted.wrong")
    workload = case.setup({"size": planted.SIZE})
    found = check(case.id, {"size": planted.SIZE}, workload, case.variants, case.control, Runtime(), seed=3)
    wrong = {gate.variant for gate in found if isinstance(gate, Gate) and not gate.equal}
    assert wrong == {"nan", "shape", "parts", "off", "mutates", "too_rough"}
    assert [entry[0] for entry in found if not isinstance(entry, Gate)] == ["raises"]
