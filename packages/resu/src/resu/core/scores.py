"""Scores of weights, computed by slices of rows so that nothing as large as the weight is made.

Each function takes a sparsified parameter and gives a `resu.core.select.Score`: rows in, float32 scores out, larger =
more worth keeping. With the weight w, its gradient g, the optimizer's moments m and v, and the layer's input x:

- `magnitude`, |w|: dropping the smallest (Han et al. 2015, arXiv 1506.02626);
- `gradient`, |g|: growing by the gradient of one batch (RigL: Evci et al. 2019, arXiv 1911.11134);
- `momentum`, |m|: growing by a mean gradient (SNFS: Dettmers, Zettlemoyer 2019, arXiv 1907.04840);
- `consistency`, |m| C: the same, weighed by how steadily the gradient kept its sign;
- `movement`, |w| |g|: first-order change of the loss (Molchanov et al. 2016, arXiv 1611.06440);
- `activation`, |w| ‖x‖: Wanda (Sun et al. 2023, arXiv 2306.11695).
"""

from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from resu.core.phases import Phase, SparseParameter, local
from resu.core.select import Score
from resu.errors import ConfigError, MaskError, OptimizerError, PhaseError

__all__ = [
    "SCORES",
    "MomentSource",
    "activation",
    "column_rows",
    "consistency",
    "gradient",
    "magnitude",
    "momentum",
    "movement",
    "named_score",
    "tensor_rows",
]


@runtime_checkable
class MomentSource(Protocol):
    """Whatever holds moments: the masked optimizers, and `resu.optim.stock.attach`."""

    def moments_rows(
        self, parameter: Tensor, part: slice
    ) -> tuple[Float[Tensor, "part cols"], Float[Tensor, "part cols"] | None] | None:
        """Rows of m and of v ≥ 0 (None where there is no second moment); None before the optimizer's first step."""


def tensor_rows(tensor: Float[Tensor, "..."], part: slice) -> Float32[Tensor, "part cols"]:
    """Some rows of a tensor as a float32 matrix; a vector is one row.

    Args:
        tensor: a weight or a gradient; need not be contiguous.
        part: which rows.

    Returns:
        The rows; a view where the tensor is float32 already.

    >>> tensor_rows(torch.arange(12.0).view(3, 2, 2), slice(1, 2)).tolist()
    [[4.0, 5.0, 6.0, 7.0]]
    """
    return (tensor.unsqueeze(0) if tensor.dim() == 1 else tensor)[part].flatten(1).float()


def column_rows(columns: Float[Tensor, "groups cols"], part: slice, rows: int) -> Float[Tensor, "part cols"]:
    """One value a column, laid out for some rows of a weight whose groups of rows see inputs of their own.

    Args:
        columns: values by group and column.
        part: which rows of the weight.
        rows: rows of the whole weight.

    Returns:
        A row of values for each row of the weight; a single one where there is one group.

    >>> column_rows(torch.tensor([[1.0], [2.0]]), slice(1, 4), 4).flatten().tolist()
    [1.0, 2.0, 2.0]
    """
    groups = columns.shape[0]
    if groups == 1:
        return columns
    return columns[torch.arange(*part.indices(rows), device=columns.device) // (rows // groups)]


def magnitude(state: SparseParameter) -> Score:
    """|w|.

    Args:
        state: the sparsified parameter.

    Returns:
        The score.
    """
    weight = state.weight
    return lambda part: weight[part].float().abs()


def gradient(state: SparseParameter) -> Score:
    """|g| of the last backward pass.

    Args:
        state: the sparsified parameter.

    Returns:
        The score.

    Raises:
        PhaseError: the parameter has no gradient.
    """
    grad = _gradient(state)
    return lambda part: tensor_rows(grad, part).abs()


def movement(state: SparseParameter) -> Score:
    """|w| |g|.

    Args:
        state: the sparsified parameter.

    Returns:
        The score.

    Raises:
        PhaseError: the parameter has no gradient.
    """
    weight, grad = state.weight, _gradient(state)
    return lambda part: weight[part].float().abs() * tensor_rows(grad, part).abs()


def momentum(state: SparseParameter, optimizer: MomentSource | None) -> Score:
    """|m|, the size of the running mean of the gradient.

    Args:
        state: the sparsified parameter.
        optimizer: what holds its moments.

    Returns:
        The score.

    Raises:
        OptimizerError: no optimizer, or one that has no moments of this parameter.
    """
    moments = _moments(state, optimizer)
    return lambda part: moments(part)[0].float().abs()


def consistency(state: SparseParameter, optimizer: MomentSource | None, delta: float = 1e-8) -> Score:
    """|m| C with C = |m| / (a + δ), where a is the running mean of the gradient's size: m² / (a + δ).

    In phase SHADOW the free second moments of pruned coordinates hold a = EMA |g| itself, and C is the directional
    consistency, between 0 and 1. In any other phase v is the optimizer's EMA g², and a = √v. The score compares
    coordinates that share one kind of v: rank A and P apart during SHADOW.

    Args:
        state: the sparsified parameter.
        optimizer: what holds its moments.
        delta: δ, keeps 0 / 0 away.

    Returns:
        The score.

    Raises:
        OptimizerError: no optimizer, or one that has no moments of this parameter.
    """
    moments, shadow = _moments(state, optimizer), state.phase is Phase.SHADOW
    if moments(slice(0, 1))[1] is None:
        raise OptimizerError(
            f"consistency compares m with the size of v; this optimizer has no second moment of {state.name}. Use "
            "MaskedAdamW, or score by momentum."
        )

    def score(part: slice) -> Tensor:
        m, v = moments(part)
        size, spread = m.float().abs(), cast(Tensor, v).float()
        spread = spread + delta if shadow else spread.sqrt().add_(delta)
        # Divided before it is multiplied: m² leaves float32's range long before the score does.
        return torch.div(size, spread, out=spread).mul_(size)

    return score


def activation(state: SparseParameter, norms: Float[Tensor, "*groups cols"]) -> Score:
    """|w| ‖x‖₂, the norm taken over all inputs of a column.

    Args:
        state: the sparsified parameter.
        norms: one norm a column; for a grouped convolution one row of norms a group, since each group of output
            channels sees inputs of its own.

    Returns:
        The score.

    Raises:
        MaskError: norms that do not fit the weight.
    """
    weight = state.weight
    rows, cols = weight.shape
    table = norms.to(weight.device).float().reshape(-1, norms.shape[-1])
    if table.shape[1] != cols or rows % table.shape[0]:
        raise MaskError(
            f"input norms are one a column of the weight, in rows that divide its {rows} rows; the weight has {cols} "
            f"columns, the norms have shape {tuple(norms.shape)}. Collect them on the layer that the weight belongs to."
        )

    return lambda part: weight[part].float().abs() * column_rows(table, part, rows)


SCORES: dict[str, Callable[[SparseParameter, MomentSource | None], Score]] = {
    "magnitude": lambda state, _: magnitude(state),
    "gradient": lambda state, _: gradient(state),
    "movement": lambda state, _: movement(state),
    "momentum": lambda state, optimizer: momentum(state, optimizer),
    "consistency": lambda state, optimizer: consistency(state, optimizer),
}
"""The scores that need nothing but the parameter and its optimizer, by name."""


def named_score(name: str, state: SparseParameter, optimizer: MomentSource | None = None) -> Score:
    """A score by its name.

    Args:
        name: a key of `SCORES`.
        state: the sparsified parameter.
        optimizer: what holds its moments; needed by momentum and consistency.

    Returns:
        The score.

    Raises:
        ConfigError: an unknown name.
        PhaseError: the score needs a gradient and there is none.
        OptimizerError: the score needs moments and there are none.
    """
    if name not in SCORES:
        raise ConfigError(
            f"a score is one of {', '.join(SCORES)}; got {name!r}. Pass a function of the parameter for another one."
        )
    return SCORES[name](state, optimizer)


def _gradient(state: SparseParameter) -> Tensor:
    grad = state.parameter.grad
    if grad is None:
        raise PhaseError(
            f"this score needs a gradient; {state.name} has none. Score between backward() and "
            "zero_grad(), or score by momentum."
        )
    return local(grad).detach()


def _moments(state: SparseParameter, optimizer: MomentSource | None) -> Callable[[slice], tuple[Tensor, Tensor | None]]:
    if optimizer is None:
        raise OptimizerError(
            f"this score reads the optimizer's moments; none was given for {state.name}. Pass a MaskedAdamW, or what "
            "attach returned, or score by magnitude."
        )

    def rows(part: slice) -> tuple[Tensor, Tensor | None]:
        moments = optimizer.moments_rows(state.parameter, part)
        if moments is None:
            raise OptimizerError(
                f"this score reads the optimizer's moments; it has none of {state.name} yet. Take a step first, or "
                "score by magnitude."
            )
        return moments

    rows(slice(0, 1))  # refuse at once rather than in the middle of a selection
    return rows
