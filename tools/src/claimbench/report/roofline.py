"""How near a variant comes to what this machine can do.

The roofline (Williams, Waterman and Patterson, *Roofline: an insightful visual performance model for multicore
architectures*, 2009): no call can take less time than its bytes at the speed of the copy probe, nor less than its
operations at the speed of the matmul probe.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from pydantic import BaseModel

from claimbench.record import Cost, Probe, Record, Samples, point_name

__all__ = ["Roof", "peak", "roofs"]

_UNIT = re.compile(r"^([kKMGTP]?)(i?)(B|FLOPS?|flops?)(?:/s)?$")
_POWER = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


class Roof(BaseModel):
    """One variant at one point of a case, against the device's own speed.

    Attributes:
        case: Name of the case.
        point: Point of the grid.
        variant: Name of the variant.
        time_ns: Median wall time of a call.
        least_ns: Time that the device needs at least for the declared bytes and operations.
        share: `least_ns` over `time_ns`; above 1 where the data stay in a cache that the copy probe leaves.
        bound: "memory" or "arithmetic", whichever needs longer.
    """

    case: str
    point: str
    variant: str
    time_ns: float
    least_ns: float
    share: float
    bound: str


def peak(probes: Iterable[Probe], name: str) -> float | None:
    """The best speed that a probe saw, in bytes or operations a second.

    Args:
        probes: Probes of a run; noise only ever slows one down, so that the best is nearest to the truth.
        name: "copy" or "matmul".

    Returns:
        The speed, or None where no probe of that name carries a unit such as `GB/s` or `GFLOP/s`.

    Example:
        >>> peak([Probe(name="copy", value=10.0, unit="GB/s"), Probe(name="copy", value=12.0, unit="GB/s")], "copy")
        12000000000.0
    """
    found = []
    for probe in probes:
        unit = _UNIT.match(probe.unit.replace(" ", ""))
        if probe.name == name and unit is not None:
            found.append(probe.value * (1024 if unit[2] else 1000) ** _POWER[unit[1]])
    return max(found, default=None)


def roofs(record: Record) -> list[Roof]:
    """Every variant that declared a cost and was timed, against the probes of the same run.

    Args:
        record: What was measured.

    Returns:
        One entry for each case, point and variant, in the order of the costs.
    """
    probes = list(record.of(Probe))
    speeds = {"memory": peak(probes, "copy"), "arithmetic": peak(probes, "matmul")}
    times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for sample in record.of(Samples):
        clock = sample.clocks.get("wall") or next(iter(sample.clocks.values()))
        for variant, series in clock.items():
            times[sample.case, point_name(sample.params), variant] += series
    found: dict[tuple[str, str, str], Roof] = {}
    for cost in record.of(Cost):
        key = (cost.case, point_name(cost.params), cost.variant)
        amounts = {"memory": cost.bytes, "arithmetic": cost.flops}
        least = {
            bound: 1e9 * amount / speed
            for bound, amount in amounts.items()
            if amount is not None and (speed := speeds[bound])
        }
        if not times[key] or not least:
            continue
        time_ns = float(np.median(times[key]))
        bound = max(least, key=lambda name: least[name])
        found[key] = Roof(
            case=key[0],
            point=key[1],
            variant=key[2],
            time_ns=time_ns,
            least_ns=least[bound],
            share=least[bound] / time_ns,
            bound=bound,
        )
    return list(found.values())
