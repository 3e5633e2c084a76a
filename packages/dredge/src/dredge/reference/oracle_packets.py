"""Wave packets by their formula alone: one point, one packet and one axis at a time, in float64. Slow and right."""

from collections.abc import Sequence
from math import cos, exp, pi, sin, sqrt

import numpy as np
from jaxtyping import Float

__all__ = ["packet_energy_by_sum", "packets_at", "squared_distance"]

Vector = Sequence[float]


def squared_distance(point: Vector, centre: Vector, width: Vector) -> float:
    """Σ ((x − μ) / σ)².

    Args:
        point: x.
        centre: μ.
        width: σ.

    Returns:
        The sum over axes.
    """
    return sum(((x - m) / s) ** 2 for x, m, s in zip(point, centre, width, strict=True))


def packets_at(
    points: Sequence[Vector],
    *,
    centre: Sequence[Vector],
    width: Sequence[Vector],
    frequency: Sequence[Vector],
    cosine: Sequence[Vector],
    sine: Sequence[Vector],
    constant: Vector,
    chirp: Sequence[Sequence[Vector]] | None = None,
    velocity: Sequence[Vector] | None = None,
    omega: Vector | None = None,
    times: Vector | None = None,
    density: bool = False,
) -> Float[np.ndarray, "points out"]:
    """A sum of packets at some points.

    Args:
        points: x, each a list of coordinates.
        centre: μ of each packet.
        width: σ of each packet.
        frequency: k of each packet.
        cosine: of each output, one amplitude a packet.
        sine: of each output, one amplitude a packet.
        constant: of each output.
        chirp: B of each packet.
        velocity: v of each packet.
        omega: ω of each packet.
        times: t of each point.
        density: whether windows have integral 1.

    Returns:
        Values.
    """
    found = np.zeros((len(points), len(constant)))
    for p, x in enumerate(points):
        t = times[p] if times is not None else 0.0
        for o, level in enumerate(constant):
            found[p, o] = level
        for j, (mu, sigma, k) in enumerate(zip(centre, width, frequency, strict=True)):
            v = velocity[j] if velocity is not None else [0.0] * len(mu)
            moved = [m + speed * t for m, speed in zip(mu, v, strict=True)]
            window = exp(-0.5 * squared_distance(x, moved, sigma))
            if density:
                for s in sigma:
                    window /= s * sqrt(2 * pi)
            away = [a - m for a, m in zip(x, mu, strict=True)]
            phase = sum(a * b for a, b in zip(k, away, strict=True))
            if chirp is not None:
                phase += 0.5 * sum(away[i] * chirp[j][i][m] * away[m] for i in range(len(mu)) for m in range(len(mu)))
            if omega is not None:
                phase -= omega[j] * t
            for o in range(len(constant)):
                found[p, o] += window * (cosine[o][j] * cos(phase) + sine[o][j] * sin(phase))
    return found


def packet_energy_by_sum(
    amplitude: float, phase: float, width: float, frequency: float, chirp: float = 0.0, cells: int = 20_001
) -> float:
    """∫ A² exp(−(x/σ)²) cos²(k x + ½ b x² + φ) dx by the midpoint rule over ±10 σ.

    Args:
        amplitude: A.
        phase: φ.
        width: σ.
        frequency: k.
        chirp: b.
        cells: of the rule.

    Returns:
        The energy.
    """
    step = 20 * width / cells
    total = 0.0
    for i in range(cells):
        x = -10 * width + (i + 0.5) * step
        total += exp(-((x / width) ** 2)) * cos(frequency * x + 0.5 * chirp * x * x + phase) ** 2
    return amplitude**2 * total * step
