"""A trained network in whole numbers: what a machine without floating point evaluates.

Nothing here needs torch. All numbers are integers; "Q30" is a number times 2³⁰, rounded. A node with sources j and own
indices (p, m) has the state

    S      = Σ_j z_j                                      exact: a sum of integers has no order
    phase  = (nearest bin of angle(S) + p) mod P          turning by p whole bins and rounding to bins change places
    level  = number of thresholds atanh((l + ½) / (M − 1)), l = 0 … M − 2, that a(x_m) |S| / √K reaches
    z      = cos, sin of the phase (Q30) times level / (M − 1)

so that angles need no arctangent (a cross product says on which side of an edge between bins S lies) and amplitudes
need no tanh. A class's score is the product of its code with the real parts of the outputs.

Rounding, once a step: S is shifted to 30 bits (half up); |S| is the whole square root; products are shifted down
(towards −∞). The relative error of |S| a(x_m) / √K is about 10⁻⁸ for magnitudes of exp(sin x), and that of an edge
about 10⁻⁹. So phases and levels are those of real arithmetic wherever that is farther from an edge than this, the same
on every machine, and a sample's answer does not depend on its batch. The network itself computes in float32; it and
this agree but for states that lie on an edge within float32's rounding.

Legend: B samples, N nodes, D phasors a node, O outputs, C classes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from neurograph.errors import CheckpointError, ConfigError, DataError

__all__ = ["ONE", "IntegerNetwork", "Level", "gain_of", "halfway_points", "quantised", "thresholds"]

Q = 30
ONE = 1 << Q
THRESHOLD_Q = 28
MAX_BINS = 1 << 16
MAX_SOURCES = 1 << 18
_CHUNK = 1 << 22  # numbers of a level's states at once


def thresholds(mag_bins: int) -> Int64[np.ndarray, " edges"]:
    """Arguments of tanh between two levels, times 2²⁸: atanh((l + ½) / (M − 1)).

    Args:
        mag_bins: M.

    Returns:
        M − 1 rising numbers.

    >>> (thresholds(3) / 2**28).round(4).tolist()  # atanh(1/4), atanh(3/4)
    [0.2554, 0.973]
    """
    return np.rint(np.arctanh((np.arange(mag_bins - 1) + 0.5) / (mag_bins - 1)) * (1 << THRESHOLD_Q)).astype(np.int64)


def halfway_points(phase_bins: int) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Cosines and sines (Q30) of the edges between phase bins: (b + ½) 2π / P.

    Args:
        phase_bins: P.

    Returns:
        Cosines and sines, edge b after bin b.
    """
    angle = (2 * np.arange(phase_bins) + 1) * np.pi / phase_bins
    return np.rint(np.cos(angle) * ONE).astype(np.int64), np.rint(np.sin(angle) * ONE).astype(np.int64)


def gain_of(in_degree: int) -> tuple[int, int]:
    """1 / √K as a 30-bit number and a shift.

    Args:
        in_degree: K, at least 1.

    Returns:
        g in [2²⁹, 2³⁰) and h with 1 / √K ≈ g / 2ʰ.

    >>> gain_of(16) == (1 << 29, 31)
    True
    """
    shift = 30
    while (1 << shift) / in_degree**0.5 >= ONE:
        shift -= 1
    while (1 << shift) / in_degree**0.5 < ONE // 2:
        shift += 1
    return min(round((1 << shift) / in_degree**0.5), ONE - 1), shift


@dataclass(frozen=True)
class Level:
    """Nodes with the same number of sources, all of which are evaluated before them.

    Args:
        rows: of the nodes.
        sources: rows of their sources.
    """

    rows: Int64[np.ndarray, " n"]
    sources: Int64[np.ndarray, "n K"]


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A trained network: integers, tables, who listens to whom, codes. Inputs come first, sources before targets.

    Args:
        phase: p of every node.
        mag: m of every node; those of input nodes are not used.
        n_inputs: number of input nodes.
        sources: rows of each node's sources, rising; empty for input nodes.
        outputs: rows of output nodes.
        codes: what stands for each class: ±1, or unit rows in Q30.
        cos: table of cosines, Q30.
        sin: table of sines, Q30.
        magnitude: table of magnitudes, times 2 to the power of `magnitude_q`.
        magnitude_q: from 8 to 30, so that the numbers of a step stay within 63 bits.
        scale: of logits, positive.

    Raises:
        CheckpointError: parts that do not fit together.
    """

    phase: Int64[np.ndarray, "N D"]
    mag: Int64[np.ndarray, "N D"]
    n_inputs: int
    sources: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]
    codes: Int64[np.ndarray, "C L"]
    cos: Int64[np.ndarray, " P"]
    sin: Int64[np.ndarray, " P"]
    magnitude: Int64[np.ndarray, " M"]
    magnitude_q: int
    scale: float

    def __post_init__(self) -> None:
        n, d = self.phase.shape
        rules = {
            "one or more phasors a node": d >= 1 and self.mag.shape == self.phase.shape,
            "as many sines as cosines, none beyond 2³⁰": len(self.sin) == self.phase_bins
            and all(_within(abs(table), ONE + 1) for table in (self.cos, self.sin)),
            f"2 to {MAX_BINS} bins": all(2 <= bins <= MAX_BINS for bins in (self.phase_bins, self.mag_bins)),
            "phase indices within the table": _within(self.phase, self.phase_bins),
            "magnitude indices within the table": _within(self.mag, self.mag_bins),
            "magnitudes from 0 to 2³⁰, in Q8 to Q30": _within(self.magnitude, ONE + 1) and 8 <= self.magnitude_q <= Q,
            "a list of sources for each node": len(self.sources) == n and 0 < self.n_inputs <= n,
            "no sources of input nodes": not any(self.sources[: self.n_inputs]),
            "sources before their targets": all(0 <= s < row for row, of in enumerate(self.sources) for s in of),
            "sources that rise": all(s < after for of in self.sources for s, after in pairwise(of)),
            f"at most {MAX_SOURCES} sources of a node": all(len(of) <= MAX_SOURCES for of in self.sources),
            "output nodes that exist": bool(self.outputs) and all(0 <= row < n for row in self.outputs),
            "codes as long as the read-out": self.codes.shape[1] == len(self.outputs) * d and len(self.codes) >= 2,
            "codes up to 2³⁰": _within(abs(self.codes), ONE + 1),
            "a positive scale": 0 < self.scale < math.inf,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise CheckpointError(f"a network in integers has {broken[0]}; this one has not. Export it again.")

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def phase_bins(self) -> int:
        """P."""
        return len(self.cos)

    @property
    def mag_bins(self) -> int:
        """M."""
        return len(self.magnitude)

    @property
    def n_integers(self) -> int:
        """How many trained integers there are: a phase for each phasor, and a magnitude unless its node is an input."""
        return self.phase.size + self.mag[self.n_inputs :].size

    @property
    def has_sign_codes(self) -> bool:
        """Whether codes are ±1."""
        return bool((np.abs(self.codes) == 1).all())

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Nodes that can be evaluated at once, in turn."""
        depth = np.zeros(len(self.sources), dtype=np.int64)
        for row, of in enumerate(self.sources):
            depth[row] = 0 if not of else 1 + max(depth[list(of)])
        groups: dict[tuple[int, int], list[int]] = {}
        for row, of in enumerate(self.sources):
            if of:
                groups.setdefault((int(depth[row]), len(of)), []).append(row)
        return tuple(
            Level(np.array(rows), np.array([self.sources[row] for row in rows], dtype=np.int64).reshape(len(rows), -1))
            for _, rows in sorted(groups.items())
        )

    # --- what it answers ---------------------------------------------------------------------------------------------

    def predict(self, x: Any) -> Int64[np.ndarray, " B"]:
        """Classes.

        Args:
            x: samples, one a row, from 0 to 1.

        Returns:
            The class of the highest score; the first of equals.

        Raises:
            DataError: samples that do not fit.
        """
        return self.scores(x).argmax(1)

    def scores(self, x: Any) -> Int64[np.ndarray, "B C"]:
        """Products of read-out and codes: integers, by which classes are ranked.

        Args:
            x: samples.

        Returns:
            Q30.
        """
        return self._products(self.readout(x))

    def logits(self, x: Any) -> Float64[np.ndarray, "B C"]:
        """Cosines of read-out and codes, times the scale; 0 for a read-out of zeros.

        Args:
            x: samples.

        Returns:
            Logits.
        """
        readout, codes = self.readout(x), self.codes.astype(np.float64)
        down = max(0, (len(codes[0]).bit_length() + 1) // 2)  # so that the squares' sum is exact, and has no order
        square = ((readout >> down) ** 2).sum(1, keepdims=True).astype(np.float64) * float(4**down)
        norms = np.sqrt(square) * np.sqrt((codes**2).sum(1))
        product = self._products(readout).astype(np.float64) * (1 if self.has_sign_codes else ONE)
        return self.scale * product / np.where(norms == 0, 1, norms)

    def readout(self, x: Any) -> Int64[np.ndarray, "B L"]:
        """Real parts of the outputs' states, side by side.

        Args:
            x: samples.

        Returns:
            Q30.
        """
        rows = list(self.outputs)
        parts = [re[:, rows].reshape(len(re), -1) for re, _, _, _ in self._states(self.input_levels(x))]
        return np.concatenate(parts) if parts else np.zeros((0, self.codes.shape[1]), dtype=np.int64)

    def indices(self, x: Any) -> tuple[Int64[np.ndarray, "B N D"], Int64[np.ndarray, "B N D"]]:
        """Phase and level of every state; the phase of a state of level 0 is 0.

        Args:
            x: samples.

        Returns:
            Indices.
        """
        parts = [(np.where(level > 0, phase, 0), level) for _, _, phase, level in self._states(self.input_levels(x))]
        return np.concatenate([p for p, _ in parts]), np.concatenate([level for _, level in parts])

    def input_levels(self, x: Any) -> Int64[np.ndarray, "B n_inputs"]:
        """Levels of the inputs' amplitudes: x (M − 1), to the nearest whole number, to the even one of two.

        Args:
            x: samples.

        Returns:
            Levels.

        Raises:
            DataError: samples that do not fit.
        """
        values = np.asarray(x, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != self.n_inputs:
            raise DataError(
                f"samples have one number for each of {self.n_inputs} inputs; got shape {values.shape}. "
                "Give an array of samples × inputs."
            )
        if values.size and not (values.min() >= 0 and values.max() <= 1):  # not a number compares false
            raise DataError(
                f"samples lie in [0, 1]; got {values.min()} to {values.max()}. Scale them as the training data were."
            )
        return np.rint(values * (self.mag_bins - 1)).astype(np.int64)

    # --- how ---------------------------------------------------------------------------------------------------------

    def _products(self, readout: Int64[np.ndarray, "B L"]) -> Int64[np.ndarray, "B C"]:
        if self.has_sign_codes:
            return readout @ self.codes.T
        return np.stack([((readout * code) >> Q).sum(1) for code in self.codes], axis=1)

    def _states(
        self, inputs: Int64[np.ndarray, "B n_inputs"]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """Chunks of samples: real and imaginary parts, phases and levels of all nodes."""
        n, d = self.phase.shape
        widest = max((level.sources.size for level in self.levels), default=1)
        step = max(1, _CHUNK // (widest * d))
        for start in range(0, len(inputs), step):
            chunk = inputs[start : start + step]
            re, im, phase, size = (np.zeros((len(chunk), n, d), dtype=np.int64) for _ in range(4))
            fed = np.arange(self.n_inputs)
            phase[:, fed], size[:, fed] = self.phase[fed], chunk[:, :, None]
            self._place(re, im, fed, phase, size)
            for level in self.levels:
                rows = level.rows
                s_re, s_im = (part[:, level.sources].sum(2) for part in (re, im))
                phase[:, rows], size[:, rows] = self._cell(s_re, s_im, level)
                self._place(re, im, rows, phase, size)
            yield re, im, phase, size

    def _place(
        self, re: NDArray[np.int64], im: NDArray[np.int64], rows: NDArray[np.int64], phase: NDArray[np.int64],
        size: NDArray[np.int64],
    ) -> None:  # fmt: skip
        top, half = self.mag_bins - 1, ONE // 2
        p, amplitude = phase[:, rows], ((size[:, rows] << Q) + top // 2) // top
        re[:, rows] = (self.cos[p] * amplitude + half) >> Q
        im[:, rows] = (self.sin[p] * amplitude + half) >> Q

    def _cell(
        self, s_re: NDArray[np.int64], s_im: NDArray[np.int64], level: Level
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        largest = np.maximum(np.abs(s_re), np.abs(s_im))
        e = np.frexp(largest.astype(np.float64))[1].astype(np.int64) - Q  # sums stay far below 2⁵³
        e[largest == 0] = 0
        s_re, s_im = _shift(s_re, e), _shift(s_im, e)
        gain, gain_shift = gain_of(level.sources.shape[1])
        r = _whole_root(s_re * s_re + s_im * s_im)
        v = ((r * self.magnitude[self.mag[level.rows]]) >> (Q - 1)) * gain
        down = gain_shift + self.magnitude_q + 1 - THRESHOLD_Q - e  # not negative, for e ≤ log2 K + 1 and Q ≥ 8
        argument = np.where(down > 62, 0, v >> np.minimum(down, 62))
        size = np.searchsorted(thresholds(self.mag_bins), argument, side="right")
        return (self._nearest_bin(s_re, s_im) + self.phase[level.rows]) % self.phase_bins, size.astype(np.int64)

    @cached_property
    def _halfway(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return halfway_points(self.phase_bins)

    def _nearest_bin(self, s_re: NDArray[np.int64], s_im: NDArray[np.int64]) -> NDArray[np.int64]:
        """Guessed in floating point and put right by whole numbers."""
        bins = self.phase_bins
        h_re, h_im = self._halfway

        def passed(b: NDArray[np.int64]) -> NDArray[np.bool_]:
            lower, lower_edge = (s_im < 0) | ((s_im == 0) & (s_re < 0)), 2 * b + 1 >= bins
            return np.where(lower == lower_edge, h_re[b] * s_im - h_im[b] * s_re >= 0, lower)

        turns = np.arctan2(s_im.astype(np.float64), s_re.astype(np.float64)) / (2 * np.pi)
        count = np.floor(np.where(turns < 0, turns + 1, turns) * bins + 0.5).astype(np.int64).clip(0, bins)
        count += (count < bins) & passed(np.minimum(count, bins - 1))
        count -= (count > 0) & ~passed(np.maximum(count - 1, 0))
        return np.where((s_re == 0) & (s_im == 0), 0, count % bins)  # a sum of nothing has angle 0


def _within(values: NDArray[np.int64], bins: int) -> bool:
    return bool(values.size == 0 or (values.min() >= 0 and values.max() < bins))


def _shift(value: NDArray[np.int64], down: NDArray[np.int64]) -> NDArray[np.int64]:
    """Divides by a power of two, half up; shifts to the left where the power is negative."""
    right = np.maximum(down, 0)
    half = np.where(right > 0, np.left_shift(1, np.maximum(right - 1, 0)), 0)
    return np.where(down > 0, (value + half) >> right, value << np.maximum(-down, 0))


def _whole_root(square: NDArray[np.int64]) -> NDArray[np.int64]:
    root = np.sqrt(square.astype(np.float64)).astype(np.int64)
    root -= root * root > square
    root += (root + 1) * (root + 1) <= square
    return root


def quantised(values: Float64[np.ndarray, "..."], q: int) -> Int64[np.ndarray, "..."]:
    """Numbers as whole numbers: values times 2 to the power of q, rounded.

    Args:
        values: numbers.
        q: the power.

    Returns:
        Whole numbers.

    Raises:
        ConfigError: numbers that are not finite.
    """
    if not np.isfinite(values).all():
        raise ConfigError("numbers that are exported are finite; these are not. Look at the tables and the codes.")
    return np.rint(values * float(1 << q)).astype(np.int64)
