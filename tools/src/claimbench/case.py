"""What a case is: a workload over a grid of parameters, with named variants that should agree.

Names of variants mean the same everywhere: `none` (feature off), `before` and `after` (a note's two forms as
published), `as_coded` (where the original's code differs from its note), `best` (ours), `strong` (what a good user
would do anyway). A redesign of ours never plays `after`.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from claimbench.errors import CaseError
from claimbench.record import Params, point_name

__all__ = ["SLOW_PROCESSES", "Case", "Counted", "Lossy", "Tolerance", "Work", "Workload"]

SLOW_PROCESSES = 4
"""Processes that time the points of a `slow_grid`, where the run has more."""

Leaves = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Tolerance:
    """How far a result may lie from the reference: |a − b| ≤ absolute + relative·|b|, element by element.

    Attributes:
        relative: Share of the reference's magnitude.
        absolute: In the result's own unit.
        reason: Why equality is not exact; needed for anything but bit equality.
    """

    relative: float = 0.0
    absolute: float = 0.0
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.relative or self.absolute) and not self.reason:
            raise CaseError("a tolerance other than bit equality needs a reason; say which arithmetic differs")

    def __str__(self) -> str:
        exact = not (self.relative or self.absolute)
        return "bit for bit" if exact else f"relative {self.relative:g}, absolute {self.absolute:g}: {self.reason}"


@dataclass(frozen=True)
class Lossy:
    """A variant that trades quality, with the measure of what it loses.

    Attributes:
        quality: Loss of quality from (result, reference); lower is better.
        bound: Largest loss that is still the same work.
        words: What the measure is.
    """

    quality: Callable[[Leaves, Leaves], float]
    bound: float
    words: str


@dataclass(frozen=True)
class Work:
    """What one call of a variant must at least move and compute, for the roofline.

    Attributes:
        bytes: Bytes read and written.
        flops: Floating point operations.
    """

    bytes: float | None = None
    flops: float | None = None


@dataclass
class Workload:
    """A case at one point of its grid.

    Attributes:
        inputs: Makes fresh inputs from a seed. They are what all variants share, and none may change them.
        variants: Name → one call: inputs in, everything it produced out (results, gradients, new state).
        oracle: The slow and right form, where there is one.
        tolerance: Equality that every variant must reach against the reference.
        tolerances: The same for single variants, where it differs.
        lossy: Variants that trade quality.
        compare: Restricts results to what the variants have in common before they are compared.
        work: What one call must move and compute, by variant.
        units: Units of work in one call, the same for all variants (steps of a scan, say); times are recorded a unit.
    """

    inputs: Callable[[int], Any]
    variants: Mapping[str, Callable[[Any], Any]]
    oracle: Callable[[Any], Any] | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    lossy: Mapping[str, Lossy] = field(default_factory=dict)
    compare: Callable[[Any], Any] | None = None
    work: Mapping[str, Work] = field(default_factory=dict)
    units: float = 1.0


@dataclass(frozen=True)
class Counted:
    """A number that was counted or checked.

    Attributes:
        name: What it is.
        value: The number.
        variant: The variant that it belongs to, where it belongs to one.
        unit: Its unit.
        detail: What was looked at, in words.
        interval: Ends of its 99 % interval, for a mean over seeds or rounds; None where the number is exact.
    """

    name: str
    value: float
    variant: str = ""
    unit: str = ""
    detail: str = ""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Case:
    """A workload over a grid, registered under a name.

    Attributes:
        id: Its name, for example `boolean.update`.
        title: One line.
        runtime: Framework that synchronises and reads results: `host`, `jax` or `torch`.
        grid: Points that are timed.
        setup: Makes the workload of a point.
        variants: Variants that are timed, in any order.
        control: The variant that is also timed against itself.
        values: Counts and checks at a point, not timed.
        values_grid: Points for `values`; the timed grid where it is empty.
        quick_values: Points for `values` in a quick run; all of them where it is None.
        memory_grid: Points whose variants get a memory run of their own.
        memory_setup: Workload of a memory point, where it differs from `setup`.
        memory_variants: Variants of the memory runs.
        compile_grid: Points whose variants get a first-call run of their own.
        compile_variants: Variants of the first-call runs.
        original: Functions whose source makes the code hash of `before`.
        quick_grid: Points that a quick run times; the whole grid where it is empty.
        budget: Seconds that one process may spend timing this case.
        precision: Standard error of a log ratio within a process at which timing may stop early.
        processes: Processes that time it, where that are fewer than the run's: for calls of a second and more, whose
            effects are far larger than the spread between processes. None is all of them.
        slow_grid: Points of the grid that only the first `SLOW_PROCESSES` time: their calls, or set-up and gate, take
            long beside what more processes would tell.
    """

    id: str
    title: str
    runtime: str
    setup: Callable[[Params], Workload]
    grid: tuple[Params, ...] = ()
    variants: tuple[str, ...] = ()
    control: str = "before"
    values: Callable[[Params], Iterable[Counted]] | None = None
    values_grid: tuple[Params, ...] = ()
    quick_values: tuple[Params, ...] | None = None
    memory_grid: tuple[Params, ...] = ()
    memory_setup: Callable[[Params], Workload] | None = None
    memory_variants: tuple[str, ...] = ()
    compile_grid: tuple[Params, ...] = ()
    compile_variants: tuple[str, ...] = ()
    original: tuple[Callable[..., Any], ...] = ()
    quick_grid: tuple[Params, ...] = ()
    budget: float = 8.0
    precision: float = 0.005
    processes: int | None = None
    slow_grid: tuple[Params, ...] = ()

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 2:
            raise CaseError(
                f"{self.id}: with one process the spread between processes is unknown; got {self.processes}; "
                "give 2 or more, or None"
            )
        points = [point_name(params) for params in self.grid]
        if len(set(points)) != len(points):
            raise CaseError(f"{self.id}: each point of a grid stands once; got {points}; remove the double")
        absent = [point_name(params) for params in self.slow_grid if params not in self.grid]
        if absent:
            raise CaseError(f"{self.id}: a slow point is one of the grid; got {absent}; put it there as well")
        if self.grid and self.control not in self.variants:
            raise CaseError(f"{self.id}: the control {self.control!r} must be one of the variants {self.variants}")

    def timed_by(self, process: int, params: Params) -> bool:
        """Whether a process, counted from 0, times a point of this case.

        Args:
            process: Its number.
            params: The point.
        """
        if params in self.slow_grid and process >= SLOW_PROCESSES:
            return False
        return self.processes is None or process < self.processes

    def points(self, quick: bool) -> tuple[Params, ...]:
        """Points that a run times."""
        return (self.quick_grid or self.grid) if quick else self.grid

    def counted_points(self, quick: bool) -> tuple[Params, ...]:
        """Points at which a run counts and checks."""
        if quick and self.quick_values is not None:
            return self.quick_values
        return self.values_grid or self.grid

    def code_hash(self) -> str:
        """SHA-256, shortened, of the source of `before`: two records compare only where it is the same."""
        text = "\n".join(inspect.getsource(function) for function in self.original)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
