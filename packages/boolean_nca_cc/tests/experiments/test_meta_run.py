"""Training and using a rule in folders: resumed runs have the bits of whole ones, and repairs are counted honestly."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.checkpoint import Checkpoint, load, save
from boolean_nca_cc.circuits.kernels import evaluate_packed, pack_cases, unpack_cases
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.config import FitConfig
from boolean_nca_cc.errors import CheckpointError, PatternError
from boolean_nca_cc.experiments.meta_run import RULE, MetaOutcome, MetaSettings, load_rule, run_meta_training
from boolean_nca_cc.experiments.repair_run import draw_repair, rule_under_study, run_repair
from boolean_nca_cc.experiments.settings import TrainSettings
from boolean_nca_cc.experiments.training_run import RESULT
from boolean_nca_cc.meta.settings import DamageConfig, MetaConfig, PoolConfig, RuleConfig
from boolean_nca_cc.meta.spreading import make_pool_mesh
from boolean_nca_cc.models.graph import joined

SMALL = MetaSettings(
    base=TrainSettings(task="reverse", bits=2, arity=2, hidden=1),
    meta=MetaConfig(
        rule=RuleConfig(hidden=4, width=8, heads=2),
        pool=PoolConfig(size=8),
        damage=DamageConfig(dead=1),
        epochs=9,
        batch=4,
        steps=2,
        evaluate_every=3,
        learning_rate=1e-2,
    ),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MetaOutcome]:
    """A training of nine epochs that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_meta_training(SMALL, folder)


def test_a_run_reports_and_writes(whole: tuple[Path, MetaOutcome]) -> None:
    folder, outcome = whole
    record = outcome.trained.record
    assert len(record["loss"]) == 9
    assert record["evaluated"].tolist() == [3, 6, 9]
    assert {"configured", "fresh_wiring", "unseen_damage_damaged", "flipped_healed"} <= set(record)
    assert outcome.files == [folder / RULE, folder / RESULT]
    result = json.loads((folder / RESULT).read_text())
    assert MetaSettings.model_validate(result["settings"]) == SMALL
    assert result["summary"]["epochs"] == 9
    assert result["summary"]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(outcome.trained.rule.weights))


def test_a_run_in_two_parts_is_the_whole_run_bit_for_bit(whole: tuple[Path, MetaOutcome], tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, *_: object) -> None:
        if done == 6:
            raise StopError

    with pytest.raises(StopError):
        run_meta_training(SMALL, tmp_path, report=stop)
    assert load(tmp_path / RULE).step == 6
    seen: list[tuple[int, int]] = []
    run_meta_training(SMALL, tmp_path, resume=True, report=lambda done, total, _: seen.append((done, total)))
    assert seen == [(6, 9), (9, 9)]
    assert (tmp_path / RULE).read_bytes() == (whole[0] / RULE).read_bytes()


def test_a_rule_comes_back_as_it_was(whole: tuple[Path, MetaOutcome]) -> None:
    folder, outcome = whole
    for where in (folder, folder / RULE):
        found = load_rule(where)
        assert found.settings == SMALL
        # A typed key is no array of numbers; it is compared by its data.
        pairs = zip(
            jax.tree.leaves(found.state._replace(key=jax.random.key_data(found.state.key))),
            jax.tree.leaves(outcome.trained.state._replace(key=jax.random.key_data(outcome.trained.state.key))),
            strict=True,
        )
        assert all(np.asarray(one).tobytes() == np.asarray(other).tobytes() for one, other in pairs)


@pytest.mark.slow
def test_devices_share_a_run(whole: tuple[Path, MetaOutcome], tmp_path: Path) -> None:
    shared = run_meta_training(SMALL, tmp_path, mesh=make_pool_mesh(4))
    for one, other in zip(
        jax.tree.leaves(shared.trained.rule.weights), jax.tree.leaves(whole[1].trained.rule.weights), strict=True
    ):
        assert np.allclose(one, other, atol=1e-5)
    assert load_rule(tmp_path).state.epoch == 9


def test_training_ends_early_when_the_target_is_held(tmp_path: Path) -> None:
    easy = SMALL.model_copy(update={"meta": SMALL.meta.model_copy(update={"target": 0.0, "patience": 2})})
    outcome = run_meta_training(easy, tmp_path)
    assert outcome.reached
    assert int(outcome.trained.state.epoch) == 6
    never = run_meta_training(easy, tmp_path, resume=True)
    assert int(never.trained.state.epoch) == 6


def test_wrong_folders_and_settings_are_refused(whole: tuple[Path, MetaOutcome], tmp_path: Path) -> None:
    folder, _ = whole
    with pytest.raises(CheckpointError, match=r"a folder holds one run; .* Resume it \(--resume\)"):
        run_meta_training(SMALL, folder)
    other = SMALL.model_copy(update={"meta": SMALL.meta.model_copy(update={"seed": 5})})
    with pytest.raises(CheckpointError, match=r"meta\.seed was 0 and is now 5"):
        run_meta_training(other, folder, resume=True)
    wider = SMALL.model_copy(update={"meta": SMALL.meta.model_copy(update={"rule": RuleConfig(hidden=4, width=16)})})
    with pytest.raises(CheckpointError, match=r"a run goes on only with arrays of its own kind; .* this run has"):
        run_meta_training(wider, folder, resume=True)
    circuit = Circuit([jnp.zeros((1, 1), jnp.int32)], [jnp.zeros((1, 1, 2))])
    save(tmp_path / RULE, Checkpoint(load(folder / RULE).spec.from_logits(circuit.logits, 1), circuit))
    with pytest.raises(CheckpointError, match=r"a rule's file is needed; .* Give the folder of `boolean-nca meta"):
        load_rule(tmp_path)
    deadly = SMALL.model_copy(update={"meta": SMALL.meta.model_copy(update={"damage": DamageConfig(dead=99)})})
    with pytest.raises(PatternError, match=r"hidden gates, of which there are 4; it asks for 99"):
        run_meta_training(deadly, tmp_path / "deadly")


def test_a_repair_counts_what_circuits_really_say(whole: tuple[Path, MetaOutcome], tmp_path: Path) -> None:
    trained = whole[1].trained
    outcome = run_repair(trained, tmp_path, dead=2, patterns=5, steps=3, retrain=FitConfig(steps=6, log_every=2))
    assert outcome.healed.shape == (3, 5)
    assert outcome.retrained_steps.tolist() == [0, 2, 4, 6]
    assert (~outcome.alive).sum(axis=1).tolist() == [2] * 5
    assert outcome.damaged[outcome.shown] == outcome.damaged.min()
    # The shown pattern again, by another way: packed words of the tables that were drawn.
    words, spec = pack_cases(trained.data.x), trained.spec
    for step, flat in enumerate(outcome.tables):
        ends = np.cumsum([0, *(n for n, _ in spec.layer_sizes[1:])])
        logits = [
            flat[a:b].reshape(n // s, s, -1)
            for a, b, (n, s) in zip(ends[:-1], ends[1:], spec.layer_sizes[1:], strict=True)
        ]
        said = evaluate_packed((trained.state.start.wires, logits), words, jnp.asarray(outcome.alive[outcome.shown]))
        right = np.asarray(unpack_cases(said, len(trained.data.x))) == (np.asarray(trained.data.y) > 0.5)
        assert np.allclose(outcome.outputs[step], right.mean(axis=0))
        expected = outcome.damaged[outcome.shown] if step == 0 else outcome.healed[step - 1, outcome.shown]
        assert right.mean() == pytest.approx(float(expected), abs=1e-6)
    summary = json.loads((tmp_path / RESULT).read_text())["summary"]
    assert summary["nothing"]["mean"] == pytest.approx(float(outcome.damaged.mean()))
    assert summary["rule"]["steps"] == 3
    assert summary["gradient_same_steps"]["steps"] == 2
    assert summary["gradient"]["steps"] == 6
    files = draw_repair(trained, outcome, tmp_path)
    assert [file.name for file in files] == ["repair.png", "repair.svg", "repair.gif"]
    assert all(file.stat().st_size > 1000 for file in files)


def test_a_study_takes_the_rule_and_its_circuit(whole: tuple[Path, MetaOutcome]) -> None:
    base, spec, circuit, rule = rule_under_study(whole[0], steps=3)
    outcome = run_repair(
        whole[1].trained, dead=2, patterns=5, steps=3, configure_steps=3, retrain=FitConfig(steps=6, log_every=2)
    )
    assert (base, rule.name, len(rule.identity)) == (SMALL.base, "attention rule", 64)
    assert spec == whole[1].trained.spec
    assert np.array_equal(joined(circuit.logits), outcome.tables[0])
    assert np.array_equal(rule.recover(circuit, outcome.alive), outcome.healed[-1])


@pytest.mark.parametrize("dead", [0, 5])
def test_impossible_damage_is_refused(whole: tuple[Path, MetaOutcome], dead: int) -> None:
    with pytest.raises(PatternError, match=rf"from 1 to all 4 hidden gates; it is {dead}"):
        run_repair(whole[1].trained, dead=dead)
