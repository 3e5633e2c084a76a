"""A damaged circuit in the hands of a rule, beside retraining by gradient and beside doing nothing."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from boolean_nca_cc.analysis import accuracy_by_output
from boolean_nca_cc.checkpoint import write_atomically
from boolean_nca_cc.circuits.fit import fit_many
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.config import FitConfig
from boolean_nca_cc.errors import PatternError
from boolean_nca_cc.experiments.knockout_study import RepairRule
from boolean_nca_cc.experiments.meta_run import TrainedRule, load_rule
from boolean_nca_cc.experiments.settings import TrainSettings
from boolean_nca_cc.experiments.training_run import RESULT
from boolean_nca_cc.knockout import vocabulary
from boolean_nca_cc.meta.evaluation import configured, heal
from boolean_nca_cc.meta.pool import Pool, fresh_pool
from boolean_nca_cc.models.graph import sources_of, split_tables
from boolean_nca_cc.plots_meta import repair_animation, repair_curves

__all__ = ["RepairOutcome", "draw_repair", "rule_under_study", "run_repair"]


@dataclass(frozen=True)
class RepairOutcome:
    """How circuits came back; hard accuracies.

    Args:
        dead: dead gates of each pattern.
        baseline: of the configured circuit, before the damage.
        damaged: of each pattern right after it: what doing nothing leaves.
        healed: after each step of the rule.
        retrained: after each step of gradient descent from the same circuit, with a fresh optimiser.
        retrained_steps: which steps these are.
        alive: the patterns.
        shown: the pattern that hurts most.
        tables: its gates' logits before the first step and after each.
        outputs: the share of right cases of each output, likewise.
        files: what was written.
    """

    dead: int
    baseline: float
    damaged: Float[np.ndarray, " patterns"]
    healed: Float[np.ndarray, "steps patterns"]
    retrained: Float[np.ndarray, "points patterns"]
    retrained_steps: Int[np.ndarray, " points"]
    alive: Bool[np.ndarray, "patterns nodes"]
    shown: int
    tables: Float[np.ndarray, "states gates entries"]
    outputs: Float[np.ndarray, "states n_out"]
    files: list[Path]

    def summary(self) -> dict[str, Any]:
        """In a few numbers, for JSON."""
        return {
            "patterns": len(self.damaged),
            "dead_gates": self.dead,
            "baseline": self.baseline,
            "nothing": _spread(self.damaged),
            "rule": {"steps": len(self.healed), **_spread(self.healed[-1])},
            "gradient_same_steps": self._retrained_after(len(self.healed)),
            "gradient": {"steps": int(self.retrained_steps[-1]), **_spread(self.retrained[-1])},
        }

    def _retrained_after(self, steps: int) -> dict[str, Any]:
        point = int(np.searchsorted(self.retrained_steps, steps, side="right")) - 1
        return {"steps": int(self.retrained_steps[point]), **_spread(self.retrained[point])}


def run_repair(
    trained: TrainedRule,
    folder: Path | None = None,
    *,
    dead: int = 8,
    patterns: int = 64,
    steps: int = 20,
    configure_steps: int = 20,
    seed: int = 1000,
    retrain: FitConfig | None = None,
) -> RepairOutcome:
    """Lets a rule configure a circuit, kills gates in many patterns, and lets it repair each.

    Args:
        trained: the rule.
        folder: where to write `result.json`; None writes nothing.
        dead: gates of each pattern.
        patterns: how many.
        steps: of the rule, after the damage.
        configure_steps: of the rule, before it.
        seed: of the patterns; training has drawn others.
        retrain: gradient descent to compare with; None is a hundred steps.

    Returns:
        The outcome.

    Raises:
        PatternError: more dead gates than are hidden, or no pattern.
    """
    spec, data = trained.spec, trained.data
    if not 1 <= dead <= spec.hidden_gates.size:
        raise PatternError(
            f"damage takes from 1 to all {spec.hidden_gates.size} hidden gates; it is {dead}. Choose a number between."
        )
    retrain = retrain or FitConfig(steps=100, log_every=5)
    ready, before = configured(trained.rule, spec, _begin(trained, trained.state.start), data, configure_steps)
    alive = np.asarray(vocabulary(jax.random.key(seed), spec, patterns, "shotgun", dead))
    hurt = _copies(ready, alive)
    _, healing = heal(trained.rule, spec, hurt, data, steps)
    shown = int(np.argmin(healing.damaged))
    retrained = fit_many(_circuit_of(ready, spec), data.x, data.y, alive, retrain).history
    outcome = RepairOutcome(
        dead,
        float(before[-1, 0]),
        healing.damaged,
        healing.healed,
        retrained["hard_accuracy"].T,
        retrained["step"],
        alive,
        shown,
        *_story_of(trained, hurt, shown, steps),
        [] if folder is None else [folder / RESULT],
    )
    if folder is not None:
        asked = {"dead": dead, "patterns": patterns, "steps": steps, "seed": seed}
        result = {"kind": "repair", "settings": asked, "summary": outcome.summary()}
        write_atomically(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())
    return outcome


def draw_repair(trained: TrainedRule, outcome: RepairOutcome, folder: Path) -> list[Path]:
    """The plot of all patterns, and the animation of the one that hurts most.

    Args:
        trained: the rule.
        outcome: what it did.
        folder: where to write.

    Returns:
        The files.

    Raises:
        MissingExtraError: matplotlib or pillow is not installed.
    """
    o, sources = outcome, np.asarray(sources_of(trained.state.start.wires, trained.spec))
    title = f"{o.dead} of {trained.spec.hidden_gates.size} hidden gates dead"
    curves = repair_curves(o.damaged, o.healed, o.retrained, o.retrained_steps, o.baseline, folder / "repair", title)
    return [*curves, repair_animation(trained.spec, sources, o.tables, o.outputs, o.alive[o.shown], folder / "repair")]


def rule_under_study(path: Path, steps: int = 20) -> tuple[TrainSettings, CircuitSpec, Circuit, RepairRule]:
    """A rule and the circuit that it configures, ready for a knockout study.

    Args:
        path: folder or file of the rule.
        steps: of the rule, to configure the circuit and to repair each pattern.

    Returns:
        The circuit's task, layers and tables, and the rule as a study takes it.

    Raises:
        CheckpointError: no rule there.
    """
    trained = load_rule(path)
    kind, weights = trained.settings.meta.rule.kind, jax.tree.leaves(trained.rule.weights)
    digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in weights)).hexdigest()
    ready, _ = configured(trained.rule, trained.spec, _begin(trained, trained.state.start), trained.data, steps)

    def recover(_: Circuit, alive: Bool[np.ndarray, "patterns nodes"]) -> Float[np.ndarray, " patterns"]:
        # The study's circuit has these tables. What its gates remember goes with them, and only the rule has that.
        return heal(trained.rule, trained.spec, _copies(ready, alive), trained.data, steps)[1].healed[-1]

    repair = RepairRule(f"{kind} rule", digest, recover)
    return trained.settings.base, trained.spec, _circuit_of(ready, trained.spec), repair


def _begin(trained: TrainedRule, circuit: Circuit) -> Pool:
    """A pool of one circuit; its wires are given, so that the key draws nothing."""
    return fresh_pool(jax.random.key(0), trained.spec, 1, trained.settings.meta.rule.hidden, start=circuit)


def _circuit_of(pool: Pool, spec: CircuitSpec) -> Circuit:
    """The only circuit of a pool."""
    return Circuit(pool.wires, split_tables(pool.state.logits[0], spec))


def _copies(pool: Pool, alive: Bool[np.ndarray, "patterns nodes"]) -> Pool:
    """The pool's only circuit, once for each pattern."""
    count = len(alive)
    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[0], (count, *leaf.shape[1:])), pool.state)
    return Pool(pool.wires, state, jnp.asarray(alive), jnp.zeros(count, jnp.int32), jnp.zeros(count))


def _story_of(
    trained: TrainedRule, hurt: Pool, shown: int, steps: int
) -> tuple[Float[np.ndarray, "states gates entries"], Float[np.ndarray, "states n_out"]]:
    """One pattern's tables and outputs, state by state."""
    one = Pool(hurt.wires, *jax.tree.map(lambda leaf: leaf[shown : shown + 1], hurt[1:]))
    tables, outputs = [], []
    for step in range(steps + 1):
        if step:
            one, _ = configured(trained.rule, trained.spec, one, trained.data, 1)
        circuit = _circuit_of(one, trained.spec)
        tables.append(one.state.logits[0])
        outputs.append(accuracy_by_output(circuit, trained.spec, trained.data.x, trained.data.y, one.alive)[0])
    return np.stack(tables), np.stack(outputs)


def _spread(values: Float[np.ndarray, " patterns"]) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "worst": float(values.min()),
        "exact": float((values == 1.0).mean()),
    }
