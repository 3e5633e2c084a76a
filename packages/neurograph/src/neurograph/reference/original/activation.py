"""The original's activation table, with the allocator that gives one slot to two nodes.

SLOT SHARED BY TWO NODES: a new node takes its slot from the free list, else from the counter; one from the counter is
put on the free list although it is in use, so that the next new node gets the same. 200 injected inputs lie in 100
slots, the second of each pair overwrites the first, and half of all nodes hold another node's data. How the original's
allocator came to that is not known; this one has the same result, and with it the original's number of radiation
queries a sample, which a right allocator would nearly triple.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["OriginalActivationTable"]


class OriginalActivationTable:
    """Slots of phase, magnitude and strength, with maps from node to slot and back.

    Args:
        max_nodes: Slots.
        dim: D.
        phase_bins: P.
        mag_bins: M.
        decay: Strength is multiplied by this each step.
        min_strength: Below it a slot becomes inactive.
        shared_slots: The defect; False allocates as one should.
    """

    def __init__(
        self,
        max_nodes: int,
        dim: int,
        phase_bins: int,
        mag_bins: int,
        *,
        decay: float = 0.9,
        min_strength: float = 0.05,
        shared_slots: bool = True,
    ) -> None:
        self.phase_bins, self.mag_bins = phase_bins, mag_bins
        self.decay, self.min_strength, self.shared_slots = decay, min_strength, shared_slots
        self.phase = torch.zeros(max_nodes, dim, dtype=torch.int64)
        self.mag = torch.zeros(max_nodes, dim, dtype=torch.int64)
        self.strength = torch.zeros(max_nodes)
        self.active = torch.zeros(max_nodes, dtype=torch.bool)
        self.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of the slots."""
        return sum(t.numel() * t.element_size() for t in (self.phase, self.mag, self.strength, self.active))

    def clear(self) -> None:
        """Empty the table. Allocation starts anew."""
        self.active.zero_()
        self.strength.zero_()
        self.node_to_slot: dict[str, int] = {}
        self.slot_to_node: dict[int, str] = {}
        self._free: list[int] = []
        self._next = 0

    def _allocate(self, node_id: str) -> int:
        if self._free:
            slot = self._free.pop()
        else:
            slot, self._next = self._next, self._next + 1
            if self.shared_slots:
                self._free.append(slot)  # the defect: it is in use
        self.node_to_slot[node_id], self.slot_to_node[slot] = slot, node_id
        return slot

    def inject(self, node_id: str, phase: Tensor, mag: Tensor, strength: float) -> None:
        """Add a message to a node: to an active one modulo bins, to another as it is.

        Args:
            node_id: The node.
            phase: (D,) indices.
            mag: (D,) indices.
            strength: Added to what is there.
        """
        slot = self.node_to_slot.get(node_id)
        if slot is not None and self.active[slot]:
            self.phase[slot] = (self.phase[slot] + phase) % self.phase_bins
            self.mag[slot] = (self.mag[slot] + mag) % self.mag_bins
            self.strength[slot] += strength
            return
        slot = self._allocate(node_id) if slot is None else slot
        self.phase[slot], self.mag[slot], self.strength[slot] = phase, mag, strength
        self.active[slot] = True

    def decay_and_prune(self) -> None:
        """Strength · decay; what falls below the least strength becomes inactive."""
        self.strength *= self.decay
        self.active &= self.strength >= self.min_strength

    def active_contexts(self) -> list[tuple[str, Tensor, Tensor]]:
        """(id, phase, magnitude) of each active slot, named after the last node that got it."""
        slots = self.active.nonzero().flatten().tolist()
        return [(self.slot_to_node[slot], self.phase[slot].clone(), self.mag[slot].clone()) for slot in slots]

    def active_nodes(self) -> list[str]:
        """Every id whose slot is active, its own or not."""
        return [node for node, slot in self.node_to_slot.items() if self.active[slot]]

    def context_of(self, node_id: str) -> tuple[Tensor, Tensor] | None:
        """What lies in a node's slot, or None where it has none that is active."""
        slot = self.node_to_slot.get(node_id)
        if slot is None or not self.active[slot]:
            return None
        return self.phase[slot], self.mag[slot]
