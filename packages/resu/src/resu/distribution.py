"""How a sparsity of the whole is shared out among layers, with an exact total count.

======== ===========================================================================================================
uniform  every layer has the density of the whole
erk      Erdős–Rényi-Kernel: a layer's density is proportional to the sum over the product of its dimensions, so that
         small and narrow layers keep more (Evci, Gale, Menick, Castro, Elsen, *Rigging the Lottery*, 2020,
         arXiv:1911.11134, section 3; Mocanu et al., 2018, arXiv:1707.04780, for matrices)
global   no shares at all: the largest scores anywhere are kept, see `global_counts`
======== ===========================================================================================================

Shares are rounded to whole weights by the largest remainder, so that the layers add up to the total exactly. No layer
is left empty while there are as many active weights as layers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from resu.core.mask import check_sparsity
from resu.core.select import Candidate, select_top
from resu.errors import MaskError

__all__ = ["Distribution", "active_counts", "global_counts", "layer_densities", "proportional_counts", "total_active"]

Distribution = Literal["erk", "uniform", "global"]
Shapes = Mapping[str, Sequence[int]]


def total_active(shapes: Shapes, sparsity: float) -> int:
    """Active weights of the whole: N − round(s N).

    Args:
        shapes: shape of each layer's weight.
        sparsity: s, the share of pruned weights over all layers.

    Returns:
        The count.

    Raises:
        MaskError: a sparsity outside [0, 1).

    >>> total_active({"a": (10, 10), "b": (5, 4)}, 0.9)
    12
    """
    check_sparsity(sparsity)
    total = sum(math.prod(shape) for shape in shapes.values())
    return total - round(sparsity * total)


def active_counts(shapes: Shapes, sparsity: float, distribution: Distribution = "erk") -> dict[str, int]:
    """How many weights of each layer are active.

    Args:
        shapes: shape of each layer's weight.
        sparsity: share of pruned weights over all layers, in [0, 1).
        distribution: "erk" or "uniform".

    Returns:
        One count a layer; together `total_active(shapes, sparsity)`.

    Raises:
        MaskError: a sparsity outside [0, 1), an unknown distribution, or "global", which has no shares.

    >>> active_counts({"wide": (100, 100), "narrow": (10, 100)}, 0.9)
    {'wide': 710, 'narrow': 390}
    >>> active_counts({"wide": (100, 100), "narrow": (10, 100)}, 0.9, "uniform")
    {'wide': 1000, 'narrow': 100}
    """
    total = total_active(shapes, sparsity)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if distribution == "uniform":
        weights = {name: float(size) for name, size in sizes.items()}
    elif distribution == "erk":
        weights = {name: float(sum(shape)) for name, shape in shapes.items()}
    elif distribution == "global":
        raise MaskError(
            "a global selection has no shares by layer: what a layer keeps depends on the scores. Use "
            "resu.distribution.global_counts, or the distribution 'erk' or 'uniform'."
        )
    else:
        raise MaskError(f"a distribution is erk, uniform or global; got {distribution!r}. Choose one of them.")
    return _whole(_capped(weights, sizes, total), sizes, total)


def layer_densities(shapes: Shapes, sparsity: float, distribution: Distribution = "erk") -> dict[str, float]:
    """The share of active weights of each layer: `active_counts` over the layers' sizes.

    Args:
        shapes: shape of each layer's weight.
        sparsity: share of pruned weights over all layers, in [0, 1).
        distribution: "erk", "uniform" or "global".

    Returns:
        One density a layer; `round(density * size)` is the exact count. For "global" each is the density of the whole:
        a layer's own depends on the scores.

    Raises:
        MaskError: as for `active_counts`.

    >>> layer_densities({"wide": (100, 100), "narrow": (10, 100)}, 0.9)
    {'wide': 0.071, 'narrow': 0.39}
    """
    if distribution == "global":
        size = sum(math.prod(shape) for shape in shapes.values())
        return dict.fromkeys(shapes, total_active(shapes, sparsity) / size)
    counts = active_counts(shapes, sparsity, distribution)
    return {name: counts[name] / math.prod(shape) for name, shape in shapes.items()}


def global_counts(candidates: Mapping[str, Candidate], sparsity: float) -> dict[str, int]:
    """How many weights each layer keeps when the largest scores anywhere are kept.

    Args:
        candidates: scores of each layer, all of its coordinates taking part.
        sparsity: share of pruned weights over all layers, in [0, 1).

    Returns:
        One count a layer; together `total_active` of the candidates' shapes.

    Raises:
        MaskError: a sparsity outside [0, 1), or a score that is NaN.

    >>> import torch
    >>> big, small = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 2.0]])
    >>> layers = {"a": Candidate(lambda rows: big[rows], (1, 2), big.device),
    ...           "b": Candidate(lambda rows: small[rows], (1, 2), small.device)}
    >>> global_counts(layers, 0.25)
    {'a': 2, 'b': 1}
    """
    shapes = {name: candidate.shape for name, candidate in candidates.items()}
    chosen = select_top(list(candidates.values()), total_active(shapes, sparsity))
    return {name: mask.n_active for name, mask in zip(candidates, chosen, strict=True)}


def proportional_counts(weights: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Whole numbers in proportion to weights, none above its size, that add up to the total.

    Args:
        weights: what each layer's count is proportional to.
        sizes: the most that each layer can have.
        total: their sum.

    Returns:
        One count a layer.

    >>> proportional_counts({"a": 1.0, "b": 3.0}, {"a": 10, "b": 5}, 8)
    {'a': 3, 'b': 5}
    """
    return _whole(_capped(weights, sizes, total), sizes, total)


def _capped(weights: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, float]:
    """Shares proportional to the weights; a layer that its share would overfill is dense, the rest share again."""
    dense: set[str] = set()
    while True:
        left = total - sum(sizes[name] for name in dense)
        unit = sum(weight for name, weight in weights.items() if name not in dense)
        shares = {
            name: float(sizes[name]) if name in dense else left * weight / unit for name, weight in weights.items()
        }
        overfull = {name for name in shares if name not in dense and shares[name] > sizes[name]}
        if not overfull:
            return shares
        dense |= overfull


def _whole(shares: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Whole counts that add up: rounded down, then one more to the largest remainders, the first layer first."""
    least = 1 if total >= len(shares) else 0
    counts = {name: min(sizes[name], max(least, math.floor(share + 1e-9))) for name, share in shares.items()}
    order = list(shares)
    while (missing := total - sum(counts.values())) != 0:
        if missing > 0:
            open_layers = [name for name in order if counts[name] < sizes[name]]
            counts[max(open_layers, key=lambda name: shares[name] - counts[name])] += 1
        else:
            open_layers = [name for name in order if counts[name] > least]
            counts[min(open_layers, key=lambda name: shares[name] - counts[name])] -= 1
    return counts
