"""Planted cases with known truths, to prove the tool on a real machine. They need NumPy alone."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np

from claimbench.case import Case, Counted, Lossy, Tolerance, Workload
from claimbench.record import Params

__all__ = ["CASES", "SLOWDOWN"]

SLOWDOWN = 1.25
"""Ratio that the planted extra matrix product gives: a hundred products against eighty."""

SIZE = 48  # small enough that BLAS stays on one thread, whatever else the machine does


def _inputs(seed: int) -> dict[str, np.ndarray]:
    return {"a": np.random.default_rng(seed).standard_normal((SIZE, SIZE)).astype(np.float32)}


def _products(count: int) -> Any:
    def call(inputs: dict[str, np.ndarray]) -> np.ndarray:
        result = inputs["a"] @ inputs["a"]
        for _ in range(count - 1):
            np.matmul(inputs["a"], inputs["a"], out=result)
        return result

    return call


def _sleep(milliseconds: float) -> Any:
    def call(inputs: dict[str, np.ndarray]) -> float:
        time.sleep(milliseconds * 1e-3)
        return float(inputs["a"][0, 0])

    return call


def _extra_matmul(_params: Params) -> Workload:
    return Workload(inputs=_inputs, variants={"before": _products(80), "after": _products(100), "same": _products(80)})


def _extra_sleep(_params: Params) -> Workload:
    return Workload(inputs=_inputs, variants={"before": _sleep(1.0), "after": _sleep(2.0)})


def _wrong(_params: Params) -> Workload:
    right = _products(1)

    def mutates(inputs: dict[str, np.ndarray]) -> np.ndarray:
        result = right(inputs)
        inputs["a"] += 1
        return result

    def raises(_inputs: dict[str, np.ndarray]) -> np.ndarray:
        raise MemoryError("planted: no memory left")

    return Workload(
        inputs=_inputs,
        variants={
            "before": right,
            "nan": lambda inputs: right(inputs) * np.where(np.arange(SIZE) == 3, np.nan, 1.0).astype(np.float32),
            "shape": lambda inputs: right(inputs)[:-1],
            "parts": lambda inputs: (right(inputs), 1.0),
            "off": lambda inputs: right(inputs) * np.float32(1.001),
            "mutates": mutates,
            "raises": raises,
            "rough": lambda inputs: right(inputs).astype(np.float16).astype(np.float32),
            "too_rough": lambda inputs: np.round(right(inputs), -1),
        },
        oracle=lambda inputs: inputs["a"].astype(np.float64) @ inputs["a"].astype(np.float64),
        tolerance=Tolerance(relative=1e-4, absolute=1e-3, reason="float32 against float64"),
        lossy={
            name: Lossy(
                lambda a, b: float(np.abs(a["value"] - b["value"]).mean() / np.abs(b["value"]).mean()),
                0.01,
                "mean absolute error as a share of the mean magnitude",
            )
            for name in ("rough", "too_rough")
        },
    )


def _segfault(_params: Params) -> Workload:
    def call(_inputs: dict[str, np.ndarray]) -> int:
        os.kill(os.getpid(), signal.SIGSEGV)
        return 0

    return Workload(inputs=_inputs, variants={"before": _sleep(0.1), "after": call})


def _killed(_params: Params) -> Workload:
    def call(_inputs: dict[str, np.ndarray]) -> int:
        os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does to a process that is out of memory
        return 0

    return Workload(inputs=_inputs, variants={"before": _sleep(0.1), "after": call})


def _hang(_params: Params) -> Workload:
    return Workload(inputs=_inputs, variants={"before": _sleep(0.1), "after": _sleep(3_600_000.0)})


def _leaves_early(_params: Params) -> Workload:
    os._exit(0)


def _broken_setup(_params: Params) -> Workload:
    raise RuntimeError("planted: this setup always fails")


def _prints(_params: Params) -> Workload:
    print('{"kind": "samples", "case": "planted.prints"}\nnot a row at all', flush=True)  # noqa: T201
    return Workload(inputs=_inputs, variants={"before": _sleep(0.1), "after": _sleep(0.1)})


def _counts(_params: Params) -> list[Counted]:
    return [
        Counted("products", 80, "before", "calls", "matrix products in one call"),
        Counted("products", 100, "after", "calls", "matrix products in one call"),
    ]


def _large_copy(_params: Params) -> Workload:
    size = 8 << 20

    return Workload(
        inputs=lambda seed: np.full(size, seed, np.float32),
        variants={"before": lambda x: float((x + 1).sum()), "after": lambda x: float(((x + 1) + (x + 2)).sum())},
    )


_POINT: tuple[Params, ...] = ({"size": SIZE},)

CASES = (
    Case(
        "planted.matmul",
        "one extra matrix product in five",
        "host",
        _extra_matmul,
        _POINT,
        ("before", "after", "same"),
        values=_counts,
        original=(_products,),
        budget=3.0,
    ),
    Case(
        "planted.sleep", "one extra millisecond of sleep", "host", _extra_sleep, _POINT, ("before", "after"), budget=1.0
    ),
    Case(
        "planted.wrong",
        "variants that are wrong",
        "host",
        _wrong,
        _POINT,
        ("before", "nan", "shape", "parts", "off", "mutates", "raises", "rough", "too_rough"),
        budget=1.0,
    ),
    Case("planted.segfault", "a variant that segfaults", "host", _segfault, _POINT, ("before", "after")),
    Case("planted.killed", "a variant that is killed", "host", _killed, _POINT, ("before", "after")),
    Case("planted.hang", "a variant that hangs", "host", _hang, _POINT, ("before", "after")),
    Case("planted.leaves", "a worker that stops early", "host", _leaves_early, _POINT, ("before", "after")),
    Case("planted.prints", "a variant that prints garbage", "host", _prints, _POINT, ("before", "after"), budget=0.5),
    Case("planted.setup", "a setup that fails", "host", _broken_setup, _POINT, ("before", "after")),
    Case(
        "planted.memory",
        "one more buffer of 32 MiB",
        "host",
        _large_copy,
        memory_grid=_POINT,
        memory_variants=("before", "after"),
    ),
)
