"""Passes that compute only what can have changed, and passes that go step by step in time.

A node's state depends on its own indices and on the states of its sources. So after a pass, a new input needs new
states only for nodes that listen to a node whose state changed, and for nodes whose own indices changed; where the
snapped state comes out as it was, the change ends. Sums are taken edge by edge, in one order whatever else is
computed: an incremental pass equals a whole one of `ForwardEngine(backend="gather")`, but for states that lie on an
edge of a bin. Angles there are decided by the last bit of an arc tangent, and vector instructions round that by where a
number stands in an array; with few bins and few sources such ties are met, in a few networks of a hundred at 32 phases.

It pays where few inputs change and the graph is sparse; in a dense graph one input soon reaches everything.

In time steps, as the original went, every node takes at each step what its sources said at the step before. After as
many steps as the graph has levels nothing changes any more, and what stands there is what a pass level by level finds
at once, with the same proviso: levels are the time steps of a graph without cycles, all done in parallel.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neurograph.core.engine import ForwardEngine, State
from neurograph.core.graph import Topology
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import Leaves, NodeStore
from neurograph.core.phasors import own_phasors, superpose
from neurograph.errors import ConfigError, DataError

__all__ = ["IncrementalPass", "Work", "propagate_stepwise"]


@dataclass(frozen=True)
class Work:
    """What a pass did.

    Args:
        nodes: nodes behind the inputs.
        recomputed: those whose state was computed.
        changed: those whose state came out other than before.
    """

    nodes: int
    recomputed: int
    changed: int


class _Edges(NamedTuple):
    """Of the nodes of one level, or of all nodes: sources, place of the listener among them, 1 / √K."""

    rows: Tensor
    src: Tensor
    place: Tensor
    weight: Tensor


def _edges_of(topology: Topology, rows: Tensor, dtype: torch.dtype) -> _Edges:
    there = torch.isin(topology.dst, rows)
    place = torch.searchsorted(rows, topology.dst[there])
    weight = torch.bincount(place, minlength=len(rows)).clamp(min=1).to(dtype).rsqrt()[place]
    return _Edges(rows, topology.src[there], place, weight)


def _computed(
    edges: _Edges, touched: Tensor, planar: Tensor, leaves: Leaves, tables: HighResolutionLookupTables, snap: bool
) -> Tensor:
    """New states of the nodes that are touched; messages are added in the order of edges."""
    used = touched[edges.place]
    place = (touched.cumsum(0) - 1)[edges.place[used]]
    message = planar[edges.src[used]].flatten(1) * edges.weight[used, None]
    total = message.new_zeros(int(touched.sum()), message.shape[1]).index_add_(0, place, message)
    rows = edges.rows[touched]
    own = torch.stack(own_phasors(leaves.phase[rows], leaves.mag[rows], tables), dim=1)
    return superpose(own, total.view(len(rows), *planar.shape[1:]), tables, snap)


def _samples(x: Tensor, topology: Topology) -> Tensor:
    if x.dim() != 2 or x.shape[1] != len(topology.inputs):
        raise DataError(
            f"samples have one number for each of {len(topology.inputs)} inputs; got {tuple(x.shape)}. Use an adapter, "
            "or another graph."
        )
    return x


class IncrementalPass:
    """A pass that remembers the last one. Without gradients; superposition only, without radiation.

    Args:
        topology: the graph.
        tables: look-up tables.
        snap: take states to their grid. Without it, changes hardly ever end on their way.

    Attributes:
        work: what the last pass did; None before the first.

    >>> from neurograph.core.graph import layered_graph
    >>> topology = Topology.from_frame(layered_graph([4, 6, 2], cardinality=2))
    >>> tables = HighResolutionLookupTables(16, 16)
    >>> one, x = IncrementalPass(topology, tables), torch.full((1, 4), 0.5)
    >>> store = NodeStore.random(topology, 5, tables)
    >>> for sample in (x, x, x + torch.tensor([0.5, 0, 0, 0])):
    ...     state = one(sample, store)
    ...     print(one.work)
    Work(nodes=8, recomputed=8, changed=8)
    Work(nodes=8, recomputed=0, changed=0)
    Work(nodes=8, recomputed=5, changed=5)
    """

    def __init__(self, topology: Topology, tables: HighResolutionLookupTables, *, snap: bool = True) -> None:
        self.topology, self.tables, self.snap = topology, tables, snap
        self._engine = ForwardEngine(topology, tables, backend="gather", snap=snap)
        self._first, *later = topology.levels
        self._edges = [_edges_of(topology, rows, tables.cos.dtype) for rows in later]
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None
        self.work: Work | None = None

    def forget(self) -> None:
        """Makes the next pass a whole one."""
        self._kept = None

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "B I"], store: NodeStore) -> State:
        """One pass.

        Args:
            x: samples; a batch of another size than the last makes it a whole pass.
            store: the indices; whatever changed in them is seen.

        Returns:
            States of all nodes.

        Raises:
            DataError: samples of another width.
        """
        x = _samples(x, self.topology)
        leaves = Leaves(*(part.to(x.dtype) for part in (store.phase, store.mag)))
        first = self._engine.input_states(x, leaves, self._first)
        touched, changed = self._start(store, first)
        planar = (
            first.new_zeros(self.topology.n_nodes, *first.shape[1:]) if self._kept is None else self._kept[0].clone()
        )
        changed[self._first] |= (planar[self._first] != first).flatten(1).any(1)
        planar[self._first] = first
        recomputed = moved = 0
        for edges in self._edges:
            due = touched[edges.rows]
            due[edges.place[changed[edges.src]]] = True
            if not bool(due.any()):
                continue
            found = _computed(edges, due, planar, leaves, self.tables, self.snap)
            rows = edges.rows[due]
            new = touched[rows] & (self._kept is None) | (planar[rows] != found).flatten(1).any(1)
            changed[rows], planar[rows] = new, found
            recomputed, moved = recomputed + len(rows), moved + int(new.sum())
        self.work = Work(self.topology.n_nodes - len(self._first), recomputed, moved)
        self._kept = planar, store.phase.clone(), store.mag.clone()
        return State(planar.clone(), self.topology, self.tables)

    def _start(self, store: NodeStore, first: Tensor) -> tuple[Bool[Tensor, " N"], Bool[Tensor, " N"]]:
        """Nodes that have to be computed whatever they hear, and a mask of changes, none so far."""
        n = self.topology.n_nodes
        none = torch.zeros(n, dtype=torch.bool, device=first.device)
        if self._kept is not None:
            planar, phase, mag = self._kept
            if planar.shape[1:] == first.shape[1:] and planar.dtype == first.dtype and phase.shape == store.phase.shape:
                return (phase != store.phase).any(1) | (mag != store.mag).any(1), none
        self._kept = None
        return torch.ones_like(none), none


@torch.no_grad()
def propagate_stepwise(
    x: Float[Tensor, "B I"],
    store: NodeStore,
    topology: Topology,
    tables: HighResolutionLookupTables,
    *,
    steps: int | None = None,
    snap: bool = True,
) -> State:
    """Time steps from silence: at each, every node takes what its sources said at the step before.

    Args:
        x: samples.
        store: the indices.
        topology: the graph.
        tables: look-up tables.
        steps: how many; None = as many as the graph has levels, after which nothing changes any more.
        snap: take states to the grid.

    Returns:
        States after the last step.

    Raises:
        ConfigError: fewer than one step.
        DataError: samples of another width.
    """
    x = _samples(x, topology)
    depth = int(topology.level.max()) + 1
    steps = depth if steps is None else steps
    if steps < 1:
        raise ConfigError(f"a pass has at least one step; got {steps}. Take {depth} for this graph.")
    leaves = Leaves(*(part.to(x.dtype) for part in (store.phase, store.mag)))
    rows = topology.levels[0]
    fed = ForwardEngine(topology, tables, backend="gather", snap=snap).input_states(x, leaves, rows)
    planar = fed.new_zeros(topology.n_nodes, *fed.shape[1:])
    planar[rows] = fed
    later = (topology.level > 0).nonzero().squeeze(1)
    edges = _edges_of(topology, later, planar.dtype)
    everyone = torch.ones(len(later), dtype=torch.bool, device=planar.device)
    for _ in range(steps - 1):
        planar[later] = _computed(edges, everyone, planar, leaves, tables, snap)
    return State(planar, topology, tables)
