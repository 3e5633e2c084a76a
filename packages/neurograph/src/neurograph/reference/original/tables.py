"""Lookup tables of the original at the commit of the note: exp magnitudes on [-3, 3], both ends included.

Three forms of the same two lookups: plain methods, methods under the note's decorator (which cannot compile a method
and falls back), and the free functions that the note's words describe, compiled with TorchScript.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["JIT_SOURCE", "Jit", "OriginalTables", "compiled_lookups", "jit_compile_if_enabled", "make_tables"]

Jit = Literal["off", "as_coded", "compiled"]

PHASE_BINS, MAG_BINS = 32, 512

JIT_SOURCE = """
def signal(p: Tensor, m: Tensor, cos: Tensor, mag: Tensor) -> Tensor:
    c = cos[p.clamp(0, cos.shape[0] - 1)]
    a = mag[m.clamp(0, mag.shape[0] - 1)]
    return c * a

def gradients(
    p: Tensor, m: Tensor, g: Tensor, cos: Tensor, neg_sin: Tensor, mag: Tensor, mag_slope: Tensor
) -> Tuple[Tensor, Tensor]:
    c = cos[p.clamp(0, cos.shape[0] - 1)]
    a = mag[m.clamp(0, mag.shape[0] - 1)]
    dc = neg_sin[p.clamp(0, neg_sin.shape[0] - 1)]
    da = mag_slope[m.clamp(0, mag_slope.shape[0] - 1)]
    return g * (dc * a), g * (c * da)
"""
"""The free functions that TorchScript compiles; given as text, since a decorated function has no source it can read."""


class OriginalTables:
    """cos, −sin, mag and d mag/dx by index; every lookup clamps first.

    Args:
        phase_bins: P; angle of index i is 2πi/P.
        mag_bins: M; x runs linearly from −3 to 3, both included, and mag = exp(x).

    Attributes:
        jit_failure: Why the decorated methods did not compile; empty for the other forms.
    """

    jit_failure = ""

    def __init__(self, phase_bins: int = PHASE_BINS, mag_bins: int = MAG_BINS) -> None:
        self.phase_bins, self.mag_bins = phase_bins, mag_bins
        angle = torch.arange(phase_bins, dtype=torch.float64) * (2 * math.pi / phase_bins)
        x = torch.linspace(-3.0, 3.0, mag_bins, dtype=torch.float64)
        self.cos, self.neg_sin = angle.cos().float(), (-angle.sin()).float()
        self.mag = x.exp().float()
        self.mag_slope = self.mag.clone()  # exp is its own derivative, and the original kept a second table

    @property
    def nbytes(self) -> int:
        """Bytes of the four tables."""
        return sum(table.numel() * table.element_size() for table in (self.cos, self.neg_sin, self.mag, self.mag_slope))

    def lookup_phase(self, phase_indices: Tensor) -> Tensor:
        """Cosine of an index's angle."""
        return self.cos[phase_indices.clamp(0, self.phase_bins - 1)]

    def lookup_magnitude(self, mag_indices: Tensor) -> Tensor:
        """Magnitude of an index."""
        return self.mag[mag_indices.clamp(0, self.mag_bins - 1)]

    def lookup_phase_grad(self, phase_indices: Tensor) -> Tensor:
        """Derivative of the cosine by the angle: −sin."""
        return self.neg_sin[phase_indices.clamp(0, self.phase_bins - 1)]

    def lookup_magnitude_grad(self, mag_indices: Tensor) -> Tensor:
        """Derivative of the magnitude by x: exp again."""
        return self.mag_slope[mag_indices.clamp(0, self.mag_bins - 1)]

    def get_signal_vector(self, phase_indices: Tensor, mag_indices: Tensor) -> Tensor:
        """cos(p)·mag(m), elementwise."""
        cos_vals = self.lookup_phase(phase_indices)
        mag_vals = self.lookup_magnitude(mag_indices)
        return cos_vals * mag_vals

    def compute_signal_gradients(self, phase_indices: Tensor, mag_indices: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """(−sin(p)·mag(m)·g, cos(p)·mag′(m)·g)."""
        cos_vals, mag_vals = self.lookup_phase(phase_indices), self.lookup_magnitude(mag_indices)
        phase_grad = g * (self.lookup_phase_grad(phase_indices) * mag_vals)
        mag_grad = g * (cos_vals * self.lookup_magnitude_grad(mag_indices))
        return phase_grad, mag_grad


# --- as the note says: free functions, compiled -----------------------------------------------------------------------


@cache
def compiled_lookups() -> Any:
    """`signal` and `gradients` of `JIT_SOURCE`, compiled once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated; it is what the note used
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.CompilationUnit(JIT_SOURCE)


class CompiledTables(OriginalTables):
    """The note's words: the two lookups as compiled free functions that the methods hand on to."""

    def __init__(self, phase_bins: int = PHASE_BINS, mag_bins: int = MAG_BINS) -> None:
        super().__init__(phase_bins, mag_bins)
        unit = compiled_lookups()
        self._signal, self._gradients = unit.signal, unit.gradients

    def get_signal_vector(self, phase_indices: Tensor, mag_indices: Tensor) -> Tensor:
        """cos(p)·mag(m), compiled."""
        return self._signal(phase_indices, mag_indices, self.cos, self.mag)

    def compute_signal_gradients(self, phase_indices: Tensor, mag_indices: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Both gradients, compiled."""
        return self._gradients(phase_indices, mag_indices, g, self.cos, self.neg_sin, self.mag, self.mag_slope)


# --- as coded: a decorator that cannot compile a method ---------------------------------------------------------------


def jit_compile_if_enabled(function: Callable[..., Any]) -> tuple[Callable[..., Any], str]:
    """The note's decorator: compile, or keep the function.

    A method has `self` without a type, TorchScript takes it for a tensor, and a tensor has no `lookup_phase`: both
    decorated methods of the original failed here and ran as they were. The original printed that at import.

    Args:
        function: What stood below the decorator.

    Returns:
        The compiled function and "", or the function itself and why it was not compiled.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return torch.jit.script(function), ""
        except Exception as error:  # noqa: BLE001 - the original swallowed whatever was raised; here it is handed on
            return function, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


@cache
def _decorated() -> type[OriginalTables]:
    signal, why = jit_compile_if_enabled(OriginalTables.get_signal_vector)
    gradients, why_too = jit_compile_if_enabled(OriginalTables.compute_signal_gradients)
    namespace = {
        "__doc__": "The original's class, both lookups below the note's decorator.",
        "get_signal_vector": signal,
        "compute_signal_gradients": gradients,
        "jit_failure": why or why_too,
    }
    return type("DecoratedTables", (OriginalTables,), namespace)


def make_tables(jit: Jit = "off", phase_bins: int = PHASE_BINS, mag_bins: int = MAG_BINS) -> OriginalTables:
    """Tables in one of the three forms.

    Args:
        jit: `off`, `as_coded` (the decorator, which falls back) or `compiled` (free functions, as the note says).
        phase_bins: P.
        mag_bins: M.

    Returns:
        The tables.

    Example:
        >>> round(float(make_tables().mag[-1]), 4)
        20.0855
    """
    form = {"off": OriginalTables, "compiled": CompiledTables}.get(jit) or _decorated()
    return form(phase_bins, mag_bins)
