"""What a call dispatches, keeps for its backward pass, and takes of memory at its peak: counted, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Operations", "operations", "peak_bytes", "saved_bytes"]

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


def peak_bytes(call: Callable[[], Any]) -> int:
    """Most bytes that a call had allocated at once beyond what there was before it.

    Args:
        call: Called once to warm up, and once more.
    """
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - base
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    found = recorded.profiler.kineto_results.events() if recorded.profiler else []  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in found if event.name() == "[memory]")
    now = peak = 0
    for _, size in changes:
        now += size
        peak = max(peak, now)
    return peak
