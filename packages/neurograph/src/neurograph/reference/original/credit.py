"""The note's optimization #1: credit of the intermediate nodes, node by node and vectorised.

A node with own signal u is told to become like the vector v of the sample's class: loss −cos(u, v), whose gradient is
−(v/|v| − u·cos(u, v)/|u|)/|u|, handed to the indices by the tables' derivatives.

OWN INDICES: u comes from the node's parameters and not from what arrived there, so that the picture does not matter.

LOOP AROUND THE ACCUMULATOR: the vectorised form still accumulates node by node, and reads two norms back for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from neurograph.reference.original.accumulator import OriginalAccumulator
from neurograph.reference.original.graph import OriginalNodeStore
from neurograph.reference.original.tables import OriginalTables

__all__ = ["OriginalCredit"]

EPS = 1e-8


class OriginalCredit:
    """Both forms over one store, with the note's method names.

    Args:
        store: Parameters.
        tables: Lookup tables.
        codes: Phase and magnitude indices (C, D) of the class codes.
        accumulator: Where gradients go; None for arithmetic alone.

    Attributes:
        target_lookups: Class vectors formed so far.
    """

    def __init__(
        self,
        store: OriginalNodeStore,
        tables: OriginalTables,
        codes: tuple[Tensor, Tensor],
        accumulator: OriginalAccumulator | None = None,
    ) -> None:
        self.store, self.tables, self.codes, self.accumulator = store, tables, codes, accumulator
        self._cached_target_vectors: dict[int, Tensor] = {}
        self.target_lookups = 0

    def target_vector(self, label: int) -> Tensor:
        """Signal vector (D,) of a class, formed anew."""
        self.target_lookups += 1
        return self.tables.get_signal_vector(self.codes[0][label], self.codes[1][label])

    def cached_target_vector(self, label: int) -> Tensor:
        """The same, formed once a class."""
        if label not in self._cached_target_vectors:
            self._cached_target_vectors[label] = self.target_vector(label)
        return self._cached_target_vectors[label]

    # --- before: one node at a time ---

    def by_node(self, active: Sequence[str], label: int) -> tuple[Tensor, Tensor]:
        """The loop that the note describes as the old form.

        Args:
            active: Active intermediate nodes.
            label: The sample's class.

        Returns:
            Gradients by phase and by magnitude, (n, D) each, in the order of `active`.
        """
        target = self.target_vector(label)
        phase_grads, mag_grads = [], []
        for node in active:
            phase, mag = self.store.get_phase(node), self.store.get_mag(node)
            signal = self.tables.get_signal_vector(phase, mag)
            cos_sim = functional.cosine_similarity(signal.unsqueeze(0), target.unsqueeze(0), eps=EPS).squeeze(0)
            signal_norm, target_norm = signal.norm() + EPS, target.norm() + EPS
            grad = -(target / target_norm - signal * cos_sim / signal_norm) / signal_norm
            phase_grad, mag_grad = self.tables.compute_signal_gradients(phase, mag, grad)
            if self.accumulator is not None:
                self.accumulator.accumulate(node, phase_grad, mag_grad)
            phase_grads.append(phase_grad)
            mag_grads.append(mag_grad)
        if not phase_grads:
            empty = torch.zeros(0, self.codes[0].shape[1])
            return empty, empty.clone()
        return torch.stack(phase_grads), torch.stack(mag_grads)

    # --- after: the note's four methods ---

    def vectorized(self, active: Sequence[str], label: int) -> tuple[Tensor, Tensor]:
        """The note's new form.

        Args:
            active: Active intermediate nodes.
            label: The sample's class.

        Returns:
            As `by_node`.
        """
        if not active:
            empty = torch.zeros(0, self.codes[0].shape[1])
            return empty, empty.clone()
        target = self.cached_target_vector(label)
        signals, phase, mag = self._batch_get_node_signals(active)
        cos_sims = functional.cosine_similarity(signals, target.expand(len(active), -1), dim=1, eps=EPS)
        grads = self._compute_vectorized_cosine_gradients(signals, target, cos_sims)
        phase_grads, mag_grads = self._compute_vectorized_discrete_gradients(phase, mag, grads)
        if self.accumulator is not None:
            self._batch_accumulate_gradients(active, phase_grads, mag_grads)
        return phase_grads, mag_grads

    def _batch_get_node_signals(self, active: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Signals, phase and magnitude indices (n, D); the parameters are stacked anew each time."""
        phase = torch.stack([self.store.get_phase(node) for node in active])
        mag = torch.stack([self.store.get_mag(node) for node in active])
        return self.tables.get_signal_vector(phase, mag), phase, mag

    def _compute_vectorized_cosine_gradients(self, signals: Tensor, target: Tensor, cos_sims: Tensor) -> Tensor:
        signal_norms = signals.norm(dim=1, keepdim=True) + EPS
        direction = target / (target.norm() + EPS)
        return -(direction - signals * cos_sims.unsqueeze(1) / signal_norms) / signal_norms

    def _compute_vectorized_discrete_gradients(
        self, phase: Tensor, mag: Tensor, grads: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.tables.compute_signal_gradients(phase, mag, grads)

    def _batch_accumulate_gradients(self, active: Sequence[str], phase_grads: Tensor, mag_grads: Tensor) -> None:
        """LOOP AROUND THE ACCUMULATOR."""
        assert self.accumulator is not None
        for place, node in enumerate(active):
            self.accumulator.accumulate(node, phase_grads[place], mag_grads[place])
