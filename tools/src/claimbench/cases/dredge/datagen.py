"""Targets on grids: chained products, products in place, and ours, which evaluates each factor on an axis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from torch import Tensor

from claimbench.case import Case, Counted, Tolerance, Workload
from claimbench.cases.dredge.problem import default_device, not_timed
from claimbench.record import Params
from claimbench.runtimes.torch_memory import peak_bytes
from claimbench.turns import interval_of
from dredge.quasimoto.data import generate_4d_data, generate_6d_data
from dredge.reference.original import chained_4d, chained_6d, in_place_4d, in_place_6d

__all__ = ["CASES"]

CALLS = 200


def _makers(target: str) -> dict[str, Callable[[int], Tensor]]:
    if target == "4D":
        return {"before": chained_4d, "after": in_place_4d, "best": lambda size: generate_4d_data(size)[-1]}
    return {"before": chained_6d, "after": in_place_6d, "best": lambda size: generate_6d_data(size)[-1]}


def _there() -> AbstractContextManager[Any]:
    """What is made without a device is made on this one."""
    device = default_device()
    return device if device.type == "cuda" else nullcontext()


def _data(params: Params) -> Workload:
    size = int(params["size"])

    def variant(make: Callable[[int], Tensor]) -> Callable[[Any], Any]:
        def call(_given: Any) -> Any:
            with _there():
                return {"values": make(size)}

        return call

    return Workload(
        inputs=lambda seed: {"seed": seed},
        variants={name: variant(make) for name, make in _makers(str(params["target"])).items()},
        # In place is bit for bit the same; factors of one axis each are rounded one by one.
        tolerances={"best": Tolerance(absolute=1e-6, reason="float32: products of the factors in another order")},
    )


def _taken(params: Params) -> Iterable[Counted]:
    size = int(params["size"])
    in_place_4d(size)
    taken = []
    for _ in range(CALLS):
        began = time.perf_counter()
        in_place_4d(size)
        taken.append(1e3 * (time.perf_counter() - began))
    mean, ends = interval_of(taken)
    words = f"{size**3} points; median {np.median(taken):.3g} ms, slowest of {CALLS} {max(taken):.3g} ms"
    yield Counted("taken", mean, "after", "ms", words, ends)


def _peaks(params: Params) -> Iterable[Counted]:
    size = int(params["size"])
    for name, make in _makers(str(params["target"])).items():
        with _there():
            output = make(size)
            peak = peak_bytes(lambda make=make: make(size))  # type: ignore[misc]
        times = peak / (output.numel() * output.element_size())
        yield Counted("peak", times, name, "", "most bytes at once, over those of the values")


_GRIDS: tuple[Params, ...] = (
    {"target": "4D", "size": 20}, {"target": "4D", "size": 40}, {"target": "4D", "size": 80},
    {"target": "6D", "size": 8},
)  # fmt: skip

CASES = (
    Case(
        "dredge.datagen",
        "values of the published targets on a grid",
        "torch",
        _data,
        grid=_GRIDS,
        variants=("before", "after", "best"),
        original=(chained_4d, chained_6d),
    ),
    Case(
        "dredge.datagen_taken",
        "time of the 4D target's values, in place",
        "torch",
        not_timed,
        values=_taken,
        values_grid=({"size": 20},),
        original=(chained_4d,),
    ),
    Case(
        "dredge.datagen_memory",
        "most memory that making the values takes at once",
        "torch",
        not_timed,
        values=_peaks,
        values_grid=_GRIDS,
        original=(chained_4d, chained_6d),
    ),
)
