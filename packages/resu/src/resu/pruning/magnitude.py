"""Magnitude pruning with exact counts: by element, by whole rows, by whole columns.

The smallest weights go (Han, Pool, Tran, Dally 2015, *Learning both weights and connections for efficient neural
networks*, arXiv 1506.02626). A threshold that is compared with takes all equal weights or none; counts here are exact,
and among equal weights those of the lowest flat index stay.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from resu.core.mask import SparseMask, check_sparsity, chunk_rows, row_shape
from resu.core.scores import tensor_rows
from resu.core.select import Candidate, select_top
from resu.errors import ConfigError

__all__ = ["Granularity", "magnitude_mask", "top_per_row"]

Granularity = Literal["element", "row", "column"]


def magnitude_mask(weight: Float[Tensor, "..."], sparsity: float, granularity: Granularity = "element") -> SparseMask:
    """Prunes the smallest `round(sparsity × n)` of the n elements, rows or columns.

    Elements are ranked by |w|, rows and columns by Σ|w|. Rows are those of the first dimension (output units), columns
    those of the rest flattened (input weights); a vector is one row.

    Args:
        weight: the weight; not changed.
        sparsity: share to prune, in [0, 1).
        granularity: what is kept or pruned as one.

    Returns:
        The mask.

    Raises:
        MaskError: a sparsity outside [0, 1), a scalar weight, or one that is NaN.
        ConfigError: an unknown granularity.

    >>> weight = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
    >>> magnitude_mask(weight, 0.5).to_bool().tolist()
    [[True, False], [False, True]]
    >>> magnitude_mask(weight, 0.5, "row").to_bool().tolist()
    [[True, True], [False, False]]
    """
    check_sparsity(sparsity)
    if granularity not in get_args(Granularity):
        raise ConfigError(
            f"granularity is one of {', '.join(get_args(Granularity))}; got {granularity!r}. Use resu.pruning.nm for "
            "groups of N:M."
        )
    weight = weight.detach()
    shape, (rows, cols) = tuple(weight.shape), row_shape(weight.shape)
    if granularity == "element":
        candidate = Candidate(lambda part: tensor_rows(weight, part).abs(), shape, weight.device)
        return select_top([candidate], rows * cols - round(sparsity * rows * cols))[0]
    by_row = granularity == "row"
    # Sums in double: the order of two lines must not depend on how their elements were cut into slices.
    sums = torch.zeros(rows if by_row else cols, dtype=torch.float64, device=weight.device)
    for part in chunk_rows(rows, cols):
        size = tensor_rows(weight, part).abs()
        if by_row:
            sums[part] = size.sum(1, dtype=torch.float64)
        else:
            sums += size.sum(0, dtype=torch.float64)
    totals = sums.float()[None]
    n = totals.numel()
    line = select_top([Candidate(lambda part: totals[part], (1, n), weight.device)], n - round(sparsity * n))[0]
    kept = line.row_bool(slice(0, 1))
    mask = SparseMask.ones(shape, weight.device)
    if by_row:
        mask.bits.mul_(kept.view(rows, 1))
    else:
        mask.bits.copy_(line.bits.expand_as(mask.bits))
    return mask


def top_per_row(scores: Float[Tensor, "rows cols"], keep: int) -> Bool[Tensor, "rows cols"]:
    """Marks the `keep` largest of each row; among equal scores those of the lowest column.

    Args:
        scores: larger = better.
        keep: how many a row; all where there are fewer.

    Returns:
        The marks.

    >>> top_per_row(torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]]), 1).tolist()
    [[False, True, False], [True, False, False]]
    """
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :keep]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
