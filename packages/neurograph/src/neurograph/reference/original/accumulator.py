"""The original's accumulation over N samples, which never applies anything.

NEVER FIRES: the controller counts a sample and asks whether N have come; `apply` counts once more and asks again. The
first says yes at every Nth count, and the second then stands one further: never at a multiple.

NUMBERS AGAINST NAMES: what would be applied is looked up by the number of a node; it was stored under its name.

NEVER CLEARED: what is stored is cleared by the application that does not happen; memory grows with every sample until
the buffer's bound of nodes, and within a node without one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neurograph.reference.original.graph import OriginalNodeStore

__all__ = ["OriginalAccumulator"]


@dataclass
class OriginalAccumulator:
    """Gradient lists by node.

    Attributes:
        every: N.
        scaling: `sqrt` multiplies the mean by √N, `linear` by N, `none` by 1.
        lr_phase: Step by phase.
        lr_mag: Step by magnitude.
        buffer: Most nodes.
        count: The counter that two callers advance.
        applied: Updates that were applied.
        norm: Running mean (0.1) of gradient norms.
    """

    every: int = 8
    scaling: str = "sqrt"
    lr_phase: float = 0.015
    lr_mag: float = 0.012
    buffer: int = 1500
    count: int = 0
    applied: int = 0
    norm: float = 0.0
    phase: dict[str, list[Tensor]] = field(default_factory=dict)
    mag: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def stored(self) -> int:
        """Gradient vectors that are kept."""
        return sum(map(len, self.phase.values())) + sum(map(len, self.mag.values()))

    @property
    def factor(self) -> float:
        """What a mean gradient is multiplied by."""
        return {"sqrt": math.sqrt(self.every), "linear": float(self.every)}.get(self.scaling, 1.0)

    def accumulate(self, node_id: str, phase_grad: Tensor, mag_grad: Tensor) -> None:
        """Append a node's gradients and follow their norms, which are read back one by one."""
        if node_id not in self.phase:
            if len(self.phase) >= self.buffer:
                return
            self.phase[node_id], self.mag[node_id] = [], []
        self.phase[node_id].append(phase_grad.clone())
        self.mag[node_id].append(mag_grad.clone())
        norm = phase_grad.norm().item() + mag_grad.norm().item()
        self.norm += 0.1 * (norm - self.norm)

    def should_update(self) -> bool:
        """Counts, and says whether N samples have come."""
        self.count += 1
        return self.count % self.every == 0

    def apply(self, store: OriginalNodeStore, phase_bins: int, mag_bins: int) -> int:
        """What is called when `should_update` said yes. NEVER FIRES.

        Args:
            store: Parameters.
            phase_bins: P.
            mag_bins: M.

        Returns:
            Nodes that were updated: 0.
        """
        if not self.should_update():
            return 0
        updated = self.updates(store, phase_bins, mag_bins)
        with torch.no_grad():
            for number in range(len(store.ids)):  # NUMBERS AGAINST NAMES
                if number in updated:
                    store.phase_table[str(number)].copy_(updated[number][0])
                    store.mag_table[str(number)].copy_(updated[number][1])
        self.applied += 1
        self.phase.clear()
        self.mag.clear()
        return len([number for number in range(len(store.ids)) if number in updated])

    def updates(
        self, store: OriginalNodeStore, phase_bins: int, mag_bins: int
    ) -> dict[str | int, tuple[Tensor, Tensor]]:
        """What the stored gradients would make of the parameters: (index − lr·√N·mean) mod bins, cut to integers.

        Args:
            store: Parameters.
            phase_bins: P.
            mag_bins: M.

        Returns:
            New phase and magnitude indices by name of node.
        """
        found: dict[str | int, tuple[Tensor, Tensor]] = {}
        for node in self.phase:
            steps = [
                lr * self.factor * torch.stack(grads).mean(dim=0)
                for lr, grads in ((self.lr_phase, self.phase[node]), (self.lr_mag, self.mag[node]))
            ]
            found[node] = (
                torch.remainder(store.get_phase(node) - steps[0], phase_bins).long(),
                torch.remainder(store.get_mag(node) - steps[1], mag_bins).long(),
            )
        return found
