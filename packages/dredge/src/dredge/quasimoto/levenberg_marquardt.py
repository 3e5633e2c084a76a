"""Variable projection with Levenberg–Marquardt steps, for sums of wave packets.

The amplitudes enter linearly: for given centres, widths and frequencies the best ones are a linear least-squares
solution. What remains is a search over the rest, with the residual of that solution (Golub & Pereyra, *The
differentiation of pseudo-inverses and nonlinear least squares problems whose variables separate*, SIAM J. Numer. Anal.
10, 1973). Its Jacobian is taken in the simpler form of Kaufman (*A variable projection method for solving separable
nonlinear least squares problems*, BIT 15, 1975), and the damping is that of Marquardt (1963) with Nielsen's update
(1999). All is in float64.

Shapes: n packets, d axes, N points, o outputs. Arrays that have N run along it last, so that rows are contiguous.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.linalg import LinAlgError, cholesky

from dredge.errors import ModelError, needed

__all__ = ["RIDGE", "Bounds", "Geometry", "Refined", "refine", "solve_amplitudes"]

_FARTHEST = -40.0
RIDGE = 1e-10
"""Relative weight that keeps amplitudes of packets that nearly coincide from growing against each other."""


@dataclass(frozen=True)
class Geometry:
    """Where packets are, how wide, and of what frequency: all but their amplitudes.

    Args:
        centre: μ.
        log_width: ln σ.
        frequency: k, radians per unit.
    """

    centre: Float[np.ndarray, "n d"]
    log_width: Float[np.ndarray, "n d"]
    frequency: Float[np.ndarray, "n d"]

    def __len__(self) -> int:
        return len(self.centre)

    def __add__(self, other: "Geometry") -> "Geometry":
        return Geometry(
            np.concatenate([self.centre, other.centre]),
            np.concatenate([self.log_width, other.log_width]),
            np.concatenate([self.frequency, other.frequency]),
        )

    def __getitem__(self, chosen: "slice | list[int] | np.ndarray") -> "Geometry":
        return Geometry(self.centre[chosen], self.log_width[chosen], self.frequency[chosen])


@dataclass(frozen=True)
class Bounds:
    """What a search may not leave.

    Args:
        centre: lowest and highest of each axis.
        log_width: lowest and highest of each axis.
        frequency: highest magnitude on each axis.
    """

    centre: tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d"]]
    log_width: tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d"]]
    frequency: Float[np.ndarray, "d"]

    def clip(self, geometry: Geometry) -> Geometry:
        """The nearest geometry inside.

        Args:
            geometry: any.

        Returns:
            One that is inside.
        """
        return Geometry(
            np.clip(geometry.centre, *self.centre),
            np.clip(geometry.log_width, *self.log_width),
            np.clip(geometry.frequency, -self.frequency, self.frequency),
        )


@dataclass(frozen=True)
class Refined:
    """What came of a search.

    Args:
        geometry: the best found.
        amplitudes: of its cosines, then sines, then the constant.
        residual: values minus sum.
        steps: tried.
        losses: mean squared error before the first step and after each.
    """

    geometry: Geometry
    amplitudes: Float[np.ndarray, "columns o"]
    residual: Float[np.ndarray, "o N"]
    steps: int
    losses: tuple[float, ...]


@dataclass(frozen=True)
class _Evaluated:
    basis: Float[np.ndarray, "columns N"]
    away: Float[np.ndarray, "d n N"]
    factor: Float[np.ndarray, "columns columns"]
    amplitudes: Float[np.ndarray, "columns o"]
    residual: Float[np.ndarray, "o N"]
    cost: float


def _evaluate(
    geometry: Geometry, coords: Float[np.ndarray, "d N"], values: Float[np.ndarray, "o N"], weight: float
) -> _Evaluated:
    away = coords[:, None] - geometry.centre.T[:, :, None]
    scale = np.exp(-geometry.log_width.T)[:, :, None]
    # Numbers below 1e-308 are computed a hundred times slower, and a window below 4e-18 adds nothing.
    window = np.exp(np.maximum(-0.5 * ((away * scale) ** 2).sum(0), _FARTHEST))
    phase = (geometry.frequency.T[:, :, None] * away).sum(0)
    basis = np.concatenate([window * np.cos(phase), window * np.sin(phase), np.ones_like(coords[:1])])
    gram = basis @ basis.T
    # A sine of frequency 0 is a row of zeros: the ridge is relative to the largest row.
    ridge = weight * gram.diagonal().max()
    gram[np.diag_indices_from(gram)] += ridge
    factor = cholesky(gram)
    amplitudes = _solve(factor, basis @ values.T)
    residual = values - amplitudes.T @ basis
    cost = float((residual**2).sum() + ridge * (amplitudes**2).sum())
    return _Evaluated(basis, away, factor, amplitudes, residual, cost)


def _solve(factor: Float[np.ndarray, "n n"], right: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    return needed("scipy.linalg", "inr", "variable projection").cho_solve((factor, True), right, check_finite=False)


def solve_amplitudes(
    geometry: Geometry, coords: Float[np.ndarray, "N d"], values: Float[np.ndarray, "N o"], ridge: float = RIDGE
) -> tuple[Float[np.ndarray, "columns o"], Float[np.ndarray, "N o"]]:
    """The best amplitudes of given packets.

    Args:
        geometry: the packets.
        coords: points.
        values: at these points.
        ridge: relative weight of the squared amplitudes.

    Returns:
        Amplitudes of the cosines, the sines and the constant; and values minus sum.
    """
    found = _evaluate(geometry, np.ascontiguousarray(coords.T), np.ascontiguousarray(values.T), ridge)
    return found.amplitudes, np.ascontiguousarray(found.residual.T)


def _jacobian(geometry: Geometry, active: Int[np.ndarray, "active"], at: _Evaluated) -> Float[np.ndarray, "p o N"]:
    """∂ sum / ∂ (centre, log width, frequency) of the active packets, at fixed amplitudes.

    With u = a cos + c sin and w = −a sin + c cos (both windowed): ∂/∂μ = u z/σ − k w, ∂/∂ln σ = u z², ∂/∂k = w (x − μ).
    """
    n = len(geometry)
    cosine, sine = at.basis[:n][active], at.basis[n : 2 * n][active]
    a, c = at.amplitudes[:n][active], at.amplitudes[n : 2 * n][active]
    in_phase = a[:, :, None] * cosine[:, None] + c[:, :, None] * sine[:, None]
    quadrature = c[:, :, None] * cosine[:, None] - a[:, :, None] * sine[:, None]
    rows = []
    for axis in range(geometry.centre.shape[1]):
        away = at.away[axis][active][:, None]
        inverse = np.exp(-2 * geometry.log_width[active, axis])[:, None, None]
        stretched = in_phase * (away * inverse)
        rows.append(stretched - geometry.frequency[active, axis][:, None, None] * quadrature)
        rows.append(stretched * away)
        rows.append(quadrature * away)
    return np.concatenate(rows)


def _moved(geometry: Geometry, active: Int[np.ndarray, "active"], step: Float[np.ndarray, "p"]) -> Geometry:
    d = geometry.centre.shape[1]
    change = step.reshape(d, 3, -1)
    centre, log_width, frequency = geometry.centre.copy(), geometry.log_width.copy(), geometry.frequency.copy()
    centre[active] += change[:, 0].T
    # A width that changes by more than a factor of e in one step has left where its derivative says anything.
    log_width[active] += np.clip(change[:, 1].T, -1, 1)
    frequency[active] += change[:, 2].T
    return Geometry(centre, log_width, frequency)


def refine(
    geometry: Geometry,
    coords: Float[np.ndarray, "N d"],
    values: Float[np.ndarray, "N o"],
    *,
    bounds: Bounds,
    steps: int,
    tol: float = 0.0,
    stall: float = 1e-5,
    ridge: float = RIDGE,
    block: int | None = None,
    deadline: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Refined:
    """Moves packets to where the sum fits best, from where they are.

    Args:
        geometry: where they begin.
        coords: points.
        values: at these points.
        bounds: what may not be left.
        steps: at most so many are tried; each takes one pass over the points, and another for its derivatives.
        tol: stop at this mean squared error.
        stall: stop when eight steps together gain less than this fraction.
        ridge: relative weight of the squared amplitudes.
        block: packets that are moved at once, in turn; None = all. A step costs points × block².
        deadline: of the clock, after which no step is begun.
        clock: in seconds.

    Returns:
        The best found, never worse than the beginning, the weight of the amplitudes included.

    Raises:
        ModelError: no packet, or none in a block.
    """
    if not len(geometry):
        raise ModelError("a search moves packets; got none. Give at least one.")
    if block is not None and block < 1:
        raise ModelError(f"a block has at least one packet; got {block}. Take 16, or None for all.")
    x, y = np.ascontiguousarray(coords.T), np.ascontiguousarray(values.T)
    geometry = bounds.clip(geometry)
    n, size = len(geometry), min(block or len(geometry), len(geometry))
    at = _evaluate(geometry, x, y, ridge)
    losses = [float((at.residual**2).mean())]
    blocks = [np.arange(first, min(first + size, n)) for first in range(0, n, size)]
    damping, growth = [1e-2] * len(blocks), [2.0] * len(blocks)
    costs = [at.cost]
    tried = turn = 0
    while tried < steps and losses[-1] > tol and (deadline is None or clock() < deadline):
        which = turn % len(blocks)
        active = blocks[which]
        jacobian = _jacobian(geometry, active, at)
        flat = jacobian.reshape(len(jacobian), -1)
        projected = np.concatenate(
            [
                jacobian[:, o] - _solve(at.factor, at.basis @ jacobian[:, o].T).T @ at.basis
                for o in range(y.shape[0])
            ],
            axis=1,
        ) if y.shape[0] > 1 else flat - _solve(at.factor, at.basis @ flat.T).T @ at.basis  # fmt: skip
        normal = projected @ projected.T
        slope = projected @ at.residual.reshape(-1)
        scale = np.maximum(normal.diagonal(), 1e-12 * max(float(normal.diagonal().max()), 1e-300))
        accepted = False
        while not accepted and tried < steps:
            tried += 1
            damped = normal + np.diag(damping[which] * scale)
            try:
                step = _solve(cholesky(damped), slope[:, None])[:, 0]
                trial = bounds.clip(_moved(geometry, active, step))
                there = _evaluate(trial, x, y, ridge)
            except LinAlgError:
                # Not positive definite in rounding: a shorter step is.
                there, trial, step = None, geometry, np.zeros_like(slope)
            if there is not None and there.cost < at.cost:
                expected = float(step @ (damping[which] * scale * step + slope))
                ratio = (at.cost - there.cost) / max(expected, 1e-300)
                damping[which] = max(damping[which] * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 1e-9)
                growth[which] = 2.0
                geometry, at, accepted = trial, there, True
            else:
                damping[which] = damping[which] * growth[which]
                growth[which] *= 2
            losses.append(float((at.residual**2).mean()))
            costs.append(at.cost)
            if damping[which] > 1e8 or (deadline is not None and clock() >= deadline):
                break
        if damping[which] > 1e8:
            damping[which], growth[which] = 1e-2, 2.0
            if len(blocks) == 1:
                break
        turn += 1
        window = 8 * len(blocks)
        if len(costs) > window and costs[-window - 1] - costs[-1] < stall * costs[-window - 1]:
            break
    return Refined(geometry, at.amplitudes, at.residual, tried, tuple(losses))
