"""What a network knows: two integer indices for each phasor of each node, and nothing else that is trained."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int16, Shaped
from torch import Tensor

from neurograph.core.graph import Topology
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.errors import GraphError, TableError

__all__ = ["Leaves", "NodeStore"]


class Leaves(NamedTuple):
    """Indices as floating-point leaves: gradients with respect to them are per step of an index.

    Args:
        phase: p.
        mag: m.
    """

    phase: Float[Tensor, "N D"]
    mag: Float[Tensor, "N D"]


@dataclass
class NodeStore:
    """Phase and magnitude indices of all nodes.

    Every change raises the version, so that what was computed from old indices is known to be old.

    Args:
        phase: phase indices in [0, P).
        mag: magnitude indices in [0, M).
        tables: which P and M.
        train_phase: nodes whose phases are trained.
        train_mag: nodes whose magnitudes are trained: not those of inputs, whose amplitude is the sample's.
        ids: identifiers of the nodes.
        version: how often indices were changed.

    Raises:
        TableError: indices that the tables do not have, or tensors that do not belong together.
    """

    phase: Int16[Tensor, "N D"]
    mag: Int16[Tensor, "N D"]
    tables: HighResolutionLookupTables
    train_phase: Bool[Tensor, " N"]
    train_mag: Bool[Tensor, " N"]
    ids: tuple[str, ...] = ()
    version: int = 0

    def __post_init__(self) -> None:
        if self.phase.shape != self.mag.shape or self.phase.dim() != 2 or 0 in self.phase.shape:
            raise TableError(
                f"phases and magnitudes are two tables of nodes × D; got {tuple(self.phase.shape)} and "
                f"{tuple(self.mag.shape)}. Give them one shape."
            )
        self._check(self.phase, self.mag)
        self._rows = {name: row for row, name in enumerate(self.ids)}

    @classmethod
    def random(cls, topology: Topology, dim: int, tables: HighResolutionLookupTables, seed: int = 0) -> "NodeStore":
        """Phases anywhere, magnitudes about the place where the function is 1 and its slope largest.

        Args:
            topology: the graph.
            dim: D, phasors of each node.
            tables: look-up tables.
            seed: of the draws.

        Returns:
            A store on the topology's device.

        Raises:
            TableError: D < 1, or tables with more bins than 16 bits tell apart.
        """
        if dim < 1:
            raise TableError(f"a node has at least one phasor; got {dim}. Take more.")
        if max(tables.phase_bins, tables.mag_bins) > 1 << 15:
            raise TableError(
                f"indices have 16 bits, for up to {1 << 15} bins; got {tables.phase_bins} × {tables.mag_bins}. "
                "Take fewer."
            )
        generator = torch.Generator().manual_seed(seed)
        shape, m = (topology.n_nodes, dim), tables.mag_bins
        phase = torch.randint(tables.phase_bins, shape, generator=generator).short()
        spread = max(1, m // 16)
        mag = (m // 2 + torch.randint(-spread, spread + 1, shape, generator=generator)).clamp_(0, m - 1).short()
        device = topology.device
        fed = torch.zeros(topology.n_nodes, dtype=torch.bool, device=device)
        fed[topology.inputs] = True
        return cls(phase.to(device), mag.to(device), tables.to(device), torch.ones_like(fed), ~fed, topology.ids)

    @property
    def dim(self) -> int:
        """D."""
        return self.phase.shape[1]

    @property
    def n_trainable(self) -> int:
        """Integers that are trained."""
        return self.dim * (int(self.train_phase.sum()) + int(self.train_mag.sum()))

    def leaves(self) -> Leaves:
        """The indices as leaves of a computation.

        Returns:
            Copies that ask for gradients.
        """
        dtype = self.tables.cos.dtype
        return Leaves(self.phase.to(dtype).requires_grad_(), self.mag.to(dtype).requires_grad_())

    def set_(self, phase: Shaped[Tensor, "N D"] | None = None, mag: Shaped[Tensor, "N D"] | None = None) -> None:
        """Changes indices.

        Args:
            phase: in [0, P); None = as they are.
            mag: in [0, M); None = as they are.

        Raises:
            TableError: indices that the tables do not have; nothing is changed then.
        """
        phase, mag = self.phase if phase is None else phase, self.mag if mag is None else mag
        if phase.shape != self.phase.shape or mag.shape != self.mag.shape:
            raise TableError(
                f"this store holds {tuple(self.phase.shape)} indices; got {tuple(phase.shape)} phases and "
                f"{tuple(mag.shape)} magnitudes. Give all of them."
            )
        self._check(phase, mag)
        self.phase, self.mag = phase.to(self.phase), mag.to(self.mag)
        self.version += 1

    def move_(self, phase_steps: Shaped[Tensor, "N D"], mag_steps: Shaped[Tensor, "N D"]) -> None:
        """Adds whole steps; indices wrap, or stay at the ends, as in look-ups.

        Args:
            phase_steps: of phases.
            mag_steps: of magnitudes.
        """
        self.phase, self.mag = self.tables.apply_discrete_updates(self.phase, self.mag, phase_steps, mag_steps)
        self.version += 1

    def phase_of(self, node_id: str) -> Int16[Tensor, " D"]:
        """Phase indices of a node, as they are now.

        Args:
            node_id: which.

        Returns:
            A view.

        Raises:
            GraphError: a node that is not there.
        """
        return self.phase[self._row(node_id)]

    def mag_of(self, node_id: str) -> Int16[Tensor, " D"]:
        """Magnitude indices of a node, as they are now.

        Args:
            node_id: which.

        Returns:
            A view.

        Raises:
            GraphError: a node that is not there.
        """
        return self.mag[self._row(node_id)]

    def clone(self) -> "NodeStore":
        """A copy with indices of its own."""
        return NodeStore(
            self.phase.clone(), self.mag.clone(), self.tables, self.train_phase.clone(), self.train_mag.clone(),
            self.ids, self.version,
        )  # fmt: skip

    def to(self, device: torch.device | str) -> "NodeStore":
        """A copy elsewhere.

        Args:
            device: where.

        Returns:
            The copy.
        """
        parts = (self.phase, self.mag, self.train_phase, self.train_mag)
        phase, mag, train_phase, train_mag = (part.to(device, copy=True) for part in parts)
        return NodeStore(phase, mag, self.tables.to(device), train_phase, train_mag, self.ids, self.version)

    def _row(self, node_id: str) -> int:
        if node_id not in self._rows:
            raise GraphError(f"this store has {len(self._rows)} named nodes; {node_id!r} is none of them. Correct it.")
        return self._rows[node_id]

    def _check(self, phase: Tensor, mag: Tensor) -> None:
        for name, indices, bins in (("phase", phase, self.tables.phase_bins), ("magnitude", mag, self.tables.mag_bins)):
            if indices.is_floating_point() or indices.dtype == torch.bool:
                raise TableError(f"{name} indices are integers; got {indices.dtype}. Quantise numbers first.")
            if int(indices.min()) < 0 or int(indices.max()) >= bins:
                raise TableError(
                    f"{name} indices are from 0 to {bins - 1}; got some from {int(indices.min())} to "
                    f"{int(indices.max())}. Use tables with as many bins, or wrap them first."
                )
