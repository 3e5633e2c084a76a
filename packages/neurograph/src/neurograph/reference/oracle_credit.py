"""Credit node by node and sample by sample, in float64 NumPy: slow and right.

The forward pass and every derivative are written out again from the formulas, without tensors that hold more than one
node and without automatic differentiation.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neurograph.core.graph import Topology
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore

__all__ = ["align_by_node", "credit_by_node"]

Vector = NDArray[np.float64]


class _Tables:
    def __init__(self, tables: HighResolutionLookupTables) -> None:
        self.cos, self.sin, self.mag, self.slope = (
            table.double().cpu().numpy() for table in (tables.cos, tables.sin, tables.mag, tables.mag_slope)
        )
        self.phase_step, self.mag_step = tables.phase_step, tables.mag_step
        self.phase_bins, self.levels = tables.phase_bins, tables.mag_bins - 1

    def snap(self, z: complex) -> complex:
        amplitude = np.round(abs(z) * self.levels) / self.levels
        place = int(np.round(np.angle(z) / self.phase_step)) % self.phase_bins
        return complex(amplitude * self.cos[place], amplitude * self.sin[place])


def align_by_node(
    phase: NDArray[np.int64], mag: NDArray[np.int64], tables: HighResolutionLookupTables, target: Vector
) -> tuple[Vector, Vector]:
    """The original's rule for nodes one at a time: the gradient of −cos(u, v), u the signal of the node's indices.

    Args:
        phase: phase indices, one row a node.
        mag: magnitude indices.
        tables: look-up tables.
        target: v.

    Returns:
        Gradients per radian and per unit of x, one row a node.
    """
    t = _Tables(tables)
    by_phase, by_mag = np.zeros(phase.shape), np.zeros(phase.shape)
    for n in range(len(phase)):
        u = np.array([t.cos[p] * t.mag[m] for p, m in zip(phase[n], mag[n], strict=True)])
        g = -_towards(u, target)
        for d, (p, m) in enumerate(zip(phase[n], mag[n], strict=True)):
            by_phase[n, d] = -t.sin[p] * t.mag[m] * g[d]
            by_mag[n, d] = t.cos[p] * t.slope[m] * g[d]
    return by_phase, by_mag


def credit_by_node(
    topology: Topology,
    store: NodeStore,
    x: Vector,
    y: Sequence[int],
    groups: Sequence[tuple[Sequence[int], Vector]],
    *,
    rule: Literal["contrastive", "cosine"],
    scope: Literal["level", "node"] = "level",
    scale: float = 12.0,
    label_smoothing: float = 0.0,
    snap: bool = True,
) -> tuple[Vector, Vector]:
    """Local gradients per step of an index, superposition merging.

    Args:
        topology: the graph.
        store: the indices.
        x: samples, one row each.
        y: labels.
        groups: rows, and codes of shape classes × nodes × D.
        rule: which.
        scope: of the contrastive rule.
        scale: of its logits.
        label_smoothing: of its targets.
        snap: whether states are on the grid.

    Returns:
        Gradients of phases and of magnitudes.
    """
    t, sources, inputs = _Tables(store.tables), _sources(topology), set(topology.inputs.tolist())
    phase, mag = store.phase.long().cpu().numpy(), store.mag.long().cpu().numpy()
    by_phase, by_mag = np.zeros(phase.shape), np.zeros(phase.shape)
    for b, sample in enumerate(x):
        states, sums = _forward(topology, t, phase, mag, sample, snap)
        for rows, codes in groups:
            pulls = _pulls([states[row].real for row in rows], codes, int(y[b]), rule, scope, scale, label_smoothing)
            for row, pull in zip(rows, pulls, strict=True):
                for d in range(phase.shape[1]):
                    p, m = phase[row, d], mag[row, d]
                    w, s = t.mag[m] * complex(t.cos[p], t.sin[p]), sums[row][d]
                    du = _through_squash(w * s, pull[d])
                    dw = du * s.conjugate()
                    by_phase[row, d] += t.phase_step * (w.conjugate() * dw).imag / len(x)
                    by_mag[row, d] += t.mag_step * t.slope[m] * (t.cos[p] * dw.real + t.sin[p] * dw.imag) / len(x)
                    # An input has no level of its own: it turns so as to help those that listen to it.
                    for src in sources[row]:
                        if src in inputs:
                            dz = du * w.conjugate() / len(sources[row]) ** 0.5
                            by_phase[src, d] += t.phase_step * (states[src][d].conjugate() * dz).imag / len(x)
    return by_phase, by_mag


def _sources(topology: Topology) -> dict[int, list[int]]:
    sources: dict[int, list[int]] = {row: [] for row in range(topology.n_nodes)}
    for src, dst in zip(topology.src.tolist(), topology.dst.tolist(), strict=True):
        sources[dst].append(src)
    return sources


def _forward(
    topology: Topology, t: _Tables, phase: NDArray[np.int64], mag: NDArray[np.int64], sample: Vector, snap: bool
) -> tuple[dict[int, NDArray[np.complex128]], dict[int, NDArray[np.complex128]]]:
    sources = _sources(topology)
    amplitudes = dict(zip(topology.inputs.tolist(), sample, strict=True))
    states: dict[int, NDArray[np.complex128]] = {}
    sums: dict[int, NDArray[np.complex128]] = {}
    for row in sorted(range(topology.n_nodes), key=lambda row: int(topology.level[row])):
        dims = range(phase.shape[1])
        if row in amplitudes:
            a = amplitudes[row]
            a = np.round(a * t.levels) / t.levels if snap else a
            states[row] = np.array([a * complex(t.cos[p], t.sin[p]) for p in phase[row]])
            continue
        heard = sources[row]
        sums[row] = np.array([sum(states[src][d] for src in heard) / max(len(heard), 1) ** 0.5 for d in dims])
        state = []
        for d in dims:
            u = t.mag[mag[row, d]] * complex(t.cos[phase[row, d]], t.sin[phase[row, d]]) * sums[row][d]
            z = u / abs(u) * np.tanh(abs(u)) if abs(u) > 0 else 0j
            state.append(t.snap(z) if snap else z)
        states[row] = np.array(state)
    return states, sums


def _pulls(
    signals: list[Vector], codes: Vector, label: int, rule: str, scope: str, scale: float, label_smoothing: float
) -> list[Vector]:
    """dL/du of the nodes of one group."""
    if rule == "cosine":
        return [-_towards(u, codes[label, n]) for n, u in enumerate(signals)]
    if scope == "level":
        whole = _contrast(np.concatenate(signals), codes.reshape(len(codes), -1), label, scale, label_smoothing)
        return np.split(whole, len(signals))
    return [_contrast(u, codes[:, n], label, scale, label_smoothing) for n, u in enumerate(signals)]


def _contrast(u: Vector, codes: Vector, label: int, scale: float, label_smoothing: float) -> Vector:
    logits = np.array([scale * (u @ v) / (np.linalg.norm(u) * np.linalg.norm(v)) for v in codes])
    q = np.exp(logits - logits.max())
    q /= q.sum()
    out = np.zeros_like(u)
    for k, v in enumerate(codes):
        wanted = (1 - label_smoothing) * (k == label) + label_smoothing / len(codes)
        out += scale * (q[k] - wanted) * _towards(u, v)
    return out


def _towards(u: Vector, v: Vector) -> Vector:
    """Slope d cos(u, v) / du = (v / |v| − u cos(u, v) / |u|) / |u|."""
    nu, nv = np.linalg.norm(u), np.linalg.norm(v)
    cosine = (u @ v) / (nu * nv)
    return (v / nv - u * cosine / nu) / nu


def _through_squash(u: complex, pull: float) -> complex:
    """The gradient of u from that of Re z, z = tanh(|u|) u / |u|, as ∂/∂Re u + i ∂/∂Im u."""
    r = abs(u)
    if r == 0:
        return complex(pull, 0)
    f = np.tanh(r) / r
    slope = (1 - np.tanh(r) ** 2 - f) / r  # df/dr
    # Re z = f(r) Re u
    return complex(pull * (f + slope * u.real**2 / r), pull * slope * u.real * u.imag / r)
