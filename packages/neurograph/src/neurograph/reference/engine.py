"""The reference back end: called as `neurograph.core.engine.ForwardEngine` is, computed by the oracle."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neurograph.core.engine import Merge, State
from neurograph.core.graph import Topology
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.errors import ConfigError
from neurograph.reference.oracle import modular_pass, phasor_of, superposed_pass

__all__ = ["ReferenceEngine", "ReferenceState"]


@dataclass(frozen=True)
class ReferenceState(State):
    """States in double precision.

    Args:
        planar: states of all nodes, rows as in the topology.
        topology: the graph.
        tables: whose grid the states lie on.
        nearest: how far the unsnapped state nearest to an edge of a bin is from it, in bins, for each sample; infinite
            where nothing is snapped. A faster engine may answer otherwise where this is as small as its rounding.
    """

    nearest: Float[Tensor, " B"]


class ReferenceEngine:
    """Computes states node by node and sample by sample, in Python's complex numbers.

    Args:
        topology: the graph.
        tables: how many bins; their numbers are not used.
        merge: what is summed.
        snap: take states to the grid.

    Raises:
        ConfigError: tables other than the half-open ones of exp_sin, or a way of merging that does not exist.

    >>> from neurograph.core.graph import layered_graph
    >>> topology = Topology.from_frame(layered_graph([4, 6, 2], cardinality=2))
    >>> tables = HighResolutionLookupTables(16, 16)
    >>> ReferenceEngine(topology, tables)(torch.rand(3, 4), NodeStore.random(topology, 5, tables)).planar.shape
    torch.Size([12, 3, 2, 5])
    """

    def __init__(
        self, topology: Topology, tables: HighResolutionLookupTables, *, merge: Merge = "superpose", snap: bool = True
    ) -> None:
        if (tables.magnitude, tables.grid) != ("exp_sin", "half_open"):
            raise ConfigError(
                f"the reference knows exp_sin on a half-open grid; got {tables.magnitude}, {tables.grid}. Use those."
            )
        if merge not in ("superpose", "modular"):
            raise ConfigError(f"an engine merges by superpose or modular; got {merge!r}. Choose one of them.")
        self.topology, self.tables, self.merge, self.snap = topology, tables, merge, snap
        self._sources = {row: topology.src[topology.dst == row].tolist() for row in range(topology.n_nodes)}
        self._order = topology.level.argsort(stable=True).tolist()

    def __call__(self, x: Float[Tensor, "B I"], store: NodeStore) -> ReferenceState:
        """One pass.

        Args:
            x: samples, amplitudes of the inputs in [0, 1].
            store: the indices.

        Returns:
            States of all nodes.
        """
        bins = self.tables.phase_bins, self.tables.mag_bins
        phase, mag = store.phase.tolist(), store.mag.tolist()
        whole, nearest = [], []
        for sample in x.double().tolist():
            fed = dict(zip(self.topology.inputs.tolist(), sample, strict=True))
            if self.merge == "superpose":
                states, edge = superposed_pass(self._order, self._sources, fed, phase, mag, bins, snap=self.snap)
            else:
                pairs = modular_pass(self._order, self._sources, fed, phase, mag, bins)
                states = {row: [phasor_of(*pair, bins) for pair in found] for row, found in pairs.items()}
                edge = math.inf
            whole.append([states[row] for row in range(self.topology.n_nodes)])
            nearest.append(edge)
        found = torch.view_as_real(torch.tensor(whole, dtype=torch.complex128))  # [B, N, D, 2]
        return ReferenceState(
            found.permute(1, 0, 3, 2).contiguous(), self.topology, self.tables, torch.tensor(nearest).double()
        )
