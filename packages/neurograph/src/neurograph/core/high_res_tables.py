"""Look-up tables of phase and magnitude, their slopes, and the way between numbers and indices.

A phase index p of P bins is the angle p δ, δ = 2π / P. A magnitude index m of M bins is a place x_m on a line or a
circle and stands for a(x_m):

========= ===================== ====================== ==================
magnitude a(x)                  slope a'(x)            x from, to
========= ===================== ====================== ==================
exp_sin   exp(sin x)            cos(x) exp(sin x)      −π, π
exp       exp(x)                exp(x)                 −3, 3
sigmoid   1 / (1 + exp(−x))     a (1 − a)              −3, 3
========= ===================== ====================== ==================

On a half-open grid x_m = low + m (high − low) / M; exp_sin is periodic, and on that grid adding indices modulo M adds
places on the circle exactly, so that magnitudes wrap as phases do. On an inclusive grid, the original's, both ends are
points, and magnitude indices are clamped.

The signal of a pair is cos(p δ) a(x_m). The original multiplied its magnitude gradient by a(x) in place of a'(x), which
is right for exp alone; here it is a'(x).
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from neurograph.core import jit
from neurograph.core.jit import ENABLE_JIT, jit_compile_if_enabled, jit_status
from neurograph.errors import TableError
from neurograph.files import write_whole

__all__ = [
    "ENABLE_JIT", "DiscreteUpdate", "Grid", "HighResolutionLookupTables", "Magnitude", "jit_compile_if_enabled",
    "jit_status", "signal_gradients", "signal_of",
]  # fmt: skip

_log = logging.getLogger(__name__)

Magnitude = Literal["exp_sin", "exp", "sigmoid"]
Grid = Literal["half_open", "inclusive"]
Indices = Int[Tensor, "..."]
Numbers = Float[Tensor, "..."]

_FORMS: dict[str, tuple[float, float, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "exp_sin": (-math.pi, math.pi, lambda x: x.sin().exp(), lambda x: x.cos() * x.sin().exp()),
    "exp": (-3.0, 3.0, torch.exp, torch.exp),
    "sigmoid": (-3.0, 3.0, torch.sigmoid, lambda x: x.sigmoid() * (1 - x.sigmoid())),
}


class DiscreteUpdate(NamedTuple):
    """Whole steps of indices, and what was left over.

    Args:
        phase: steps of phase indices.
        mag: steps of magnitude indices.
        residual: of both, in [−½, ½]: added to the next steps, so that none is lost.
    """

    phase: Tensor
    mag: Tensor
    residual: tuple[Tensor, Tensor]


@jit_compile_if_enabled
def signal_of(p: Indices, m: Indices, cos: Float[Tensor, " P"], mag: Float[Tensor, " M"]) -> Numbers:
    """The signal cos(p δ) a(x_m), for indices within the tables.

    Args:
        p: phase indices.
        m: magnitude indices.
        cos: table of cosines.
        mag: table of magnitudes.

    Returns:
        Signals.
    """
    return cos[p] * mag[m]


@jit_compile_if_enabled
def signal_gradients(
    p: Indices,
    m: Indices,
    gradient: Numbers,
    cos: Float[Tensor, " P"],
    sin: Float[Tensor, " P"],
    mag: Float[Tensor, " M"],
    slope: Float[Tensor, " M"],
) -> tuple[Numbers, Numbers]:
    """Gradients −sin(p δ) a(x_m) g and cos(p δ) a'(x_m) g, for indices within the tables.

    Args:
        p: phase indices.
        m: magnitude indices.
        gradient: g, of the signals.
        cos: table of cosines.
        sin: table of sines.
        mag: table of magnitudes.
        slope: table of their slopes.

    Returns:
        Per radian, and per unit of x.
    """
    return -sin[p] * mag[m] * gradient, cos[p] * slope[m] * gradient


class HighResolutionLookupTables:
    """Tables, look-ups and quantisers. Indices may have any shape and any integer type.

    Args:
        phase_bins: P, at least 2.
        mag_bins: M, at least 2.
        magnitude: the function a.
        grid: where its places lie; half-open for exp_sin makes sums of indices exact.
        fused: also keep the signal of each pair, one table of P × M: one look-up in place of two and a product.
        device: where the tables lie.
        dtype: of their numbers.

    Raises:
        TableError: fewer than two bins, or a form that does not exist.

    >>> tables = HighResolutionLookupTables(8, 4)
    >>> tables.get_signal_vector(torch.tensor([0, 4]), torch.tensor([2, 2])).tolist()
    [1.0, -1.0]
    >>> tables.nbytes
    96
    """

    def __init__(
        self,
        phase_bins: int = 512,
        mag_bins: int = 1024,
        *,
        magnitude: Magnitude = "exp_sin",
        grid: Grid = "half_open",
        fused: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        for name, bins in (("phase_bins", phase_bins), ("mag_bins", mag_bins)):
            if bins < 2:
                raise TableError(f"a table has at least two bins; got {name} = {bins}. Take 2 or more.")
        if magnitude not in _FORMS:
            raise TableError(f"a magnitude is one of {', '.join(_FORMS)}; got {magnitude!r}. Choose one of them.")
        if grid not in ("half_open", "inclusive"):
            raise TableError(f"a grid is half_open or inclusive; got {grid!r}. Choose one of them.")
        self.phase_bins, self.mag_bins = phase_bins, mag_bins
        self.magnitude: Magnitude = magnitude
        self.grid: Grid = grid
        self.low, self.high, form, slope = _FORMS[magnitude]
        self.phase_step = 2 * math.pi / phase_bins
        self.mag_step = (self.high - self.low) / (mag_bins if grid == "half_open" else mag_bins - 1)
        angle = torch.arange(phase_bins, dtype=torch.float64) * self.phase_step
        x = self.low + torch.arange(mag_bins, dtype=torch.float64) * self.mag_step
        self.cos, self.sin = (t.to(device, dtype) for t in (angle.cos(), angle.sin()))
        self.mag, self.mag_slope = (t.to(device, dtype) for t in (form(x), slope(x)))
        self.fused = (angle.cos()[:, None] * form(x)).to(device, dtype) if fused else None
        state = "compiled at their first call" if jit.ENABLE_JIT else "never compiled"
        sizes = phase_bins, mag_bins, jit.MIN_ELEMENTS
        _log.info("tables of %d × %d bins: look-ups of %d and more are %s", *sizes, state)

    # --- what they are ------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the tables lie."""
        return self.cos.device

    @property
    def wraps_magnitude(self) -> bool:
        """Whether magnitude indices go round: only a periodic function on a half-open grid has no ends."""
        return self.grid == "half_open" and self.magnitude == "exp_sin"

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        tables = [self.cos, self.sin, self.mag, self.mag_slope, *([] if self.fused is None else [self.fused])]
        return sum(table.numel() * table.element_size() for table in tables)

    def to(self, device: torch.device | str) -> "HighResolutionLookupTables":
        """The same tables elsewhere.

        Args:
            device: where.

        Returns:
            Other tables, or these where they lie there already.
        """
        if torch.device(device) == self.device:
            return self
        return HighResolutionLookupTables(
            self.phase_bins, self.mag_bins, magnitude=self.magnitude, grid=self.grid, fused=self.fused is not None,
            device=device, dtype=self.cos.dtype,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Writes the tables as one NumPy array, for `mapped`.

        Args:
            path: a file ending in .npy.
        """
        flat = torch.cat([self.cos, self.sin, self.mag, self.mag_slope]).cpu().numpy()

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.save(file, flat)

        write_whole(path, write)

    def mapped(self, path: Path) -> "HighResolutionLookupTables":
        """The same tables, read from a file by the operating system when they are used.

        Processes that map one file share its pages. That matters where tables are large: at 512 × 1024 bins they take
        12 kB, three pages.

        Args:
            path: what `save` wrote.

        Returns:
            Tables on the CPU.

        Raises:
            TableError: a file of other tables.
        """
        flat = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
        sizes = [self.phase_bins, self.phase_bins, self.mag_bins, self.mag_bins]
        if flat.dim() != 1 or len(flat) != sum(sizes) or flat.dtype != self.cos.dtype:
            raise TableError(
                f"a file of these tables holds {sum(sizes)} numbers of {self.cos.dtype}; {path} holds "
                f"{tuple(flat.shape)} of {flat.dtype}. Write it again with save()."
            )
        other = HighResolutionLookupTables(
            self.phase_bins, self.mag_bins, magnitude=self.magnitude, grid=self.grid, dtype=self.cos.dtype
        )
        other.cos, other.sin, other.mag, other.mag_slope = flat.split(sizes)
        return other

    # --- look-ups -----------------------------------------------------------------------------------------------------

    def wrap_phase(self, p: Indices) -> Indices:
        """Phase indices within the table: an angle goes round."""
        return _whole(p).remainder(self.phase_bins)

    def wrap_magnitude(self, m: Indices) -> Indices:
        """Magnitude indices within the table: they go round where the function does, and else stay at the ends."""
        m = _whole(m)
        return m.remainder(self.mag_bins) if self.wraps_magnitude else m.clamp(0, self.mag_bins - 1)

    def lookup_phase(self, p: Indices) -> Numbers:
        """cos(p δ)."""
        return self.cos[self.wrap_phase(p)]

    def lookup_phase_sin(self, p: Indices) -> Numbers:
        """sin(p δ)."""
        return self.sin[self.wrap_phase(p)]

    def lookup_phase_grad(self, p: Indices) -> Numbers:
        """Slope of the cosine, −sin(p δ), per radian."""
        return -self.sin[self.wrap_phase(p)]

    def lookup_magnitude(self, m: Indices) -> Numbers:
        """a(x_m)."""
        return self.mag[self.wrap_magnitude(m)]

    def lookup_magnitude_grad(self, m: Indices) -> Numbers:
        """a'(x_m), per unit of x."""
        return self.mag_slope[self.wrap_magnitude(m)]

    def get_signal_vector(self, phase_indices: Indices, mag_indices: Indices) -> Numbers:
        """Signals cos(p δ) a(x_m).

        Args:
            phase_indices: p.
            mag_indices: m.

        Returns:
            Of the same shape.
        """
        p, m = self.wrap_phase(phase_indices), self.wrap_magnitude(mag_indices)
        if self.fused is not None:
            return self.fused.view(-1)[p * self.mag_bins + m]
        return signal_of(p, m, self.cos, self.mag)

    def compute_signal_gradients(
        self, phase_indices: Indices, mag_indices: Indices, upstream: Numbers
    ) -> tuple[Numbers, Numbers]:
        """Gradients of a loss whose gradient with respect to the signals is given.

        Args:
            phase_indices: p.
            mag_indices: m.
            upstream: gradient with respect to the signals.

        Returns:
            Per radian, and per unit of x.
        """
        p, m = self.wrap_phase(phase_indices), self.wrap_magnitude(mag_indices)
        return signal_gradients(p, m, upstream, self.cos, self.sin, self.mag, self.mag_slope)

    # --- numbers to indices -------------------------------------------------------------------------------------------

    def quantize_to_phase(self, angle: Numbers) -> Indices:
        """The bin of an angle, ⌊(θ mod 2π) / δ⌋.

        Args:
            angle: θ, in radians.

        Returns:
            Indices.

        >>> HighResolutionLookupTables(8, 4).quantize_to_phase(torch.tensor([0.8, -0.1])).tolist()
        [1, 7]
        """
        turns = (angle / (2 * math.pi)).remainder(1)
        return (turns * self.phase_bins).floor().long().clamp_(max=self.phase_bins - 1)

    def quantize_to_magnitude(self, x: Numbers) -> Indices:
        """The bin of a place, ⌊(x − low) / (high − low) M⌋, held within the grid.

        Args:
            x: places.

        Returns:
            Indices.
        """
        part = (x.clamp(self.low, self.high) - self.low) / (self.high - self.low)
        return (part * self.mag_bins).floor().long().clamp_(max=self.mag_bins - 1)

    def quantize_gradients_to_discrete_updates(
        self,
        phase_grad: Numbers,
        mag_grad: Numbers,
        phase_lr: float,
        mag_lr: float,
        residual: tuple[Numbers, Numbers] | None = None,
    ) -> DiscreteUpdate:
        """Whole steps of indices down a gradient: −lr g / (width of a bin), rounded; the rest is handed back.

        With the residual of one call given to the next, the sum of all steps stays within half a step of what the
        gradients ask for: a gradient that is constant moves an index at its own pace however small it is.

        Args:
            phase_grad: per radian.
            mag_grad: per unit of x.
            phase_lr: learning rate of phases.
            mag_lr: learning rate of magnitudes.
            residual: what the last call left over; None = nothing.

        Returns:
            The steps and what they leave over.

        >>> tables, residual, moved = HighResolutionLookupTables(), None, 0
        >>> for _ in range(100):
        ...     step = tables.quantize_gradients_to_discrete_updates(torch.ones(1), torch.ones(1), 1e-3, 1e-3, residual)
        ...     moved, residual = moved + int(step.phase), step.residual
        >>> moved  # 0.1 rad of 2π / 512 each
        -8
        """
        wanted = [-phase_lr * phase_grad / self.phase_step, -mag_lr * mag_grad / self.mag_step]
        if residual is not None:
            wanted = [one + rest for one, rest in zip(wanted, residual, strict=True)]
        phase, mag = (one.round() for one in wanted)
        return DiscreteUpdate(phase.long(), mag.long(), (wanted[0] - phase, wanted[1] - mag))

    def apply_discrete_updates(
        self, phase_indices: Indices, mag_indices: Indices, phase_steps: Indices, mag_steps: Indices
    ) -> tuple[Indices, Indices]:
        """Indices after whole steps; they wrap, or stay at the ends, as in look-ups.

        Args:
            phase_indices: p.
            mag_indices: m.
            phase_steps: steps of p.
            mag_steps: steps of m.

        Returns:
            New indices, of the types of the old ones.
        """
        p = self.wrap_phase(phase_indices.long() + phase_steps.long())
        m = self.wrap_magnitude(mag_indices.long() + mag_steps.long())
        return p.to(phase_indices.dtype), m.to(mag_indices.dtype)


def _whole(indices: Shaped[Tensor, "..."]) -> Indices:
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TableError(f"indices are integers; got {indices.dtype}. Quantise numbers first.")
    return indices.long()
