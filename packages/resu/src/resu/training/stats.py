"""The phases of a cycle, and what is said of a cycle that is over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["CyclePhase", "CycleStats"]


class CyclePhase(StrEnum):
    """Where in a cycle a training stands. PRUNE and COMMIT take no steps."""

    TRAIN = "train"
    PRUNE = "prune"
    STABILIZE = "stabilize"
    RESU = "resu"
    COMMIT = "commit"


@dataclass(frozen=True)
class CycleStats:
    """What became of a cycle.

    Args:
        cycle: its number, from 0.
        target_sparsity: what it was to end at.
        sparsity: what the masks have, counted.
        budget: share of the places that was reserved for θ.
        kept_active: active weights that stayed active.
        resurrected: pruned weights that came back.
        lost: active weights that left.
        resurrection_rate: resurrected over pruned before.
        churn: resurrected and lost over all coordinates.
        jaccard: coordinates active before and after, over those active at either time.
        steps: optimizer steps by phase.
        losses: mean finite loss by phase.
        skipped_steps: steps that were left out because a gradient was not finite.
        cleared_states: weights whose optimizer state was deleted on entry into RESU.
    """

    cycle: int
    target_sparsity: float
    sparsity: float
    budget: float
    kept_active: int
    resurrected: int
    lost: int
    resurrection_rate: float
    churn: float
    jaccard: float
    steps: Mapping[str, int] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    skipped_steps: int = 0
    cleared_states: int = 0
