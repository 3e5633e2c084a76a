"""Sums over the ranks that share the rows of a weight."""

from typing import TypeVar

import torch
import torch.distributed as dist

__all__ = ["row_offset", "sum_over_ranks"]

Number = TypeVar("Number", int, float)


def sum_over_ranks(value: Number, group: dist.ProcessGroup | None) -> Number:
    """The sum of a number over a group, in the number's own type; the number itself without a group.

    Args:
        value: this rank's number.
        group: the ranks, or None.

    Returns:
        The sum.

    >>> sum_over_ranks(3, None)
    3
    """
    if group is None:
        return value
    dtype = torch.float64 if isinstance(value, float) else torch.int64
    total = torch.tensor(value, dtype=dtype, device=_device(group))
    dist.all_reduce(total, group=group)
    return type(value)(total.item())


def row_offset(rows: int, group: dist.ProcessGroup | None) -> int:
    """The number of this rank's first row in the whole weight, whose rows lie on the ranks in order.

    Args:
        rows: rows of this rank.
        group: the ranks, or None.

    Returns:
        The rows of all ranks before this one.

    >>> row_offset(8, None)
    0
    """
    if group is None:
        return 0
    own = torch.tensor(rows, device=_device(group))
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, own, group=group)
    return sum(int(count) for count in counts[: dist.get_rank(group)])


def _device(group: dist.ProcessGroup) -> str:
    """NCCL reads device memory only, gloo the host's."""
    return "cuda" if dist.get_backend(group) == "nccl" else "cpu"
