"""Radiation within a pass: messages from the nodes of a level to the nodes of later levels that resonate with them.

A source s whose state z_s has the phase indices a sends its state to the k nodes c of highest score,

    message(s → c) = gain · softmax_c(β s(c) / D) · z_s,   s(c) = Σ_d cos((a_d + p_c,d) δ),

among the nodes of later levels that do not listen to it anyway. Which nodes are chosen has no gradient; the weights
have the exact gradient of their formula, with respect to the source's angles, passing over the snapping of its state,
and with respect to the targets' own phases, per step of an index.

Shapes: N nodes, B samples, S sources of one level, C nodes that may be chosen, k targets each, D phasors a node.

=============================== ============================ ===========================================================
`choose(…)`                     S × B contexts               `Chosen`: index [B, S, k], units [B, S, k]
`weights(…)`                    states [S, B, 2, D]          [B, S, k], differentiable
`deliver(…)`                    inbox [N, B, 2, D]           [N, B, 2, D], differentiable
`Spreading(…)(level, states …)` all three                    the form that `ForwardEngine(radiation=…)` calls
=============================== ============================ ===========================================================

>>> from neurograph.core.engine import ForwardEngine
>>> from neurograph.core.graph import Topology, layered_graph
>>> from neurograph.core.high_res_tables import HighResolutionLookupTables
>>> from neurograph.core.node_store import NodeStore
>>> topology, tables = Topology.from_frame(layered_graph([4, 6, 2], cardinality=2)), HighResolutionLookupTables(16, 16)
>>> engine = ForwardEngine(topology, tables, radiation=Spreading(topology, tables, top_k=2))
>>> engine(torch.rand(3, 4), NodeStore.random(topology, 5, tables)).readout.shape
torch.Size([3, 10])
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from neurograph.core.graph import Topology
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import Leaves
from neurograph.core.phasors import phase_index
from neurograph.core.radiation import candidate_mask
from neurograph.core.radiation_cache import RadiationCache, digest, listeners
from neurograph.core.resonance import UNIT, best, unit_scores
from neurograph.errors import ConfigError

__all__ = ["Spreading", "deliver", "resonance", "weights"]


class _Resonance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, phase: Tensor, index: Tensor, tables: HighResolutionLookupTables) -> Tensor:
        context = phase_index(states, tables).transpose(0, 1)[:, :, None]
        own = phase.round().long().remainder(tables.phase_bins)[index]
        ctx.save_for_backward(states, index, tables.sin[(context + own).remainder(tables.phase_bins)])
        ctx.nodes, ctx.step = phase.shape, tables.phase_step
        return (unit_scores(context, own, tables.phase_bins).double() * UNIT).to(states.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (g,), (states, index, sin) = gradients, ctx.saved_tensors
        turn = -sin * g[..., None]  # [B, S, k, D], per radian of a or of b
        d_states = d_phase = None
        if ctx.needs_input_grad[0]:
            re, im = states[:, :, 0], states[:, :, 1]
            across = turn.sum(2).transpose(0, 1) / (re * re + im * im).clamp(min=1e-12)
            d_states = torch.stack([-im * across, re * across], dim=2)
        if ctx.needs_input_grad[1]:
            flat = turn.flatten(0, 2) * ctx.step
            d_phase = flat.new_zeros(ctx.nodes).index_add_(0, index.flatten(), flat)
        return d_states, d_phase, None, None


def resonance(
    states: Float[Tensor, "S B 2 D"],
    phase: Float[Tensor, "N D"],
    index: Int64[Tensor, "B S k"],
    tables: HighResolutionLookupTables,
) -> Float[Tensor, "B S k"]:
    """Scores of chosen nodes: exact values, and gradients of Σ_d cos(∠z_d + p_c,d δ).

    A state of amplitude 0 has no angle: it counts as 0, and takes no gradient.

    Args:
        states: of the sources.
        phase: own phase indices of all nodes, as numbers.
        index: rows of chosen nodes.
        tables: look-up tables.

    Returns:
        Scores from −D to D.
    """
    return cast(Tensor, _Resonance.apply(states, phase, index, tables))


def weights(
    states: Float[Tensor, "S B 2 D"],
    phase: Float[Tensor, "N D"],
    index: Int64[Tensor, "B S k"],
    tables: HighResolutionLookupTables,
    *,
    gain: int | float = 0.5,
    beta: int | float = 4.0,
) -> Float[Tensor, "B S k"]:
    """Weights gain · softmax(β s / D) over the chosen nodes.

    Args:
        states: of the sources.
        phase: own phase indices of all nodes, as numbers.
        index: rows of chosen nodes; −1 = none, of weight 0.
        tables: look-up tables.
        gain: sum of a source's weights.
        beta: β.

    Returns:
        Weights; a source without any target has zeros.
    """
    there = index >= 0
    score = resonance(states, phase, index.clamp(min=0), tables) * (beta / states.shape[-1])
    share = score.masked_fill(~there, torch.finfo(score.dtype).min).softmax(-1)
    return gain * share * there


def deliver(
    inbox: Float[Tensor, "N B 2 D"],
    states: Float[Tensor, "S B 2 D"],
    index: Int64[Tensor, "B S k"],
    weight: Float[Tensor, "B S k"],
) -> Float[Tensor, "N B 2 D"]:
    """Adds weighted states to the sums of the nodes that they are sent to.

    Args:
        inbox: messages so far.
        states: of the sources.
        index: rows of targets; −1 = none, whose weight is 0.
        weight: of each message.

    Returns:
        New sums. Messages are added in the order of sources, then rank, for each sample by itself.
    """
    n, n_b = inbox.shape[:2]
    sample = torch.arange(n_b, device=index.device)[:, None, None]
    row = index.clamp(min=0) * n_b + sample
    message = weight[..., None, None] * states.transpose(0, 1)[:, :, None]
    flat = inbox.reshape(n * n_b, *inbox.shape[2:])
    return flat.index_add(0, row.flatten(), message.flatten(0, 2)).view(inbox.shape)


@dataclass(frozen=True)
class _Reach:
    """Of one level: who radiates, to whom, and under which name the cache knows that."""

    sources: Tensor
    columns: Tensor
    allowed: Tensor
    name: bytes


class Spreading:
    """Radiation for an engine.

    Args:
        topology: the graph.
        tables: look-up tables.
        top_k: targets of each source.
        gain: sum of a source's weights; 0.25 to 0.5 leaves the static messages their say.
        beta: how much more the better target gets.
        sources: which nodes radiate; None = all that are heard of by later levels.
        candidates: which nodes may be chosen; None = all.
        cache: where to remember whole answers; None = nowhere, which is right where parameters move at each pass.

    Raises:
        ConfigError: fewer than one target, or β < 0.
    """

    def __init__(
        self,
        topology: Topology,
        tables: HighResolutionLookupTables,
        *,
        top_k: int = 4,
        gain: int | float = 0.5,
        beta: int | float = 4.0,
        sources: Bool[Tensor, " N"] | None = None,
        candidates: Bool[Tensor, " N"] | None = None,
        cache: RadiationCache | None = None,
    ) -> None:
        if top_k < 1 or beta < 0:
            raise ConfigError(
                f"radiation has at least one target a source and no negative β; got top_k = {top_k}, β = {beta}. "
                "Take top_k = 4 and β = 4, or no radiation at all."
            )
        self.tables, self.top_k, self.gain, self.beta, self.cache = tables, top_k, gain, beta, cache
        self._masks = sources, candidates
        lists = listeners(topology)
        self._reach: list[_Reach] = []
        for number, rows in enumerate(topology.levels):
            source = rows if sources is None else rows[sources[rows]]
            later = topology.level > number
            columns = (later if candidates is None else later & candidates).nonzero().squeeze(1)
            allowed = candidate_mask(source, lists)[:, columns]
            self._reach.append(_Reach(source, columns, allowed, digest(source, columns, allowed)))

    def on(self, topology: Topology, tables: HighResolutionLookupTables) -> "Spreading":
        """The same for a copy of the graph on another device.

        Args:
            topology: the copy.
            tables: there.

        Returns:
            Radiation there, with the same cache.
        """
        sources, candidates = (None if mask is None else mask.to(topology.device) for mask in self._masks)
        return Spreading(
            topology, tables, top_k=self.top_k, gain=self.gain, beta=self.beta, sources=sources,
            candidates=candidates, cache=self.cache,
        )  # fmt: skip

    def choose(
        self, level: int, states: Float[Tensor, "S B 2 D"], phase: Float[Tensor, "N D"]
    ) -> Int64[Tensor, "B S k"]:
        """Targets of a level's sources.

        Args:
            level: which.
            states: of its sources.
            phase: own phase indices of all nodes, as numbers.

        Returns:
            Rows; −1 where fewer than k nodes may be chosen.
        """
        reach, bins = self._reach[level], self.tables.phase_bins
        context = phase_index(states.detach(), self.tables).transpose(0, 1).contiguous()
        own = phase.detach().round().long().remainder(bins)[reach.columns]

        def search() -> Tensor:
            found = best(context, own, bins, self.top_k, allowed=reach.allowed).index
            return torch.where(found < 0, -1, reach.columns[found.clamp(min=0)]).to(small)

        if self.cache is None or not self.cache.enabled:
            small = torch.int64
            return search()
        small = torch.int16 if max(len(phase), bins) <= 1 << 15 else torch.int32
        key = (digest(context.to(small), own.to(small)), reach.name, self.top_k, bins, str(context.device))
        return self.cache.answer(key, search).long()

    def __call__(
        self, level: int, states: Float[Tensor, "N B 2 D"], done: Int64[Tensor, " n"], leaves: Leaves, inbox: Tensor
    ) -> Tensor:
        """Adds a level's messages.

        Args:
            level: of the nodes that were just computed.
            states: of all nodes.
            done: rows of the level.
            leaves: indices.
            inbox: messages so far, [N, B, 2, D].

        Returns:
            The messages, those of this level added.
        """
        reach = self._reach[level]
        if not len(reach.sources) or not len(reach.columns):
            return inbox
        source = states[reach.sources]
        index = self.choose(level, source, leaves.phase)
        weight = weights(source, leaves.phase, index, self.tables, gain=self.gain, beta=self.beta)
        return deliver(inbox, source, index, weight)
