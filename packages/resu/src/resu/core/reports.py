"""What a `Sparsifier` says of its layers, and what it asks of an optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from resu.core.phases import Phase, SparseParameter

__all__ = ["CommitReport", "LayerReport", "SparsityOptimizer"]


@runtime_checkable
class SparsityOptimizer(Protocol):
    """What a `Sparsifier` asks of an optimizer: `MaskedAdamW`, `MaskedSGD` and `attach` have it."""

    def before_phase(self, sparse: SparseParameter, phase: Phase) -> None:
        """Prepares the moments for another phase."""

    def commit_rows(
        self, sparse: SparseParameter, part: slice, was: Bool[Tensor, "part cols"], now: Bool[Tensor, "part cols"]
    ) -> None:
        """Fits the moments of some rows to a new mask, before the mask changes."""

    def after_commit(self, sparse: SparseParameter) -> None:
        """Called when all rows of a parameter have their new mask."""

    def moments_rows(
        self, parameter: Tensor, part: slice
    ) -> tuple[Float[Tensor, "part cols"], Float[Tensor, "part cols"] | None] | None:
        """First and second moments of some rows (None where there is no second), or None before the first step."""


@dataclass(frozen=True)
class LayerReport:
    """A weight and its mask.

    Args:
        name: of the parameter.
        shape: of the parameter.
        n_active: coordinates in A.
        n_pruned: coordinates in P.
        sparsity: share of P.
        phase: who may be written.
    """

    name: str
    shape: tuple[int, ...]
    n_active: int
    n_pruned: int
    sparsity: float
    phase: Phase


@dataclass(frozen=True)
class CommitReport:
    """What a change of mask did, over all layers.

    Args:
        n_active: active coordinates now.
        resurrected: pruned before, active now.
        lost: active before, pruned now.
        resurrection_rate: resurrected over pruned before.
        churn: resurrected and lost over all coordinates.
        jaccard: coordinates active before and now, over those active at either time.
        layers: the same for each layer, by name.
    """

    n_active: int
    resurrected: int
    lost: int
    resurrection_rate: float
    churn: float
    jaccard: float
    layers: Mapping[str, "CommitReport"]

    @classmethod
    def of(
        cls, active: int, was: int, resurrected: int, lost: int, numel: int, layers: Mapping[str, "CommitReport"]
    ) -> "CommitReport":
        """The report from its counts."""
        pruned, either = numel - was, active + lost
        return cls(
            active, resurrected, lost, resurrected / pruned if pruned else 0.0, (resurrected + lost) / numel,
            (active - resurrected) / either if either else 1.0, layers,
        )  # fmt: skip
