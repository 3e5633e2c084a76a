"""The original's forward loop: one sample, one node, one message at a time.

STATIC EDGES BACKWARDS: a node's `input_connections` are taken as its targets. Inputs have none, so that all that leaves
them is radiation, and nothing reaches an output but by radiation.

OVERWRITE: each step's messages replace the table; what was active before is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from neurograph.reference.original.activation import OriginalActivationTable
from neurograph.reference.original.graph import OriginalNodeStore, build_frame, row_connections
from neurograph.reference.original.radiation import RadiationCaches, get_radiation_neighbors
from neurograph.reference.original.settings import OriginalSettings, check_optimizations
from neurograph.reference.original.tables import Jit, OriginalTables, make_tables

__all__ = ["ForwardCounts", "OriginalEngine", "cell"]


@dataclass(frozen=True)
class ForwardCounts:
    """What one sample took.

    Attributes:
        steps: Propagation steps.
        queries: Radiation queries.
        messages: Messages, static and radiated.
        active: Ids whose slot is active at the end.
    """

    steps: int
    queries: int
    messages: int
    active: int


def cell(
    context: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], tables: OriginalTables
) -> tuple[Tensor, Tensor, float]:
    """The phase cell: indices add modulo bins.

    NOTHING INHIBITS: strength is the sum of absolute signals, always above 0.

    Args:
        context: Phase and magnitude indices (D,) that a message carries.
        own: Those of the target.
        tables: Lookup tables.

    Returns:
        Phase, magnitude and strength of what arrives.
    """
    phase = (context[0] + own[0]) % tables.phase_bins
    mag = (context[1] + own[1]) % tables.mag_bins
    return phase, mag, float(tables.get_signal_vector(phase, mag).abs().sum().item())


class OriginalEngine:
    """Graph, parameters, tables and activation table of one network of the original.

    Args:
        settings: Sizes and rules.
        optimizations: Subset of the note's three; `jit` and `cache` matter here.
        jit: Which form `jit` is: `as_coded` (falls back) or `compiled` (as the note says).
        caches: Caches to use where `cache` is on; fresh ones by default. Two engines may share them, as the original's
            global ones were.

    Attributes:
        on_query: Told of each radiation query: source, context, answer.
        counts: Of the last sample.
        total_queries: Radiation queries so far.
        samples: Samples so far.
    """

    def __init__(
        self,
        settings: OriginalSettings,
        optimizations: Collection[str] = (),
        *,
        jit: Jit = "as_coded",
        caches: RadiationCaches | None = None,
    ) -> None:
        chosen = check_optimizations(optimizations)
        self.settings = settings
        self.frame: pd.DataFrame = build_frame(
            settings.n_inputs, settings.n_hidden, settings.n_outputs, cardinality=settings.cardinality,
            seed=settings.seed,
        )  # fmt: skip
        self.tables = make_tables(jit if "jit" in chosen else "off", settings.phase_bins, settings.mag_bins)
        self.store = OriginalNodeStore(self.frame, settings.dim, settings.phase_bins, settings.mag_bins, settings.seed)
        self.table = OriginalActivationTable(
            settings.n_nodes, settings.dim, settings.phase_bins, settings.mag_bins, decay=settings.decay,
            min_strength=settings.min_strength, shared_slots=settings.shared_slots,
        )  # fmt: skip
        self.caches: RadiationCaches | None = (caches or RadiationCaches()) if "cache" in chosen else None
        self.inputs = tuple(self.frame.loc[self.frame["is_input"], "node_id"])
        self.outputs = frozenset(self.frame.loc[self.frame["is_output"], "node_id"])
        self.on_query: Callable[[str, Tensor, list[str]], object] | None = None
        self.counts = ForwardCounts(0, 0, 0, 0)
        self.total_queries = self.samples = 0

    @property
    def queries_a_sample(self) -> float:
        """Mean radiation queries a sample so far."""
        return self.total_queries / max(1, self.samples)

    @torch.no_grad()
    def forward(self, phase: Tensor, mag: Tensor) -> dict[str, Tensor]:
        """Run one sample to its end.

        Args:
            phase: (n_inputs, D) phase indices of the input contexts.
            mag: (n_inputs, D) magnitude indices.

        Returns:
            Signal (D,) of each active output node, by id.
        """
        table, settings = self.table, self.settings
        table.clear()
        for node, p, m in zip(self.inputs, phase, mag, strict=True):
            table.inject(node, p, m, 1.0)
        step = queries = messages = 0
        while True:
            contexts = table.active_contexts()
            if not contexts:
                break
            if step >= settings.t_min and any(node in self.outputs for node, _, _ in contexts):
                break
            if step >= settings.max_steps - 1:
                break
            arriving = self._propagate(contexts)
            queries, messages = queries + len(contexts), messages + len(arriving)
            table.clear()  # OVERWRITE
            for node, p, m, strength in arriving:
                table.inject(node, p, m, strength)
            table.decay_and_prune()
            step += 1
        self.counts = ForwardCounts(step, queries, messages, len(table.active_nodes()))
        self.total_queries += queries
        self.samples += 1
        found = {}
        for node in sorted(self.outputs):
            held = table.context_of(node)
            if held is not None:
                found[node] = self.tables.get_signal_vector(*held)
        return found

    def _propagate(self, contexts: list[tuple[str, Tensor, Tensor]]) -> list[tuple[str, Tensor, Tensor, float]]:
        arriving = []
        for node, phase, mag in contexts:
            static = row_connections(self.frame, node)  # STATIC EDGES BACKWARDS
            radiated = get_radiation_neighbors(
                node, phase, self.store, self.frame, self.tables, self.settings.top_k, self.caches
            )
            if self.on_query is not None:
                self.on_query(node, phase, radiated)
            for target in [*static, *radiated]:
                own = (self.store.get_phase(target), self.store.get_mag(target))
                arriving.append((target, *cell((phase, mag), own, self.tables)))
        return arriving
