"""Ours: hard circuits a second and their roofs, the whole knockout study, and what an analysis finds."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np

from boolean_nca_cc.analysis import criticality, worst_damage
from boolean_nca_cc.checkpoint import load
from boolean_nca_cc.circuits.fit import fit
from boolean_nca_cc.circuits.kernels import evaluate_packed, pack_cases, unpack_cases
from boolean_nca_cc.circuits.model import run_circuit
from boolean_nca_cc.config import FitConfig
from boolean_nca_cc.experiments.knockout_study import STUDY, run_knockout_study
from boolean_nca_cc.experiments.packed_throughput import LARGE, packed_throughput, random_workload
from boolean_nca_cc.experiments.settings import KnockoutSettings, TrainSettings
from boolean_nca_cc.experiments.training_run import new_circuit, task_of
from claimbench.case import Case, Counted
from claimbench.cases.boolean_nca_cc.circuits import not_timed
from claimbench.record import Params

__all__ = ["CASES"]

MEDIUM = TrainSettings(task="reverse", bits=8, fit=FitConfig(steps=100))
"""The medium circuit, 168 gates, and its training."""

DEAD = (2, 5, 10, 20, 40)
"""Dead gates of the study's patterns, a fifth of them each."""

SAMPLE = 10
"""Patterns of the study that are run again, one by one."""

RANDOM_PATTERNS = 256


def _packed(params: Params) -> Iterable[Counted]:
    """Look-up tables a second beside two roofs, after a look at every bit."""
    circuit, words = random_workload(LARGE)
    x = unpack_cases(words, 1 << LARGE.n_in).astype(np.float32)
    by_floats = pack_cases(run_circuit(circuit.logits, circuit.wires, x, hard=True)[-1])
    differing = jax.lax.population_count(evaluate_packed(circuit, words) ^ by_floats).sum()
    yield Counted("differing_bits", int(differing), "best", "bits", f"of {x.shape[0] * LARGE.n_out}, against floats")
    found = packed_throughput(LARGE, threads=int(params["threads"]), rounds=int(params["rounds"]))
    words_of_it = (
        f"{found.gates} gates, {found.cases} cases, {found.threads} threads; the fastest of {params['rounds']} rounds"
    )
    yield Counted("rate", found.rate / 1e9, "best", "10⁹/s", words_of_it)
    yield Counted("share", 100 * found.share, "best", "%", f"of the lower roof, {found.bound}; {words_of_it}")
    for side, roof in found.roofs.items():
        yield Counted(f"{side}_roof", roof / 1e9, "best", "10⁹/s", f"what the {side} probe allows; {words_of_it}")


def _study(params: Params) -> Iterable[Counted]:
    """The whole study from nothing compiled to its last file, and a sample of its patterns trained one by one."""
    data = task_of(MEDIUM)
    spec, circuit = new_circuit(MEDIUM, data.y.shape[1])
    trained = fit(circuit, data.x, data.y, MEDIUM.fit).circuit
    retrain = FitConfig(steps=int(params["steps"]))
    settings = KnockoutSettings(base=MEDIUM, patterns=int(params["patterns"]), dead=DEAD, retrain=retrain)
    with TemporaryDirectory(prefix="claimbench-study-") as folder:
        began = time.perf_counter()
        outcome = run_knockout_study(settings, trained, spec, Path(folder))
        seconds = time.perf_counter() - began
        alive = load(Path(folder) / STUDY).record["alive"]
    words = f"{settings.patterns} patterns of {', '.join(map(str, DEAD))} dead gates, {retrain.steps} steps each"
    yield Counted("seconds", seconds, "best", "s", f"{words}; compilation and files in it")
    yield Counted("pattern_steps", settings.patterns * retrain.steps / seconds, "best", "/s", words)
    off = 0.0
    for row in np.linspace(0, settings.patterns - 1, SAMPLE).astype(int):
        again = fit(trained, data.x, data.y, retrain, alive=alive[row]).history["hard_accuracy"]
        off = max(off, float(np.abs(again - outcome.curves[row]).max()))
    yield Counted("sample_off", off, "best", "", f"hard accuracy at every record, {SAMPLE} patterns")
    for amount in DEAD:
        rows = outcome.asked == amount
        found = f"median of {rows.sum()} patterns; right after the damage {np.median(outcome.damaged[rows]):.3f}"
        yield Counted(f"retrained_{amount}", float(np.median(outcome.retrained[rows])), "best", "", found)


def _worst(params: Params) -> Iterable[Counted]:
    """Hard accuracy that the greedy worst order costs, over what as many gates cost that chance chose."""
    dead, settings = int(params["dead"]), MEDIUM.model_copy(update={"seed": int(params["wiring"])})
    data = task_of(settings)
    spec, circuit = new_circuit(settings, data.y.shape[1])
    trained = fit(circuit, data.x, data.y, settings.fit).circuit
    found = worst_damage(jax.random.key(0), trained, spec, data.x, data.y, dead, RANDOM_PATTERNS)
    greedy, by_chance = found.accuracy[0] - found.accuracy[-1], found.accuracy[0] - found.random[:, -1]
    words = (
        f"{dead} gates of the greedy order cost {greedy:.3f} of hard accuracy; {RANDOM_PATTERNS} random patterns of as "
        f"many cost {by_chance.mean():.3f} on average, {by_chance.max():.3f} at worst"
    )
    yield Counted("times_the_mean", float(greedy / by_chance.mean()), "best", "", words)
    yield Counted("times_the_worst", float(greedy / by_chance.max()), "best", "", words)
    lost, y = criticality(trained, spec, data.x, data.y).lost, np.asarray(data.y)
    masks = np.ones((spec.n_gates, spec.n_nodes), bool)
    masks[np.arange(spec.n_gates), np.arange(spec.n_in, spec.n_nodes)] = False

    @jax.jit
    def by_floats(alive: jax.Array) -> jax.Array:
        return run_circuit(trained.logits, trained.wires, data.x, spec.to_layers(alive), hard=True)[-1]

    alone = [found.accuracy[0] - float((np.asarray(by_floats(mask)) == y).mean()) for mask in masks]
    off = float(np.abs(np.asarray(alone) - lost).max())
    yield Counted("criticality_off", off, "best", "", f"each of {spec.n_gates} gates dead alone, against float runs")


CASES = (
    Case(
        "boolean.packed_rate",
        "look-up tables a second on packed cases, beside an arithmetic and a memory roof",
        "jax",
        not_timed,
        values=_packed,
        values_grid=({"size": "large", "threads": 2, "rounds": 20},),
        quick_values=({"size": "large", "threads": 2, "rounds": 4},),
        original=(evaluate_packed,),
        budget=8.0,
    ),
    Case(
        "boolean.study",
        "a knockout study of the medium circuit",
        "jax",
        not_timed,
        values=_study,
        values_grid=({"patterns": 1000, "steps": 200},),
        quick_values=({"patterns": 20, "steps": 20},),
        original=(run_knockout_study,),
        budget=400.0,
    ),
    Case(
        "boolean.analysis",
        "greedy worst damage beside random damage of the same size",
        "jax",
        not_timed,
        values=_worst,
        values_grid=tuple({"wiring": seed, "dead": 10} for seed in range(3)),
        quick_values=({"wiring": 0, "dead": 10},),
        original=(worst_damage,),
        budget=8.0,
    ),
)
