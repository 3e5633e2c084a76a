"""A pass through the graph, node by node, sample by sample, in complex numbers of double precision: slow and right.

Nothing here uses the tables, the engine or torch: angles and magnitudes come from their formulas.
"""

import cmath
import math
from collections.abc import Mapping, Sequence

__all__ = ["magnitude_of", "modular_pass", "on_grid", "phasor_of", "superposed_pass"]

Sources = Mapping[int, Sequence[int]]


def magnitude_of(m: int, mag_bins: int) -> float:
    """exp(sin x) at x = −π + 2π m / M.

    Args:
        m: index.
        mag_bins: M.

    Returns:
        The magnitude.

    >>> round(magnitude_of(2, 4), 12), round(magnitude_of(3, 4), 6)
    (1.0, 2.718282)
    """
    return math.exp(math.sin(-math.pi + 2 * math.pi * m / mag_bins))


def phasor_of(p: int, m: int, bins: tuple[int, int]) -> complex:
    """The phasor of a pair of indices.

    Args:
        p: phase index.
        m: magnitude index.
        bins: P and M.

    Returns:
        a(x_m) e^{2π i p / P}.
    """
    return magnitude_of(m, bins[1]) * cmath.exp(2j * math.pi * p / bins[0])


def on_grid(u: complex, bins: tuple[int, int], snap: bool) -> tuple[complex, float]:
    """squash(u), on the grid if that is asked for.

    Args:
        u: a node's own phasor times its sum of messages.
        bins: P and M.
        snap: whether.

    Returns:
        The state, and how far u is from the nearest edge of a bin, in bins; infinite without snapping.
    """
    amplitude, angle = math.tanh(abs(u)), cmath.phase(u)
    if not snap:
        return cmath.rect(amplitude, angle), math.inf
    turns, levels = angle * bins[0] / (2 * math.pi), amplitude * (bins[1] - 1)
    edge = min(abs(value - math.floor(value) - 0.5) for value in (turns, levels))
    return cmath.rect(round(levels) / (bins[1] - 1), 2 * math.pi * round(turns) / bins[0]), edge


def superposed_pass(
    order: Sequence[int],
    sources: Sources,
    amplitudes: Mapping[int, float],
    phase: Sequence[Sequence[int]],
    mag: Sequence[Sequence[int]],
    bins: tuple[int, int],
    *,
    snap: bool = True,
) -> tuple[dict[int, list[complex]], float]:
    """States of all nodes for one sample.

    Args:
        order: nodes, sources before those who listen to them.
        sources: of each node.
        amplitudes: of the inputs.
        phase: indices of each node.
        mag: indices of each node.
        bins: P and M.
        snap: whether states are taken to the grid.

    Returns:
        D states a node, and the smallest distance from an edge of a bin, in bins.
    """
    states: dict[int, list[complex]] = {}
    nearest = math.inf
    dim = len(phase[0])
    for node in order:
        if node in amplitudes:
            a = amplitudes[node]
            if snap:
                nearest = min(nearest, abs(a * (bins[1] - 1) % 1 - 0.5))
                a = round(a * (bins[1] - 1)) / (bins[1] - 1)
            states[node] = [cmath.rect(a, 2 * math.pi * p / bins[0]) for p in phase[node]]
            continue
        found = []
        for d in range(dim):
            total = sum((states[source][d] for source in sources[node]), 0j) / math.sqrt(max(1, len(sources[node])))
            state, edge = on_grid(phasor_of(phase[node][d], mag[node][d], bins) * total, bins, snap)
            nearest = min(nearest, edge) if sources[node] else nearest
            found.append(state)
        states[node] = found
    return states, nearest


def modular_pass(
    order: Sequence[int],
    sources: Sources,
    amplitudes: Mapping[int, float],
    phase: Sequence[Sequence[int]],
    mag: Sequence[Sequence[int]],
    bins: tuple[int, int],
) -> dict[int, list[tuple[int, int]]]:
    """Indices of all nodes for one sample: sums modulo the bins.

    Args:
        order: nodes, sources before those who listen to them.
        sources: of each node.
        amplitudes: of the inputs, which add a (bins / 2 − 1) steps, rounded, to both indices.
        phase: indices of each node.
        mag: indices of each node.
        bins: P and M.

    Returns:
        D pairs a node.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    for node in order:
        pairs = []
        for d in range(len(phase[0])):
            told = [round(amplitudes.get(node, 0.0) * (size / 2 - 1)) for size in bins]
            p = told[0] + phase[node][d] + sum(found[source][d][0] for source in sources[node])
            m = told[1] + mag[node][d] + sum(found[source][d][1] for source in sources[node])
            pairs.append((p % bins[0], m % bins[1]))
        found[node] = pairs
    return found
