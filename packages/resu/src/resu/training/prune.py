"""PRUNE: down to a cycle's sparsity, by the score that the settings name or by a function of the user's own."""

from collections.abc import Callable, Mapping

from resu.config import CycleConfig
from resu.core.mask import SparseMask
from resu.core.phases import SparseParameter
from resu.core.scores import activation, magnitude
from resu.core.select import Score
from resu.pruning.magnitude import magnitude_mask
from resu.pruning.wanda import ColumnStatistics
from resu.sparsifier import Sparsifier

__all__ = ["Calibration", "Pruner", "Stabilizer", "prune_to"]

Pruner = Callable[[Sparsifier, float], Mapping[str, SparseMask]]
"""Gets the sparsifier and a sparsity, returns masks by name of parameter."""
Stabilizer = Callable[[Sparsifier], Mapping[str, SparseMask] | None]
"""Gets the sparsifier after a PRUNE, returns masks to go on with, or None."""
Calibration = Callable[[], Mapping[str, ColumnStatistics]]
"""Gives statistics of layers' inputs by name of parameter."""


def prune_to(
    sparsifier: Sparsifier, target: float, config: CycleConfig, pruner: Pruner | None, calibration: Calibration | None
) -> bool:
    """Prunes to a sparsity; never the other way, since what is to become denser does so at a commit.

    Args:
        sparsifier: whose masks.
        target: the sparsity over all layers.
        config: score, granularity and tolerance.
        pruner: gives the masks instead.
        calibration: gives what the score "wanda" needs.

    Returns:
        Whether anything was pruned: not where the masks are as sparse as that already.
    """
    numel = sum(sparse.parameter.numel() for sparse in sparsifier.parameters.values())
    # Half a weight: masks of the very count that is asked for stay as they are.
    if target - sparsifier.sparsity <= max(config.prune_tolerance, 0.5 / numel):
        return False
    if pruner is not None:
        sparsifier.set_masks(pruner(sparsifier, target))
    elif config.pruning == "wanda" and calibration is not None:
        statistics = calibration()

        def score(name: str, sparse: SparseParameter) -> Score:
            """Embeddings see no inputs that could be weighed."""
            return activation(sparse, statistics[name].norm.float()) if name in statistics else magnitude(sparse)

        sparsifier.prune(score, target)
    elif config.granularity != "element":
        counts = sparsifier.counts(target)
        sparsifier.set_masks(
            {
                name: magnitude_mask(sparse.parameter, 1 - counts[name] / sparse.parameter.numel(), config.granularity)
                for name, sparse in sparsifier.parameters.items()
            }
        )
    else:
        sparsifier.prune("random" if config.pruning == "random" else "magnitude", target)
    return True
