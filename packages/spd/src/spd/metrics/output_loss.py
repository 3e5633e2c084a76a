"""How far a network's output is from the target's: the sum over a batch, and what it is divided by.

Sums and divisors are kept apart, so that they can be added over masks, sites, microbatches and ranks before they meet.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from spd.errors import ConfigError

__all__ = ["OutputLossType", "SumAndCount", "added", "divergence", "output_loss"]

OutputLossType = Literal["mse", "kl"]


@dataclass(frozen=True)
class SumAndCount:
    """A sum, and what it is divided by.

    Args:
        total: of all terms.
        count: of output numbers (mse) or positions (kl).

    >>> both = SumAndCount(torch.tensor(2.0), 4) + SumAndCount(torch.tensor(1.0), 2)
    >>> both.mean.item()
    0.5
    """

    total: Float[Tensor, ""]
    count: int

    def __add__(self, other: "SumAndCount") -> "SumAndCount":
        return SumAndCount(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> Float[Tensor, ""]:
        """The sum over its divisor."""
        return self.total / self.count


def added(parts: Iterable[SumAndCount]) -> SumAndCount:
    """Adds up losses of several passes.

    Args:
        parts: at least one.

    Returns:
        Sum and divisor over all of them.

    Raises:
        ConfigError: none at all.
    """
    total: SumAndCount | None = None
    for part in parts:
        total = part if total is None else total + part
    if total is None:
        raise ConfigError("a loss is over one pass at least; there is none. Give a site, and n_mask_samples above 0.")
    return total


def output_loss(
    pred: Float[Tensor, "... d"], target: Float[Tensor, "... d"], kind: OutputLossType, *, positions: int | None = None
) -> SumAndCount:
    """Σ (pred − target)² over all numbers, or Σ KL(softmax(target) ‖ softmax(pred)) over positions.

    Args:
        pred: an output of the decomposed network.
        target: the target's own; for "kl" both are logits.
        kind: "mse" or "kl".
        positions: how many positions the outputs stand for, where some that add nothing were left out; None = all here.

    Returns:
        The sum, divided by the number of numbers ("mse") or positions ("kl").

    Raises:
        ConfigError: another kind.

    >>> output_loss(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), "mse").mean.item()
    0.5
    """
    positions = pred[..., 0].numel() if positions is None else positions
    if kind == "mse":
        return SumAndCount((pred - target).square().sum(), positions * pred.shape[-1])
    if kind == "kl":
        log_q = torch.log_softmax(pred.float(), dim=-1)
        log_p = torch.log_softmax(target.float(), dim=-1)
        return SumAndCount((log_p.exp() * (log_p - log_q)).sum(), positions)
    raise ConfigError(f"an output loss is mse or kl; got {kind!r}. Name one of them.")


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pred: Tensor, log_p: Tensor) -> Tensor:
        log_q = torch.log_softmax(pred.float(), dim=-1)
        p = log_p.exp()
        ctx.save_for_backward(log_q, p)
        ctx.dtype = pred.dtype
        return torch.sub(log_p, log_q).mul_(p).sum()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        log_q, p = ctx.saved_tensors
        return log_q.exp().sub_(p).mul_(gradients[0]).to(ctx.dtype), None


def divergence(
    pred: Float[Tensor, "... d"], log_p: Float[Tensor, "... d"], *, positions: int | None = None
) -> SumAndCount:
    """The "kl" of `output_loss` from logarithms of the target's probabilities, with its gradient q − p by hand.

    Args:
        pred: logits of the decomposed network.
        log_p: log softmax(target).
        positions: see `output_loss`.

    Returns:
        The sum, divided by the number of positions.

    >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 0.5]]).log()).mean.item()
    0.0
    """
    positions = pred[..., 0].numel() if positions is None else positions
    return SumAndCount(cast(Tensor, _Divergence.apply(pred, log_p)), positions)
