"""Amnesty: at a commit, pruned weights compete among themselves for a protected share of the places.

Old active and old pruned weights are two pools. In one open tournament the trained active weights would win nearly
every place; so a share r of the places is kept for the pruned pool, more in early cycles than in late ones, and there
is no competition across pools. Counts are exact, ties are broken by the lowest flat index.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from resu.core.mask import SparseMask, check_sparsity
from resu.core.ranks import sum_over_ranks
from resu.core.scores import tensor_rows
from resu.core.select import Candidate, Score, select_top
from resu.errors import ConfigError, MaskError

__all__ = ["Amnesty", "AmnestyResult", "ScoreType", "compute_mask_churn", "compute_resurrection_rate", "places"]

ScoreType = Literal["magnitude", "gradient", "wanda"]


@dataclass(frozen=True)
class AmnestyResult:
    """What a tournament decided; with a process group the counts are those of this rank's rows.

    Args:
        new_mask: the mask to go on with.
        n_active_kept: old active weights that stay.
        n_resurrected_kept: old pruned weights that come back.
        n_active_pruned: old active weights that lose their place.
        n_resurrected_pruned: old pruned weights that stay pruned.
        resurrection_budget: the share r of the places that was kept for the pruned pool.
    """

    new_mask: SparseMask
    n_active_kept: int
    n_resurrected_kept: int
    n_active_pruned: int
    n_resurrected_pruned: int
    resurrection_budget: float


class Amnesty:
    """The tournament and its schedule.

    With N coordinates and a target sparsity s, n_keep = N − round(s N) places are given. In cycle c of C the pruned
    pool has n_res = ⌊r(c) n_keep⌋ of them, the active pool the rest; each pool fills its places with its best. A pool
    too small for its places leaves them over: they go to the remaining pruned weights first, then to active ones.

    Args:
        r_start: r at cycle 0.
        r_end: r from cycle `total_cycles` on.
        total_cycles: C, over which r falls linearly.
        score_type: what `compute_scores` and `commit_with_amnesty` rank by.

    Raises:
        ConfigError: a share outside [0, 1], fewer than one cycle, or an unknown score.

    >>> import torch
    >>> amnesty = Amnesty(r_start=0.5, r_end=0.1, total_cycles=4)
    >>> amnesty.resurrection_budget(2)
    0.3
    >>> old = SparseMask(torch.tensor([[True, True, False, False]]))
    >>> new, result = amnesty.commit_with_amnesty(torch.tensor([[4.0, 3.0, 1.0, 2.0]]), old, 0.5, cycle=0)
    >>> new.active_indices.tolist(), result.n_resurrected_kept
    ([0, 3], 1)
    """

    def __init__(
        self,
        r_start: float = 0.10,
        r_end: float = 0.02,
        total_cycles: int = 5,
        score_type: ScoreType = "magnitude",
    ) -> None:
        for name, share in (("r_start", r_start), ("r_end", r_end)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} is a share of the places, from 0 to 1; got {share}. Give 0.1 for a tenth.")
        if total_cycles < 1:
            raise ConfigError(f"total_cycles is at least 1; got {total_cycles}. A single commit is one cycle.")
        _check_score_type(score_type)
        self.r_start, self.r_end, self.total_cycles, self.score_type = r_start, r_end, total_cycles, score_type

    def resurrection_budget(self, cycle: int) -> float:
        """r(c) = r₀ − (r₀ − r₁) min(c, C) / C.

        Args:
            cycle: c, from 0.

        Returns:
            The share of the places that is kept for pruned weights.

        Raises:
            ConfigError: a negative cycle.
        """
        if cycle < 0:
            raise ConfigError(f"cycles are counted from 0; got {cycle}. Give 0 for the first commit.")
        return self.r_start - (self.r_start - self.r_end) * min(cycle, self.total_cycles) / self.total_cycles

    def compute_scores(
        self,
        weight: Float[Tensor, "..."],
        score_type: ScoreType | None = None,
        activation_norms: Float[Tensor, " cols"] | None = None,
        gradients: Float[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """All scores of a weight at once: |w|, |w| |g| ("gradient") or |w| ‖x‖₂ ("wanda").

        This makes a tensor as large as the weight; `commit_with_amnesty` does without.

        Args:
            weight: the effective weight.
            score_type: another score than the one chosen at construction.
            activation_norms: ‖x‖₂ of each input column, for "wanda".
            gradients: the weight's gradient, for "gradient".

        Returns:
            The scores in the weight's shape.

        Raises:
            ConfigError: an unknown score, or one without what it needs.
            MaskError: gradients or norms of another shape.
        """
        score = self._score(weight, score_type, activation_norms, gradients)
        return score(slice(None)).reshape(weight.shape)

    def relative_tournament(
        self,
        scores: Score | Float[Tensor, "..."],
        old_mask: SparseMask,
        target_sparsity: float,
        cycle: int,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> AmnestyResult:
        """Fills each pool's places with the pool's best.

        Args:
            scores: larger = better; a tensor of the mask's shape, or a function of a slice of rows.
            old_mask: its active set and its pruned set are the pools.
            target_sparsity: s, in [0, 1).
            cycle: c, from 0.
            group: ranks that hold the other rows of the weight; the tournament is then the global one.

        Returns:
            The new mask and the counts.

        Raises:
            MaskError: a sparsity outside [0, 1), or scores of another shape.
            ConfigError: a negative cycle.
        """
        check_sparsity(target_sparsity)
        budget = self.resurrection_budget(cycle)
        score = _as_score(scores, old_mask) if isinstance(scores, Tensor) else scores
        n_total, n_old = (sum_over_ranks(n, group) for n in (old_mask.numel, old_mask.n_active))
        keep = n_total - round(target_sparsity * n_total)
        shares = places(keep, n_old, n_total - n_old, budget)
        kept, back = (
            select_top([Candidate(score, old_mask.shape, old_mask.device, old_mask, pruned)], k, group=group)[0]
            for pruned, k in zip((False, True), shares, strict=True)
        )
        return AmnestyResult(
            new_mask=kept | back,
            n_active_kept=kept.n_active,
            n_resurrected_kept=back.n_active,
            n_active_pruned=old_mask.n_active - kept.n_active,
            n_resurrected_pruned=old_mask.n_pruned - back.n_active,
            resurrection_budget=budget,
        )

    def commit_with_amnesty(
        self,
        weight: Float[Tensor, "..."],
        old_mask: SparseMask,
        target_sparsity: float,
        cycle: int,
        score_type: ScoreType | None = None,
        activation_norms: Float[Tensor, " cols"] | None = None,
        gradients: Float[Tensor, "..."] | None = None,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> tuple[SparseMask, AmnestyResult]:
        """Scores a weight by slices of rows and runs the tournament. The weight is not changed.

        Args:
            weight: the effective weight: trained values at A, θ at P.
            old_mask: the mask before the phase.
            target_sparsity: s, in [0, 1).
            cycle: c, from 0.
            score_type: another score than the one chosen at construction.
            activation_norms: ‖x‖₂ of each input column, for "wanda".
            gradients: the weight's gradient, for "gradient".
            group: ranks that hold the other rows of the weight.

        Returns:
            The new mask, and the counts.

        Raises:
            MaskError: a sparsity outside [0, 1), or shapes that differ.
            ConfigError: a negative cycle, an unknown score, or one without what it needs.
        """
        old_mask.check_shape(weight.shape, "weight")
        score = self._score(weight, score_type, activation_norms, gradients)
        result = self.relative_tournament(score, old_mask, target_sparsity, cycle, group=group)
        return result.new_mask, result

    def _score(
        self,
        weight: Tensor,
        score_type: ScoreType | None,
        activation_norms: Tensor | None,
        gradients: Tensor | None,
    ) -> Score:
        kind = self.score_type if score_type is None else score_type
        _check_score_type(kind)
        weight = weight.detach()
        if kind == "gradient":
            if gradients is None:
                raise ConfigError("the score |w| |g| needs gradients; got none. Pass gradients=weight.grad.")
            if gradients.shape != weight.shape:
                raise MaskError(
                    f"gradients have the weight's shape, {tuple(weight.shape)}; these have {tuple(gradients.shape)}. "
                    "Pass the gradient of this weight."
                )
            grad = gradients.detach()
            return lambda part: tensor_rows(weight, part).abs() * tensor_rows(grad, part).abs()
        if kind == "wanda":
            if activation_norms is None:
                raise ConfigError(
                    "the score |w| ‖x‖ needs activation_norms; got none. Collect them with "
                    "resu.pruning.wanda.calibrate."
                )
            norms = activation_norms.detach().to(weight.device).float()
            cols = weight.numel() // (1 if weight.dim() == 1 else weight.shape[0])
            if norms.shape != (cols,):
                raise MaskError(
                    f"activation norms are one a column, {cols} here; these have shape {tuple(norms.shape)}. Collect "
                    "them on the layer that the weight belongs to."
                )
            return lambda part: tensor_rows(weight, part).abs() * norms
        return lambda part: tensor_rows(weight, part).abs()


def compute_resurrection_rate(old_mask: SparseMask, new_mask: SparseMask) -> float:
    """|old P ∩ new A| / |old P|: the share of pruned weights that came back.

    Args:
        old_mask: before the commit.
        new_mask: after it.

    Returns:
        The share; 0 where nothing was pruned.

    Raises:
        MaskError: masks of different shapes.

    >>> import torch
    >>> old, new = SparseMask(torch.tensor([True, False, False])), SparseMask(torch.tensor([False, True, False]))
    >>> compute_resurrection_rate(old, new)
    0.5
    """
    back = new_mask.difference(old_mask).n_active
    return back / old_mask.n_pruned if old_mask.n_pruned else 0.0


def compute_mask_churn(old_mask: SparseMask, new_mask: SparseMask) -> dict[str, float]:
    """How much a mask changed, counted on its bits.

    Args:
        old_mask: before the commit.
        new_mask: after it.

    Returns:
        Shares of all coordinates, `stable_active`, `stable_pruned` and `changed`, which add up to 1; and `jaccard`,
        |A ∩ A'| / |A ∪ A'|.

    Raises:
        MaskError: masks of different shapes.

    >>> import torch
    >>> old, new = SparseMask(torch.tensor([True, True, False])), SparseMask(torch.tensor([True, False, True]))
    >>> churn = compute_mask_churn(old, new)
    >>> {name: round(share, 2) for name, share in churn.items()}
    {'stable_active': 0.33, 'stable_pruned': 0.0, 'changed': 0.67, 'jaccard': 0.33}
    """
    both, total = old_mask.overlap_with(new_mask), old_mask.numel
    either = old_mask.n_active + new_mask.n_active - both
    return {
        "stable_active": both / total,
        "stable_pruned": (total - either) / total,
        "changed": (either - both) / total,
        "jaccard": both / either if either else 1.0,
    }


def places(keep: int, n_active: int, n_pruned: int, budget: float) -> tuple[int, int]:
    """Places of the active and of the pruned pool; what a pool cannot fill goes to the pruned one, then the active one.

    Args:
        keep: places in all.
        n_active: coordinates in the active pool.
        n_pruned: coordinates in the pruned pool.
        budget: share of the places that is meant for the pruned pool.

    Returns:
        The two numbers; together `keep`.

    >>> places(10, 10, 90, 0.25), places(10, 4, 90, 0.25), places(10, 10, 1, 0.25)
    ((8, 2), (4, 6), (9, 1))
    """
    wanted = int(budget * keep)
    resurrected, active = min(wanted, n_pruned), min(keep - wanted, n_active)
    left = keep - resurrected - active
    more = min(left, n_pruned - resurrected)
    return active + left - more, resurrected + more


def _as_score(scores: Tensor, mask: SparseMask) -> Score:
    mask.check_shape(scores.shape, "tensor of scores")
    return lambda part: tensor_rows(scores.detach(), part)


def _check_score_type(score_type: str) -> None:
    if score_type not in get_args(ScoreType):
        raise ConfigError(
            f"an amnesty ranks by one of {', '.join(get_args(ScoreType))}; got {score_type!r}. For another score, pass "
            "it to relative_tournament."
        )
