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
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from resu.baselines import MethodName
from resu.checkpoint import load
from resu.cli import main, options
from resu.experiments import demo, training_run
from resu.experiments.data import TaskName
from resu.experiments.self_check import Check
from resu.experiments.training_run import CHECKPOINT, RESULT, WEIGHTS
from resu.export.weights import read_weights
from resu.kernels.backend import Backend
from resu.optim.masked import Layout
from resu.pruning.nm import verify_nm

Run = Callable[..., tuple[int, str, str]]
SMALL = ["--steps", "40", "--out", "a"]
needs_digits = pytest.mark.needs_extra("sklearn")


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


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A plain file of weights: a matrix, a wide one, a convolution, a bias and a counter."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "body.0.weight": torch.randn(20, 30, generator=generator),
        "body.0.bias": torch.ones(20),
        "body.1.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "head.weight": torch.randn(5, 20, generator=generator),
        "steps": torch.tensor(7),
    }
    save_file(tensors, tmp_path / "plain.safetensors")
    return tmp_path / "plain.safetensors"


def test_choices_are_those_of_the_library() -> None:
    for choice, literal in ((options.Method, MethodName), (options.Task, TaskName), (options.Layout, Layout)):
        assert {one.value for one in choice} - {"auto"} == set(get_args(literal)) - {"auto"}
    assert {one.value for one in options.Backend} == {"auto", *get_args(Backend)}


def test_help_is_there_for_every_command_with_examples(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("train", "prune", "info", "export", "verify", "demo", "bench"):
        assert command in out
    for command in ("train", "prune", "info", "export", "verify", "demo", "bench memory", "bench throughput",
                    "bench accuracy"):  # fmt: skip
        code, described, _ = run(*command.split(), "--help")
        assert code == 0
        assert f"resu {command}" in described.split("Examples:")[1]


def test_help_imports_no_framework() -> None:
    program = (
        "import sys\n"
        "from resu.cli import main\n"
        "try:\n    main(['train', '--help'])\n"
        "except SystemExit as stopped:\n    assert stopped.code == 0\n"
        "print([name for name in ('torch', 'numpy', 'triton', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"


@needs_digits
@pytest.mark.needs_extra("matplotlib")
def test_train_writes_a_run_that_info_and_export_read(run: Run, tmp_path: Path) -> None:
    code, out, err = run("train", "--steps", "80", "--out", "a", "--method", "resu", "--sparsity", "0.9", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["settings"]["steps"] == 80
    assert document["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert sum(change["resurrected"] for change in document["changes"]) > 0
    pictures = {f"a/{name}.{kind}" for name in ("score", "masks") for kind in ("png", "svg")}
    assert set(document["files"]) == {f"a/{name}" for name in (CHECKPOINT, WEIGHTS, RESULT)} | pictures
    assert all((tmp_path / file).stat().st_size for file in document["files"])
    assert "training digits: 80/80, 90.0% pruned" in err

    code, out, _ = run("info", f"a/{CHECKPOINT}", "--json")
    assert code == 0
    assert json.loads(out)["about"]["step"] == 80
    code, out, _ = run("info", f"a/{WEIGHTS}", "--json")
    rows = {row["name"]: row for row in json.loads(out)["tensors"]}
    assert rows["0.weight"]["shape"] == [300, 64]
    assert (rows["0.weight"]["mask"], rows["0.weight"]["phase"]) == (True, "train")
    assert (
        rows["0.weight"]["sparsity"] == 1 - int(load_file(tmp_path / "a" / WEIGHTS)["0.weight"].count_nonzero()) / 19200
    )
    code, out, _ = run("info", f"a/{WEIGHTS}")
    assert "300 × 64" in out

    code, out, _ = run("export", f"a/{WEIGHTS}", "--to", "csr", "--out", "csr.safetensors")
    assert code == 0
    assert "0.weight" in out
    plain, rows_of = load_file(tmp_path / "a" / WEIGHTS)["0.weight"], load_file(tmp_path / "csr.safetensors")
    parts = (rows_of[f"0.{part}"] for part in ("crow_indices", "col_indices", "values"))
    dense = torch.zeros(300, 64)
    crow, columns, values = parts
    for row in range(300):
        dense[row, columns[crow[row] : crow[row + 1]].long()] = values[crow[row] : crow[row + 1]]
    assert torch.equal(dense, plain)
    assert columns.dtype == torch.int32
    assert "compressed sparse rows" in run("info", "csr.safetensors")[1]


@needs_digits
def test_a_result_worse_than_required_exits_with_1(run: Run) -> None:
    code, out, err = run("train", *SMALL, "--require", "100.5")
    assert code == 1
    assert "test accuracy in per cent" in out
    assert "is below the required 100.5" in err


@needs_digits
def test_what_is_there_is_not_replaced_unasked(run: Run, weights: Path) -> None:
    assert run("train", *SMALL)[0] == 0
    code, _, err = run("train", *SMALL)
    assert code == 2
    assert "already has one (checkpoint.safetensors). Resume it (--resume), replace it (--force)" in err
    code, _, err = run("train", *SMALL, "--sparsity", "0.8", "--resume")
    assert code == 2
    assert "sparsity is 0.95, and 0.8 was asked for" in err
    assert run("train", *SMALL, "--resume", "--force")[0] == 2
    assert run("train", *SMALL, "--resume")[0] == 0
    assert run("train", *SMALL, "--sparsity", "0.8", "--force")[0] == 0

    assert run("prune", weights.name, "--out", "b.safetensors")[0] == 0
    assert "is there. Replace it (--force)" in run("prune", weights.name, "--out", "b.safetensors")[2]
    assert "is there. Replace it (--force)" in run("export", weights.name, "--to", "2:4", "--out", "b.safetensors")[2]
    assert run("prune", weights.name, "--out", "b.safetensors", "--force")[0] == 0


@needs_digits
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_killed_run_resumes_and_ends_with_the_bits_of_the_uninterrupted_one(run: Run, tmp_path: Path) -> None:
    command = ["train", "--method", "resu", "--steps", "160", "--checkpoint-every", "7"]
    process = subprocess.Popen(
        [sys.executable, "-m", "resu.cli", *command, "--out", "killed"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "64/160" in line:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    saved = load(tmp_path / "killed" / CHECKPOINT)
    assert saved.cycle is not None
    assert 56 <= saved.cycle["step"] < 160
    assert not (tmp_path / "killed" / RESULT).exists()

    code, _, err = run(*command, "--out", "killed", "--resume")
    assert code == 0
    assert "resumed at step" in err
    settings = training_run.RunSettings(method="resu", steps=160, checkpoint_every=7)
    training_run.run_training(settings, tmp_path / "whole")
    for name in (CHECKPOINT, RESULT, WEIGHTS):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not [file for file in (tmp_path / "killed").iterdir() if file.name.endswith(".partial")]


@needs_digits
@pytest.mark.parametrize("method", ["snfs", "acdc", "topkast", "resu_paper"])
def test_methods_with_a_memory_of_their_own_resume_exactly(method: str, tmp_path: Path) -> None:
    settings = training_run.RunSettings(method=method, steps=60, sparsity=0.9, checkpoint_every=23)  # type: ignore[arg-type]

    def stop(done: int, total: int, words: str) -> None:
        if done >= 48:  # the last checkpoint, of step 46, is in the midst of a RESU phase of resu_paper
            raise KeyboardInterrupt

    training_run.run_training(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        training_run.run_training(settings, tmp_path / "cut", report=stop)
    training_run.run_training(settings, tmp_path / "cut", resume=True)
    for name in (CHECKPOINT, RESULT, WEIGHTS):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_prune_keeps_the_largest_of_all_weights_in_exact_number(run: Run, weights: Path, tmp_path: Path) -> None:
    before = load_file(weights)
    code, out, _ = run("prune", "plain.safetensors", "--sparsity", "0.75", "--exclude", "head.*", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["files"] == ["plain-pruned.safetensors"]
    assert set(document["layers"]) == {"body.0.weight", "body.1.weight"}
    found = read_weights(tmp_path / "plain-pruned.safetensors")
    names = ("body.0.weight", "body.1.weight")
    everything = torch.cat([before[name].flatten() for name in names])
    kept = torch.cat([found.tensors[name].flatten() for name in names])
    threshold = everything.abs().sort(descending=True).values[document["active"] - 1]
    assert document["active"] == everything.numel() - round(0.75 * everything.numel()) == int(kept.count_nonzero())
    assert torch.equal(kept, torch.where(everything.abs() >= threshold, everything, 0))
    for name in ("head.weight", "body.0.bias", "steps"):
        assert torch.equal(found.tensors[name], before[name])
    code, out, _ = run("prune", "plain-pruned.safetensors", "--sparsity", "0.9", "--spread", "uniform")
    assert code == 0
    assert "0.9000" in out


def test_export_to_pairs_and_to_plain_weights(run: Run, weights: Path, tmp_path: Path) -> None:
    before = load_file(weights)
    code, out, _ = run("export", "plain.safetensors", "--to", "2:4")
    assert code == 0
    assert "cut to two of four: head.weight" in out  # thirty columns are no fours
    found = read_weights(tmp_path / "plain-2-of-4.safetensors")
    head = found.tensors["head.weight"]
    assert verify_nm(head, 2, 4).holds
    groups = before["head.weight"].view(-1, 4)
    top = groups.abs().topk(2).indices
    assert torch.equal(head.view(-1, 4), torch.zeros_like(groups).scatter(1, top, groups.gather(1, top)))
    assert torch.equal(found.tensors["body.0.weight"], before["body.0.weight"])

    code, out, _ = run("export", "plain-2-of-4.safetensors", "--to", "safetensors", "--json")
    assert code == 0
    assert set(load_file(tmp_path / json.loads(out)["files"][0])) == set(before)
    code, _, err = run("export", "plain.safetensors", "--to", "csr")
    assert code == 2
    assert "Prune further, or give a lower --dense-below" in err


def test_verify_passes_and_says_what_it_saw(run: Run) -> None:
    code, out, err = run("verify", "--backend", "eager", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["passed"] is True
    assert [check["passed"] for check in document["checks"]] == [True] * 6
    assert document["back_ends"]["eager"] == "present"
    assert "checking: 3/6, eager: step equals the formula" in err


def test_a_failed_check_exits_with_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = [Check("masks count exactly", True, "yes"), Check("selection is exact", False, "499 of 500")]
    monkeypatch.setattr("resu.experiments.self_check.self_check", lambda backends, report: failed)
    code, out, _ = run("verify")
    assert code == 1
    assert "FAILED" in out
    assert "1 of 2 checks passed" in out


@pytest.mark.needs_extra("matplotlib")
@needs_digits
def test_demo_draws_what_came_back(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("demo", "digits", "--steps", "60", "--cycles", "3", "--sparsity", "0.8")
    code, out, err = run(*arguments)
    assert code == 0
    assert "came back at least once: " in out
    assert "demo digits: 15/60" in err
    names = ["cycles", "back-0", "back-2", "back-4"]
    assert [line for line in out.splitlines() if line.startswith("wrote")] == [
        f"wrote runs/demo-digits/{demo.RESULT}",
        *(f"wrote runs/demo-digits/{name}.{kind}" for name in names for kind in ("png", "svg")),
    ]
    code, _, err = run(*arguments)
    assert code == 2
    assert "already has one (demo.json). Replace it (--force)" in err


def test_bench_memory_counts_in_weights(run: Run) -> None:
    code, out, _ = run("bench", "memory", "--size", "64", "--backend", "eager", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["published_tally_in_weights"] == {"dense": 3.0, "RESU before": 5.0, "RESU after": 3.0}
    assert document["peak_in_weights"]["dense training"]["TRAIN"] == pytest.approx(3.0, abs=0.01)
    assert document["peak_in_weights"]["compact"]["TRAIN"] < document["peak_in_weights"]["dense"]["TRAIN"]
    assert "SHADOW" not in document["peak_in_weights"]["compact"]


def test_bench_throughput_times_every_phase(run: Run) -> None:
    code, out, _ = run("bench", "throughput", "--size", "32", "--rounds", "3", "--backend", "eager", "--json")
    steps = json.loads(out)["steps"]
    assert code == 0
    assert [step["form"] for step in steps] == ["dense", "TRAIN", "RESU", "JOINT", "SHADOW"]
    assert steps[0]["ratio"] == 1.0
    assert all(step["seconds"] > 0 for step in steps)


@needs_digits
@pytest.mark.needs_extra("matplotlib")
def test_bench_accuracy_makes_a_table_and_goes_on_with_it(run: Run) -> None:
    arguments = ("bench", "accuracy", "--task", "digits", "--method", "static", "--sparsity", "0.9", "--seeds", "2",
                 "--steps", "3", "--backend", "eager")  # fmt: skip
    code, out, err = run(*arguments)
    assert code == 0
    assert "# Accuracy at equal steps" in out
    assert "wrote runs/accuracy/accuracy-digits.svg" in out
    assert "comparing: 3/3, digits 90% static" in err
    assert "Go on with it (--resume)" in run(*arguments)[2]
    code, out, _ = run(*arguments, "--resume", "--json")
    assert code == 0
    assert [row["method"] for row in json.loads(out)["rows"]] == ["static"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--task", "digit"], "digit"),
        (["train", "--method", "magic"], "magic"),
        (["train", "--sparsity", "1.0"], "sparsity: Input should be less than 1; it is 1.0"),
        (["train", "--steps", "0"], "steps: Input should be greater than 0; it is 0"),
        (["prune", "nowhere.safetensors"], "weights are read from a file; nowhere.safetensors is none"),
        (["prune", "plain.safetensors", "--sparsity", "1.5"], "at least 0 and below 1; got 1.5"),
        (["prune", "plain.safetensors", "--exclude", "*"], "needs at least one weight"),
        (["info", "noise"], "truncated or something else"),
        (["info", "."], "is none. Check the path"),
        (["export", "plain.safetensors"], "Missing option"),
        (["export", "nowhere", "--to", "csr"], "nowhere is none"),
        (["verify", "--backend", "auto"], "auto is none"),
        (["demo", "digits", "--sparsity", "0", "--out", "x"], "above 0; got 0.0"),
        (["bench", "memory", "--size", "0"], "size is 0"),
        (["bench", "throughput", "--rounds", "0", "--backend", "eager"], "at least 1; got 1024, 128 and 0"),
        (["bench", "accuracy", "--shard", "one"], "a shard is I/N, two whole numbers; got 'one'"),
        (["fly"], "fly"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(
    run: Run, weights: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "noise").write_bytes(b"noise")
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


@needs_digits
def test_without_matplotlib_a_run_is_whole_and_says_what_is_missing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import: Any = builtins.__import__

    def without_matplotlib(name: str, *args: object, **kwargs: object) -> ModuleType:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    code, _, err = run("train", *SMALL)
    assert code == 0
    assert "no pictures: pictures need matplotlib" in err
    assert {file.name for file in (tmp_path / "a").iterdir()} == {CHECKPOINT, RESULT, WEIGHTS}
