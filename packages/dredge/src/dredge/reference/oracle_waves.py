"""Waves and windows number by number in double precision, from their formulas alone."""

import cmath
import math
from collections.abc import Mapping, Sequence

__all__ = ["density", "interference", "wave"]

Numbers = Sequence[float]


def _dot(one: Numbers, other: Numbers) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def wave(x: Numbers, t: float, parameters: Mapping[str, float | Numbers]) -> float:
    """A cos(k·x − ω t) exp(−|x − v t|² / (2 σ²)) sin(φ + ε cos(λ·x)).

    Args:
        x: place.
        t: time.
        parameters: A, k, omega, v, log_sigma, phi, epsilon and lmbda.

    Returns:
        The value.

    >>> flat = {"A": 2.0, "k": [0.0], "omega": 0.0, "v": [0.0], "log_sigma": 0.0, "phi": math.pi / 2, "epsilon": 0.0}
    >>> round(wave([1.0], 0.0, flat | {"lmbda": [0.0]}), 6)
    1.213061
    """
    scalar = {name: float(value) for name, value in parameters.items() if not isinstance(value, Sequence)}
    row = {name: value for name, value in parameters.items() if isinstance(value, Sequence)}
    apart = math.fsum((place - v * t) ** 2 for place, v in zip(x, row["v"], strict=True))
    envelope = math.exp(-0.5 * apart / math.exp(scalar["log_sigma"]) ** 2)
    modulation = math.sin(scalar["phi"] + scalar["epsilon"] * math.cos(_dot(row["lmbda"], x)))
    return scalar["A"] * math.cos(_dot(row["k"], x) - scalar["omega"] * t) * envelope * modulation


def density(x: Numbers, centre: Numbers, sigma: Numbers) -> float:
    """The density of a normal distribution with independent coordinates.

    Args:
        x: place.
        centre: means.
        sigma: deviations.

    Returns:
        The density.

    >>> round(density([0.0, 0.0], [0.0, 0.0], [1.0, 2.0]), 6)
    0.079577
    """
    logs = (
        -0.5 * ((a - c) / s) ** 2 - math.log(s) - 0.5 * math.log(2 * math.pi)
        for a, c, s in zip(x, centre, sigma, strict=True)
    )
    return math.exp(math.fsum(logs))


def interference(
    x: Numbers, t: float, shared: Mapping[str, Numbers], fields: Sequence[Mapping[str, float | Numbers]]
) -> list[complex]:
    """ψ_j of fields that share a window.

    Args:
        x: place.
        t: time.
        shared: log_sigma and v.
        fields: A, k, omega, phi, epsilon and lmbda of each.

    Returns:
        One complex number a field.
    """
    sigma = [max(math.exp(value), 1e-3) for value in shared["log_sigma"]]
    envelope = density(x, [v * t for v in shared["v"]], sigma)
    found = []
    for field in fields:
        scalar = {name: float(value) for name, value in field.items() if not isinstance(value, Sequence)}
        row = {name: value for name, value in field.items() if isinstance(value, Sequence)}
        modulation = math.sin(scalar["phi"] + scalar["epsilon"] * math.cos(_dot(row["lmbda"], x)))
        phase = _dot(row["k"], x) - scalar["omega"] * t
        found.append(scalar["A"] * envelope * modulation * cmath.exp(1j * phase))
    return found
