"""When memory is collected and given back, and how much was in use.

Python's collector must come first: it lets go of tensors that only cycles of references hold, and what CUDA's allocator
is asked to give back afterwards can then include theirs. *Performance Optimization Opportunities* names the order.
"""

import gc
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from spd.config.perf import PerfConfig

__all__ = ["MemoryPolicy", "PeakMemory", "give_back_memory", "measure_peak"]


def give_back_memory(device: torch.device | str = "cpu") -> int:
    """Collects what only cycles hold, and then gives unused blocks back to the device.

    Args:
        device: where tensors are.

    Returns:
        Bytes that CUDA's allocator gave back; 0 elsewhere.
    """
    gc.collect()
    if torch.device(device).type != "cuda":
        return 0
    before = torch.cuda.memory_reserved(device)
    torch.cuda.empty_cache()
    return before - torch.cuda.memory_reserved(device)


class MemoryPolicy:
    """Says when memory is given back.

    Args:
        perf: the policy, and its number of steps.
        device: where tensors are.

    Attributes:
        count: how often memory was given back.

    >>> policy = MemoryPolicy(PerfConfig(gc_policy="every_n", gc_every_n=2), "cpu")
    >>> for step in range(1, 6):
    ...     policy.after_step(step)
    >>> policy.count
    2
    """

    def __init__(self, perf: PerfConfig, device: torch.device | str = "cpu") -> None:
        self.perf, self.device, self.count = perf, torch.device(device), 0

    @property
    def retries(self) -> bool:
        """Whether a step that ran out of memory is tried once more."""
        return self.perf.gc_policy == "on_oom"

    def after_evaluation(self) -> None:
        """For "every_eval"."""
        if self.perf.gc_policy == "every_eval":
            self.give_back()

    def after_step(self, step_count: int) -> None:
        """For "every_n".

        Args:
            step_count: steps taken.
        """
        if self.perf.gc_policy == "every_n" and step_count % self.perf.gc_every_n == 0:
            self.give_back()

    def give_back(self) -> None:
        """Now."""
        give_back_memory(self.device)
        self.count += 1


@dataclass(frozen=True)
class PeakMemory:
    """The most memory that was in use during a call.

    Args:
        allocated: bytes of tensors on the GPU beyond those that were there before; None on a CPU.
        resident: the process's largest resident set so far, in bytes.
        saved_for_backward: bytes of the storages that autograd kept at the same time at most.
    """

    allocated: int | None
    resident: int
    saved_for_backward: int


def measure_peak(call: Callable[[], object], device: torch.device | str = "cpu") -> PeakMemory:
    """Runs something and says how much memory that took.

    What autograd keeps is counted by storages, each once while anything holds it. It is the same on every machine, and
    it is what recomputation and earlier deletion save; a resident set never shrinks within a process.

    Args:
        call: what to run.
        device: where its tensors are.

    Returns:
        The peaks.

    >>> x = torch.ones(1000, requires_grad=True)
    >>> measure_peak(lambda: x.exp().sum().backward()).saved_for_backward
    4000
    """
    on_gpu = torch.device(device).type == "cuda"
    before = 0
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    saved = _Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        call()
    allocated = None
    if on_gpu:
        torch.cuda.synchronize(device)
        allocated = torch.cuda.max_memory_allocated(device) - before
    # Linux counts kibibytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return PeakMemory(allocated, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, saved.peak)


class _Held:
    """One saved tensor; autograd drops it when it no longer needs it."""

    def __init__(self, owner: "_Saved", tensor: torch.Tensor) -> None:
        self._owner, self.tensor = owner, tensor
        self._key = tensor.untyped_storage().data_ptr()
        # Parameters and inputs are there anyway.
        self._counts = not (tensor.is_leaf and tensor.requires_grad)
        if self._counts:
            owner.add(self._key, tensor.untyped_storage().nbytes())

    def __del__(self) -> None:
        if self._counts:
            self._owner.remove(self._key)


class _Saved:
    def __init__(self) -> None:
        self._holders: dict[int, tuple[int, int]] = {}
        self._now, self.peak = 0, 0

    def pack(self, tensor: torch.Tensor) -> _Held:
        return _Held(self, tensor)

    @staticmethod
    def unpack(held: _Held) -> torch.Tensor:
        return held.tensor

    def add(self, key: int, size: int) -> None:
        holders, _ = self._holders.get(key, (0, 0))
        if not holders:
            self._now += size
            self.peak = max(self.peak, self._now)
        self._holders[key] = (holders + 1, size)

    def remove(self, key: int) -> None:
        holders, size = self._holders.pop(key)
        if holders > 1:
            self._holders[key] = (holders - 1, size)
        else:
            self._now -= size
