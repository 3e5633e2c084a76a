"""The penalty that pushes causal importances to zero."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from spd.kernels.importances import power

__all__ = ["annealed_p", "importance_minimality_loss"]


def annealed_p(
    fraction: float, pnorm: float, *, start_frac: float = 1.0, final_p: float | None = None, end_frac: float = 1.0
) -> float:
    """The power p as training goes on: constant, then linear to its final value, then constant.

    Args:
        fraction: of training done, from 0 to 1.
        pnorm: p at the start.
        start_frac: where it begins to change; 1 and above = never.
        final_p: p at the end; None = pnorm.
        end_frac: where it ends to change.

    Returns:
        p.

    >>> [annealed_p(f, 2.0, start_frac=0.2, final_p=1.0, end_frac=0.6) for f in (0.1, 0.4, 0.8)]
    [2.0, 1.5, 1.0]
    """
    if final_p is None or start_frac >= 1 or fraction < start_frac:
        return pnorm
    if fraction >= end_frac:
        return final_p
    return pnorm + (final_p - pnorm) * (fraction - start_frac) / (end_frac - start_frac)


def importance_minimality_loss(
    upper_leaky: Mapping[str, Float[Tensor, "... _"]],
    p: float | Float[Tensor, ""],
    *,
    eps: float = 1e-12,
    beta: float = 0.0,
    world_size: int = 1,
    dropped: Mapping[str, tuple[Float[Tensor, " _"], int]] | None = None,
    by_hand: bool = False,
) -> Float[Tensor, ""]:
    """(1 / N) Σ_sites Σ_positions Σ_c (ḡ + ε)^p, N positions; not divided by the number of sites.

    With β > 0 a component that is important often costs more: with S_c = Σ_positions (ḡ + ε)^p of a site and
    μ_c = S_c / N, the loss is Σ_sites Σ_c μ_c (1 + β log2(1 + S_c · world size)).

    Args:
        upper_leaky: ḡ by site.
        p: the power, see `annealed_p`.
        eps: ε.
        beta: β.
        world_size: ranks, whose batches are of this size.
        dropped: by site, ḡ of one position that stands for others which were left out, and how many those are.
        by_hand: take the power's gradient from `spd.kernels.importances`.

    Returns:
        The loss.

    >>> importance_minimality_loss({"a": torch.tensor([[1.0, 0.5], [0.0, 0.5]])}, 1.0).item()
    1.0
    """

    def powers(values: Tensor) -> Tensor:
        above_zero = values.float() + eps
        return power(above_zero, p) if by_hand and eps > 0 and isinstance(p, float) else above_zero.pow(p)

    total = None
    for name, values in upper_leaky.items():
        positions = values[..., 0].numel()
        sums = powers(values).flatten(0, -2).sum(0)
        if dropped is not None:
            one, n = dropped[name]
            sums, positions = sums + n * powers(one), positions + n
        means = sums / positions
        if beta:
            means = means * (1 + beta * torch.log2(1 + sums * world_size))
        total = means.sum() if total is None else total + means.sum()
    assert total is not None
    return total
