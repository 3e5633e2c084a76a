"""How far indices go against how far their updates ask them to go.

*Update effectiveness* is the way that indices went over the way that their updates asked for,

    Σ |Δindex| / Σ |update|,   an update being lr · g / (width of a bin), or what the optimizer makes of it,

with changes of phases measured around the circle. With residual carry it tends to 1 for updates that keep their sign.
Small updates that cancel before they make a whole step leave it below 1, and so do indices that stand at the end of an
inclusive grid. (The original divided by the constant 0.01 in place of a bin's width, so that its figure, 825 % in one
document, carried an arbitrary unit.) The cosine between all net changes and all net updates says whether the indices
went the way they were asked to.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from neurograph.core.high_res_tables import HighResolutionLookupTables

__all__ = ["Effectiveness", "UpdateMonitor", "circular_change"]


def circular_change(
    before: Shaped[Tensor, "*shape"], after: Shaped[Tensor, "*shape"], bins: int, wraps: bool = True
) -> Int[Tensor, "*shape"]:
    """Signed steps from one index to another, the short way round.

    Args:
        before: indices.
        after: indices.
        bins: of the circle.
        wraps: whether it is one; else plain differences.

    Returns:
        Steps; on a circle from −⌊bins/2⌋ to ⌈bins/2⌉ − 1, so that more than half a turn looks like less, backwards.

    >>> circular_change(torch.tensor([510, 2]), torch.tensor([1, 511]), 512).tolist()
    [3, -3]
    """
    steps = after.long() - before.long()
    return (steps + bins // 2).remainder(bins) - bins // 2 if wraps else steps


@dataclass(frozen=True)
class Effectiveness:
    """How far indices went against how far they were asked to go.

    Args:
        phase: of phases; None = no update asked for anything.
        mag: of magnitudes.
        phase_cosine: between net changes and net updates of phases.
        mag_cosine: of magnitudes.
        steps: that were watched.
    """

    phase: float | None
    mag: float | None
    phase_cosine: float | None
    mag_cosine: float | None
    steps: int


@dataclass
class UpdateMonitor:
    """Adds up changes and updates over steps.

    Args:
        tables: for the bins.

    >>> monitor = UpdateMonitor(HighResolutionLookupTables(8, 8))
    >>> none, one = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.long)
    >>> monitor.record((none, none), (one, none), (torch.full((1, 1), 0.6), torch.zeros(1, 1)))
    >>> monitor.record((one, none), (one, none), (torch.full((1, 1), 0.4), torch.zeros(1, 1)))
    >>> round(monitor.effectiveness().phase, 6), monitor.effectiveness().mag
    (1.0, None)
    """

    tables: HighResolutionLookupTables
    steps: int = field(default=0, init=False)
    _way: list[float] = field(default_factory=lambda: [0.0, 0.0], init=False, repr=False)
    _asked: list[float] = field(default_factory=lambda: [0.0, 0.0], init=False, repr=False)
    _net: list[Tensor] = field(default_factory=list, init=False, repr=False)
    _wanted: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def record(
        self,
        before: tuple[Shaped[Tensor, "N D"], Shaped[Tensor, "N D"]],
        after: tuple[Shaped[Tensor, "N D"], Shaped[Tensor, "N D"]],
        updates: tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]],
    ) -> None:
        """One step.

        Args:
            before: phases and magnitudes.
            after: the same after the step.
            updates: what was asked for, in steps of an index, with its sign.
        """
        t = self.tables
        circles = ((t.phase_bins, True), (t.mag_bins, t.wraps_magnitude))
        changes = [
            circular_change(old, new, bins, wraps).double()
            for old, new, (bins, wraps) in zip(before, after, circles, strict=True)
        ]
        wanted = [update.double() for update in updates]
        if not self.steps:
            self._net = [torch.zeros_like(change) for change in changes]
            self._wanted = [torch.zeros_like(update) for update in wanted]
        for part in range(2):
            self._way[part] += float(changes[part].abs().sum())
            self._asked[part] += float(wanted[part].abs().sum())
            self._net[part] += changes[part]
            self._wanted[part] += wanted[part]
        self.steps += 1

    def effectiveness(self) -> Effectiveness:
        """What came of it so far.

        Returns:
            The figures.
        """
        ratios = [way / asked if asked else None for way, asked in zip(self._way, self._asked, strict=True)]
        cosines = [_cosine(net, wanted) for net, wanted in zip(self._net, self._wanted, strict=True)] or [None, None]
        return Effectiveness(ratios[0], ratios[1], cosines[0], cosines[1], self.steps)


def _cosine(a: Tensor, b: Tensor) -> float | None:
    norms = float(torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))
    return float((a * b).sum()) / norms if norms else None
