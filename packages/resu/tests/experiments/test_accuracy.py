"""The accuracy table: tuning, resuming after a kill, shards, refusals, and the numbers in it."""

import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from resu.errors import CheckpointError, ConfigError
from resu.experiments import accuracy
from resu.experiments.accuracy import SETTINGS, best_rate, read_accuracy, run_accuracy
from resu.experiments.data import TaskData
from resu.experiments.settings import AccuracySettings, TaskSettings
from resu.experiments.table import AccuracyRow, AccuracyTable, mean_and_error

TINY: dict[str, Any] = {
    "methods": ("dense", "static", "rigl"),
    "tasks": ("digits",),
    "sparsities": (0.9,),
    "seeds": 3,
    "learning_rates": (2e-3, 8e-3, 3.2e-2),
    "variants": {"rigl": ({"interval": 2},)},
    "task_settings": {"digits": TaskSettings(steps=6, batch=8, tune_seeds=2)},
    "backend": "eager",
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, small_task: TaskData) -> AccuracySettings:
    monkeypatch.setattr(accuracy, "load_task", lambda name, seed=0, *, split=0: small_task)
    return AccuracySettings(**TINY)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small_task: TaskData) -> tuple[Path, AccuracyTable]:
    """A finished folder and its table; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy, "load_task", lambda name, seed=0, *, split=0: small_task)
        return folder, run_accuracy(AccuracySettings(**TINY), folder)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("runs-*")) for line in path.read_text().splitlines()]


def test_a_table_has_its_entries_and_their_trainings(tiny: AccuracySettings, whole: tuple[Path, AccuracyTable]) -> None:
    folder, table = whole
    seen: list[tuple[int, int]] = []
    threads = torch.get_num_threads()
    done = lines(folder)
    assert run_accuracy(tiny, folder, lambda done, total, words: seen.append((done, total))) == table
    assert lines(folder) == done
    assert read_accuracy(folder) == table
    assert torch.get_num_threads() == threads
    assert [(row.task, row.sparsity, row.method) for row in table.rows] == tiny.cells()
    assert tiny.cells() == [("digits", 0.0, "dense"), ("digits", 0.9, "static"), ("digits", 0.9, "rigl")]
    assert seen == [(n, 12) for n in range(1, 13)]
    tuned, tested = ([run for run in done if run["stage"] == stage] for stage in ("tune", "test"))
    assert not {run["seed"] for run in tuned} & {run["seed"] for run in tested}
    assert len({run["seed"] for run in tested}) == 3
    for row in table.rows:
        scores = [run["score"] for run in tested if run["method"] == row.method]
        assert list(row.values) == scores
        assert row.mean == pytest.approx(np.mean(scores))
        assert row.error == pytest.approx(np.std(scores, ddof=1) / np.sqrt(3))
        mine = [run for run in tuned if run["method"] == row.method]
        means: dict[str, list[float]] = {}
        for run in mine:
            means.setdefault(json.dumps([run["learning_rate"], run["variant"]]), []).append(run["score"])
        best = max(sum(values) / len(values) for values in means.values())
        chosen = means[json.dumps([row.learning_rate, dict(row.variant)])]
        assert sum(chosen) / len(chosen) == best
        assert all(len(values) == 2 for values in means.values())
        assert row.on_edge == (row.learning_rate in (2e-3, 3.2e-2))
    assert {json.dumps(run["variant"]) for run in done if run["method"] == "rigl"} == {"{}", '{"interval": 2}'}


@pytest.mark.parametrize(("kept", "entries"), [(12, 1), (26, 2)])
def test_a_run_goes_on_where_it_was_stopped(
    tiny: AccuracySettings, whole: tuple[Path, AccuracyTable], tmp_path: Path, kept: int, entries: int
) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "runs-0-of-1.jsonl"
    finished = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(finished[:kept]) + finished[kept][:20])  # a kill may tear a line
    assert len(read_accuracy(tmp_path).rows) == entries
    assert run_accuracy(tiny, tmp_path) == whole[1]
    assert file.read_bytes().splitlines(keepends=True)[:kept] == finished[:kept]
    assert len(lines(tmp_path)) == len(finished)


KILLED = """
import pathlib, pickle, sys
from resu.experiments import accuracy
folder = pathlib.Path(sys.argv[1])
task, settings = pickle.loads((folder / "what").read_bytes())
accuracy.load_task = lambda name, seed=0, *, split=0: task
accuracy.run_accuracy(settings, folder / "killed")
"""


def test_a_killed_process_resumes_with_the_same_table(
    tiny: AccuracySettings, whole: tuple[Path, AccuracyTable], small_task: TaskData, tmp_path: Path
) -> None:
    (tmp_path / "what").write_bytes(pickle.dumps((small_task, tiny)))
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    file = tmp_path / "killed" / "runs-0-of-1.jsonl"
    while process.poll() is None and not (file.exists() and file.read_bytes().count(b"\n") >= 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = len(lines(tmp_path / "killed"))
    assert 3 <= killed_at < len(lines(whole[0]))
    assert run_accuracy(tiny, tmp_path / "killed") == whole[1]
    assert len(lines(tmp_path / "killed")) == len(lines(whole[0]))


def test_shards_make_the_same_table(tiny: AccuracySettings, whole: tuple[Path, AccuracyTable], tmp_path: Path) -> None:
    first = run_accuracy(tiny, tmp_path, shard=(0, 2))
    assert [row.method for row in first.rows] == ["dense", "rigl"]
    assert run_accuracy(tiny, tmp_path, shard=(1, 2)) == whole[1]
    assert sorted(path.name for path in tmp_path.glob("runs-*")) == [
        "runs-0-of-2.jsonl",
        "runs-1-of-2.jsonl",
    ]
    with pytest.raises(ConfigError, match=r"got \(2, 2\)"):
        run_accuracy(tiny, tmp_path, shard=(2, 2))


def test_more_may_be_asked_for_and_other_settings_are_refused(
    tiny: AccuracySettings, whole: tuple[Path, AccuracyTable], tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    more = tiny.model_copy(update={"seeds": 4, "methods": ("dense", "static", "rigl", "set"), "variants": {}})
    assert [row.method for row in run_accuracy(more, tmp_path).rows] == ["dense", "static", "rigl", "set"]
    for changes, message in (
        ({"weight_decay": 0.1}, r"weight_decay was 0\.01 and is now 0\.1"),
        ({"task_settings": {"digits": TaskSettings(steps=7, batch=8, tune_seeds=2)}}, r"digits was steps=6"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run_accuracy(tiny.model_copy(update=changes), tmp_path)
    whole = json.loads((tmp_path / SETTINGS).read_text())
    whole["environment"]["torch"] = "1.0"
    (tmp_path / SETTINGS).write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match=r"torch was 1\.0 and is now"):
        run_accuracy(more, tmp_path)


def test_damaged_and_missing_folders_are_refused(whole: tuple[Path, AccuracyTable], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing or damaged"):
        read_accuracy(tmp_path / "nowhere")
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "runs-0-of-1.jsonl"
    good = file.read_text()
    for bad in ("not json\n", "[1]\n", '{"score": 1}\n', '{"score": 1, "seconds": 1, "task": "digits"}\n'):
        file.write_text(bad + good)
        with pytest.raises(CheckpointError, match=r"line 1 of .*runs-0-of-1.jsonl is not"):
            read_accuracy(tmp_path)


def test_a_training_that_diverges_is_infinitely_bad(
    tiny: AccuracySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        accuracy, "_train", lambda settings, run: math.nan if run.learning_rate > 2e-3 else 90.0 + run.seed % 2
    )
    static = run_accuracy(tiny, tmp_path).row("digits", 0.9, "static")
    assert (static.learning_rate, static.mean, static.on_edge) == (2e-3, pytest.approx(90 + 1 / 3), True)
    assert any(run["score"] is None for run in lines(tmp_path))
    monkeypatch.setattr(accuracy, "_train", lambda settings, run: math.nan if run.seed == 1001 else 90.0)
    table = run_accuracy(tiny, tmp_path / "second")
    assert math.isnan(table.row("digits", 0.9, "rigl").mean)
    assert "diverged in 1 of 3" in table.markdown()


@pytest.mark.parametrize(
    ("top", "tried"), [(2, {1, 2, 3}), (0, {0, 1, 2, 3}), (4, {1, 2, 3, 4}), (3, {1, 2, 3, 4}), (1, {0, 1, 2, 3})]
)
def test_the_search_climbs_from_the_middle(top: int, tried: set[int]) -> None:
    seen = []

    def value(rate: float) -> float:
        seen.append(int(rate))
        return -abs(rate - top)

    assert best_rate((0.0, 1.0, 2.0, 3.0, 4.0), value) == top
    assert set(seen) == tried
    assert len(seen) == len(tried)


def table_by_hand() -> AccuracyTable:
    settings = AccuracySettings(**TINY | {"methods": ("dense", "rigl", "shadow"), "sparsities": (0.9, 0.98)})
    scores = {
        ("dense", 0.0): (98.0, 98.0, 98.0),
        ("rigl", 0.98): (95.0, 96.0, 97.0),
        ("shadow", 0.98): (96.5, 96.0, 98.0),
    }
    rows = [
        AccuracyRow(
            "digits", sparsity, name, *mean_and_error(values), values, 8e-3, name == "dense",
            {"interval": 25} if name == "rigl" else {},
        )
        for (name, sparsity), values in scores.items()
    ]  # fmt: skip
    return AccuracyTable(settings, {"torch": "2.6"}, tuple(rows))  # type: ignore[arg-type]


def test_the_markdown_says_what_is_there() -> None:
    text = table_by_hand().markdown("resu bench accuracy")
    assert "| method | 90 % pruned | 98 % pruned |" in text
    assert "| dense | 98.00 ± 0.00 (0.008†) | 98.00 ± 0.00 (0.008†) |" in text
    assert "| RigL | – | 96.00 ± 0.58 (0.008) |" in text  # s = 1, over √3
    assert "| SHADOW | – | 96.83 ± 0.60 (0.008) |" in text
    assert "Variants that were chosen: RigL at 98 %: interval 25." in text
    assert "```\nresu bench accuracy\n```" in text
    assert text.endswith("- torch: 2.6\n")


def test_margins_are_paired_by_seed() -> None:
    table = table_by_hand()
    mean, error = table.margin("digits", 0.98, "shadow", "rigl")
    differences = np.array([1.5, 0.0, 1.0])
    assert mean == pytest.approx(differences.mean())
    assert error == pytest.approx(differences.std(ddof=1) / np.sqrt(3))
    assert table.margin("digits", 0.98, "rigl", "dense")[0] == pytest.approx(-2)
    with pytest.raises(ConfigError, match=r"no entry for shadow on digits at 0\.9"):
        table.margin("digits", 0.9, "shadow", "rigl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": (1e-2, 1e-3)}, "ascends"),
        ({"learning_rates": ()}, "ascends"),
        ({"sparsities": (1.0,)}, "less than 1"),
        ({"methods": ("sgd",)}, "Input should be"),
        ({"variants": {"rigl": ({"interval": -1},)}}, "greater than 0"),
        ({"task_settings": {}}, "'digits' has none"),
        ({"sede": 1}, "Extra inputs"),
    ],
)
def test_settings_are_refused_when_they_are_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AccuracySettings(**TINY | changes)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_are_a_partition_and_share_the_costly_methods(count: int) -> None:
    settings = AccuracySettings()
    shards = [settings.shard(index, count) for index in range(count)]
    assert sorted(chain(*shards)) == sorted(settings.cells())
    for method in settings.methods:
        held = [sum(cell[2] == method for cell in shard) for shard in shards]
        assert max(held) - min(held) <= 2


def test_the_full_table_is_the_default() -> None:
    settings = AccuracySettings()
    assert settings.seeds >= 8
    assert settings.sparsities == (0.9, 0.95, 0.98)
    assert (settings.task_settings["digits"].steps, settings.task_settings["digits"].batch) == (1500, 64)
    assert (settings.task_settings["characters"].steps, settings.task_settings["characters"].batch) == (1200, 256)
    assert len(settings.cells()) == 2 * (1 + 3 * 10)
    assert AccuracySettings.model_validate_json(settings.model_dump_json()) == settings
