"""Two records of the same device and the same yardstick: what became slower, and by how much.

The yardstick is the control variant, the code of a case's `before`, whose hash both records carry: a variant is
compared as its ratio to the control, so that a machine that is slower today slows both. A regression is declared only
where the two 99 % intervals lie apart and the difference is larger than both noise floors.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from claimbench import statistics
from claimbench.errors import RecordError
from claimbench.figures import noise_floor
from claimbench.record import CONTROL, Environment, Record, Samples, point_name
from claimbench.tables import number

__all__ = ["Change", "Comparison", "compare", "comparison_text", "differences"]

DRAWS = 2000
SLOWER, FASTER, SAME, UNKNOWN = "slower", "faster", "no change seen", "cannot tell"


class Change(BaseModel):
    """One variant at one point, in both records.

    Attributes:
        case: Name of the case.
        point: Point of the grid.
        variant: Name of the variant.
        clock: Clock that timed it.
        first: Ratio to the control (or nanoseconds) in the first record, with its 99 % interval.
        second: The same in the second record.
        ratio: Second over first; 1.05 is 5 % slower.
        low: Lower end of its 99 % interval.
        high: Upper end.
        floor: Larger noise floor of the two records at this point, as a share.
        verdict: `slower`, `faster`, `no change seen` or `cannot tell`.
    """

    case: str
    point: str
    variant: str
    clock: str
    first: tuple[float, float, float]
    second: tuple[float, float, float]
    ratio: float
    low: float
    high: float
    floor: float
    verdict: str


class Comparison(BaseModel):
    """All changes between two records.

    Attributes:
        normalised: Whether variants were compared as ratios to the control.
        overridden: Differences that were set aside to compare at all.
        changes: One entry for each case, point, variant and clock in both records.
        only_first: What only the first record has.
        only_second: What only the second record has.
    """

    normalised: bool
    overridden: list[str]
    changes: list[Change]
    only_first: list[str]
    only_second: list[str]

    @property
    def regressions(self) -> list[Change]:
        """Changes that are slower outside both intervals."""
        return [change for change in self.changes if change.verdict == SLOWER]


def _device(record: Record) -> str:
    """The device by name, as the environment rows of a record tell it."""
    for row in record.of(Environment):
        cuda = row.facts.get("cuda") or [{}]
        name = cuda[0].get("name") if record.start.device == "cuda" else row.facts.get("cpu", {}).get("name")
        if name:
            return f"{record.start.device} ({name})"
    return record.start.device


def differences(first: Record, second: Record) -> list[str]:
    """Why two records must not be compared.

    Args:
        first: One record.
        second: The other.

    Returns:
        One line for each device or code of a `before` that differs; empty where nothing does.
    """
    found = []
    if _device(first) != _device(second):
        found.append(f"device: {_device(first)} and {_device(second)}")
    codes = first.start.code, second.start.code
    found += [
        f"code of `before` in {case}: {codes[0][case][:12]} and {codes[1][case][:12]}"
        for case in codes[0]
        if case in codes[1] and codes[0][case] != codes[1][case]
    ]
    return found


Key = tuple[str, str]


def _points(record: Record) -> dict[Key, list[Samples]]:
    points: dict[Key, list[Samples]] = defaultdict(list)
    for sample in record.of(Samples):
        points[sample.case, point_name(sample.params)].append(sample)
    return points


def _logs(sample: Samples, clock: str, variant: str, *, normalised: bool) -> NDArray[np.float64]:
    series = sample.clocks[clock]
    logs = np.log(np.asarray(series[variant], dtype=np.float64))
    return logs - np.log(np.asarray(series[sample.control], dtype=np.float64)) if normalised else logs


def _variants(samples: Sequence[Samples], *, normalised: bool) -> list[tuple[str, str]]:
    """Clocks and variants that every process has, without the yardstick itself."""
    control = samples[0].control
    left_out = {control + CONTROL, control} if normalised else {control + CONTROL}
    return [
        (clock, variant)
        for clock, series in samples[0].clocks.items()
        for variant in series
        if variant not in left_out and all(variant in sample.clocks.get(clock, {}) for sample in samples)
    ]


def _change(key: Key, clock: str, variant: str, sides: tuple[list[Samples], list[Samples]], normalised: bool) -> Change:
    replicates, floors = [], []
    for seed, samples in enumerate(sides):
        logs = [_logs(sample, clock, variant, normalised=normalised) for sample in samples]
        replicates.append(statistics.bootstrap([logs], draws=DRAWS, seed=seed))
        control = samples[0].control
        twin = [_logs(sample, clock, control + CONTROL, normalised=True) for sample in samples]
        floors.append(noise_floor([twin]))
    spans = []
    for one in replicates:
        low, high = statistics.interval(one.draws[:, 0])
        spans.append((math.exp(float(one.estimate[0])), math.exp(low), math.exp(high)))
    ratio = spans[1][0] / spans[0][0]
    low, high = statistics.interval(replicates[1].draws[:, 0] - replicates[0].draws[:, 0])
    floor = max(floors)
    if min(len(samples) for samples in sides) < 2:
        verdict = UNKNOWN  # between-process spread is unknown, and with it both intervals
    elif spans[1][1] > spans[0][2] and ratio > 1 + floor:
        verdict = SLOWER
    elif spans[1][2] < spans[0][1] and ratio < 1 / (1 + floor):
        verdict = FASTER
    else:
        verdict = SAME
    return Change(
        case=key[0],
        point=key[1],
        variant=variant,
        clock=clock,
        first=spans[0],
        second=spans[1],
        ratio=ratio,
        low=math.exp(low),
        high=math.exp(high),
        floor=floor,
        verdict=verdict,
    )


def compare(first: Record, second: Record, *, normalise: bool = True, override: bool = False) -> Comparison:
    """Compare two records, variant by variant.

    Args:
        first: The earlier record.
        second: The later one; ratios are second over first.
        normalise: Compare ratios to the control variant; False compares absolute times.
        override: Compare for display even where device or code differ; the differences are listed.

    Returns:
        The changes.

    Raises:
        RecordError: When device or code of a `before` differ, or when nothing was timed in both.
    """
    unlike = differences(first, second)
    if unlike and not override:
        raise RecordError(
            "two records are compared only on the same device and with the same code of `before`; these differ in "
            f"{'; '.join(unlike)}; measure both again, or look at them side by side with --override"
        )
    sides = _points(first), _points(second)
    shared = [key for key in sides[0] if key in sides[1]]
    if not shared:
        raise RecordError(
            f"two records are compared where both were timed; {first.path} and {second.path} share no point of any "
            "case; run the same claims again"
        )
    changes = []
    names: tuple[list[str], list[str]] = [], []
    for key in shared:
        found = [_variants(side[key], normalised=normalise) for side in sides]
        changes += [
            _change(key, clock, variant, (sides[0][key], sides[1][key]), normalise)
            for clock, variant in found[0]
            if (clock, variant) in found[1]
        ]
        for mine, own, other in zip(names, found, found[::-1], strict=True):
            mine += [
                f"{key[0]} {key[1]} {variant} ({clock})" for clock, variant in own if (clock, variant) not in other
            ]
    for mine, here, there in zip(names, sides, sides[::-1], strict=True):
        mine += [" ".join(key).strip() for key in here if key not in there]
    return Comparison(
        normalised=normalise, overridden=unlike, changes=changes, only_first=names[0], only_second=names[1]
    )


def comparison_text(comparison: Comparison) -> str:
    """A comparison as a table of aligned columns.

    Args:
        comparison: What was compared.

    Returns:
        Header, one line a change, and what was found in a sentence.
    """
    header = ("case", "row", "variant", "clock", "second ÷ first", "99 % interval", "noise floor", "found")
    rows = [
        header,
        *(
            (
                change.case,
                change.point or "all",
                change.variant,
                change.clock,
                f"{change.ratio:.3f}",
                f"{change.low:.3f} to {change.high:.3f}",
                f"{number(100 * change.floor, 2)} %",
                change.verdict,
            )
            for change in comparison.changes
        ),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    how = "ratios to the control variant" if comparison.normalised else "absolute times"
    lines += ["", f"Compared: {how}; above 1 the second record is slower."]
    lines += [f"set aside: {text}" for text in comparison.overridden]
    lines += [f"only in the first record: {name}" for name in comparison.only_first]
    lines += [f"only in the second record: {name}" for name in comparison.only_second]
    count = len(comparison.regressions)
    lines.append(f"{count} slower outside both intervals" if count else "nothing is slower outside both intervals")
    return "\n".join(lines)
