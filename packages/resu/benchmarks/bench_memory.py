"""Where the bytes of RESU training are: `python -m benchmarks.bench_memory`, from the package's folder.

Prints the note's tally, the live bytes of the original's code, rebuilt, and what ours holds in every phase.
"""

import argparse
import sys

import torch

from resu.experiments.memory import Part, live_bytes, parts_table, published_tally
from resu.experiments.phase_memory import PHASES, dense_bytes, phase_bytes
from resu.reference import original_memory, original_training


def tally(size: int, sparsity: float) -> str:
    """What the note counts."""
    return parts_table(published_tally(4.0 * size**2, sparsity))


def rebuilt(size: int, sparsity: float) -> str:
    """What is alive in the original's layer and optimizer, with W's optimizer state kept and cleared."""
    columns = {}
    for form, cleared in (("RESU before", False), ("RESU after", True)):
        built = original_training.build(size, size, sparsity, clear_state=cleared)
        parts = [Part(what, size) for what, size in original_memory.live_parts(built).items() if size]
        odd = live_bytes(*built) - sum(part.bytes for part in parts)
        if odd:
            raise SystemExit(f"{odd} bytes of the original belong to no part")
        columns[form] = parts
    return parts_table(columns)


def ours(size: int, sparsity: float) -> str:
    """What ours holds at the peak of every phase and transition, in units of W."""
    weight, device = 4.0 * size**2, "cuda" if torch.cuda.is_available() else "cpu"
    dense = dense_bytes(size, device=device).peak / weight
    found = {layout: phase_bytes(size, sparsity, layout, device=device) for layout in ("dense", "signbit", "compact")}
    lines = [" " * 12 + "".join(f"{layout:>9}" for layout in found) + "    dense training, fused AdamW"]
    for phase in PHASES:
        cells = [f"{rows[phase].peak / weight:9.3f}" if phase in rows else f"{'–':>9}" for rows in found.values()]
        lines.append(f"{phase:<12}" + "".join(cells) + f"{dense:9.3f}")
    return "\n".join(lines)


def main() -> None:
    """Prints the three tables."""
    parser = argparse.ArgumentParser(description="bytes of RESU training: as published, of the original, of ours")
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of the weight (4096: W is 64 MB)")
    parser.add_argument("--sparsity", type=float, default=0.5, help="share of pruned weights")
    parser.add_argument("--phases-size", type=int, default=1024, help="rows and columns for the phases of ours")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for words, table in (
        ("The note's tally, MB", tally(given.size, given.sparsity)),
        ("Live bytes of the original's code, rebuilt, after entering RESU, MB", rebuilt(given.size, given.sparsity)),
        (
            "Ours: weights, optimizer state, mask and temporaries at the peak, in units of W",
            ours(given.phases_size, given.sparsity),
        ),
    ):
        sys.stdout.write(f"{words}\n\n{table}\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
