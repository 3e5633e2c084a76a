"""DSNoT: which weights are kept is tuned to the dense layer's output without training any.

For an output row with weights w and an input x, Δ = w·x − (m ⊙ w)·x is what pruning took away. Its mean over inputs,
E[Δ] = Σ_{k ∈ P} w_k E[x_k], is driven towards 0 by swaps of one pruned for one kept weight (Zhang et al. 2023, *Dynamic
sparse no training: training-free fine-tuning for sparse LLMs*, arXiv 2310.08915):

- grow argmax over P of sign(E[Δ]) w_k E[x_k] / Var[x_k]^γ: what brings the mean down most, and most reliably;
- drop argmin of |w_k| ‖x_k‖₂, Wanda's score, over those of A whose removal brings the mean down too,
  sign(E[Δ]) w_k E[x_k] < 0; the original drops the least of all A, which often undoes what was grown;
- E[Δ] follows; stop when its mean change over rows falls below a tolerance, or after a number of iterations.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from resu.core.mask import SparseMask
from resu.core.scores import column_rows, tensor_rows
from resu.errors import CalibrationError
from resu.pruning.wanda import ColumnStatistics

__all__ = ["dsnot", "dsnot_mask", "mean_error"]

_LEAST_VARIANCE = 1e-12


def mean_error(
    weight: Float[Tensor, "..."], mask: SparseMask, statistics: ColumnStatistics
) -> Float32[Tensor, " rows"]:
    """E[Δ] of each output row: the mean of what pruning takes from the layer's output.

    Args:
        weight: the dense weight.
        mask: what is kept.
        statistics: of the layer's inputs.

    Returns:
        One mean a row.

    Raises:
        MaskError: a mask of another shape.

    >>> statistics = ColumnStatistics(1, torch.tensor([[2.0, 3.0]]).double(), torch.zeros(1, 2).double())
    >>> mean_error(torch.tensor([[5.0, 7.0]]), SparseMask(torch.tensor([[True, False]])), statistics).tolist()
    [21.0]
    """
    mask.check_shape(weight.shape, "weight")
    mean = statistics.mean.to(weight.device).float()
    error = torch.empty(mask.rows, device=weight.device)
    for part in mask.chunks():
        taken = tensor_rows(weight.detach(), part) * column_rows(mean, part, mask.rows)
        error[part] = taken.masked_fill(mask.row_bool(part), 0).sum(1)
    return error


def dsnot_mask(
    weight: Float[Tensor, "..."],
    mask: SparseMask,
    statistics: ColumnStatistics,
    *,
    iterations: int = 50,
    tolerance: float = 0.01,
    gamma: float = 1.0,
    any_drop: bool = False,
    name: str = "weight",
) -> SparseMask:
    """Swaps pruned for kept weights within each row; every row keeps its number of weights.

    A swap that would not bring |E[Δ]| of its row down is not made, and the row rests; so no row ends worse than it
    began. Rows are independent of each other except for the common end.

    Args:
        weight: the dense weight, its pruned values still there; not changed.
        mask: what is kept at the start; not changed.
        statistics: of the layer's inputs, from `resu.pruning.wanda.calibrate`.
        iterations: swaps a row at most.
        tolerance: stop when E[Δ] changes by less than this in an iteration, averaged over rows; in units of the
            layer's output.
        gamma: power of the variance in the growing criterion.
        any_drop: drop the least of all active weights, whatever that does to E[Δ].
        name: for messages.

    Returns:
        The new mask.

    Raises:
        MaskError: a mask of another shape.
        CalibrationError: statistics of another layer; pruned weights that are all 0, so that nothing can come back; a
            number of iterations below 0.

    >>> statistics = ColumnStatistics(4, torch.tensor([[1.0, 1.0, 1.0]]).double(), torch.ones(1, 3).double())
    >>> weight, mask = torch.tensor([[-1.0, 4.0, 5.0]]), SparseMask(torch.tensor([[True, False, True]]))
    >>> dsnot_mask(weight, mask, statistics).to_bool().tolist()
    [[False, True, True]]
    """
    mask.check_shape(weight.shape, "weight")
    weight, rows, device = weight.detach(), mask.rows, weight.device
    statistics.check_fit(rows, mask.cols, name)
    if iterations < 0:
        raise CalibrationError(f"iterations is a number of swaps, at least 0; got {iterations}. The usual value is 50.")
    new = mask.clone()
    if not mask.n_pruned or not mask.n_active:
        return new
    if not any(bool(tensor_rows(weight, p).masked_fill(mask.row_bool(p), 0).any()) for p in mask.chunks()):
        raise CalibrationError(
            f"DSNoT brings back values of pruned weights; those of {name} are all 0. Run it before masks are put into "
            "force, or pass a copy of the dense weight."
        )
    mean = statistics.mean.to(device).float()
    growth = mean / statistics.variance.to(device).float().clamp(min=_LEAST_VARIANCE).pow(gamma)
    norm = statistics.norm.to(device).float()
    error, resting = mean_error(weight, mask, statistics), torch.zeros(rows, dtype=torch.bool, device=device)
    for _ in range(iterations):
        moved = torch.zeros((), dtype=torch.float64, device=device)
        for part in new.chunks():
            w, active = tensor_rows(weight, part), new.row_bool(part)
            sign = error[part].sign().unsqueeze(1)
            grow = (sign * w * column_rows(growth, part, rows)).masked_fill(active, -torch.inf).argmax(1)
            effect = w * column_rows(mean, part, rows)
            droppable = active if any_drop else active & (sign * effect < 0)
            drop = (w.abs() * column_rows(norm, part, rows)).masked_fill(~droppable, torch.inf).argmin(1)
            change = (effect.gather(1, drop[:, None]) - effect.gather(1, grow[:, None])).squeeze(1)
            possible = droppable.any(1) & ~active.all(1) & ~resting[part]
            swap = possible & ((error[part] + change).abs() < error[part].abs())
            resting[part] |= ~swap
            error[part] += change * swap
            moved += (change.abs() * swap).sum(dtype=torch.float64)
            _flip(new, part, grow, swap)
            _flip(new, part, drop, swap)
        if float(moved) / rows < tolerance:
            break
    return new


def dsnot(
    model: nn.Module,
    masks: Mapping[str, SparseMask],
    statistics: Mapping[str, ColumnStatistics],
    *,
    iterations: int = 50,
    tolerance: float = 0.01,
    gamma: float = 1.0,
    any_drop: bool = False,
) -> dict[str, SparseMask]:
    """`dsnot_mask` for every mask of a model.

    Args:
        model: holds the dense weights; not changed.
        masks: by parameter name.
        statistics: by parameter name.
        iterations: swaps a row at most.
        tolerance: see `dsnot_mask`.
        gamma: see `dsnot_mask`.
        any_drop: see `dsnot_mask`.

    Returns:
        New masks by parameter name.

    Raises:
        CalibrationError: a mask without a parameter or without statistics; see `dsnot_mask`.
        MaskError: a mask of another shape.
    """
    parameters = dict(model.named_parameters())
    for name in masks:
        if name not in parameters or name not in statistics:
            raise CalibrationError(
                f"DSNoT needs the parameter and the statistics of each mask; {name} lacks one. Names are those of "
                "model.named_parameters(), statistics come from resu.pruning.wanda.calibrate."
            )
    return {
        name: dsnot_mask(
            parameters[name],
            mask,
            statistics[name],
            iterations=iterations,
            tolerance=tolerance,
            gamma=gamma,
            any_drop=any_drop,
            name=name,
        )
        for name, mask in masks.items()
    }


def _flip(mask: SparseMask, part: slice, column: Int64[Tensor, " part"], where: Tensor) -> None:
    """Turns over one bit in each marked row."""
    words = mask.bits[part]
    bit = (torch.ones_like(column) << (column % 32)).to(torch.int32) * where
    at = (column // 32).unsqueeze(1)
    words.scatter_(1, at, (words.gather(1, at).squeeze(1) ^ bit).unsqueeze(1))
