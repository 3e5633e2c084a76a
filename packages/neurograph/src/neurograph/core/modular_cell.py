"""The original's cell: a message's indices and a node's own are added, modulo the bins."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from neurograph.core.high_res_tables import HighResolutionLookupTables

__all__ = ["CellOutput", "ModularPhaseCell", "phase_similarity", "routing_strength"]


@dataclass(frozen=True)
class CellOutput:
    """What a cell makes of a message.

    Args:
        phase: indices.
        mag: indices.
        signal: cos(p δ) a(x_m) of them.
        strength: sum of the signal; negative ones inhibit.
    """

    phase: Int[Tensor, "... D"]
    mag: Int[Tensor, "... D"]
    signal: Float[Tensor, "... D"]
    strength: Float[Tensor, "..."]


class ModularPhaseCell:
    """p ← (p + own p) mod P, m ← (m + own m) mod M.

    Args:
        tables: look-up tables.

    >>> import torch
    >>> cell = ModularPhaseCell(HighResolutionLookupTables(8, 4))
    >>> out = cell(*(torch.tensor([i]) for i in (5, 1, 6, 1)))
    >>> out.phase.item(), out.mag.item()
    (3, 2)
    """

    def __init__(self, tables: HighResolutionLookupTables) -> None:
        self.tables = tables

    def __call__(
        self,
        phase: Int[Tensor, "... D"],
        mag: Int[Tensor, "... D"],
        own_phase: Int[Tensor, "... D"],
        own_mag: Int[Tensor, "... D"],
    ) -> CellOutput:
        """Adds indices.

        Args:
            phase: of the message.
            mag: of the message.
            own_phase: of the node.
            own_mag: of the node.

        Returns:
            New indices, their signal and its strength.
        """
        p = (phase.long() + own_phase.long()).remainder(self.tables.phase_bins)
        m = (mag.long() + own_mag.long()).remainder(self.tables.mag_bins)
        signal = self.tables.get_signal_vector(p, m)
        return CellOutput(p, m, signal, signal.sum(-1))


def routing_strength(
    a: Int[Tensor, "... D"], b: Int[Tensor, "... D"], tables: HighResolutionLookupTables
) -> Float[Tensor, "... D"]:
    """How near phases are: 1 − 2 d / P, d their distance around the circle; 1 equal, 0 opposite.

    Args:
        a: phase indices.
        b: phase indices.
        tables: look-up tables.

    Returns:
        Numbers in [0, 1].
    """
    ahead = (a.long() - b.long()).remainder(tables.phase_bins)
    return 1 - 2 * ahead.minimum(tables.phase_bins - ahead).to(tables.cos.dtype) / tables.phase_bins


def phase_similarity(
    a: Int[Tensor, "... D"], b: Int[Tensor, "... D"], tables: HighResolutionLookupTables
) -> Float[Tensor, "..."]:
    """Mean of (cos Δθ + 1) / 2.

    Args:
        a: phase indices.
        b: phase indices.
        tables: look-up tables.

    Returns:
        Numbers in [0, 1].
    """
    return (tables.lookup_phase(a.long() - b.long()) + 1).mean(-1) / 2
