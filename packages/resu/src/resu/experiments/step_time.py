"""What a training step of one linear layer costs in every phase, next to a dense step.

All forms take turns, round by round, so that a machine that slows down slows all of them. On a CPU the clock is the
process's own; on a GPU it is the wall's, once the GPU has finished.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from resu.core.phases import Phase
from resu.errors import ConfigError
from resu.optim.masked import Layout, MaskedAdamW
from resu.sparsifier import Sparsifier

__all__ = ["StepTime", "step_times"]

_WARM_UP = 3


@dataclass(frozen=True)
class StepTime:
    """Time of forward, backward and optimizer step.

    Args:
        form: "dense", or the phase.
        seconds: median over the rounds.
        ratio: over the dense step, median of the ratios of each round.
    """

    form: str
    seconds: float
    ratio: float


def step_times(
    size: int = 1024,
    sparsity: float = 0.5,
    *,
    batch: int = 128,
    rounds: int = 20,
    layout: Layout = "dense",
    backend: str = "auto",
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> list[StepTime]:
    """Times steps of a square linear layer: dense with torch's fused AdamW, and ours in every phase.

    Args:
        size: rows and columns.
        sparsity: share of pruned weights.
        batch: examples of a step.
        rounds: timed steps of each form.
        layout: where `MaskedAdamW` keeps its moments; the compact one has no SHADOW.
        backend: what runs the update.
        device: where.
        progress: called with rounds done, rounds in all and a line of words.

    Returns:
        The dense step first.

    Raises:
        ConfigError: a number below 1.
        MaskError: a sparsity outside [0, 1).
        KernelError: a back end that is absent.
    """
    if min(size, batch, rounds) < 1:
        raise ConfigError(f"size, batch and rounds are at least 1; got {size}, {batch} and {rounds}.")
    device, progress = torch.device(device), progress or (lambda done, total, words: None)
    x = torch.randn(batch, size, generator=torch.Generator().manual_seed(1)).to(device)
    calls = {"dense": _dense(size, x)}
    for phase in Phase:
        if not (layout == "compact" and phase is Phase.SHADOW):
            calls[phase.value.upper()] = _sparse(size, sparsity, x, phase, layout, backend)
    times: dict[str, list[float]] = {form: [] for form in calls}
    for turn in range(rounds + _WARM_UP):
        for form, call in calls.items():
            seconds = _seconds(call, device)
            if turn >= _WARM_UP:
                times[form].append(seconds)
        progress(turn + 1, rounds + _WARM_UP, "warming up" if turn + 1 < _WARM_UP else "timing")
    return [
        StepTime(
            form, statistics.median(found),
            statistics.median(one / max(base, 1e-9) for one, base in zip(found, times["dense"], strict=True)),
        )
        for form, found in times.items()
    ]  # fmt: skip


def _layer(size: int, x: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(size, size, bias=False, device=x.device)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(size, size, generator=torch.Generator().manual_seed(0)).mul_(size**-0.5))
    return layer


def _step(layer: nn.Linear, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> Callable[[], None]:
    def call() -> None:
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()

    return call


def _dense(size: int, x: torch.Tensor) -> Callable[[], None]:
    layer = _layer(size, x)
    return _step(layer, torch.optim.AdamW(layer.parameters(), fused=True), x)


def _sparse(
    size: int, sparsity: float, x: torch.Tensor, phase: Phase, layout: Layout, backend: str
) -> Callable[[], None]:
    layer = _layer(size, x)
    optimizer = MaskedAdamW(layer.parameters(), layout=layout, backend=backend)
    sparsifier = Sparsifier(layer, sparsity, distribution="uniform", optimizer=optimizer)
    sparsifier.prune()
    enter = {Phase.RESU: sparsifier.enter_resu, Phase.JOINT: sparsifier.joint, Phase.SHADOW: sparsifier.shadow}
    if phase in enter:
        enter[phase]()
    return _step(layer, optimizer, x)


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start
    start = time.process_time()
    call()
    return time.process_time() - start
