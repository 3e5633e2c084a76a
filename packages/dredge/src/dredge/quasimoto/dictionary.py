"""The dictionary of a pursuit: windows × frequencies, scanned by Fourier transforms of the windowed remainder.

Samples fall into the cells of an even grid, so that uneven ones are scanned as well; the grid only says where to begin,
and what is found is moved on the samples themselves.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dredge.errors import ModelError, needed
from dredge.quasimoto.levenberg_marquardt import Bounds, Geometry

__all__ = ["Dictionary", "one_packet"]

_CELLS = 1 << 17
"""Cells of the grid on which the dictionary is scanned, over all axes."""
_ONE_AXIS_CELLS = 1 << 15
_WIDTH_RATIO = 1.8


@dataclass(frozen=True)
class Dictionary:
    """Windows and frequencies that are tried, on an even grid into which the samples fall.

    Args:
        lowest: corner of the grid.
        step: between cells, of each axis.
        shape: cells of each axis.
        cell: of each sample, as an index into the flattened grid.
        counts: samples in each cell.
        widths: standard deviations that are tried, as rows of one number an axis.
        centres: windows of one width at most.
    """

    lowest: Float[np.ndarray, "d"]
    step: Float[np.ndarray, "d"]
    shape: tuple[int, ...]
    cell: Int[np.ndarray, "N"]
    counts: Float[np.ndarray, "cells"]
    widths: Float[np.ndarray, "w d"]
    centres: int

    @classmethod
    def over(cls, coords: Float[np.ndarray, "N d"], centres: int | None = None) -> "Dictionary":
        """The dictionary for samples at some points.

        Args:
            coords: the points; two of them differ on every axis.
            centres: windows of one width at most; None = 96 on one axis, 24 on more.

        Returns:
            It.

        Raises:
            ModelError: all points agree on an axis.
        """
        lowest, highest = coords.min(0), coords.max(0)
        if (highest <= lowest).any():
            axis = int(np.flatnonzero(highest <= lowest)[0])
            raise ModelError(
                f"points differ on every axis; on axis {axis} all are at {lowest[axis]:g}. Leave that axis out."
            )
        d = coords.shape[1]
        distinct = np.array([len(np.unique(coords[:, i])) for i in range(d)])
        most = _ONE_AXIS_CELLS if d == 1 else max(4, int(_CELLS ** (1 / d)))
        if np.prod(distinct.astype(float)) > 4 * len(coords):
            # Scattered points: cells finer than half of their distance would see single samples as packets.
            most = min(most, max(4, int(np.ceil(2 * len(coords) ** (1 / d)))))
        shape = tuple(int(number) for number in np.clip(distinct, 2, most))
        step = (highest - lowest) / (np.array(shape) - 1)
        cell = np.ravel_multi_index(tuple(np.rint((coords - lowest) / step).astype(np.int64).T), shape)
        counts = np.bincount(cell, minlength=int(np.prod(shape))).astype(float)
        # A window narrower than the grid sees one cell, and one wider than half of the range sees all of it.
        narrow, wide = float(np.max(step / (highest - lowest))), 0.5
        number = max(2, int(np.ceil(np.log(wide / narrow) / np.log(_WIDTH_RATIO))) + 1)
        widths = np.geomspace(narrow, wide, number)[:, None] * (highest - lowest)
        return cls(lowest, step, shape, cell, counts, widths, centres or (96 if d == 1 else 24))

    def bounds(self, margin: float = 0.5) -> Bounds:
        """What packets may not leave: the range, widths of half a cell to four ranges, and nearly Nyquist's frequency.

        At that frequency itself the sine is 0 at every sample, and its amplitude is nothing that samples say.

        Args:
            margin: how far centres may lie outside, in ranges.

        Returns:
            They.
        """
        extent = self.step * (np.array(self.shape) - 1)
        return Bounds(
            (self.lowest - margin * extent, self.lowest + (1 + margin) * extent),
            (np.log(0.5 * self.step), np.log(4 * extent)),
            0.95 * np.pi / self.step,
        )

    def best(self, residual: Float[np.ndarray, "N o"], keep: int) -> Geometry:
        """The atoms that explain most of what is left.

        Args:
            residual: what is left, at the samples.
            keep: how many, each of another window.

        Returns:
            They, the best first.
        """
        found: list[tuple[float, Geometry]] = []
        sums = np.stack([np.bincount(self.cell, r, minlength=len(self.counts)) for r in residual.T])
        power = np.bincount(self.cell, (residual**2).sum(1), minlength=len(self.counts)).reshape(self.shape)
        for width in self.widths:
            found.extend(self._atom(sums, centre, width) for centre in self._windows(power, width))
        # The sort is stable, so that of two equal atoms the earlier one is taken on every machine.
        found.sort(key=lambda atom: -atom[0])
        geometry = found[0][1]
        for _, atom in found[1:keep]:
            geometry = geometry + atom
        return geometry

    def drawn(
        self, values: Float[np.ndarray, "N o"], number: int, random: np.random.Generator
    ) -> Float[np.ndarray, "number d"]:
        """Frequencies drawn from the power spectrum of the samples.

        Args:
            values: at the samples, their mean taken away.
            number: how many.
            random: draws.

        Returns:
            One a row.
        """
        d = len(self.shape)
        sums = np.stack([np.bincount(self.cell, r, minlength=len(self.counts)) for r in values.T])
        power = (np.abs(np.fft.fftn(sums.reshape(-1, *self.shape), axes=tuple(range(1, d + 1)))) ** 2).sum(0)
        total = power.sum()
        share = power.reshape(-1) / total if total > 0 else np.full(power.size, 1 / power.size)
        index = np.unravel_index(random.choice(power.size, number, p=share), self.shape)
        turns = [np.fft.fftfreq(cells, step) for cells, step in zip(self.shape, self.step, strict=True)]
        return 2 * np.pi * np.stack([turn[i] for turn, i in zip(turns, index, strict=True)], axis=1)

    def _profile(self, axis: int, centre: float, width: float, part: slice = slice(None)) -> Float[np.ndarray, "cells"]:
        cells = self.lowest[axis] + self.step[axis] * np.arange(self.shape[axis])[part]
        return np.exp(-0.5 * ((cells - centre) / width) ** 2)

    def _windows(self, power: Float[np.ndarray, "..."], width: Float[np.ndarray, "d"]) -> Float[np.ndarray, "places d"]:
        """Places of the windows of one width: half a width apart, those with the most power in them first."""
        places, seen = [], power
        for axis, cells in enumerate(self.shape):
            spread = width[axis] / self.step[axis]
            apart = max(1, int(0.5 * spread))
            index = np.arange((cells - 1) % apart // 2, cells, apart)
            places.append(self.lowest[axis] + self.step[axis] * index)
            seen = np.take(_smoothed(seen, spread / np.sqrt(2), axis), index, axis)
        # On one axis there is room for all that have power; on more, those near a better one would take all places.
        near = 0.0 if len(self.shape) == 1 else 1.0
        left = seen.copy()
        taken: list[np.ndarray] = []
        while len(taken) < min(self.centres, left.size):
            best = np.unravel_index(int(np.argmax(left)), left.shape)
            if left[best] == -np.inf:
                break
            taken.append(np.array([at[i] for at, i in zip(places, best, strict=True)]))
            close = [
                np.flatnonzero(np.abs(at - at[i]) <= near * spread)
                for at, i, spread in zip(places, best, width, strict=True)
            ]
            left[np.ix_(*close)] = -np.inf
        return np.array(taken)

    def _atom(
        self, sums: Float[np.ndarray, "o cells"], centre: Float[np.ndarray, "d"], width: Float[np.ndarray, "d"]
    ) -> tuple[float, Geometry]:
        """The best frequency of a window, and how much squared error it takes away.

        With both quadratures the gain is 2 Re² / (S (1 + q)) + 2 Im² / (S (1 − q)), where S is the sum of the squared
        window and q = exp(−|σk|²) what the quadratures' squares differ by.
        """
        fft = needed("scipy.fft", "inr", "a pursuit")
        d = len(self.shape)
        # Beyond four widths a window is below 4e-4: only the cells within are transformed.
        first = np.clip(np.floor((centre - 4 * width - self.lowest) / self.step), 0, None).astype(int)
        last = np.ceil((centre + 4 * width - self.lowest) / self.step).astype(int) + 1
        parts = tuple(slice(a, min(b, cells)) for a, b, cells in zip(first, last, self.shape, strict=True))
        profiles = [self._profile(axis, centre[axis], width[axis], parts[axis]) for axis in range(d)]
        window = profiles[0]
        for profile in profiles[1:]:
            window = window[..., None] * profile
        total = float((self.counts.reshape(self.shape)[parts] * window**2).sum())
        if total <= 0:
            return 0.0, one_packet(centre, width, np.zeros(d))
        finer = 2 if d <= 2 else 1
        padded = [fft.next_fast_len(finer * cells, real=True) for cells in window.shape]
        block = sums.reshape(-1, *self.shape)[(slice(None), *parts)]
        spectrum = fft.rfftn(block * window, padded, axes=tuple(range(1, d + 1)))
        turns = [np.fft.fftfreq(p, s) for p, s in zip(padded[:-1], self.step[:-1], strict=True)]
        frequencies = [2 * np.pi * turn for turn in [*turns, np.fft.rfftfreq(padded[-1], self.step[-1])]]
        decay = np.zeros(spectrum.shape[1:])
        corner = self.lowest + first * self.step
        for axis, k in enumerate(frequencies):
            shaped = k.reshape([-1 if other == axis else 1 for other in range(d)])
            decay = decay + (width[axis] * shaped) ** 2
            spectrum = spectrum * np.exp(1j * shaped * (centre[axis] - corner[axis]))
        same = np.exp(-decay)
        gain = (
            2 * (spectrum.real**2).sum(0) / (1 + same) + 2 * (spectrum.imag**2).sum(0) / np.maximum(1 - same, 1e-2)
        ) / total
        peak = np.unravel_index(int(np.argmax(gain)), gain.shape)
        return float(gain[peak]), one_packet(
            centre, width, np.array([k[i] for k, i in zip(frequencies, peak, strict=True)])
        )


def _smoothed(power: Float[np.ndarray, "..."], spread: float, axis: int) -> Float[np.ndarray, "..."]:
    """Sums under Gaussian windows of a standard deviation in cells, one around each cell of an axis."""
    fft = needed("scipy.fft", "inr", "a pursuit")
    cells = power.shape[axis]
    reach = min(cells - 1, int(np.ceil(4 * spread)))
    size = fft.next_fast_len(cells + reach, real=True)
    kernel = np.zeros(size)
    away = np.arange(-reach, reach + 1)
    kernel[away] = np.exp(-0.5 * (away / spread) ** 2)
    shaped = fft.rfft(kernel).reshape([-1 if other == axis else 1 for other in range(power.ndim)])
    found = fft.irfft(fft.rfft(power, size, axis=axis) * shaped, size, axis=axis)
    return np.take(found, np.arange(cells), axis)


def one_packet(
    centre: Float[np.ndarray, "d"], width: Float[np.ndarray, "d"], frequency: Float[np.ndarray, "d"]
) -> Geometry:
    """A geometry of one packet.

    Args:
        centre: its own.
        width: its own.
        frequency: its own.

    Returns:
        They as rows.
    """
    return Geometry(centre[None], np.log(width)[None], frequency[None])
