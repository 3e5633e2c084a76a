"""Timing by a clock that the test turns: order, pairing, block sizes, budget and early stop are counted, not timed."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claimbench import timing
from claimbench.case import Workload
from claimbench.record import CONTROL, Samples
from claimbench.runtimes.base import Runtime
from claimbench.timing import MAX_ROUNDS, MIN_ROUNDS, block_calls, palindrome, time_point, timer_cost_ns


class Clock:
    """Stands still until it is told to move; in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def perf_counter_ns(self) -> int:
        return round(self.now * 1e9)

    process_time_ns = perf_counter_ns


class FakeRuntime(Runtime):
    """Each variant takes the nanoseconds that it names, by a clock that it moves itself."""

    def __init__(self, clock: Clock, noise: Callable[[], float] = lambda: 1.0) -> None:
        super().__init__()
        self.clock, self.noise = clock, noise
        self.blocks: list[tuple[str, int]] = []
        self.flushed = 0

    def before_sample(self) -> None:
        self.flushed += 1

    def time_block(self, call: Callable[[], Any], calls: int) -> tuple[float, float]:
        name, nanoseconds = call()
        spent = nanoseconds * calls * self.noise()
        self.clock.now += spent * 1e-9
        self.blocks.append((name, calls))
        return spent, spent / 2


def workload(times: dict[str, float], units: float = 1.0) -> Workload:
    def variant(name: str, nanoseconds: float) -> Callable[[Any], tuple[str, float]]:
        return lambda _inputs: (name, nanoseconds)

    return Workload(
        inputs=lambda seed: seed, variants={name: variant(name, ns) for name, ns in times.items()}, units=units
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def run(
    runtime: FakeRuntime,
    times: dict[str, float],
    *,
    budget: float = 1e9,
    precision: float = 0.0,
    process: int = 0,
    seed: int = 0,
    units: float = 1.0,
    rounds: list[int] | None = None,
) -> Samples:
    return time_point(
        "c", {"size": 1}, workload(times, units), tuple(times), "before", runtime, budget=budget, precision=precision,
        process=process, seed=seed, on_round=([] if rounds is None else rounds).append,
    )  # fmt: skip


SLOW = {"before": 1e6, "after": 2e6, "best": 5e5}


def noisy(scale: float) -> Callable[[], float]:
    generator = np.random.default_rng(0)
    return lambda: float(np.exp(generator.normal(0, scale)))


@given(st.integers(1, 9), st.integers(0, 1000))
def test_a_round_is_a_palindrome_with_each_name_twice(count: int, seed: int) -> None:
    names = [f"v{i}" for i in range(count)]
    order = palindrome(names, np.random.default_rng(seed))
    assert order == order[::-1]
    assert sorted(order) == sorted(names * 2)


def test_orders_differ_from_round_to_round() -> None:
    generator = np.random.default_rng(0)
    orders = {tuple(palindrome(["a", "b", "c"], generator)) for _ in range(100)}
    assert len(orders) == 6  # every order of three


def test_samples_are_mirrored_rounds_of_equal_length(clock: Clock) -> None:
    runtime = FakeRuntime(clock, noisy(0.05))
    rounds: list[int] = []
    samples = run(runtime, SLOW, budget=1.0, rounds=rounds)
    names = [*SLOW, "before" + CONTROL]
    assert set(samples.calls) == set(names)
    assert rounds == list(range(1, samples.rounds + 1))
    for series in samples.clocks.values():
        assert {len(values) for values in series.values()} == {2 * samples.rounds}
    timed = [name for name, _ in runtime.blocks[3 * len(SLOW) :]]  # after a warm-up and two calibrations of each
    assert len(timed) == 2 * len(names) * samples.rounds
    for start in range(0, len(timed), 2 * len(names)):
        order = timed[start : start + 2 * len(names)]
        assert order == order[::-1]
    assert runtime.flushed == len(timed)


def test_each_time_stands_in_the_series_of_its_own_variant(clock: Clock) -> None:
    samples = run(FakeRuntime(clock), SLOW, budget=0.1)
    for name, expected in (SLOW | {"before" + CONTROL: SLOW["before"]}).items():
        np.testing.assert_allclose(samples.clocks["wall"][name], expected, rtol=1e-12)
        np.testing.assert_allclose(samples.clocks["process"][name], expected / 2, rtol=1e-12)


def test_the_control_is_timed_against_itself_by_blocks_of_the_same_size(clock: Clock) -> None:
    samples = run(FakeRuntime(clock), {"before": 1e3, "after": 3e3}, budget=0.1)
    assert samples.control == "before"
    assert samples.calls["before" + CONTROL] == samples.calls["before"]
    assert samples.clocks["wall"]["before" + CONTROL] == pytest.approx(samples.clocks["wall"]["before"])


def test_times_are_those_of_a_unit(clock: Clock) -> None:
    samples = run(FakeRuntime(clock), SLOW, budget=0.1, units=100.0)
    assert samples.clocks["wall"]["before"][0] == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("call_ns", "timer_ns", "calls"),
    [
        (1_000, 500, 200),  # 200 µs are more than 50 readings
        (1_000, 10_000, 500),  # 50 readings are more than 200 µs
        (300, 0, 667),  # rounded up
        (1e9, 500, 1),
        (0.0, 500, 200_000),
    ],
)
def test_a_block_lasts_fifty_readings_and_no_less_than_an_interruption(
    call_ns: float, timer_ns: float, calls: int
) -> None:
    assert block_calls(call_ns, timer_ns) == calls


@given(st.floats(0, 1e10), st.floats(0, 1e6))
def test_blocks_are_long_enough_and_not_longer(call_ns: float, timer_ns: float) -> None:
    calls = block_calls(call_ns, timer_ns)
    wanted = max(50 * timer_ns, 200_000)
    call_ns = max(call_ns, 1.0)
    assert calls * call_ns >= wanted * (1 - 1e-12)
    assert calls == 1 or (calls - 1) * call_ns < wanted * (1 + 1e-12)


def test_reading_the_clocks_costs_something() -> None:
    assert timer_cost_ns() > 0


def test_blocks_are_sized_by_the_faster_of_two_warm_calls(clock: Clock) -> None:
    # The first call compiles, the second is interrupted, the third is what a call takes: 20 µs, so ten fill a block.
    costs: Iterator[float] = itertools.chain([1000.0, 7.0, 1.0, 1000.0, 7.0, 1.0], itertools.repeat(1.0))
    samples = run(FakeRuntime(clock, lambda: next(costs)), {"before": 20e3, "after": 20e3}, budget=0.1)
    assert samples.calls == {"before": 10, "after": 10, "before" + CONTROL: 10}


def test_the_budget_ends_the_rounds(clock: Clock) -> None:
    # A round of SLOW takes 2·(1 + 2 + 0.5 + 1) = 9 ms, calibration 3·(1 + 2 + 0.5) = 10.5 ms: the budget of 100 ms is
    # used up by the tenth round, at 100.5 ms.
    samples = run(FakeRuntime(clock), SLOW, budget=0.1)
    assert samples.rounds == 10
    assert samples.seconds == pytest.approx(0.1005)


def test_three_rounds_are_timed_however_long_they_take(clock: Clock) -> None:
    samples = run(FakeRuntime(clock), {"before": 1e12, "after": 1e12}, budget=1.0)
    assert samples.rounds == 3


def test_rounds_stop_when_the_precision_is_reached_but_not_before_the_least(clock: Clock) -> None:
    exact = run(FakeRuntime(clock), SLOW, precision=1e-3)
    assert exact.rounds == MIN_ROUNDS
    assert exact.reached_precision
    assert exact.precision == pytest.approx(0.0, abs=1e-9)


def test_a_precision_that_is_out_of_reach_is_admitted(clock: Clock) -> None:
    samples = run(FakeRuntime(clock, noisy(0.2)), SLOW, precision=1e-6)
    assert samples.rounds == MAX_ROUNDS
    assert not samples.reached_precision
    assert samples.precision > 1e-6


def test_the_precision_is_the_standard_error_of_the_worst_pair(clock: Clock) -> None:
    # Log ratios of two blocks with 5 % noise each spread by 5 %·√2, and 120 of them are averaged.
    samples = run(FakeRuntime(clock, noisy(0.05)), SLOW)
    assert samples.rounds == MAX_ROUNDS
    assert samples.precision == pytest.approx(0.05 * 2**0.5 / 120**0.5, rel=0.4)


def test_more_noise_takes_more_rounds(clock: Clock) -> None:
    quiet, loud = (run(FakeRuntime(clock, noisy(scale)), SLOW, precision=0.01) for scale in (0.01, 0.05))
    assert quiet.reached_precision
    assert loud.reached_precision
    assert quiet.rounds < loud.rounds < MAX_ROUNDS


def test_processes_time_in_different_orders_and_the_same_process_in_the_same(clock: Clock) -> None:
    def order(process: int, seed: int) -> list[str]:
        runtime = FakeRuntime(clock)
        run(runtime, SLOW, budget=0.1, process=process, seed=seed)
        return [name for name, _ in runtime.blocks]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 1)


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_is_off_while_timing_and_then_as_it_was(clock: Clock, collects: bool) -> None:
    seen: list[bool] = []

    def looks() -> float:
        seen.append(gc.isenabled())
        return 1.0

    runtime = FakeRuntime(clock, looks)
    was = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        run(runtime, SLOW, budget=0.1)
        assert gc.isenabled() is collects
    finally:
        (gc.enable if was else gc.disable)()
    assert not any(seen[9:])


def test_the_collector_comes_back_after_an_exception(clock: Clock) -> None:
    costs = itertools.chain(itertools.repeat(1.0, 20), [None])
    assert gc.isenabled()
    with pytest.raises(TypeError):
        run(FakeRuntime(clock, lambda: next(costs)), SLOW)  # type: ignore[arg-type, return-value]
    assert gc.isenabled()


def test_the_host_runtime_reads_both_clocks_around_every_call() -> None:
    called = []
    wall, process = Runtime().time_block(lambda: called.append(1), 17)
    assert len(called) == 17
    assert wall > 0
    assert process >= 0
