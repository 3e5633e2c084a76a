"""Ours: an epoch of meta-learning beside plain loops, and what trained rules make of damage that they never saw."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.config import FitConfig
from boolean_nca_cc.experiments.settings import TrainSettings
from boolean_nca_cc.meta.settings import DamageConfig, MetaConfig, PoolConfig, RuleConfig
from claimbench.case import Case, Counted
from claimbench.cases.boolean_nca_cc.circuits import not_timed
from claimbench.record import Params
from claimbench.turns import in_turns, interval_of, ratio_of, seconds

if TYPE_CHECKING:
    from boolean_nca_cc.experiments.meta_run import TrainedRule

# What needs flax is imported where it is used: without the extra `models`, only these cases fail.

__all__ = ["CASES"]

DEAD = 8
"""A twentieth of the 160 hidden gates of the circuit from 8 to 8 bits."""

LEARNING = {
    "attention": MetaConfig(rule=RuleConfig(kind="attention"), damage=DamageConfig(dead=DEAD)),
    "gnn": MetaConfig(rule=RuleConfig(kind="gnn"), damage=DamageConfig(dead=DEAD)),
}
"""The trainings of `boolean.meta_learning`, but for their seeds."""

LIMIT = 20 * 60.0
"""Seconds after which a training is stopped; the rule of its last checkpoint is used."""

PATTERNS, RULE_STEPS, GRADIENT_STEPS = 64, 20, 100
"""Unseen patterns of dead gates for each seed, steps of the rule, and steps of retraining by gradient."""

PATTERN_SEED = 1000
"""Added to a training's seed: no training and no choice of a setting has drawn these patterns."""

ARITY = {4: 2, 8: 4}
"""Of the circuits, by their bits: 52 gates of two inputs, or 168 of four."""

ROUNDS = 6


class _OutOfTime(Exception):  # noqa: N818 - no error: the training has had its time
    """Ends a training from within its report."""


def _first_moment(opt_state: Any) -> list[np.ndarray]:
    """Of Adam after its first update: a tenth of the clipped gradient."""
    import optax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(optax.tree_utils.tree_get(opt_state, "mu"))]


def _off(found: list[np.ndarray], right: list[np.ndarray]) -> float:
    """Largest difference, as a share of the largest entry."""
    largest = max(float(np.abs(leaf).max()) for leaf in right)
    return max(float(np.abs(a - b).max()) for a, b in zip(found, right, strict=True)) / largest


def _step(params: Params) -> Iterable[Counted]:
    """One epoch in three forms: compared first, then timed in turns by the CPU time of all threads."""
    from boolean_nca_cc.meta.training import meta_epochs, start_training
    from boolean_nca_cc.reference.eager_meta import as_lists, eager_epoch, original_epoch

    bits, rule_kind, eager = int(params["bits"]), str(params["rule"]), bool(params["eager"])
    config = MetaConfig.model_validate({"rule": {"kind": rule_kind}, "pool": PoolConfig(size=16, reset=0.0)})
    spec, data = CircuitSpec.default(bits, bits, arity=ARITY[bits]), get_task("reverse", bits)
    rule, state = start_training(config, spec)
    generator = np.random.default_rng(0)
    # An untrained rule changes nothing, and nearly all of its gradient is zero; this one does something.
    state = state._replace(
        weights=jax.tree.map(lambda leaf: leaf + generator.normal(0, 0.1, leaf.shape).astype(np.float32), state.weights)
    )
    after, record = meta_epochs(config, spec, rule, state, data, 1)
    right, loss = _first_moment(after.opt_state), float(record.loss[0])
    words = f"batch {config.batch}, {config.steps} steps of the rule, {spec.n_gates} gates of {spec.arity} inputs"

    lists = as_lists(state)
    forms: dict[str, Callable[[], Any]] = {"original": partial(original_epoch, config, spec, rule, state, data)}
    if eager:
        forms["eager"] = partial(eager_epoch, config, spec, rule, lists, data)
    for name, form in forms.items():
        ended, told = form()
        yield Counted(f"{name}_loss_off", abs(told.loss / loss - 1), "best", "", f"as a share; {words}")
        off = _off(_first_moment(ended.opt_state), right)
        yield Counted(f"{name}_gradient_off", off, "best", "", f"of the largest entry; {words}")

    def taken(call: Callable[[], Any]) -> Callable[[], float]:
        return lambda: seconds(lambda: jax.block_until_ready(call()), time.process_time)

    ours = taken(lambda: meta_epochs(config, spec, rule, state, data, 1))
    found = in_turns({"best": ours, "original": taken(lambda: forms["original"]()[0])}, ROUNDS)
    ratio, ends = ratio_of(found["original"], found["best"])
    middle = float(np.median(found["best"]))
    yield Counted("milliseconds", 1e3 * middle, "best", "ms", f"of CPU time an epoch; {words}")
    yield Counted("faster_than_original", ratio, "best", "×", f"than its compiled step in a loop; {words}", ends)
    if eager:
        # One call, the second: it takes seconds, and hundreds of times as long as ours.
        slow = taken(lambda: forms["eager"]()[0].weights)()
        yield Counted("faster_than_eager", slow / middle, "best", "×", f"than an eager loop; {words}")


def _trained(rule: str, bits: int, seed: int, folder: Path) -> tuple[TrainedRule, float | None]:
    """A rule, and the seconds until an evaluation first saw it configure the circuit without a wrong bit."""
    from boolean_nca_cc.experiments.meta_run import MetaSettings, load_rule, run_meta_training

    base = TrainSettings(task="reverse", bits=bits, arity=ARITY[bits], seed=seed)
    settings = MetaSettings(base=base, meta=LEARNING[rule].model_copy(update={"seed": seed}))
    began, times = time.perf_counter(), []

    def watch(_done: int, _total: int, _words: str) -> None:
        times.append(time.perf_counter() - began)
        if times[-1] > LIMIT:
            raise _OutOfTime

    try:
        trained = run_meta_training(settings, folder, report=watch).trained
    except _OutOfTime:
        trained = load_rule(folder)
    exact = np.flatnonzero(trained.record["configured"] == 1)
    return trained, times[exact[0]] if exact.size else None


def _learning(params: Params) -> Iterable[Counted]:
    """Rules trained with fresh seeds, each then given patterns of dead gates that it never saw."""
    from boolean_nca_cc.experiments.repair_run import run_repair

    rule, bits = str(params["rule"]), int(params["bits"])
    seeds = range(int(params["first"]), int(params["first"]) + int(params["seeds"]))
    reached: list[float] = []
    names = ("baseline", "nothing", "rule", "gradient_same_steps", "gradient")
    means: dict[str, list[float]] = {name: [] for name in names}
    worst = 1.0
    for seed in seeds:
        with TemporaryDirectory(prefix="claimbench-rule-") as folder:
            trained, exact_after = _trained(rule, bits, seed, Path(folder))
        reached += [] if exact_after is None else [exact_after]
        retrain = FitConfig(steps=GRADIENT_STEPS, log_every=RULE_STEPS)
        outcome = run_repair(
            trained, dead=DEAD, patterns=PATTERNS, steps=RULE_STEPS, seed=PATTERN_SEED + seed, retrain=retrain
        )
        worst = min(worst, float(outcome.healed[-1].min()))
        summary = outcome.summary()
        for name, values in means.items():
            values.append(float(summary[name] if name == "baseline" else summary[name]["mean"]))
    runs = f"seeds {seeds[0]} to {seeds[-1]}, {len(os.sched_getaffinity(0))} cores"
    yield Counted("reached", len(reached), "best", "", f"of {len(seeds)} trainings; {runs}")
    if reached:
        words = f"slowest of {len(reached)}, with compilation, evaluations and checkpoints; {runs}"
        yield Counted("minutes", max(reached) / 60, "best", "min", words)
    gates = f"{DEAD} of {trained.spec.hidden_gates.size} hidden gates dead, {PATTERNS} unseen patterns a seed; {runs}"
    told = {
        "baseline": f"after {RULE_STEPS} steps of the rule from pass-through tables, before the damage; {runs}",
        "nothing": f"right after it; {gates}",
        "rule": f"after {RULE_STEPS} steps of the rule; {gates}",
        "gradient_same_steps": f"after {RULE_STEPS} steps of gradient descent; {gates}",
        "gradient": f"after {GRADIENT_STEPS} steps of gradient descent; {gates}",
    }
    for name, values in means.items():
        mean, ends = interval_of(values)
        yield Counted(name, mean, "best", "", f"hard accuracy {told[name]}", ends)
    yield Counted("worst", worst, "best", "", f"hard accuracy of the worst pattern of any seed; {gates}")


CASES = (
    Case(
        "boolean.meta_step",
        "an epoch of meta-learning: ours, as the original compiles it, and one operation after another",
        "jax",
        not_timed,
        values=_step,
        values_grid=(
            {"bits": 4, "rule": "attention", "eager": 1},
            {"bits": 8, "rule": "attention", "eager": 0},
            {"bits": 8, "rule": "gnn", "eager": 0},
        ),
        quick_values=(),
        original=(_step,),
        budget=60.0,
    ),
    Case(
        "boolean.meta_learning",
        "rules that configure a circuit and repair it after damage that they never saw",
        "jax",
        not_timed,
        values=_learning,
        values_grid=tuple({"rule": rule, "bits": 8, "first": 100, "seeds": 3} for rule in LEARNING),
        quick_values=(),
        original=(_learning,),
        # What bounds a worker that trains is twice this: three seeds of two rules, 20 minutes each.
        budget=1.2 * 6 * LIMIT / 2,
    ),
)
