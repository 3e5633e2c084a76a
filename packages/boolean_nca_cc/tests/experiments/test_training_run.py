"""Training into a folder: resuming gives the bits of the uninterrupted run, and nothing is overwritten."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from boolean_nca_cc.checkpoint import load
from boolean_nca_cc.config import FitConfig, OptimizerConfig
from boolean_nca_cc.errors import CheckpointError, TaskError
from boolean_nca_cc.experiments.settings import TrainSettings
from boolean_nca_cc.experiments.training_run import CHECKPOINT, RESULT, load_run, run_training

SMALL = TrainSettings(task="copy", bits=2, arity=2, hidden=1, checkpoint_every=20, fit=FitConfig(steps=60))


def test_a_run_learns_reports_and_writes(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    outcome = run_training(SMALL, tmp_path, report=lambda *what: seen.append(what))
    assert outcome.evaluation.hard_accuracy == outcome.evaluation.exact_cases == 1.0
    assert outcome.evaluation.bit_accuracy == [1.0, 1.0]
    assert outcome.evaluation.cases == 4
    assert [(done, total) for done, total, _ in seen] == [(20, 60), (40, 60), (60, 60)]
    assert outcome.history["step"].tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert outcome.files == [tmp_path / CHECKPOINT, tmp_path / RESULT]
    result = json.loads((tmp_path / RESULT).read_text())
    assert TrainSettings.model_validate(result["settings"]) == SMALL
    assert result["evaluation"]["hard_accuracy"] == 1.0
    settings, saved = load_run(tmp_path)
    assert settings == load_run(tmp_path / CHECKPOINT)[0] == SMALL
    assert saved.step == 60


@pytest.mark.parametrize("stopped_after", [20, 40])
def test_a_run_in_two_parts_is_the_whole_run_bit_for_bit(tmp_path: Path, stopped_after: int) -> None:
    whole = run_training(SMALL, tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop(done: int, *_: object) -> None:
        if done == stopped_after:
            raise StopError

    with pytest.raises(StopError):
        run_training(SMALL, tmp_path / "parts", report=stop)
    assert load(tmp_path / "parts" / CHECKPOINT).step == stopped_after
    parts = run_training(SMALL, tmp_path / "parts", resume=True)
    for one, other in zip(
        jax.tree.leaves((whole.circuit, whole.history)), jax.tree.leaves((parts.circuit, parts.history)), strict=True
    ):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert (tmp_path / "whole" / CHECKPOINT).read_bytes() == (tmp_path / "parts" / CHECKPOINT).read_bytes()


def test_resuming_nothing_starts_and_a_finished_run_can_be_extended(tmp_path: Path) -> None:
    run_training(SMALL, tmp_path, resume=True)
    longer = SMALL.model_copy(update={"fit": FitConfig(steps=100)})
    assert run_training(longer, tmp_path, resume=True).history["step"][-1] == 100
    with pytest.raises(CheckpointError, match=r"cannot go back; .* has done 100 steps, 60 are asked for"):
        run_training(SMALL, tmp_path, resume=True)


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    run_training(SMALL, tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(CheckpointError, match=r"already has one\. Resume it \(--resume\), or choose another folder"):
        run_training(SMALL, tmp_path)
    for changed, message in (
        ({"task": "reverse"}, r"task was 'copy' and is now 'reverse'"),
        (
            {"fit": FitConfig(steps=60, optimizer=OptimizerConfig(learning_rate=0.5))},
            r"learning_rate was 1\.0 and is now 0\.5",
        ),
        ({"bits": 3}, r"has layers 2/1-4/1-2/1 of arity 2, this run asks for 3/1"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run_training(SMALL.model_copy(update=changed), tmp_path, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_no_steps_still_leave_a_checkpoint(tmp_path: Path) -> None:
    outcome = run_training(SMALL.model_copy(update={"fit": FitConfig(steps=0)}), tmp_path)
    assert load_run(tmp_path)[1].step == 0
    assert outcome.history["step"].tolist() == [0]


def test_held_out_cases_are_recorded(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"bits": 3, "test_fraction": 0.25})
    history = run_training(settings, tmp_path).history
    assert history["test_loss"].shape == history["loss"].shape
    assert not np.array_equal(history["test_loss"], history["loss"])


def test_an_impossible_task_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="there is no task 'cpoy'"):
        run_training(SMALL.model_copy(update={"task": "cpoy"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
