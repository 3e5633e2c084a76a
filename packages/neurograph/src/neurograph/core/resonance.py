"""Resonance of a context with every node: exact scores, and the k best of them, ties by node number.

The score of a node c whose own phase indices are b for a context of phase indices a is

    s(c) = Σ_d cos((a_d + b_d) δ),   δ = 2π / P.

It depends on (a_d + b_d) mod P alone. So it is *defined* here as a sum of whole numbers, the cosines in units of 2⁻³⁰
rounded to the nearest: the sum has no rounding and no order, and equal scores are equal. What is fast is one matrix
product, [cos a, −sin a] · [cos b, sin b], in double precision; it differs from the sum by at most a bound that is
worked out below. Nodes that the product tells apart by more than twice that bound are told apart rightly; the others
are decided by their whole numbers. Hence the answer for a context is the same alone and in any batch, on any device.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from neurograph.errors import ConfigError

__all__ = ["NONE", "UNIT", "Best", "best", "cosine_units", "float_bound", "phasor_rows", "unit_scores"]

UNIT = 2.0**-30
"""Of a whole-number score."""

NONE = -(1 << 62)
"""The score of no node."""

_ELEMENTS = 1 << 21
"""Scores held at a time."""


@dataclass(frozen=True)
class Best:
    """The k best nodes of each context, best first.

    Args:
        index: rows of nodes; −1 where fewer than k are allowed.
        units: whole-number scores, in `UNIT`; `NONE` where there is no node.
    """

    index: Int64[Tensor, "B S k"]
    units: Int64[Tensor, "B S k"]


@lru_cache(maxsize=64)
def cosine_units(phase_bins: int, device: torch.device) -> Int64[Tensor, " _"]:
    """cos(i δ) in units of 2⁻³⁰, for i from 0 to 2P − 2, so that sums of two indices need no modulus.

    All are taken from the first quarter of the circle: what is equal up to sign by symmetry is equal to the last bit.

    Args:
        phase_bins: P.
        device: where the table is to lie.

    Returns:
        The table; not to be written to.

    >>> cosine_units(8, torch.device("cpu"))[:5].tolist() == [2**30, 759250125, 0, -759250125, -(2**30)]
    True
    """
    place = np.arange(2 * phase_bins - 1) % phase_bins
    half = np.minimum(place, phase_bins - place)  # cos(2π − x) = cos x
    quarter = np.minimum(2 * half, phase_bins - 2 * half)  # in half steps: cos(π − x) = −cos x
    sign = np.where(4 * half > phase_bins, -1, 1)
    units = sign * np.rint(np.cos(quarter * (math.pi / phase_bins)) / UNIT).astype(np.int64)
    return torch.from_numpy(units).to(device)


def unit_scores(a: Int[Tensor, "*#many D"], b: Int[Tensor, "*#many D"], phase_bins: int) -> Int64[Tensor, "*many"]:
    """Scores Σ_d cos((a_d + b_d) δ) in units of 2⁻³⁰: the definition.

    Args:
        a: phase indices of contexts, in [0, P).
        b: phase indices of nodes, in [0, P).
        phase_bins: P.

    Returns:
        Whole numbers.

    >>> unit_scores(torch.tensor([1, 3]), torch.tensor([[3, 1], [7, 5]]), 8).tolist() == [-(2**31), 2**31]
    True
    """
    return cosine_units(phase_bins, a.device)[a.long() + b.long()].sum(-1)


def float_bound(dim: int) -> float:
    """How far the matrix product may lie from the whole-number score, in units of one.

    With u = 2⁻⁵³: an angle of up to 2π is off by 2u of itself, so that cosines and sines are off by at most 14u each,
    which makes 2 √2 · 14u < 40u for each of D products of two angles; a sum of 2D terms in any order is off by γ = 2D u
    / (1 − 2D u) of the sum of their sizes, which is at most √2 D; and each whole number is rounded by half a unit of
    2⁻³⁰.

    Args:
        dim: D.

    Returns:
        The bound.
    """
    u = 2.0**-53
    return 1.01 * dim * (3 * dim + 40) * u + dim * UNIT / 2


def phasor_rows(
    phase: Int[Tensor, "*many D"], phase_bins: int, *, conjugate: bool = False, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "*many E"]:
    """[cos a, sin a], or [cos a, −sin a]: of length √D each, so that the largest product is the nearest neighbour.

    Args:
        phase: indices in [0, P).
        phase_bins: P.
        conjugate: turn the sine's sign, for contexts.
        dtype: of the numbers.

    Returns:
        Rows of E = 2D numbers.
    """
    cos, sin = _circle(phase_bins, phase.device, dtype)
    index = phase.long()
    return torch.cat([cos[index], -sin[index] if conjugate else sin[index]], dim=-1)


@lru_cache(maxsize=64)
def _circle(phase_bins: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    angle = np.arange(phase_bins) * (2 * math.pi / phase_bins)
    cos, sin = (torch.from_numpy(f(angle)).to(device, dtype) for f in (np.cos, np.sin))
    return cos, sin


def best(
    context: Int[Tensor, "B S D"],
    own: Int[Tensor, "N D"],
    phase_bins: int,
    k: int,
    *,
    allowed: Bool[Tensor, "S N"] | None = None,
) -> Best:
    """The k nodes of highest score for each context, ties by node number.

    Args:
        context: phase indices in [0, P).
        own: phase indices of nodes, in [0, P).
        phase_bins: P.
        k: how many.
        allowed: which nodes may be chosen, for each of the S places; None = all.

    Returns:
        Rows and whole-number scores.

    Raises:
        ConfigError: k < 1.

    >>> found = best(torch.tensor([[[0, 0]]]), torch.tensor([[4, 4], [1, 7], [7, 1], [0, 0]]), 8, 3)
    >>> found.index.tolist()
    [[[3, 1, 2]]]
    """
    if k < 1:
        raise ConfigError(f"radiation asks for at least one node; got k = {k}. Ask for more, or switch radiation off.")
    n_b, n_s, n = *context.shape[:2], own.shape[0]
    index = torch.full((n_b, n_s, k), -1, dtype=torch.long, device=context.device)
    table = phasor_rows(own, phase_bins).mT
    wide = max(1, min(n_s, _ELEMENTS // n))
    deep = max(1, _ELEMENTS // (wide * n))
    for s in range(0, n_s, wide):
        may = None if allowed is None else allowed[s : s + wide]
        for b in range(0, n_b, deep):
            part = context[b : b + deep, s : s + wide]
            found = _best_of(part, own, table, phase_bins, min(k, n), may)
            index[b : b + deep, s : s + wide, : found.shape[-1]] = found
    units = unit_scores(context[:, :, None], own[index.clamp(min=0)], phase_bins)
    return Best(index, units.masked_fill_(index < 0, NONE))


def _best_of(context: Tensor, own: Tensor, table: Tensor, phase_bins: int, k: int, allowed: Tensor | None) -> Tensor:
    """[b, s, k] rows of nodes: by the product where it tells, and else by whole numbers."""
    with torch.autocast(context.device.type, enabled=False):
        score = phasor_rows(context, phase_bins, conjugate=True) @ table
    if allowed is not None:
        score.masked_fill_(~allowed, -math.inf)
    top = score.topk(min(k + 1, own.shape[0]), dim=-1)
    index = top.indices[..., :k].masked_fill(top.values[..., :k] == -math.inf, -1)
    margin = 2 * float_bound(context.shape[-1])
    # A difference of two −inf is NaN, and compares as false: no node is tied with no node.
    unclear = ((top.values[..., :-1] - top.values[..., 1:]) <= margin).any(-1)
    if not bool(unclear.any()):
        return index
    rows, edge = score[unclear], top.values[unclear][:, k - 1, None]
    close = (rows >= edge - margin) & (rows > -math.inf)
    index[unclear] = _decided(context[unclear], own, phase_bins, k, close)
    return index


def _decided(context: Tensor, own: Tensor, phase_bins: int, k: int, close: Tensor) -> Tensor:
    """[r, k] rows of nodes by whole numbers alone, of those that are close: all that can be among the k best."""
    found = torch.full((len(context), k), -1, dtype=torch.long, device=context.device)
    count = close.sum(1)
    width = max(k, int(count.max()))
    step = max(1, _ELEMENTS // (width * own.shape[1]))
    for r in range(0, len(context), step):
        # The close nodes of each context side by side, in the order of their numbers.
        row, node = close[r : r + step].nonzero(as_tuple=True)
        n_close = count[r : r + step]
        place = torch.arange(len(row), device=row.device) - (n_close.cumsum(0) - n_close)[row]
        order = torch.full((len(n_close), width), -1, dtype=torch.long, device=row.device)
        order[row, place] = node
        units = unit_scores(context[r : r + step, None], own[order.clamp(min=0)], phase_bins)
        rank = units.masked_fill_(order < 0, NONE).sort(dim=1, descending=True, stable=True).indices
        found[r : r + step] = order.gather(1, rank)[:, :k]
    return found
