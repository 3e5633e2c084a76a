"""PyTorch: CUDA events and a flushed L2 cache on a GPU, the process clocks on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from claimbench.errors import RunError
from claimbench.runtimes.base import Runtime, flatten

__all__ = ["TorchRuntime", "make"]

FLUSH_BYTES = 256 << 20
"""More than the L2 cache of any GPU sold so far."""


class TorchRuntime(Runtime):
    """Runtime for tensors."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda") if device == "cuda" else None

    def synchronise(self, outputs: Any) -> None:
        """Wait for the current stream."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def leaves(self, tree: Any) -> dict[str, np.ndarray]:
        """Every tensor of a tree on the host, as float64 where NumPy has no such type."""
        found = {}
        for name, leaf in flatten(tree).items():
            if isinstance(leaf, torch.Tensor):
                leaf = leaf.detach()
                leaf = (leaf.double() if leaf.dtype in (torch.bfloat16, torch.float16) else leaf).cpu().numpy()
            found[name] = np.asarray(leaf)
        return found

    def facts(self) -> dict[str, Any]:
        """Versions and device."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        return {"torch": torch.__version__, "numpy": np.__version__, "device": name, "threads": torch.get_num_threads()}

    def peak_memory(self, call: Callable[[], Any]) -> tuple[float, str]:
        """Peak of the caching allocator minus what was allocated before, or resident memory on the CPU."""
        if self.device != "cuda":
            return super().peak_memory(call)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        kept = call()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - base
        del kept
        return float(peak), "max_memory_allocated"

    def before_sample(self) -> None:
        """Overwrite a buffer larger than the L2 cache, so that each block starts cold."""
        if self._flush is not None:
            self._flush.zero_()
            torch.cuda.synchronize()

    def time_block(self, call: Callable[[], Any], calls: int) -> tuple[float, float]:
        """On a GPU the device's own time between two events stands for both clocks."""
        if self.device != "cuda":
            return super().time_block(call, calls)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        elapsed = start.elapsed_time(end) * 1e6
        return elapsed, elapsed

    def probes(self) -> dict[str, tuple[Callable[[], Any], float, str]]:
        """Copy and matrix product in float32."""
        source = torch.ones(1 << 26 if self.device == "cuda" else 1 << 24, device=self.device)
        target = torch.empty_like(source)
        size = 8192 if self.device == "cuda" else 1024
        square = torch.ones(size, size, device=self.device)
        return {
            "copy": (lambda: target.copy_(source), 2.0 * source.numel() * 4, "B/s"),
            "matmul": (lambda: square @ square, 2.0 * size**3, "flop/s"),
        }


def make(device: str) -> Runtime:
    """The runtime for a device.

    Raises:
        RunError: When PyTorch has no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("PyTorch sees no CUDA device; install a CUDA build of torch, or use --device cpu")
    return TorchRuntime(device)
