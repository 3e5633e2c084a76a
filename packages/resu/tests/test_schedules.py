"""Schedules against their formulas, worked in NumPy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resu.config import CycleConfig
from resu.errors import ConfigError
from resu.schedules import (
    cubic_over_steps,
    cycle_sparsities,
    densify_linear,
    densify_stepped,
    listed,
    sparsity_at,
)

SPARSITY = st.floats(0, 0.99)
NAMES = ["linear", "quadratic", "cosine", "cubic"]


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        ("linear", lambda t, a, b: a + t * (b - a)),
        ("quadratic", lambda t, a, b: a + (1 - (1 - t) ** 2) * (b - a)),
        ("cosine", lambda t, a, b: a + (1 - np.cos(np.pi * t)) / 2 * (b - a)),
        ("cubic", lambda t, a, b: b + (a - b) * (1 - t) ** 3),
        ("constant", lambda t, a, b: np.full_like(t, b)),
    ],
)
def test_formulas(schedule: str, formula: object) -> None:
    t = np.linspace(0, 1, 13)
    found = [sparsity_at(float(x), 0.15, 0.95, schedule) for x in t]
    np.testing.assert_allclose(found, formula(t, 0.15, 0.95), rtol=1e-14)  # type: ignore[operator]


@given(start=SPARSITY, end=SPARSITY, schedule=st.sampled_from(NAMES), t=st.floats(-1, 2))
def test_ends_are_met_exactly_and_nothing_lies_beyond_them(start: float, end: float, schedule: str, t: float) -> None:
    assert sparsity_at(0.0, start, end, schedule) == start
    assert sparsity_at(1.0, start, end, schedule) == end
    assert min(start, end) - 1e-15 <= sparsity_at(t, start, end, schedule) <= max(start, end) + 1e-15


@given(start=SPARSITY, end=SPARSITY, schedule=st.sampled_from(NAMES))
def test_schedules_go_one_way(start: float, end: float, schedule: str) -> None:
    found = np.diff([sparsity_at(t / 20, start, end, schedule) for t in range(21)])
    assert (found * np.sign(end - start) >= -1e-15).all()


def test_cycles_stand_at_their_share_of_the_way() -> None:
    config = CycleConfig(initial_sparsity=0.2, target_sparsity=0.8, sparsity_schedule="cosine", num_cycles=4)
    expected = [0.2 + 0.6 * (1 - math.cos(math.pi * c / 3)) / 2 for c in range(4)]
    assert cycle_sparsities(config) == pytest.approx(expected)
    assert cycle_sparsities(CycleConfig(target_sparsity=0.9, num_cycles=3)) == (0.9, 0.9, 0.9)
    one = CycleConfig(initial_sparsity=0.2, target_sparsity=0.8, sparsity_schedule="linear", num_cycles=1)
    assert cycle_sparsities(one) == (0.2,)  # t = c / max(C − 1, 1), as published


def test_the_last_of_a_list_repeats() -> None:
    config = CycleConfig(sparsity_schedule="custom", sparsities=(0.3, 0.6), num_cycles=4)
    assert cycle_sparsities(config) == (0.3, 0.6, 0.6, 0.6)


def test_gradual_pruning_follows_equation_1() -> None:
    found = [cubic_over_steps(step, 100, 500, 0.0, 0.9) for step in (0, 100, 200, 300, 400, 500, 900)]
    assert found == pytest.approx([0, 0, 0.9 * (1 - 0.75**3), 0.9 * (1 - 0.5**3), 0.9 * (1 - 0.25**3), 0.9, 0.9])


def test_densification_falls_in_a_line() -> None:
    assert densify_linear(0.7, 5) == pytest.approx([0.7, 0.525, 0.35, 0.175, 0.0])
    assert densify_linear(0.8, 3, end=0.4) == pytest.approx([0.8, 0.6, 0.4])
    assert densify_linear(0.7, 1) == (0.7,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sparsity_at(0.5, 0.0, 1.0), r"below 1; the end is 1\.0\. Give 0\.9 for"),
        (lambda: sparsity_at(0.5, -0.1, 0.5), "the start is -0.1"),
        (lambda: sparsity_at(0.5, 0.0, float("nan")), "the end is nan"),
        (lambda: sparsity_at(0.5, 0.0, 0.5, "sudden"), "a schedule is one of constant, linear"),
        (lambda: listed([], 0), "it is empty"),
        (lambda: listed([0.5, 1.5], 0), "number 1 of the list is 1.5"),
        (lambda: cubic_over_steps(5, 10, 10, 0.0, 0.5), "begins at step 10 and ends at 10"),
        (lambda: densify_linear(0.7, 0), "cycles is 0"),
        (lambda: densify_stepped([0.3, 0.5]), r"0\.5 comes after 0\.3"),
        (lambda: densify_stepped([]), "it is empty"),
    ],
)
def test_bad_input_is_refused(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()  # type: ignore[operator]
