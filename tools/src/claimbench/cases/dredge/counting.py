"""What a call allocates: counted, not timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Made", "made"]


class Made(TorchDispatchMode):
    """Counts tensors with memory of their own that are made within it.

    Attributes:
        tensors: How many.
        bytes: Of all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._addresses: set[int] = set()
        self._kept: list[torch.Tensor] = []
        self.tensors = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in given | self._addresses:
                    self._addresses.add(storage.data_ptr())
                    self._kept.append(tensor)  # no address is given out twice while its tensor is here
                    self.tensors += 1
                    self.bytes += storage.nbytes()
        return found


def made(call: Callable[[], Any]) -> Made:
    """Counts what a call makes.

    Args:
        call: Called once.
    """
    with Made() as found:
        call()
    return found
