"""N:M sparsity: of every M neighbouring weights of a row at most N are active.

Groups run along the columns of the (rows, cols) view. 2:4 is what sparse tensor cores multiply at twice the speed
(Mishra et al. 2021, *Accelerating sparse deep neural networks*, arXiv 2104.08378). A group may be made exact at once,
or pruned partially, its free places filled with resurrection parameters for a phase, and made exact at the commit.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from resu.core.bits import pack_rows
from resu.core.mask import SparseMask, chunk_rows, row_shape
from resu.core.scores import tensor_rows
from resu.errors import MaskError
from resu.pruning.magnitude import magnitude_mask, top_per_row

__all__ = ["NMReport", "commit_nm", "fill_nm", "nm_mask", "partial_nm_mask", "verify_nm"]


@dataclass(frozen=True)
class NMReport:
    """Groups of M, by how many of their weights are active.

    Args:
        groups: all of them.
        full: with exactly N.
        under: with fewer.
        over: with more.
    """

    groups: int
    full: int
    under: int
    over: int

    @property
    def holds(self) -> bool:
        """No group has more than N: the pattern that hardware needs."""
        return self.over == 0

    @property
    def exact(self) -> bool:
        """Every group has exactly N."""
        return self.full == self.groups


def nm_mask(weight: Float[Tensor, "..."], n: int = 2, m: int = 4) -> SparseMask:
    """Keeps the n largest |w| of every group of m; among equal ones those of the lowest column.

    Args:
        weight: the weight; not changed.
        n: kept in each group.
        m: size of a group.

    Returns:
        The mask; its sparsity is 1 − n/m exactly.

    Raises:
        MaskError: n outside 1 … m, or columns that m does not divide.

    >>> nm_mask(torch.tensor([[1.0, 3.0, 2.0, 0.5]])).to_bool().tolist()
    [[False, True, True, False]]
    """
    _check(weight.shape, n, m)
    mask = SparseMask.zeros(weight.shape, weight.device)
    for part in mask.chunks():
        scores = tensor_rows(weight.detach(), part).abs()
        mask.bits[part] = pack_rows(top_per_row(scores.reshape(-1, m), n).view(scores.shape))
    return mask


def partial_nm_mask(weight: Float[Tensor, "..."], sparsity: float, n: int = 2, m: int = 4) -> SparseMask:
    """Magnitude pruning over the whole weight, then at most n in every group of m.

    Groups that the first step left with fewer than n stay so: what `fill_nm` fills.

    Args:
        weight: the weight; not changed.
        sparsity: of the first step, in [0, 1).
        n: kept in each group at most.
        m: size of a group.

    Returns:
        The mask; it may be sparser than both.

    Raises:
        MaskError: a sparsity outside [0, 1), n outside 1 … m, or columns that m does not divide.

    >>> partial_nm_mask(torch.tensor([[5.0, 4.0, 3.0, 0.0, 2.0, 0.0, 0.0, 0.0]]), 0.5).to_bool().int().tolist()
    [[1, 1, 0, 0, 1, 0, 0, 0]]
    """
    return magnitude_mask(weight, sparsity) & nm_mask(weight, n, m)


def fill_nm(mask: SparseMask, n: int = 2, m: int = 4) -> SparseMask:
    """The pruned places to train in a RESU phase: the first ones of every group with fewer than n active weights.

    Args:
        mask: what is active.
        n: wanted in each group.
        m: size of a group.

    Returns:
        A subset of the pruned coordinates; together with the mask it has at least n in every group.

    Raises:
        MaskError: n outside 1 … m, or columns that m does not divide.

    >>> fill_nm(SparseMask(torch.tensor([[1, 0, 0, 0, 1, 1, 0, 0]]))).active_indices.tolist()
    [1]
    """
    _check(mask.shape, n, m)
    subset = SparseMask.zeros(mask.shape, mask.device)
    for part in mask.chunks():
        active = _groups(mask, part, m)
        free = (n - active.sum(1, keepdim=True)).clamp(min=0)
        chosen = ~active & ((~active).cumsum(1) <= free)
        subset.bits[part] = pack_rows(chosen.view(-1, mask.cols))
    return subset


def commit_nm(
    weight: Float[Tensor, "..."], mask: SparseMask, subset: SparseMask | None = None, n: int = 2, m: int = 4
) -> SparseMask:
    """After a RESU phase: the n largest |values| of every group, old weights and θ ranked together.

    Args:
        weight: trained weights at the mask, θ at the subset; not changed.
        mask: what was active.
        subset: what held θ; None = all pruned coordinates.
        n: kept in each group.
        m: size of a group.

    Returns:
        The mask; n in every group, fewer only where mask and subset together have fewer.

    Raises:
        MaskError: shapes that differ, n outside 1 … m, or columns that m does not divide.

    >>> mask, subset = SparseMask(torch.tensor([[1, 0, 0, 0]])), SparseMask(torch.tensor([[0, 1, 1, 0]]))
    >>> commit_nm(torch.tensor([[2.0, 0.5, 3.0, 9.0]]), mask, subset).active_indices.tolist()
    [0, 2]
    """
    _check(weight.shape, n, m)
    mask.check_shape(weight.shape, "weight")
    taking_part = SparseMask.ones(mask.shape, mask.device) if subset is None else mask | subset
    new = SparseMask.zeros(mask.shape, mask.device)
    for part in new.chunks():
        allowed = taking_part.row_bool(part)
        scores = tensor_rows(weight.detach(), part).abs().masked_fill(~allowed, -1.0)
        chosen = top_per_row(scores.reshape(-1, m), n).view(scores.shape) & allowed
        new.bits[part] = pack_rows(chosen)
    return new


def verify_nm(mask: SparseMask | Float[Tensor, "..."], n: int = 2, m: int = 4) -> NMReport:
    """Counts the groups that keep to n of m.

    Args:
        mask: a mask, or a weight, whose nonzero values count as active.
        n: allowed in each group.
        m: size of a group.

    Returns:
        The counts.

    Raises:
        MaskError: n outside 1 … m, or columns that m does not divide.

    >>> verify_nm(torch.tensor([[1.0, 0.0, 2.0, 3.0]])).holds
    False
    """
    shape = mask.shape
    _check(shape, n, m)
    rows, cols = row_shape(shape)
    full = over = 0
    for part in chunk_rows(rows, cols):
        if isinstance(mask, SparseMask):
            active = _groups(mask, part, m)
        else:
            active = tensor_rows(mask.detach(), part).reshape(-1, m) != 0
        counts = active.sum(1)
        full += int((counts == n).sum())
        over += int((counts > n).sum())
    groups = rows * cols // m
    return NMReport(groups, full, groups - full - over, over)


def _groups(mask: SparseMask, part: slice, m: int) -> Bool[Tensor, "groups m"]:
    return mask.row_bool(part).reshape(-1, m)


def _check(shape: tuple[int, ...] | torch.Size, n: int, m: int) -> None:
    if not 1 <= n <= m:
        raise MaskError(f"of every m weights n are kept, 1 ≤ n ≤ m; got n = {n}, m = {m}. The usual pattern is 2:4.")
    cols = row_shape(shape)[1]
    if cols % m:
        raise MaskError(
            f"groups of {m} run along the columns of a weight, {cols} here, which {m} does not divide; the shape is "
            f"{tuple(shape)}. Leave this weight out, or choose another m."
        )
