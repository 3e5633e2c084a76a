"""The knockout study: its figures against runs one by one, and resuming by chunks."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from boolean_nca_cc.checkpoint import load, save
from boolean_nca_cc.circuits.fit import fit
from boolean_nca_cc.circuits.model import Circuit, run_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.config import FitConfig
from boolean_nca_cc.errors import CheckpointError
from boolean_nca_cc.experiments.evaluation import evaluate, hard_accuracies
from boolean_nca_cc.experiments.knockout_study import STUDY, damage_patterns, load_study, run_knockout_study
from boolean_nca_cc.experiments.settings import DamageMode, KnockoutSettings, TrainSettings
from boolean_nca_cc.experiments.training_run import RESULT, new_circuit, task_of

BASE = TrainSettings(task="gray", bits=3, arity=2, hidden=2, width=1)
STUDY_OF_5 = KnockoutSettings(base=BASE, patterns=5, dead=3, chunk=2, retrain=FitConfig(steps=20))
DATA = task_of(BASE)
Y = np.asarray(DATA.y)


@pytest.fixture(scope="module")
def trained() -> tuple[CircuitSpec, Circuit]:
    spec, circuit = new_circuit(BASE, DATA.y.shape[1])
    return spec, fit(circuit, DATA.x, DATA.y, FitConfig(steps=60)).circuit


def hard_accuracy(circuit: Circuit, spec: CircuitSpec, alive: np.ndarray) -> float:
    out = run_circuit(circuit.logits, circuit.wires, DATA.x, spec.to_layers(alive), hard=True)[-1]
    return float((np.asarray(out) == Y).mean())


def test_figures_are_those_of_patterns_run_one_by_one(tmp_path: Path, trained: tuple[CircuitSpec, Circuit]) -> None:
    spec, circuit = trained
    seen: list[int] = []
    outcome = run_knockout_study(STUDY_OF_5, circuit, spec, tmp_path, report=lambda done, *_: seen.append(done))
    assert seen == [2, 4, 5]
    assert outcome.baseline == hard_accuracy(circuit, spec, np.ones(spec.n_nodes, bool))
    assert outcome.dead.tolist() == [3] * 5
    assert outcome.curves.shape == (5, 3)
    assert outcome.steps.tolist() == [0, 10, 20]
    alive = load(tmp_path / STUDY).record["alive"]
    np.testing.assert_array_equal(alive, damage_patterns(STUDY_OF_5, circuit, spec, DATA))
    for index, pattern in enumerate(alive):
        assert outcome.damaged[index] == hard_accuracy(circuit, spec, pattern)
        retrained = fit(circuit, DATA.x, DATA.y, STUDY_OF_5.retrain, alive=pattern).circuit
        assert outcome.retrained[index] == pytest.approx(hard_accuracy(retrained, spec, pattern), abs=1e-6)
    np.testing.assert_allclose(outcome.curves[:, 0], outcome.damaged, rtol=1e-6)
    result = json.loads((tmp_path / RESULT).read_text())
    assert result["summary"]["patterns"] == 5
    assert result["summary"]["damaged_hard_accuracy"]["worst"] == outcome.damaged.min()
    assert result["summary"]["retrained_hard_accuracy"]["mean"] == pytest.approx(outcome.retrained.mean())


def test_a_study_in_two_parts_is_the_whole_study(tmp_path: Path, trained: tuple[CircuitSpec, Circuit]) -> None:
    spec, circuit = trained
    run_knockout_study(STUDY_OF_5, circuit, spec, tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop(done: int, *_: object) -> None:
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        run_knockout_study(STUDY_OF_5, circuit, spec, tmp_path / "parts", report=stop)
    assert load(tmp_path / "parts" / STUDY).step == 2
    assert len(load_study(tmp_path / "parts").dead) == 2
    run_knockout_study(STUDY_OF_5, circuit, spec, tmp_path / "parts", resume=True)
    assert (tmp_path / "whole" / STUDY).read_bytes() == (tmp_path / "parts" / STUDY).read_bytes()
    assert (tmp_path / "whole" / RESULT).read_bytes() == (tmp_path / "parts" / RESULT).read_bytes()


def test_a_study_goes_on_only_as_it_began(tmp_path: Path, trained: tuple[CircuitSpec, Circuit]) -> None:
    spec, circuit = trained
    run_knockout_study(STUDY_OF_5, circuit, spec, tmp_path)
    with pytest.raises(CheckpointError, match=r"already has one\. Resume it"):
        run_knockout_study(STUDY_OF_5, circuit, spec, tmp_path)
    with pytest.raises(CheckpointError, match=r"dead was 3 and is now 4"):
        run_knockout_study(STUDY_OF_5.model_copy(update={"dead": 4}), circuit, spec, tmp_path, resume=True)
    other = Circuit(circuit.wires, [layer + 1 for layer in circuit.logits])
    with pytest.raises(CheckpointError, match=r"goes on with the circuit it began with"):
        run_knockout_study(STUDY_OF_5, other, spec, tmp_path, resume=True)
    saved = load(tmp_path / STUDY)
    save(tmp_path / STUDY, type(saved)(saved.spec, saved.circuit, settings={"train": {}}))
    with pytest.raises(CheckpointError, match=r"is of another kind"):
        load_study(tmp_path)


@pytest.mark.parametrize("mode", list(DamageMode))
def test_every_mode_draws_patterns_of_hidden_gates(mode: DamageMode, trained: tuple[CircuitSpec, Circuit]) -> None:
    spec, circuit = trained
    settings = STUDY_OF_5.model_copy(update={"mode": mode, "patterns": 4, "dead": 4})
    patterns = damage_patterns(settings, circuit, spec, DATA)
    assert patterns.shape == (4, spec.n_nodes)
    assert patterns[:, : spec.n_in].all()
    assert patterns[:, -spec.n_out :].all()
    assert not patterns.all()


@pytest.mark.parametrize(
    ("patterns", "dead", "counts"), [(9, 3, [1, 2, 3]), (2, 5, [3, 5]), (4, 0, [0]), (3, 3, [1, 2, 3])]
)
def test_greedy_patterns_are_growing_prefixes(
    patterns: int, dead: int, counts: list[int], trained: tuple[CircuitSpec, Circuit]
) -> None:
    spec, circuit = trained
    settings = STUDY_OF_5.model_copy(update={"mode": DamageMode.GREEDY, "patterns": patterns, "dead": dead})
    masks = damage_patterns(settings, circuit, spec, DATA)
    assert (~masks).sum(axis=1).tolist() == counts
    for smaller, larger in pairwise(masks):
        assert not (~smaller & larger).any()


def test_the_evaluation_agrees_with_a_run_and_counts_cases(trained: tuple[CircuitSpec, Circuit]) -> None:
    spec, circuit = trained
    alive = damage_patterns(STUDY_OF_5, circuit, spec, DATA)[0]
    outputs = np.asarray(run_circuit(circuit.logits, circuit.wires, DATA.x, spec.to_layers(alive), hard=True)[-1])
    right = outputs == Y
    found = evaluate(circuit, spec, DATA, alive)
    assert found.hard_accuracy == right.mean()
    assert found.exact_cases == right.all(axis=1).mean()
    assert found.bit_accuracy == right.mean(axis=0).tolist()
    assert found.live_gates <= found.pruned_gates <= found.gates == spec.n_gates
    np.testing.assert_array_equal(hard_accuracies(circuit, DATA, np.stack([alive, alive])), [right.mean()] * 2)
