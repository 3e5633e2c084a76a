"""Counts what a step asks of a device: operations, and how often the program waits to read from it."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["OperationCounter"]

_READS = {
    "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::masked_select", "aten::equal",
    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount",
}  # fmt: skip
"""Operations whose result, or its shape, must be known to the program before it can go on."""

_VIEWS = {
    "aten::view", "aten::_unsafe_view", "aten::t", "aten::transpose", "aten::permute", "aten::expand",
    "aten::unsqueeze", "aten::squeeze", "aten::select", "aten::slice", "aten::detach", "aten::alias",
    "aten::as_strided", "aten::unbind", "aten::split", "aten::split_with_sizes", "aten::lift_fresh",
    "aten::is_same_size", "aten::_reshape_alias",
}  # fmt: skip


class OperationCounter(TorchDispatchMode):
    """Counts operations within a context, those of a backward pass in the same thread included.

    An index by flags is a read, since its size depends on them; so is a copy from a device to the CPU. What happens
    within a compiled graph is not seen, but for reads no graph can hold any.

    Attributes:
        operations: by name.
        reads: those that wait for the device, by name.

    >>> x = torch.ones(3)
    >>> with OperationCounter() as counter:
    ...     y = (x * 2).sum().item()
    >>> counter.n_reads, counter.n_kernels
    (1, 2)
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()

    @property
    def n_reads(self) -> int:
        """How often the device was waited for."""
        return self.reads.total()

    @property
    def n_kernels(self) -> int:
        """Operations that are neither reads nor views."""
        return sum(n for name, n in self.operations.items() if name not in _VIEWS and name not in _READS)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func._schema.name)
        self.operations[name] += 1
        if name in _READS or _by_flags(name, args) or _leaves_the_device(name, args, kwargs or {}):
            self.reads[name] += 1
        return func(*args, **(kwargs or {}))


def _by_flags(name: str, args: tuple[Any, ...]) -> bool:
    if name not in {"aten::index", "aten::index_put", "aten::index_put_"}:
        return False
    return any(isinstance(index, torch.Tensor) and index.dtype in {torch.bool, torch.uint8} for index in args[1])


def _leaves_the_device(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name == "aten::_to_copy":
        device = kwargs.get("device")
        return device is not None and torch.device(device).type == "cpu" and args[0].device.type != "cpu"
    return name == "aten::copy_" and args[0].device.type == "cpu" and args[1].device.type != "cpu"
