"""The gate before the clock: a variant that is wrong is said to be wrong, whatever its speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from claimbench.case import Lossy, Tolerance, Workload
from claimbench.errors import CaseError
from claimbench.record import Gate, Params
from claimbench.runtimes.base import Runtime

__all__ = ["Difference", "check", "difference"]

Leaves = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How two results differ.

    Attributes:
        reason: Why they are not the same work, empty where they are.
        max_abs: Largest |a − b| over all finite elements.
        max_rel: Largest |a − b| / |b| over all finite elements with b ≠ 0.
    """

    reason: str
    max_abs: float
    max_rel: float


def _comparable(array: np.ndarray) -> np.ndarray:
    """At least one axis, in a type wide enough for what it holds: 64-bit whole numbers do not fit into float64."""
    wide = np.complex128 if array.dtype.kind == "c" else np.longdouble if array.dtype.kind in "iu" else np.float64
    return np.atleast_1d(array.astype(wide))


def difference(result: Leaves, reference: Leaves, tolerance: Tolerance) -> Difference:
    """Compare results leaf by leaf: structure, shapes, places of non-finite values, then values.

    Args:
        result: Name of each leaf → array.
        reference: The same from the reference.
        tolerance: How far a value may lie off.

    Returns:
        The largest differences, and the first reason for which the two are not the same.
    """
    if set(result) != set(reference):
        odd = sorted(set(result) ^ set(reference))
        return Difference(f"the results have other parts: {', '.join(odd[:4])}", np.inf, np.inf)
    reason, max_abs, max_rel = "", 0.0, 0.0
    for name in reference:
        a, b = np.asarray(result[name]), np.asarray(reference[name])
        if a.shape != b.shape:
            reason = reason or f"{name} has shape {a.shape}, the reference {b.shape}"
            max_abs = max_rel = np.inf
            continue
        a, b = _comparable(a), _comparable(b)
        finite = np.isfinite(a) & np.isfinite(b)
        odd_places = ~finite & ~((a == b) | (np.isnan(a) & np.isnan(b)))
        if odd_places.any():
            reason = (
                reason or f"{name} has {int(odd_places.sum())} values that are not finite where the reference's are"
            )
        gap, size = np.abs(a[finite] - b[finite]), np.abs(b[finite])
        if gap.size:
            max_abs = max(max_abs, float(gap.max()))
            nonzero = size > 0
            if nonzero.any():
                with np.errstate(over="ignore"):  # beside a subnormal number any other is infinitely large
                    max_rel = max(max_rel, float((gap[nonzero] / size[nonzero]).max()))
            beyond = gap > tolerance.absolute + tolerance.relative * size
            if beyond.any():
                reason = reason or (
                    f"{int(beyond.sum())} of {gap.size} values of {name} are off by up to {gap[beyond].max():.3g}"
                )
    return Difference(reason, max_abs, max_rel)


def _check_lossy(result: Leaves, reference: Leaves, lossy: Lossy) -> tuple[bool, str]:
    loss = lossy.quality(result, reference)
    return bool(np.isfinite(loss) and loss <= lossy.bound), f"{lossy.words}: {loss:.4g}, allowed {lossy.bound:.4g}"


def check(
    case: str, params: Params, workload: Workload, variants: tuple[str, ...], control: str, runtime: Runtime, seed: int
) -> list[Gate | tuple[str, Exception]]:
    """Run every variant once on fresh inputs and compare what it produced.

    Args:
        case: Name of the case.
        params: The point.
        workload: The workload there.
        variants: Names of the variants to check.
        control: The variant that stands for the reference where there is no oracle.
        runtime: How results are read.
        seed: Seed of the inputs.

    Returns:
        A gate for each variant, or its name with the exception that it raised.

    Raises:
        CaseError: Where the reference returns nothing: a gate that compares nothing proves nothing.
    """

    def produced(function: Any) -> tuple[Leaves, bool]:
        inputs = workload.inputs(seed)
        kept = {name: array.copy() for name, array in runtime.leaves(inputs).items()}
        outputs = function(inputs)
        runtime.synchronise(outputs)
        result = runtime.leaves(workload.compare(outputs) if workload.compare else outputs)
        after = runtime.leaves(inputs)
        untouched = kept.keys() == after.keys() and all(
            np.array_equal(kept[name], after[name], equal_nan=kept[name].dtype.kind in "fc") for name in kept
        )
        return {name: np.array(array) for name, array in result.items()}, untouched

    against = "oracle" if workload.oracle is not None else control
    reference, _ = produced(workload.oracle if workload.oracle is not None else workload.variants[control])
    if not reference:
        raise CaseError(f"{case}: {against} returns nothing to compare with; return results, gradients or new state")
    gates: list[Gate | tuple[str, Exception]] = []
    for name in variants:
        tolerance, lossy = workload.tolerances.get(name, workload.tolerance), workload.lossy.get(name)
        try:
            result, untouched = produced(workload.variants[name])
            found = difference(result, reference, tolerance)
            equal, reason = not found.reason, found.reason
            if lossy is not None and np.isfinite(found.max_abs):
                equal, reason = _check_lossy(result, reference, lossy)
        except Exception as error:  # noqa: BLE001 - whatever a variant raises becomes a row of the record
            gates.append((name, error))
            continue
        if not untouched:
            equal, reason = False, "it changed its inputs" + (f"; {reason}" if reason else "")
        gates.append(
            Gate(
                case=case,
                params=params,
                variant=name,
                against=against,
                equal=equal,
                lossy=lossy is not None,
                max_abs=found.max_abs,
                max_rel=found.max_rel,
                tolerance=str(tolerance),
                reason=reason,
            )
        )
    return gates
