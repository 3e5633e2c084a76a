"""Clipping by the norm of the gradient at the coordinates that move.

`torch.nn.utils.clip_grad_norm_` counts the gradients of frozen coordinates too: at 90 % sparsity most of the norm would
belong to weights that no step writes, and what moves would be clipped for them.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resu.core.phases import SparseParameter, local, sparse_state
from resu.distributed import reduce_over_shards
from resu.errors import OptimizerError

__all__ = ["HoldsMasks", "clip_grad_norm_"]


@runtime_checkable
class HoldsMasks(Protocol):
    """What has weights with masks and knows their optimizer, as a `Sparsifier` does."""

    parameters: Mapping[str, SparseParameter]
    optimizer: Any


def clip_grad_norm_(
    source: HoldsMasks | nn.Module | Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    *,
    error_if_nonfinite: bool = False,
) -> Float[Tensor, ""]:
    """Scales all gradients so that their norm over the coordinates that may be written is at most `max_norm`.

    The norm is (Σ |g|^p)^(1/p) over every coordinate of parameters without a mask and the writable ones of those with
    one, over all shards where they are DTensors. Gradients are multiplied by max_norm / (norm + 1e-6) where that is
    below 1, as torch does (Pascanu, Mikolov, Bengio, *On the difficulty of training recurrent neural networks*, 2013,
    arXiv:1211.5063). With a GradScaler, call its `unscale_` first.

    Args:
        source: a `Sparsifier`, a model, or parameters. A Sparsifier stands for all parameters that its optimizer holds,
            and for its own weights where it has no optimizer.
        max_norm: the bound, at least 0.
        norm_type: p, above 0; `float("inf")` = the largest magnitude.
        error_if_nonfinite: whether a norm that is not finite raises.

    Returns:
        The norm before clipping.

    Raises:
        OptimizerError: a bound or a p out of range, or a norm that is not finite where that is an error.

    >>> from resu.core.mask import SparseMask
    >>> from resu.core.phases import sparsify
    >>> weight = nn.Parameter(torch.zeros(1, 3))
    >>> _ = sparsify(weight, SparseMask(torch.tensor([[1, 1, 0]])))
    >>> weight.grad = torch.tensor([[3.0, 4.0, 100.0]])
    >>> clip_grad_norm_(weight, 2.5)
    tensor(5.)
    >>> weight.grad[0, :2]
    tensor([1.5000, 2.0000])
    """
    if not max_norm >= 0 or not norm_type > 0:
        raise OptimizerError(
            "gradients are clipped to a norm of at least 0, of a type above 0; got "
            f"max_norm = {max_norm}, norm_type = {norm_type}. Give say max_norm=1.0, norm_type=2.0."
        )
    moving = [(p, p.grad) for p in _parameters(source) if p.grad is not None]
    with torch.no_grad():
        total = _total_norm(moving, norm_type)
        if error_if_nonfinite and not bool(total.isfinite()):
            raise OptimizerError(
                f"the norm of the gradients must be finite here; it is {total.item()}. Skip this step, or pass "
                "error_if_nonfinite=False: masked and attached optimizers skip such steps by themselves."
            )
        factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
        for _, gradient in moving:
            rows = local(gradient)
            rows.mul_(factor.to(rows.device))
    return total


def _parameters(source: HoldsMasks | nn.Module | Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(source, nn.Module):
        return list(source.parameters())
    if isinstance(source, Tensor):
        return [source]
    if isinstance(source, HoldsMasks):
        if source.optimizer is None:
            return [sparse.parameter for sparse in source.parameters.values()]
        return [p for group in source.optimizer.param_groups for p in group["params"]]
    return list(source)


def _total_norm(moving: list[tuple[Tensor, Tensor]], norm_type: float) -> Tensor:
    """The norm of all norms. Shards are joined parameter by parameter, on every rank in the same order."""
    if not moving:
        return torch.zeros(())
    norms = []
    for p, gradient in moving:
        sparse = sparse_state(p)
        rows = local(gradient)
        norm = _norm(rows, norm_type) if sparse is None else _writable_norm(sparse, rows, norm_type)
        norms.append(_joined(norm, gradient, norm_type))
    device = norms[0].device
    return _norm(torch.stack([norm.to(device) for norm in norms]), norm_type)


def _norm(values: Tensor, norm_type: float) -> Tensor:
    if not values.numel():
        return torch.zeros((), device=values.device)
    dtype = torch.promote_types(values.dtype, torch.float32)
    return torch.linalg.vector_norm(values, norm_type, dtype=dtype)


def _writable_norm(sparse: SparseParameter, gradient: Tensor, norm_type: float) -> Tensor:
    writable = sparse.writable()
    rows = gradient.unsqueeze(0) if gradient.dim() == 1 else gradient
    norms = []
    for part in writable.chunks():
        flags = writable.row_bool(part)
        # Chosen, not multiplied: 0 times a frozen coordinate's infinity would be NaN.
        norms.append(_norm(torch.where(flags, rows[part].reshape(flags.shape), 0), norm_type))
    return _norm(torch.stack(norms), norm_type)


def _joined(norm: Tensor, gradient: Tensor, norm_type: float) -> Tensor:
    """One parameter's norm over all ranks that hold a shard of it."""
    if math.isinf(norm_type):
        return reduce_over_shards(norm, gradient, "max")
    whole = reduce_over_shards(norm**norm_type, gradient)
    return whole ** (1 / norm_type)
