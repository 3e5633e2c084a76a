"""The most that a call of PyTorch holds at once: counted by its allocator, not timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["peak_bytes"]


def peak_bytes(call: Callable[[], Any]) -> int:
    """Most bytes that a call had allocated at once beyond what there was before it, its result among them.

    Args:
        call: Called once to warm up, and once more.
    """
    # Here, so that the engine can be imported without a framework.
    import torch
    from torch.profiler import ProfilerActivity, profile

    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - base
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        kept = call()
    del kept
    found = recorded.profiler.kineto_results.events() if recorded.profiler else []  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in found if event.name() == "[memory]")
    now = peak = 0
    for _, size in changes:
        now += size
        peak = max(peak, now)
    return peak
