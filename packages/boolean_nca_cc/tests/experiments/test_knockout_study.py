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
from boolean_nca_cc.errors import CheckpointError, ConfigError, PatternError
from boolean_nca_cc.experiments.damage import amounts, check_damage, damage_patterns
from boolean_nca_cc.experiments.evaluation import evaluate, hard_accuracies
from boolean_nca_cc.experiments.knockout_study import STUDY, RepairRule, load_study, run_knockout_study
from boolean_nca_cc.experiments.settings import DamageMode, KnockoutSettings, TrainSettings
from boolean_nca_cc.experiments.training_run import RESULT, new_circuit, task_of

BASE = TrainSettings(task="gray", bits=3, arity=2, hidden=2, width=1)
STUDY_OF_5 = KnockoutSettings(base=BASE, patterns=5, dead=(3,), chunk=2, retrain=FitConfig(steps=20))
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
    assert result["summary"]["rule"] is None
    assert not {"by_dead_gates", "recovered_hard_accuracy"} & set(result["summary"])
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
    with pytest.raises(CheckpointError, match=r"dead was \[3\] and is now \[4\]"):
        run_knockout_study(STUDY_OF_5.model_copy(update={"dead": (4,)}), circuit, spec, tmp_path, resume=True)
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
    settings = STUDY_OF_5.model_copy(update={"mode": mode, "patterns": 4, "dead": (4,)})
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
    settings = STUDY_OF_5.model_copy(update={"mode": DamageMode.GREEDY, "patterns": patterns, "dead": (dead,)})
    masks = damage_patterns(settings, circuit, spec, DATA)
    assert (~masks).sum(axis=1).tolist() == counts
    for smaller, larger in pairwise(masks):
        assert not (~smaller & larger).any()


def test_several_numbers_of_dead_gates_share_the_patterns_in_turn(trained: tuple[CircuitSpec, Circuit]) -> None:
    spec, circuit = trained
    settings = STUDY_OF_5.model_copy(update={"dead": (1, 6, 3)})
    assert amounts(settings).tolist() == [1, 6, 3, 1, 6]
    masks = damage_patterns(settings, circuit, spec, DATA)
    assert (~masks).sum(axis=1).tolist() == [1, 6, 3, 1, 6]
    # Each pattern is the one that a study of its number alone draws in its place.
    for index, amount in enumerate([1, 6, 3, 1, 6]):
        alone = damage_patterns(STUDY_OF_5.model_copy(update={"dead": (amount,)}), circuit, spec, DATA)
        np.testing.assert_array_equal(masks[index], alone[index])


def test_several_numbers_of_greedily_chosen_gates_are_prefixes_of_one_order(
    trained: tuple[CircuitSpec, Circuit],
) -> None:
    spec, circuit = trained
    settings = STUDY_OF_5.model_copy(update={"mode": DamageMode.GREEDY, "dead": (5, 1, 2)})
    several = damage_patterns(settings, circuit, spec, DATA)
    every = damage_patterns(settings.model_copy(update={"dead": (5,)}), circuit, spec, DATA)
    np.testing.assert_array_equal(several, every[[0, 1, 4]])


def test_a_study_of_several_numbers_sums_up_each(tmp_path: Path, trained: tuple[CircuitSpec, Circuit]) -> None:
    spec, circuit = trained
    settings = STUDY_OF_5.model_copy(update={"dead": (6, 1)})
    outcome = run_knockout_study(settings, circuit, spec, tmp_path)
    assert outcome.asked.tolist() == outcome.dead.tolist() == [6, 1, 6, 1, 6]
    assert outcome.hidden == spec.n_gates - spec.n_out
    few, many = outcome.summary()["by_dead_gates"]
    assert (few["asked"], few["patterns"], many["asked"], many["patterns"]) == (1, 2, 6, 3)
    assert few["damaged_hard_accuracy"]["mean"] == outcome.damaged[[1, 3]].mean()
    assert many["retrained_hard_accuracy"]["median"] == np.median(outcome.retrained[[0, 2, 4]])


def test_a_repair_rule_is_tried_on_every_pattern_and_kept_with_its_name(
    tmp_path: Path, trained: tuple[CircuitSpec, Circuit]
) -> None:
    spec, circuit = trained
    asked: list[int] = []

    def recover(found: Circuit, alive: np.ndarray) -> np.ndarray:
        """Does nothing: the accuracy is the damaged circuit's, run in floats."""
        asked.append(len(alive))
        return np.array([hard_accuracy(found, spec, pattern) for pattern in alive])

    rule = RepairRule("idle rule", "digest-1", recover)
    outcome = run_knockout_study(STUDY_OF_5, circuit, spec, tmp_path, rule=rule)
    assert outcome.rule == "idle rule"
    assert asked == [2, 2, 2]  # the last chunk is filled up
    np.testing.assert_allclose(outcome.recovered, outcome.damaged, rtol=1e-12)
    summary = json.loads((tmp_path / RESULT).read_text())["summary"]
    assert (summary["rule"], summary["recovered_hard_accuracy"]) == ("idle rule", summary["damaged_hard_accuracy"])
    again = load_study(tmp_path)
    assert again.rule == "idle rule"
    np.testing.assert_array_equal(again.recovered, outcome.recovered)
    run_knockout_study(STUDY_OF_5, circuit, spec, tmp_path, rule=rule, resume=True)
    for other in (None, RepairRule("idle rule", "digest-2", recover)):
        with pytest.raises(CheckpointError, match="identity was 'digest-1' and is now"):
            run_knockout_study(STUDY_OF_5, circuit, spec, tmp_path, rule=other, resume=True)


@pytest.mark.parametrize("answer", [np.zeros(3), np.full(2, 1.5), np.full(2, np.nan), np.zeros((2, 1))])
def test_a_rule_that_does_not_answer_with_accuracies_is_refused(
    tmp_path: Path, trained: tuple[CircuitSpec, Circuit], answer: np.ndarray
) -> None:
    spec, circuit = trained
    rule = RepairRule("odd", "digest", lambda *_: answer)
    with pytest.raises(ConfigError, match=r"one hard accuracy from 0 to 1 for each of the 2 patterns; odd gave"):
        run_knockout_study(STUDY_OF_5, circuit, spec, tmp_path, rule=rule)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mode", "dead", "message"),
    [
        # The circuit has layers of 3, 6, 6 and 3 nodes.
        (DamageMode.SHOTGUN, (2, 13), "of which this circuit has 12; dead asks for 13. Ask for 12 or fewer"),
        (DamageMode.BERNOULLI, (13,), "of which this circuit has 12"),
        (DamageMode.GREEDY, (40,), "of which this circuit has 12; dead asks for 40"),
        (DamageMode.STRIP, (7,), "the widest of which has 6; dead asks for 7"),
    ],
)
def test_more_damage_than_there_are_gates_is_refused(
    tmp_path: Path, trained: tuple[CircuitSpec, Circuit], mode: DamageMode, dead: tuple[int, ...], message: str
) -> None:
    spec, circuit = trained
    assert [n for n, _ in spec.layer_sizes] == [3, 6, 6, 3]
    settings = STUDY_OF_5.model_copy(update={"mode": mode, "dead": dead})
    with pytest.raises(PatternError, match=message):
        run_knockout_study(settings, circuit, spec, tmp_path)
    check_damage(settings.model_copy(update={"dead": (6,)}), spec)


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
