"""What a linear layer costs in RESU: `python -m benchmarks.bench_throughput`, from the package's folder.

Times the forward pass, and forward and backward, of the original's layer (M ⊙ W formed anew, and cached as published)
and of ours, in turns. On a CPU the clock is the process's own, on one thread.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from resu.core.resurrection import StorageMode
from resu.modules.linear import RESULinear
from resu.reference import original_effective, original_layers

Pass = Callable[[], object]


def layers(size: int, sparsity: float, device: str) -> dict[str, nn.Module]:
    """The same weight and mask in every form."""
    weight = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).mul_(size**-0.5)
    dense = nn.Linear(size, size, bias=False)
    made: dict[str, Any] = {}
    for name, form in (("before", original_effective.Forward.RECOMPUTE), ("after", original_effective.Forward.CACHED)):
        made[f"original, {name}"] = original_layers.OriginalRESULinear(size, size, bias=False, forward_form=form)
    for mode in (StorageMode.COMPACT, StorageMode.INPLACE):
        made[f"ours, {mode}"] = RESULinear(size, size, bias=False, storage_mode=mode)
    for layer in (dense, *made.values()):
        layer.weight.data.copy_(weight)
        layer.to(device)
    for layer in made.values():
        layer.prune_by_magnitude(sparsity)
        layer.enter_resu_mode()
    return {"dense": dense, **made}


def passes(layer: nn.Module, x: Tensor) -> dict[str, Pass]:
    """Forward alone, and with backward."""

    def both() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x).sum().backward()

    return {"forward": lambda: layer(x), "forward and backward": both}


def seconds(call: Pass, device: str) -> float:
    """One call by the process's clock, or by the wall's once the GPU has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    call()
    return time.process_time() - start


def table(size: int, sparsity: float, batch: int, rounds: int) -> str:
    """Median milliseconds of each form, and their ratio to the dense layer."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(batch, size, generator=torch.Generator().manual_seed(1)).to(device)
    calls = {name: passes(layer, x) for name, layer in layers(size, sparsity, device).items()}
    lines = [f"{size} x {size}, batch {batch}, {sparsity:.0%} pruned, {device}"]
    for what in ("forward", "forward and backward"):
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(rounds + 2):
            for name, found in calls.items():
                took = seconds(found[what], device)
                if turn >= 2:  # the first two warm up
                    times[name].append(took)
        dense = statistics.median(times["dense"])
        lines += ["", f"{what:<22}{'ms':>10}{'x dense':>10}"]
        for name, values in times.items():
            middle = statistics.median(values)
            lines.append(f"  {name:<20}{1e3 * middle:10.3f}{middle / dense:10.2f}")
    return "\n".join(lines)


def main() -> None:
    """Prints one table a size."""
    parser = argparse.ArgumentParser(description="a linear layer in RESU: the original's forms and ours")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096], help="rows and columns")
    parser.add_argument("--sparsity", type=float, default=0.5, help="share of pruned weights")
    parser.add_argument("--batch", type=int, default=32, help="samples")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for size in given.sizes:
        sys.stdout.write(table(size, given.sparsity, given.batch, given.rounds) + "\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
