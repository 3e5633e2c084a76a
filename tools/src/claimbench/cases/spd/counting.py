"""What a call dispatches and keeps for its backward pass: counted, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Operations", "operations", "saved_bytes"]

READS = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.equal")
"""Operations that give a number to Python: on a GPU each waits for everything before it."""


PRODUCTS = ("aten.mm", "aten.addmm", "aten.bmm", "aten.linear")


class Operations(TorchDispatchMode):
    """Counts what is dispatched within it.

    Args:
        weight: A tensor whose products are counted apart.

    Attributes:
        found: How often each operation was.
        products: Matrix products with the weight's storage.
    """

    def __init__(self, weight: torch.Tensor | None = None) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._address, self.products = None if weight is None else weight.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[str(func)] += 1
        if self._address is not None and str(func).startswith(PRODUCTS):
            tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
            self.products += any(arg.untyped_storage().data_ptr() == self._address for arg in tensors)
        return func(*args, **(kwargs or {}))

    @property
    def all_aten(self) -> int:
        """Operations of aten, views among them."""
        return sum(count for name, count in self.found.items() if name.startswith("aten."))

    @property
    def reads(self) -> int:
        """Numbers that were given to Python."""
        return sum(count for name, count in self.found.items() if name.startswith(READS))


def operations(call: Callable[[], Any], weight: torch.Tensor | None = None) -> Operations:
    """Counts what a call dispatches.

    Args:
        call: Called once.
        weight: A tensor whose products are counted apart.
    """
    with Operations(weight) as found:
        call()
    return found


def saved_bytes(call: Callable[[], Any]) -> int:
    """Bytes of all storages that a call keeps for its backward pass, parameters and inputs left out.

    Args:
        call: A forward pass.
    """
    storages: dict[int, int] = {}
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_leaf or tensor.grad_fn is not None:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # no address is given out twice while its tensor is here
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    del result
    return sum(storages.values())
