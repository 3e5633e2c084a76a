"""Prints the note's table from the same forms: overhead of a mask before and after, and the time saved.

A script, not a test; run it from anywhere: `python performance_comparison_simplified.py [--rounds 15]`. Figures are
medians of process CPU time over interleaved rounds, the order reversed every other round. They are an eager
micro-benchmark of one function, and `before` is a reconstruction: see `boolean_nca_cc.reference.original`. For verdicts
with intervals, from several processes, use claimbench.
"""

import argparse
import statistics
import time
from pathlib import Path
from runpy import run_path

import jax
import jax.numpy as jnp
import optax

from boolean_nca_cc.circuits.model import gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.circuits.train import loss_f_l4
from boolean_nca_cc.knockout import shotgun

FORMS = run_path(str(Path(__file__).with_name("simplified_update_params.py")))["FORMS"]
SIZES = {
    "small": CircuitSpec.default(6, 3, arity=3, hidden=2),
    "medium": CircuitSpec.default(8, 8),
    "large": CircuitSpec.default(10, 10, hidden=4, width=4),
}
OPTIMIZERS = {"SGD": optax.sgd(0.1), "Adam": optax.adam(0.1), "AdamW": optax.adamw(0.1)}
PUBLISHED = {"SGD": (494.0, 13.8, 80.9), "Adam": (82.5, 1.0, 44.2), "AdamW": (72.8, -1.2, 42.6)}
CALLS = 15


def medians(spec: CircuitSpec, opt: optax.GradientTransformation, rounds: int) -> dict[str, float]:
    """Median milliseconds of process time a call, for each form."""
    circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, arity=spec.arity)
    logits = [layer + jax.random.normal(jax.random.key(1), layer.shape) for layer in circuit.logits]
    task = get_task("copy", spec.n_in, spec.n_out) if spec.n_in == spec.n_out else get_task("popcount", spec.n_in)
    mask = spec.to_layers(shotgun(jax.random.key(2), spec, 5))
    grad = jax.grad(lambda values: loss_f_l4(values, circuit.wires, jnp.asarray(task.x), jnp.asarray(task.y), mask)[0])(
        logits
    )
    state = opt.init(logits)
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    for turn in range(rounds + 1):
        for name in list(FORMS)[:: 1 if turn % 2 else -1]:
            start = time.process_time_ns()
            for _ in range(CALLS):
                jax.block_until_ready(FORMS[name](grad, state, opt, logits, None if name == "none" else mask))
            if turn:  # the first round compiles
                times[name].append((time.process_time_ns() - start) / CALLS * 1e-6)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure, and print the note's table beside the one measured here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=7, help="interleaved rounds, at least 7 for a figure worth citing"
    )
    rounds = parser.parse_args().rounds
    print("optimizer   before: note  here    after: note  here    saved: note  here   ours/before")
    saved_all = []
    for name, opt in OPTIMIZERS.items():
        measured = [medians(spec, opt, rounds) for spec in SIZES.values()]
        mean = statistics.fmean
        before = mean(100 * (m["before"] / m["none"] - 1) for m in measured)
        after = mean(100 * (m["after"] / m["none"] - 1) for m in measured)
        saved = mean(100 * (1 - m["after"] / m["before"]) for m in measured)
        ours = mean(m["before"] / m["ours"] for m in measured)
        saved_all.append(saved)
        pairs = zip(PUBLISHED[name], (before, after, saved), strict=True)
        columns = "  ".join(f"{note:11.1f} {here:6.1f}" for note, here in pairs)
        print(f"{name:10s}  {columns}  {ours:10.1f}x")
    print(f"mean time saved: note 55.9 %, here {statistics.fmean(saved_all):.1f} %; `before` is a reconstruction")


if __name__ == "__main__":
    main()
