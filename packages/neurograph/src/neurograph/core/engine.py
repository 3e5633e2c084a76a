"""A pass through the graph, level by level and for a whole batch.

========= ==============================================================================================================
back end  the sum of messages
========= ==============================================================================================================
dense     one product of a level's adjacency, its rows over √K, with the states of its sources
sparse    the same with compressed rows; pays where sources are many and each node listens to few
gather    messages are copied out edge by edge and added up, as a plain message-passing library does
reference node by node in double precision: `neurograph.reference.engine.ReferenceEngine`, for tests and audits
========= ==============================================================================================================

Merging is superposition (`neurograph.core.phasors`) or, as in the original, modular: a node's indices are the sum of
its sources' indices and its own, modulo the bins, with a gradient of 1 through the sum. A network of sums modulo P is
an affine map of its inputs' indices whose coefficients are path counts, and learns next to nothing; it is here to be
compared with.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from neurograph.core.graph import Topology
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import Leaves, NodeStore
from neurograph.core.phasors import own_phasors, phase_index, superpose
from neurograph.errors import ConfigError, DataError

__all__ = ["Backend", "ForwardEngine", "Merge", "Radiating", "State"]

Backend = Literal["dense", "sparse", "gather"]
Merge = Literal["superpose", "modular"]


@dataclass(frozen=True)
class State:
    """What a pass leaves.

    Args:
        planar: states of all nodes, rows as in the topology.
        topology: the graph.
        tables: whose grid the states lie on.
    """

    planar: Float[Tensor, "N B 2 D"]
    topology: Topology
    tables: HighResolutionLookupTables

    @property
    def outputs(self) -> Float[Tensor, "B O 2 D"]:
        """States of the outputs."""
        return self.planar[self.topology.outputs].transpose(0, 1)

    @property
    def readout(self) -> Float[Tensor, "B L"]:
        """Real parts of all outputs side by side, L = O D numbers a sample."""
        return self.outputs[:, :, 0].flatten(1)

    @property
    def phase(self) -> Int[Tensor, "N B D"]:
        """Phase indices of all states."""
        return phase_index(self.planar.detach(), self.tables)


@runtime_checkable
class Radiating(Protocol):
    """What adds messages beside the static ones."""

    def __call__(
        self, level: int, states: Float[Tensor, "N B 2 D"], done: Int64[Tensor, " S"], leaves: Leaves, inbox: Tensor
    ) -> Tensor:
        """Messages from nodes that were just computed to nodes of later levels.

        Args:
            level: of the nodes.
            states: of all nodes; of later levels they are zeros.
            done: rows of the level.
            leaves: indices, with gradients.
            inbox: messages so far, one sum a node.

        Returns:
            The messages, those of this level added.
        """


class ForwardEngine:
    """Computes states of all nodes from samples.

    Args:
        topology: the graph.
        tables: look-up tables.
        backend: how messages are summed.
        merge: what is summed.
        snap: take states to the grid of the tables.
        radiation: adds messages beside the static ones; None = none. Only with superposition.

    Raises:
        ConfigError: a back end or way of merging that does not exist, or radiation with modular merging.

    >>> from neurograph.core.graph import layered_graph
    >>> topology = Topology.from_frame(layered_graph([4, 6, 2], cardinality=2))
    >>> tables = HighResolutionLookupTables(16, 16)
    >>> state = ForwardEngine(topology, tables)(torch.rand(3, 4), NodeStore.random(topology, 5, tables))
    >>> state.planar.shape, state.readout.shape
    (torch.Size([12, 3, 2, 5]), torch.Size([3, 10]))
    """

    def __init__(
        self,
        topology: Topology,
        tables: HighResolutionLookupTables,
        *,
        backend: Backend = "dense",
        merge: Merge = "superpose",
        snap: bool = True,
        radiation: Radiating | None = None,
    ) -> None:
        for value, known in ((backend, ("dense", "sparse", "gather")), (merge, ("superpose", "modular"))):
            if value not in known:
                raise ConfigError(f"an engine's parts are named {', '.join(known)}; got {value!r}. Choose one of them.")
        if radiation is not None and merge == "modular":
            raise ConfigError("radiation adds phasors; got merge='modular', which adds indices. Use 'superpose'.")
        self.topology, self.tables = topology, tables
        self.backend: Backend = backend
        self.merge: Merge = merge
        self.snap, self.radiation = snap, radiation
        scale = 1.0 if merge == "modular" else None
        self._levels = topology.levels
        self._sums = [_sum_of(topology, rows, backend, tables.cos.dtype, scale) for rows in self._levels]
        order = torch.cat(self._levels)
        self._back = order.argsort()
        self._fed = topology.inputs

    def __call__(self, x: Float[Tensor, "B I"], store: NodeStore | Leaves) -> State:
        """One pass.

        Args:
            x: samples, amplitudes of the inputs in [0, 1].
            store: the indices, or leaves that ask for gradients.

        Returns:
            States of all nodes.

        Raises:
            DataError: samples of another width.
        """
        if x.dim() != 2 or x.shape[1] != len(self._fed):
            raise DataError(
                f"samples have one number for each of {len(self._fed)} inputs; got {tuple(x.shape)}. Use an adapter, "
                "or another graph."
            )
        leaves = store if isinstance(store, Leaves) else Leaves(*(t.to(x.dtype) for t in (store.phase, store.mag)))
        planar = self._superposed(x, leaves) if self.merge == "superpose" else self._added(x, leaves)
        return State(planar, self.topology, self.tables)

    # --- superposition ------------------------------------------------------------------------------------------------

    def _superposed(self, x: Tensor, leaves: Leaves) -> Tensor:
        tables, (n, d), b = self.tables, leaves.phase.shape, x.shape[0]
        own = torch.stack(own_phasors(leaves.phase, leaves.mag, tables), dim=1)
        states = [self.input_states(x, leaves, self._levels[0])]
        inbox = None if self.radiation is None else x.new_zeros(n, b, 2, d)
        for number, rows in enumerate(self._levels):
            if number:
                s = self._sums[number](states)
                s = s if inbox is None else s + inbox[rows]
                states.append(superpose(own[rows], s, tables, self.snap))
            if self.radiation is not None and inbox is not None and number + 1 < len(self._levels):
                whole = self._whole(states, n)
                inbox = self.radiation(number, whole, rows, leaves, inbox)
        return torch.cat(states)[self._back]

    def _whole(self, states: list[Tensor], n: int) -> Tensor:
        found = torch.cat(states)
        rest = found.new_zeros(n - found.shape[0], *found.shape[1:])
        return torch.cat([found, rest])[self._back]

    def input_states(
        self, x: Float[Tensor, "B I"], leaves: Leaves, rows: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n B 2 D"]:
        """Level 0: an input has its own phase and the sample's amplitude; a node that nobody feeds is silent.

        Args:
            x: samples, amplitudes in [0, 1].
            leaves: indices.
            rows: of level 0, ascending.

        Returns:
            States of these rows.
        """
        amplitude = x.t()
        if self.snap:
            levels = self.tables.mag_bins - 1
            snapped = ((amplitude * levels).round() / levels).detach()
            # A learnt adapter before the inputs has its gradient passed straight through: x − x adds nothing but that.
            amplitude = snapped + (amplitude - amplitude.detach()) if x.requires_grad else snapped
        phase = leaves.phase[self._fed]
        one = torch.full_like(phase, float(_unit(self.tables)))
        re, im = own_phasors(phase, one, self.tables)
        unit = torch.stack([re, im], dim=1) / self.tables.mag[_unit(self.tables)]
        fed = unit[:, None] * amplitude[:, :, None, None]
        if len(rows) == len(self._fed) and torch.equal(rows, self._fed):
            return fed
        place = torch.searchsorted(rows, self._fed)
        return fed.new_zeros(len(rows), *fed.shape[1:]).index_copy(0, place, fed)

    # --- the original's way -------------------------------------------------------------------------------------------

    def _added(self, x: Tensor, leaves: Leaves) -> Tensor:
        tables = self.tables
        bins = torch.tensor([tables.phase_bins, tables.mag_bins], dtype=x.dtype, device=x.device).view(1, 1, 2, 1)
        own = torch.stack([leaves.phase, leaves.mag], dim=1)[:, None]
        rows = self._levels[0]
        place = torch.searchsorted(rows, self._fed)
        told = (x.t()[:, :, None, None] * (bins / 2 - 1)).round().expand(-1, -1, 2, own.shape[-1])
        context = told.new_zeros(len(rows), *told.shape[1:]).index_copy(0, place, told)
        states = [(context + own[rows]).remainder(bins)]
        for number, rows in enumerate(self._levels[1:], start=1):
            states.append((self._sums[number](states) + own[rows]).remainder(bins))
        indices = torch.cat(states)[self._back]
        return torch.stack(own_phasors(indices[:, :, 0], indices[:, :, 1], tables), dim=2)


def _unit(tables: HighResolutionLookupTables) -> int:
    """Any magnitude will do where it is divided out again; the middle one is 1 for exp_sin."""
    return tables.mag_bins // 2


# --- sums of messages -------------------------------------------------------------------------------------------------


class _Product(torch.autograd.Function):
    """A constant matrix times states; compressed rows have no derivative of their own."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, a: Tensor, a_t: Tensor) -> Tensor:
        ctx.a_t = a_t
        return a @ z

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.a_t @ gradients[0].contiguous(), None, None


class _Sum:
    """The sum of a level's messages, each over √K, or over nothing.

    Args:
        topology: the graph.
        rows: of the level, ascending.
        backend: how.
        dtype: of states.
        scale: over all messages in place of 1 / √K.
    """

    def __init__(
        self, topology: Topology, rows: Tensor, backend: Backend, dtype: torch.dtype, scale: float | None
    ) -> None:
        of_level = torch.isin(topology.dst, rows)
        src, dst = topology.src[of_level], torch.searchsorted(rows, topology.dst[of_level])
        degree = torch.bincount(dst, minlength=len(rows)).clamp(min=1)
        weight = torch.full_like(dst, scale or 1.0, dtype=dtype)
        if scale is None:
            weight = degree.to(dtype).rsqrt()[dst]
        levels = topology.levels
        self.used = [number for number, there in enumerate(levels) if bool(torch.isin(src, there).any())]
        columns = torch.cat([levels[number] for number in self.used])
        order = columns.argsort()
        self.src = order[torch.searchsorted(columns[order], src)]
        self.dst, self.weight, self.n = dst, weight, len(rows)
        self.backend = backend
        if backend != "gather":
            dense = torch.zeros(len(rows), len(columns), dtype=dtype, device=src.device)
            dense[dst, self.src] = weight
            self.a, self.a_t = dense, dense.t().contiguous()
            if backend == "sparse":
                self.a, self.a_t = _compressed(self.a), _compressed(self.a_t)

    def __call__(self, states: list[Tensor]) -> Tensor:
        """Sums for all nodes of the level.

        Args:
            states: of the levels before it.

        Returns:
            Sums.
        """
        z = states[self.used[0]] if len(self.used) == 1 else torch.cat([states[number] for number in self.used])
        flat = z.flatten(1)
        if self.backend == "gather":
            found = flat.new_zeros(self.n, flat.shape[1])
            found = found.index_add(0, self.dst, flat[self.src] * self.weight[:, None])
        else:
            found = cast(Tensor, _Product.apply(flat, self.a, self.a_t))
        return found.view(self.n, *z.shape[1:])


def _sum_of(
    topology: Topology, rows: Tensor, backend: Backend, dtype: torch.dtype, scale: float | None
) -> "_Sum | Any":
    """None for a level that listens to nobody."""
    heard = bool(torch.isin(topology.dst, rows).any())
    return _Sum(topology, rows, backend, dtype, scale) if heard else None


def _compressed(dense: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return dense.to_sparse_csr()
