"""Whether the components add up to the weights."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from spd.metrics.output_loss import SumAndCount

__all__ = ["faithfulness_loss", "faithfulness_sum"]


def faithfulness_sum(weight_deltas: Mapping[str, Float[Tensor, "..."]]) -> SumAndCount:
    """Σ ‖Δ‖²_F over sites, and the number of entries of all decomposed weights.

    Args:
        weight_deltas: Δ by site.

    Returns:
        Sum and divisor.
    """
    total = sum(delta.float().square().sum() for delta in weight_deltas.values())
    assert isinstance(total, Tensor)
    return SumAndCount(total, sum(delta.numel() for delta in weight_deltas.values()))


def faithfulness_loss(weight_deltas: Mapping[str, Float[Tensor, "..."]]) -> Float[Tensor, ""]:
    """Σ_sites ‖W − (V U)ᵀ‖²_F over the number of entries of all decomposed weights.

    Args:
        weight_deltas: Δ by site, at least one.

    Returns:
        The loss.

    >>> import torch
    >>> faithfulness_loss({"a": torch.ones(2, 3), "b": torch.zeros(2)}).item()
    0.75
    """
    return faithfulness_sum(weight_deltas).mean
