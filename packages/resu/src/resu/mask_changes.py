"""From one mask to the next: what is to be active row by row, and what follows for masks, weights and moments."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch.distributed as dist
from jaxtyping import Bool
from torch import Tensor

from resu.core.mask import SparseMask
from resu.core.phases import SparseParameter
from resu.core.ranks import sum_over_ranks
from resu.core.reports import CommitReport, SparsityOptimizer
from resu.core.signs import SignBitMask

__all__ = ["Flags", "change_masks", "drop_states", "either", "rows_of"]

Flags = Iterator[tuple[slice, Bool[Tensor, "part cols"]]]
"""Slices of a weight's rows, in order and together all of them, and what is to be active there."""


def rows_of(mask: SparseMask) -> Flags:
    """A mask's own rows.

    Args:
        mask: what is to be active.

    Returns:
        Its slices.
    """
    return ((part, mask.row_bool(part)) for part in mask.chunks())


def either(left: Flags, right: Flags) -> Flags:
    """Two selections over the same rows, walked side by side.

    Args:
        left: one.
        right: the other, by the same slices.

    Yields:
        What is in one or the other.
    """
    for (part, a), (_, b) in zip(left, right, strict=True):
        yield part, a | b


def change_masks(
    parameters: Mapping[str, SparseParameter],
    flags: Mapping[str, Flags],
    optimizer: SparsityOptimizer | None,
    group: dist.ProcessGroup | None,
) -> CommitReport:
    """Walks over each weight once: moments, mask and weight of some rows, then the next.

    Args:
        parameters: the weights by name.
        flags: what is to be active from now on; weights that are not named keep their masks.
        optimizer: whose moments follow; None where there is none.
        group: ranks that hold the other rows; None where there are none.

    Returns:
        What changed, over all ranks.
    """
    counts: dict[str, list[int]] = {}
    for name, rows in flags.items():
        sparse = parameters[name]
        weight, was_active, resurrected, lost = sparse.weight, sparse.mask.n_active, 0, 0
        for part, now in rows:
            was = sparse.mask.row_bool(part)
            resurrected += int((now & ~was).sum())
            lost += int((was & ~now).sum())
            if optimizer is not None:
                optimizer.commit_rows(sparse, part, was, now)
            sparse.mask.set_rows(part, now)
            weight[part].masked_fill_(~now, 0)
        if optimizer is not None:
            optimizer.after_commit(sparse)
        counts[name] = [sum_over_ranks(n, group) for n in (was_active, resurrected, lost)]
    layers = {
        name: CommitReport.of(was + up - down, was, up, down, parameters[name].parameter.numel(), {})
        for name, (was, up, down) in counts.items()
    }
    was, up, down = (sum(column) for column in zip(*counts.values(), strict=True))
    numel = sum(parameters[name].parameter.numel() for name in counts)
    return CommitReport.of(was + up - down, was, up, down, numel, layers)


def drop_states(parameters: Mapping[str, SparseParameter], state: MutableMapping[Any, Any]) -> int:
    """Deletes an optimizer's state of sparse weights; a mask that lives in that state is kept, as words of its own.

    Args:
        parameters: the weights by name.
        state: the optimizer's.

    Returns:
        How many states were deleted.
    """
    dropped = 0
    for sparse in parameters.values():
        if isinstance(sparse.mask, SignBitMask):
            sparse.mask = sparse.mask.clone()
        dropped += bool(state.pop(sparse.parameter, None))
    return dropped
