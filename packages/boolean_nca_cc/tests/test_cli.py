"""The command: results on standard output, progress on standard error, exit codes, and a run that is killed."""

import builtins
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from boolean_nca_cc.checkpoint import load
from boolean_nca_cc.circuits.tasks import task_names
from boolean_nca_cc.cli import RULES, main
from boolean_nca_cc.experiments.knockout_study import STUDY
from boolean_nca_cc.experiments.training_run import CHECKPOINT, RESULT

# The smallest circuit that learns something: it compiles in a moment.
SMALL = ["--task", "copy", "--bits", "2", "--arity", "2", "--hidden", "1"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in an empty folder and returns exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        out, err = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, out, err

    return call


def test_help_is_there_for_every_command_with_examples(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("tasks", "train", "knockout", "evaluate", "show", "plot", "export", "analyse", "life", "grow"):
        assert command in out
        code, described, _ = run(command, "--help")
        assert code == 0
        assert f"boolean-nca {command}" in described.split("Examples:")[1]


def test_help_imports_no_framework() -> None:
    program = (
        "import sys\n"
        "from boolean_nca_cc.cli import main\n"
        "try:\n    main(['knockout', '--help'])\n"
        "except SystemExit as stopped:\n    assert stopped.code == 0\n"
        "print([name for name in ('jax', 'numpy', 'optax', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"


def test_tasks_lists_every_task(run: Run) -> None:
    assert set(RULES) == set(task_names()) - {"custom"}
    code, out, _ = run("tasks")
    assert code == 0
    assert all(name in out for name in RULES)
    code, out, _ = run("tasks", "--bits", "5", "--json")
    outputs = {row["task"]: row["outputs"] for row in json.loads(out)["tasks"]}
    assert (code, outputs["copy"], outputs["popcount"], outputs["add"]) == (0, 5, 3, None)


def test_train_evaluate_show_and_plot(run: Run, tmp_path: Path) -> None:
    code, out, err = run("train", *SMALL, "--steps", "60", "--out", "a", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["evaluation"]["hard_accuracy"] == 1.0
    assert document["settings"]["fit"]["steps"] == 60
    assert {f"a/{CHECKPOINT}", f"a/{RESULT}", "a/curves.png", "a/curves.svg"} == set(document["files"])
    assert all((tmp_path / file).stat().st_size for file in document["files"])
    assert "training copy: 60/60, loss" in err

    code, out, err = run("evaluate", "a", "--json", "--require", "1.0")
    assert (code, json.loads(out)["exact_cases"], err) == (0, 1.0, "")
    code, out, _ = run("evaluate", f"a/{CHECKPOINT}")
    assert code == 0
    assert "hard accuracy" in out
    assert "1.0000 of 4" in out

    code, out, _ = run("show", "a", "circuit.svg", "--dead", "3")
    assert (code, out) == (0, "wrote circuit.svg\n")
    texts = [element.text or "" for element in ElementTree.parse(tmp_path / "circuit.svg").iter()]
    assert any("3 dead" in text for text in texts)

    (tmp_path / "a" / "curves.svg").unlink()
    code, out, _ = run("plot", "a")
    assert (code, out) == (0, "wrote a/curves.png\nwrote a/curves.svg\n")


def test_a_result_below_what_is_required_exits_with_1(run: Run) -> None:
    code, out, err = run("train", *SMALL, "--steps", "0", "--out", "a", "--require", "1.5")
    assert code == 1
    assert "hard accuracy" in out
    assert "is below the required 1.5" in err


def test_the_default_folder_says_what_it_holds(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("train", *SMALL, "--steps", "0", "--seed", "3")
    assert code == 0
    assert f"wrote runs/copy-2-3/{RESULT}" in out
    assert (tmp_path / "runs" / "copy-2-3" / RESULT).exists()


def test_knockout_trains_damages_retrains_and_reports(run: Run, tmp_path: Path) -> None:
    base = [*SMALL, "--train-steps", "40"]
    study = ["knockout", *base, "--patterns", "3", "--dead", "2", "--steps", "20", "--chunk", "2", "--out", "k"]
    code, out, err = run(*study, "--json")
    summary = json.loads(out)["summary"]
    assert code == 0
    assert summary["patterns"] == 3
    assert summary["dead_gates_mean"] == 2.0
    assert summary["baseline_hard_accuracy"] == 1.0
    assert summary["damaged_hard_accuracy"]["worst"] <= summary["damaged_hard_accuracy"]["mean"]
    assert (tmp_path / "k" / "circuit" / CHECKPOINT).exists()
    assert (tmp_path / "k" / "histogram.svg").exists()
    assert "knocking out: 2/3" in err
    assert json.loads((tmp_path / "k" / RESULT).read_text())["summary"] == summary

    code, out, err = run(*study)
    assert code == 2
    assert "already has one. Resume it (--resume)" in err
    code, out, _ = run(*study, "--resume", "--require", "1.5")
    assert code == 1
    assert "copy: 3 patterns (shotgun), 2.0 dead gates on average" in out

    (tmp_path / "k" / "recovery.png").unlink()
    code, out, _ = run("plot", "k")
    assert code == 0
    assert "wrote k/recovery.png" in out


def test_several_numbers_of_dead_gates_are_one_study(run: Run, tmp_path: Path) -> None:
    study = ["knockout", *SMALL, "--train-steps", "40", "--patterns", "4", "--steps", "10", "--dead", "1, 3"]
    code, out, _ = run(*study)
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    assert [row[:2] for row in rows if row[:1] in (["1"], ["3"])] == [["1", "2"], ["3", "2"]]
    assert "wrote runs/knockout-shotgun-1_3-copy-2-0/damage.svg" in out
    code, out, err = run("knockout", *SMALL, "--dead", "2,5", "--out", "other")
    assert code == 2
    assert "this circuit has 4; dead asks for 5. Ask for 4 or fewer (--dead)" in err
    assert not (tmp_path / "other").exists()


def test_greedy_knockout_of_a_trained_run_draws_the_damage_curve(run: Run, tmp_path: Path) -> None:
    run("train", *SMALL, "--steps", "40", "--out", "a")
    code, out, _ = run("knockout", "--checkpoint", "a", "--mode", "greedy", "--dead", "2", "--steps", "10", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["summary"]["dead_gates_mean"] == 1.5
    assert "a/knockout-greedy-2-0/damage.svg" in document["files"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--task", "ad"], "there is no task 'ad'. Did you mean"),
        (["train", "--bits", "7"], "7"),  # an odd width has no halves to add
        (["train", "--bits", "99"], "bits: Input should be less than or equal to 16; it is 99"),
        (["train", "--loss", "l5"], "loss: Input should be 'l4' or 'bce'; it is 'l5'"),
        (["train", "--optimizer", "magic"], "it is 'magic'"),
        (["train", "--arity", "0"], "arity: Input should be greater than or equal to 1; it is 0"),
        (["train", "--checkpoint-every", "15"], "checkpoint_every 15 is no multiple of log_every 10"),
        (["knockout", "--dead", "3", "--checkpoint", "none"], "none is none. Check the path"),
        (["knockout", "--mode", "laser"], "laser"),
        (["knockout", "--dead", "2,b"], "dead.1: Input should be a valid integer"),
        (["knockout", "--dead", "2,2"], "each number of dead gates stands once"),
        (["evaluate", "nowhere"], "a checkpoint is a file; nowhere is none"),
        (["evaluate"], "Missing argument"),
        (["show", "only.svg"], "it got 1 path(s)"),
        (["show", "one", "two.svg", "--task", "add"], "it got 2 path(s) and --task"),
        (["plot", "."], "has neither. Check the path."),
        (["fly"], "fly"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_negative_damage_is_refused_by_its_name(run: Run) -> None:
    run("train", *SMALL, "--steps", "0", "--out", "a")
    code, _, err = run("knockout", "--checkpoint", "a", "--dead", "-1")
    assert code == 2
    assert "dead.0: Input should be greater than or equal to 0; it is '-1'" in err


def test_damaged_files_are_explained(run: Run, tmp_path: Path) -> None:
    run("train", *SMALL, "--steps", "0", "--out", "a")
    path = tmp_path / "a" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-1])
    code, _, err = run("evaluate", "a")
    assert code == 2
    assert "truncated or something else" in err
    (tmp_path / "file").write_text("")
    code, _, err = run("train", *SMALL, "--steps", "0", "--out", "file/run")
    assert code == 2
    assert "file" in err
    assert "Traceback" not in err


def test_without_matplotlib_a_run_is_whole_and_says_what_is_missing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import: Any = builtins.__import__

    def without_matplotlib(name: str, *args: object, **kwargs: object) -> ModuleType:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    code, _, err = run("train", *SMALL, "--steps", "0", "--out", "a")
    assert code == 0
    assert "no pictures: pictures need matplotlib" in err
    assert {file.name for file in (tmp_path / "a").iterdir()} == {CHECKPOINT, RESULT}


def _kill_at(words: str, command: list[str], folder: Path) -> None:
    """Runs a command into `killed`, and ends it without warning when it reports these words."""
    process = subprocess.Popen(
        [sys.executable, "-m", "boolean_nca_cc", *command, "--out", "killed"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if words in line:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_killed_run_resumes_and_ends_with_the_bits_of_the_uninterrupted_one(run: Run, tmp_path: Path) -> None:
    command = ["train", *SMALL, "--steps", "2000", "--checkpoint-every", "10"]
    _kill_at("150/2000", command, tmp_path)
    assert 150 <= load(tmp_path / "killed" / CHECKPOINT).step < 2000
    assert not (tmp_path / "killed" / RESULT).exists()

    code, _, err = run(*command, "--out", "killed", "--resume")
    assert code == 0
    assert "resumed at step" in err
    assert run(*command, "--out", "whole")[0] == 0
    for name in (CHECKPOINT, RESULT):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not [file for file in (tmp_path / "killed").iterdir() if file.name.endswith(".partial")]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_killed_study_resumes_and_ends_with_the_bits_of_the_uninterrupted_one(run: Run, tmp_path: Path) -> None:
    run("train", *SMALL, "--steps", "40", "--out", "a")
    command = ["knockout", "--checkpoint", "a", "--patterns", "400", "--dead", "1,3", "--steps", "10", "--chunk", "1"]
    _kill_at("knocking out: 30/400", command, tmp_path)
    assert 30 <= load(tmp_path / "killed" / STUDY).step < 400
    assert not (tmp_path / "killed" / RESULT).exists()
    code, _, err = run(*command, "--out", "killed", "--resume")
    assert code == 0
    assert "resumed after" in err
    assert run(*command, "--out", "whole")[0] == 0
    for name in (STUDY, RESULT, "damage.svg"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
