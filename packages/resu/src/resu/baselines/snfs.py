"""Sparse momentum: growth by the mean gradient, and layers that win and lose weights."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from resu.baselines.method import Clock, Method, Share, set_masks, sparse_start, top_masks
from resu.core.phases import SparseParameter
from resu.core.scores import momentum
from resu.core.select import Score

__all__ = ["SNFS", "SNFSConfig", "share_out"]


class SNFSConfig(Clock):
    """Settings of `SNFS`.

    Args:
        interval: steps from one change to the next.
        end: share of the training after which masks stay.
        fraction: share of a layer's active weights that is dropped at first; it falls to 0 along half a cosine.
        beta: decay of the momentum of pruned coordinates; the usual first decay of Adam keeps both kinds comparable.
    """

    name: Literal["snfs"] = "snfs"
    fraction: Share = 0.5
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9


def share_out(total: int, weights: Mapping[str, float], rooms: Mapping[str, int]) -> dict[str, int]:
    """Whole places in proportion to weights, none beyond a layer's room; what is over goes to those with room.

    Args:
        total: places to give, no more than there is room for.
        weights: at least 0, one a layer.
        rooms: places that a layer can take.

    Returns:
        One count a layer; together `total`.

    >>> share_out(10, {"a": 3.0, "b": 1.0, "c": 1.0}, {"a": 2, "b": 9, "c": 9})
    {'a': 2, 'b': 4, 'c': 4}
    """
    given = dict.fromkeys(weights, 0)
    while (left := total - sum(given.values())) > 0:
        able = [name for name in weights if given[name] < rooms[name]]
        sum_able = sum(weights[name] for name in able)
        shares = {name: left * weights[name] / sum_able if sum_able > 0 else left / len(able) for name in able}
        for name in able:
            given[name] += min(int(shares[name]), rooms[name] - given[name])
        if sum(given.values()) == total - left:  # less than one place each: the largest share takes one
            given[max(able, key=lambda name: shares[name])] += 1
    return given


class SNFS(Method[SNFSConfig]):
    """Sparse networks from scratch (Dettmers & Zettlemoyer, *Sparse momentum*, 2019, arXiv:1907.04840).

    Each layer drops a share of its smallest |w|. All that was dropped is grown again, shared out among layers in
    proportion to the mean |m| of their active weights, and within a layer where |m| is largest among pruned weights.
    Momentum m of pruned coordinates is gathered in the optimizer's free moments. The total count never changes, the
    layers' counts do.
    """

    def _start(self) -> None:
        sparse_start(self.sparsifier)
        self.sparsifier.shadow(beta=self.config.beta)

    def after_step(self, step: int) -> None:
        """Drops, shares out and grows when it is time."""
        if not self.config.due(step, self.steps):
            return
        masks = {name: sparse.mask for name, sparse in self.sparsifier.parameters.items()}
        fraction = self.config.annealed(self.config.fraction, step, self.steps)
        dropped = {name: int(fraction * mask.n_active) for name, mask in masks.items()}
        rooms = {name: mask.n_pruned for name, mask in masks.items()}
        # With less room than was dropped, the rest of the dropped weights simply stays.
        short = max(0, sum(dropped.values()) - sum(rooms.values()))
        for name in dropped:
            back = min(short, dropped[name])
            dropped[name], short = dropped[name] - back, short - back
        grown = share_out(sum(dropped.values()), self._mean_momenta(), rooms)
        stay = {name: mask.n_active - dropped[name] for name, mask in masks.items()}
        kept = top_masks(self.sparsifier, stay, among=masks)
        come = top_masks(self.sparsifier, grown, self._momentum, {name: ~mask for name, mask in masks.items()})
        set_masks(self.sparsifier, {name: kept[name] | come[name] for name in masks})

    def _momentum(self, sparse: SparseParameter) -> Score:
        return momentum(sparse, self.sparsifier.optimizer)

    def _mean_momenta(self) -> dict[str, float]:
        """Mean |m| of each layer's active weights."""
        means = {}
        for name, sparse in self.sparsifier.parameters.items():
            score, mask = self._momentum(sparse), sparse.mask
            total = sum(float(score(rows)[mask.row_bool(rows)].sum()) for rows in mask.chunks())
            means[name] = total / max(mask.n_active, 1)
        return means
