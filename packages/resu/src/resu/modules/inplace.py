"""What a layer does to a weight that holds θ itself: its mask, its statement, and the optimizer that heeds both."""

from typing import Any

from torch import nn

from resu.core.mask import SparseMask
from resu.core.phases import Phase, SparseParameter, sparse_state, sparsify
from resu.errors import OptimizerError

__all__ = ["change_mask", "check_optimizer", "enter", "rehang"]


def check_optimizer(optimizer: Any, weight: nn.Parameter, name: str, *, heeds_masks: bool) -> None:
    """Refuses an optimizer that does not hold a weight, or that would move its frozen coordinates.

    Args:
        optimizer: any; None passes.
        weight: the weight.
        name: of its layer, for messages.
        heeds_masks: whether the optimizer must be a masked or an attached one.

    Raises:
        OptimizerError: as said.
    """
    if optimizer is None:
        return
    if heeds_masks and not hasattr(optimizer, "commit_rows"):
        raise OptimizerError(
            f"in INPLACE only an optimizer that heeds masks keeps weights frozen; got {type(optimizer).__name__}. Pass "
            "a resu.optim.masked.MaskedAdamW or MaskedSGD, or what resu.optim.stock.attach(model, optimizer) returns."
        )
    if not any(p is weight for group in optimizer.param_groups for p in group["params"]):
        raise OptimizerError(
            f"the optimizer must hold the weight that is pruned; {type(optimizer).__name__} does not hold that of "
            f"{name or 'this layer'}. Build it from model.parameters() as the model is now."
        )


def change_mask(weight: nn.Parameter, mask: SparseMask, name: str, optimizer: Any = None) -> None:
    """Takes a mask, and makes pruned weights 0; moments, mask and weight go together by slices of rows.

    Args:
        weight: the weight; it is sparsified where it is not yet and something is pruned.
        mask: of its shape.
        name: for messages.
        optimizer: whose moments follow; None = nobody's.
    """
    sparse = sparse_state(weight)
    if sparse is None:
        if not mask.n_pruned:
            return
        sparse = sparsify(weight, SparseMask.ones(mask.shape, mask.device), name)
    rows = sparse.weight
    for part in mask.chunks():
        was, now = sparse.mask.row_bool(part), mask.row_bool(part)
        if optimizer is not None:
            optimizer.commit_rows(sparse, part, was, now)
        sparse.mask.set_rows(part, now)
        rows[part].masked_fill_(~now, 0)
    if optimizer is not None:
        optimizer.after_commit(sparse)


def enter(sparse: SparseParameter, phase: Phase, optimizer: Any = None) -> None:
    """States who is written from now on.

    Args:
        sparse: the weight's statement.
        phase: the new phase.
        optimizer: whose moments are prepared for it.
    """
    if optimizer is not None:
        optimizer.before_phase(sparse, phase)
    sparse.phase, sparse.subset, sparse.pruned_lr_scale = phase, None, 1.0


def rehang(weight: nn.Parameter, hanging: SparseParameter | None) -> None:
    """Puts a statement on a weight that has lost it: a copy of a Parameter does not carry what hung on the original.

    Args:
        weight: the copy.
        hanging: what hung there; None = nothing.
    """
    if hanging is not None and sparse_state(weight) is None:
        sparse = sparsify(weight, hanging.mask, hanging.name)
        sparse.phase, sparse.subset = hanging.phase, hanging.subset
        sparse.beta, sparse.pruned_lr_scale = hanging.beta, hanging.pruned_lr_scale
