"""Random scores, and what θ starts from: the same on every rank, device and shard."""

import math
from typing import Literal

import torch
import torch.distributed as dist

from resu.core.noise import NOISES, uniform
from resu.core.phases import SparseParameter
from resu.core.ranks import row_offset, sum_over_ranks
from resu.core.select import Score

__all__ = ["random_score", "start_theta"]


def random_score(sparse: SparseParameter, seed: int, label: str, group: dist.ProcessGroup | None = None) -> Score:
    """A score that is uniform noise.

    Args:
        sparse: the weight.
        seed: the run's seed.
        label: what the numbers are for; another label gives others.
        group: ranks that hold the other rows.

    Returns:
        The score.
    """
    offset, cols, device = row_offset(sparse.mask.rows, group), sparse.mask.cols, sparse.mask.device
    return lambda part: uniform(seed, label, _moved(part, offset), cols, device=device)


def start_theta(
    sparse: SparseParameter,
    init: Literal["normal", "uniform"],
    epsilon: float | int,
    seed: int,
    label: str,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Fills the pruned slots of a weight with noise: N(0, (ε σ)²) or ε σ U(−1, 1), σ the active weights' deviation.

    Args:
        sparse: the weight; its active coordinates keep every bit.
        init: which noise.
        epsilon: ε.
        seed: the run's seed.
        label: what the numbers are for.
        group: ranks that hold the other rows.
    """
    scale = epsilon * _active_std(sparse, group)
    offset, weight, mask = row_offset(sparse.mask.rows, group), sparse.weight, sparse.mask
    # Noise is made of 64-bit integers: smaller slices keep what is alive at once as small as elsewhere.
    for part in mask.chunks(max(1 << 10, mask.numel >> 11)):
        noise = NOISES[init](seed, label, _moved(part, offset), mask.cols, device=mask.device).mul_(scale)
        torch.where(mask.row_bool(part), weight[part], noise.to(weight.dtype), out=weight[part])


def _active_std(sparse: SparseParameter, group: dist.ProcessGroup | None = None) -> float:
    """Unbiased standard deviation of the active weights; 1 where there are fewer than two.

    Args:
        sparse: the weight.
        group: ranks that hold the other rows.

    Returns:
        The deviation.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for part in sparse.mask.chunks():
        values = sparse.weight[part][sparse.mask.row_bool(part)].double()
        sums += torch.tensor([values.numel(), float(values.sum()), float(values.square().sum())])
    count, total, squares = (sum_over_ranks(x, group) for x in sums.tolist())
    return math.sqrt(max(0.0, squares - total**2 / count) / (count - 1)) if count > 1 else 1.0


def _moved(part: slice, offset: int) -> slice:
    return slice(part.start + offset, part.stop + offset)
