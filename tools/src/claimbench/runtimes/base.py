"""What the engine needs of a framework, and the plain runtime for NumPy."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from claimbench.errors import RunError

__all__ = ["Runtime", "flatten", "make", "peak_resident"]


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts, lists, tuples and named tuples, by path.

    Example:
        >>> flatten({"a": [1, (2, None)]})
        {'a/0': 1, 'a/1/0': 2}
    """
    if tree is None:
        return {}
    if isinstance(tree, dict):
        parts = {str(key): value for key, value in tree.items()}
    elif hasattr(tree, "_fields"):
        parts = {name: getattr(tree, name) for name in tree._fields}
    elif isinstance(tree, list | tuple):
        parts = {str(index): value for index, value in enumerate(tree)}
    else:
        return {prefix or "value": tree}
    leaves: dict[str, Any] = {}
    for name, part in parts.items():
        leaves |= flatten(part, f"{prefix}/{name}" if prefix else name)
    return leaves


def peak_resident(call: Callable[[], Any]) -> tuple[float, str]:
    """Peak resident memory that a call adds, in bytes, with the method that found it.

    The kernel's high-water mark is reset first (`/proc/self/clear_refs`), so that only the call counts. Where that is
    refused, the growth of the process's lifetime maximum is all there is.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # return what earlier calls freed, or it would hide what this one takes
    status = Path("/proc/self/status")

    def field(name: str) -> float:
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(name))
        return float(line.split()[1]) * 1024

    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        base = field("VmRSS")
    except OSError:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kept = call()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
        del kept
        return float(grown * 1024), "growth of ru_maxrss"
    kept = call()
    peak = max(0.0, field("VmHWM") - base)  # the kernel's counters lag by some pages
    del kept
    return peak, "VmHWM after a reset"


class Runtime:
    """The plain runtime: NumPy on the host.

    Args:
        device: `cpu`; frameworks also know `cuda`.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def synchronise(self, outputs: Any) -> None:
        """Wait until everything in `outputs` is computed."""

    def leaves(self, tree: Any) -> dict[str, np.ndarray]:
        """Every array of a tree on the host, by path."""
        return {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}

    def facts(self) -> dict[str, Any]:
        """Versions and device."""
        return {"numpy": np.__version__, "device": "cpu"}

    def peak_memory(self, call: Callable[[], Any]) -> tuple[float, str]:
        """Peak bytes that a call takes beyond its inputs, with the method."""
        return peak_resident(call)

    def before_sample(self) -> None:
        """Called before each block: a GPU runtime flushes its cache here."""

    def time_block(self, call: Callable[[], Any], calls: int) -> tuple[float, float]:
        """Wall and process time of a block of calls.

        Args:
            call: One call.
            calls: How often.

        Returns:
            Nanoseconds of the whole block by the wall clock and by the process's CPU clock.
        """
        synchronise = self.synchronise
        process, wall = time.process_time_ns(), time.perf_counter_ns()
        for _ in range(calls):
            synchronise(call())
        wall_end, process_end = time.perf_counter_ns(), time.process_time_ns()
        return float(wall_end - wall), float(process_end - process)

    def probes(self) -> dict[str, tuple[Callable[[], Any], float, str]]:
        """Copy and matrix product: name → (one call, work of a call, unit of work a second)."""
        source = np.ones(1 << 24, dtype=np.float32)
        target = np.empty_like(source)
        square = np.ones((1024, 1024), dtype=np.float32)
        return {
            "copy": (lambda: np.copyto(target, source), 2.0 * source.nbytes, "B/s"),
            "matmul": (lambda: square @ square, 2.0 * 1024**3, "flop/s"),
        }


def make(device: str) -> Runtime:
    """The host runtime.

    Raises:
        RunError: For a device that NumPy does not have.
    """
    if device != "cpu":
        raise RunError(f"NumPy runs on the cpu; got device {device!r}; use --device cpu")
    return Runtime(device)
