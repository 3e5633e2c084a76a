"""How well components match what a toy model is known to consist of.

Errors of causal importances (Bushnaq, Braun, Sharkey, 2025, arXiv:2506.20790): a feature at 0.75 alone is fed in, for
each feature, and the importances make a matrix of features by components. Where each feature should have a component of
its own it is an identity, up to the components' order; where k components should serve all features it has k dense
columns and else zeros.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from spd.models.components import Components

__all__ = [
    "DirectionMatch",
    "dense_ci_error",
    "direction_match",
    "direction_scores",
    "identity_ci_error",
    "identity_order",
]

_EXACT_BELOW = 500


def identity_order(importances: Float[Tensor, "features C"]) -> list[int]:
    """Components in the order that puts the largest importances on the diagonal; unassigned ones follow.

    Exact where the smaller side is below 500 (Kuhn, *The Hungarian Method*, 1955), greedy above.

    Args:
        importances: g of each feature alone.

    Returns:
        A permutation of the columns.

    >>> identity_order(torch.tensor([[0.0, 1.0, 0.0], [0.9, 0.0, 0.1]]))
    [1, 0, 2]
    """
    g = importances.detach().double().cpu().numpy()
    if min(g.shape) < _EXACT_BELOW:
        rows, columns = linear_sum_assignment(-g)
    else:
        rows, columns = _greedy(g)
    order = [int(column) for _, column in sorted(zip(rows, columns, strict=True))]
    return order + [column for column in range(g.shape[1]) if column not in set(order)]


def _greedy(g: "np.ndarray") -> tuple[list[int], list[int]]:
    free = g.copy()
    rows, columns = [], []
    for _ in range(min(g.shape)):
        row, column = np.unravel_index(int(free.argmax()), free.shape)
        rows.append(int(row))
        columns.append(int(column))
        free[row, :] = free[:, column] = -np.inf
    return rows, columns


def identity_ci_error(importances: Float[Tensor, "features C"], tolerance: float = 0.1) -> int:
    """Entries that an identity would not have: above the tolerance off the diagonal, or below 1 − tolerance on it.

    Args:
        importances: g of each feature alone.
        tolerance: how far an entry may be off.

    Returns:
        The number of errors; features without a component count.

    >>> identity_ci_error(torch.tensor([[0.0, 1.0, 0.0], [0.8, 0.0, 0.3]]))
    2
    """
    g = importances[:, identity_order(importances)]
    n = min(g.shape)
    diagonal = torch.zeros_like(g, dtype=torch.bool)
    diagonal[torch.arange(n), torch.arange(n)] = True
    off = int((g[~diagonal] > tolerance).sum())
    return off + int((g[diagonal] < 1 - tolerance).sum()) + max(0, g.shape[0] - g.shape[1])


def dense_ci_error(importances: Float[Tensor, "features C"], k: int, tolerance: float = 0.1) -> int:
    """Of the k columns with the largest sums those that never reach 1 − tolerance, and entries elsewhere above it.

    Args:
        importances: g of each feature alone.
        k: dense components that there should be.
        tolerance: how far an entry may be off.

    Returns:
        The number of errors.

    >>> dense_ci_error(torch.tensor([[1.0, 0.2, 0.0], [0.5, 0.0, 0.0]]), 1)
    1
    """
    g = importances[:, importances.sum(0).argsort(descending=True)]
    idle = int((g[:, :k].max(0).values < 1 - tolerance).sum())
    return idle + int((g[:, k:] > tolerance).sum())


@dataclass(frozen=True)
class DirectionMatch:
    """How well components point along the columns of the target's weight.

    As the paper defines it, over all components. In few dimensions a dead one, of hardly any length, may point the
    right way by chance and win; ml2r is then far from 1 while nothing is wrong with the component that serves the
    feature.

    Args:
        mmcs: mean over input features of the largest cosine with any component.
        ml2r: mean over input features of that component's length over the column's.
    """

    mmcs: float
    ml2r: float


def direction_scores(
    weight: Float[Tensor, "d_out d_in"], components: Components
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Compares the columns of a weight with what each component does to a single feature, V[j, c] U[c].

    That vector points along U[c] or against it, and is |V[j, c]| ‖U[c]‖ long: it is never made.

    Args:
        weight: the target's.
        components: of it.

    Returns:
        Mean max cosine similarity and mean length ratio, on the weight's device.
    """
    v, u = components.V.detach(), components.U.detach()
    columns = torch.nn.functional.normalize(weight.detach().T, dim=1)  # features, d_out
    along = columns @ torch.nn.functional.normalize(u, dim=1).T  # features, C
    best = (v.sign() * along).max(1)
    lengths = v.abs() * u.norm(dim=1)
    ratio = lengths.gather(1, best.indices.unsqueeze(1)).squeeze(1) / weight.detach().norm(dim=0)
    return best.values.mean(), ratio.mean()


def direction_match(weight: Float[Tensor, "d_out d_in"], components: Components) -> DirectionMatch:
    """The same as plain numbers; see `direction_scores`.

    Args:
        weight: the target's.
        components: of it.

    Returns:
        Mean max cosine similarity and mean length ratio.
    """
    mmcs, ml2r = direction_scores(weight, components)
    return DirectionMatch(mmcs.item(), ml2r.item())
