"""What one linear layer and its optimizer hold in every phase of sparse training, and at the peak of every transition.

Gradients and activations are left out: they are the same in dense training. In units of the weight W, AdamW with the
dense layout holds 1 + 2 + 1/32, the last for the packed mask; the sign-bit layout needs no mask, and the compact one
has moments only for the coordinates that its phase writes.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from resu.experiments.memory import LiveStorages, allocated_peak, live_bytes
from resu.kernels.backend import Backend
from resu.optim.masked import Layout, MaskedAdamW
from resu.sparsifier import Sparsifier

__all__ = ["PHASES", "STEPPED", "PhaseBytes", "dense_bytes", "phase_bytes"]

PHASES = ("prune", "TRAIN", "enter RESU", "RESU", "commit", "JOINT", "SHADOW", "regrow")
"""In the order in which they are gone through; the compact layout has no SHADOW."""

STEPPED = ("TRAIN", "RESU", "JOINT", "SHADOW")
"""Those in which the optimizer steps; the others are transitions."""

STEPS = 2


@dataclass(frozen=True)
class PhaseBytes:
    """Bytes of a phase or a transition.

    Args:
        steady: what is alive at its end.
        peak: the most that was alive at once.
    """

    steady: int
    peak: int


class _Watched:
    """A layer whose gradient is there before anything is counted.

    Args:
        size: rows and columns.
        device: where it lives.
        seed: of weight and gradient.
    """

    def __init__(self, size: int, device: torch.device, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.layer = nn.Linear(size, size, bias=False, device=device)
        self.gradient = torch.empty(size, size, device=device)
        for target in (self.layer.weight.data, self.gradient):
            target.copy_(torch.randn(size, size, generator=generator).mul_(size**-0.5))
        self.layer.weight.grad = self.gradient
        self.device = device
        self.held: list[Any] = [self.layer]

    def count(self, call: Callable[[], object], *, steps: bool, compiled: bool = False) -> PhaseBytes:
        """Runs a call between two looks at what is alive.

        A GPU's allocator sees all and costs nothing. On a CPU its account of a transition, which is tens of thousands
        of small operations, takes long: those are followed one by one, steps by both. Compiled code cannot be followed.
        """
        start, peak = live_bytes(*self.held), 0
        on_gpu = self.device.type == "cuda"
        with nullcontext() if on_gpu or (compiled and steps) else LiveStorages(*self.held) as live:
            if live is not None:
                live.exclude(self.gradient)
            if on_gpu or steps:
                peak = start + allocated_peak(call, self.device)
            else:
                call()
        return PhaseBytes(steady=live_bytes(*self.held), peak=peak if live is None else max(peak, live.peak))


def _steps(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def call() -> None:
        for _ in range(STEPS):
            optimizer.step()

    return call


def dense_bytes(size: int, *, device: torch.device | str = "cpu", seed: int = 0) -> PhaseBytes:
    """What dense training with torch's fused AdamW holds, counted in the same way.

    Args:
        size: rows and columns of the layer.
        device: where it lives.
        seed: of weight and gradient.

    Returns:
        The bytes of a step.

    >>> dense_bytes(64).steady
    49156
    """
    watched = _Watched(size, torch.device(device), seed)
    optimizer = torch.optim.AdamW(watched.layer.parameters(), fused=True)
    watched.held.append(optimizer)
    optimizer.step()
    return watched.count(_steps(optimizer), steps=True)


def phase_bytes(
    size: int,
    sparsity: float,
    layout: Layout = "dense",
    *,
    backend: Backend = "eager",
    only: Collection[str] = PHASES,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, PhaseBytes]:
    """Goes through all phases of `Sparsifier` with `MaskedAdamW`, and counts.

    A phase is `STEPS` steps of the optimizer; entering JOINT and SHADOW counts with their steps.

    Args:
        size: rows and columns of the layer.
        sparsity: share of pruned weights.
        layout: where the optimizer keeps moments and mask.
        backend: what runs the update. Compiled code is compiled before anything is counted.
        only: what to count; the rest is gone through as well.
        device: where the layer lives.
        seed: of weight, gradient and noise.

    Returns:
        Bytes by phase, in order.

    >>> found = phase_bytes(64, 0.5, "compact")
    >>> [found[name].steady / (64 * 64 * 4) for name in ("TRAIN", "RESU")]
    [2.03125, 2.03125]
    """
    watched = _Watched(size, torch.device(device), seed)
    optimizer = MaskedAdamW(watched.layer.parameters(), layout=layout, backend=backend)
    sparsifier = Sparsifier(watched.layer, sparsity, distribution="uniform", optimizer=optimizer, seed=seed)
    watched.held += [optimizer, sparsifier]
    optimizer.step()
    found = {}
    for name, call in _course(sparsifier, optimizer, layout):
        if name in only:
            found[name] = watched.count(call, steps=name in STEPPED, compiled=backend == "compile")
        else:
            call()
    return found


def _course(sparsifier: Sparsifier, optimizer: MaskedAdamW, layout: str) -> Iterator[tuple[str, Callable[[], object]]]:
    step = _steps(optimizer)

    def after(enter: Callable[[], object]) -> Callable[[], None]:
        def call() -> None:
            enter()
            step()

        return call

    yield "prune", sparsifier.prune
    yield "TRAIN", step
    yield "enter RESU", lambda: sparsifier.enter_resu(init="normal")
    yield "RESU", step
    yield "commit", sparsifier.commit
    yield "JOINT", after(sparsifier.joint)
    sparsifier.commit("none")
    if layout != "compact":
        yield "SHADOW", after(sparsifier.shadow)
    yield "regrow", lambda: sparsifier.regrow(0.3, "gradient" if layout == "compact" else "consistency")
