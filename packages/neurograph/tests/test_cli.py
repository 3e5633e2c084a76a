"""The command: what it prints, what it writes, how it goes on after a kill, and how it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from neurograph.checkpoint import load_checkpoint, save_checkpoint
from neurograph.cli import app, main
from neurograph.config import read_config
from neurograph.export import load_exported
from neurograph.idx import write_idx

COMMANDS = ("train", "evaluate", "plot", "export", "diagnose", "tune", "bench", "claims", "graph", "tables")
SMALL = [
    "--set", "graph.widths=[16,24,4]", "--set", "graph.cardinality=6", "--set", "model.dim=4",
    "--set", "train.epochs=6", "--set", "train.batch_size=16",
]  # fmt: skip


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like MNIST's: four classes, each with a quarter of its picture lit."""
    root, rng = tmp_path_factory.mktemp("idx"), np.random.default_rng(0)
    for name, n in (("train", 160), ("t10k", 40)):
        labels = (np.arange(n) % 4).astype(np.uint8)
        pictures = rng.integers(0, 100, (n, 4, 4))
        for picture, label in zip(pictures, labels, strict=True):
            picture[label] += 155
        write_idx(root / f"{name}-images-idx3-ubyte.gz", pictures.astype(np.uint8))
        write_idx(root / f"{name}-labels-idx1-ubyte", labels)
    return root


def document(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    return err


@pytest.fixture(scope="module")
def trained(mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run said, pictures and all."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neurograph.drawing.DPI", 40)
        return document("train", "--data", "idx", "--root", str(mnist), *SMALL, "--out", str(folder), "--seed", "3")


@pytest.fixture
def finished(trained: dict[str, Any]) -> Path:
    return Path(trained["files"][0]).parent


def test_every_command_has_a_help_with_examples() -> None:
    for command in (*COMMANDS[:-2], "graph build", "graph report", "tables info"):
        shown = CliRunner().invoke(app, [*command.split(), "--help"])
        assert shown.exit_code == 0
        assert "Examples" in shown.output
    assert all(command in CliRunner().invoke(app, ["--help"]).output for command in COMMANDS)
    assert CliRunner().invoke(app, ["--version"]).output.strip().count(".") == 2


def test_train_writes_what_it_says_and_learns(trained: dict[str, Any], finished: Path) -> None:
    found, out = trained, finished
    figures, files = found["figures"], [Path(file) for file in found["files"]]
    assert figures["accuracy"] == found["history"][-1]["accuracy"] > 0.9  # chance is 0.25
    assert figures["trained_integers"] == 4 * (2 * 44 - 16)
    assert figures["epoch"] == 6
    assert found["settings"]["seed"] == 3
    assert all(file.exists() for file in files)
    names = {file.name for file in files}
    assert {"config.yaml", "checkpoint.safetensors", "history.csv", "evaluation.json", "confusion.csv"} <= names
    for picture in ("training", "confusion", "indices", "graph", "codes", "radiation"):
        assert {f"{picture}.png", f"{picture}.svg"} <= names
    assert read_config(out / "config.yaml").model_dump(mode="json") == found["settings"]
    assert len((out / "history.csv").read_text().splitlines()) == 7
    assert load_exported(out / "integers").n_integers == figures["trained_integers"]


def test_progress_is_plain_lines_where_there_is_no_terminal(mnist: Path, tmp_path: Path) -> None:
    data, out = ["--data", "idx", "--root", str(mnist)], ["--out", str(tmp_path / "r")]
    done = CliRunner().invoke(
        app, ["train", *data, *SMALL, "--set", "train.epochs=2", *out, "--no-pictures", "--no-integers"]
    )
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stderr.splitlines() if line.startswith("training on idx")]
    assert [line.split(",")[0] for line in lines] == ["training on idx: 1/2", "training on idx: 2/2"]
    assert all("loss" in line and "accuracy" in line for line in lines)
    assert f"wrote {tmp_path / 'r' / 'checkpoint.safetensors'}" in done.stdout
    assert not (tmp_path / "r" / "integers").exists()
    assert not (tmp_path / "r" / "figures").exists()


def test_a_run_without_matplotlib_is_whole(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = CliRunner().invoke(
        app, ["train", "--data", "idx", "--root", str(mnist), *SMALL, "--set", "train.epochs=1", "--out", str(tmp_path)]
    )
    assert done.exit_code == 0
    assert "no pictures: " in done.stderr
    assert (tmp_path / "integers").exists()


def test_a_network_without_a_form_in_integers_is_trained_all_the_same(mnist: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        ["train", "--data", "idx", "--root", str(mnist), *SMALL, "--set", "train.epochs=1", "--set", "model.snap=false",
         "--no-pictures", "--out", str(tmp_path)],
    )  # fmt: skip
    assert done.exit_code == 0
    assert "no export: " in done.stderr


def test_evaluate_repeats_the_figures_of_the_run(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "said.csv"
    found = document("evaluate", str(finished), "--out", str(out))
    saved = json.loads((finished / "evaluation.json").read_text())
    assert {key: found["figures"][key] for key in saved} == saved
    assert np.trace(found["confusion"]) == round(saved["accuracy"] * 40)
    head, *rows = [line.split(",") for line in out.read_text().splitlines()]
    assert head == ["true", "predicted", "probability"]
    assert np.mean([true == said for true, said, _ in rows]) == saved["accuracy"]
    again = document("evaluate", str(finished / "checkpoint.safetensors"))
    assert again["figures"] == found["figures"]


def test_an_accuracy_below_what_was_required_is_an_exit_code(finished: Path) -> None:
    assert CliRunner().invoke(app, ["evaluate", str(finished), "--require", "0.5"]).exit_code == 0
    done = CliRunner().invoke(app, ["evaluate", str(finished), "--require", "1.01"])
    assert done.exit_code == 1
    assert "below the required 1.01" in done.stderr


def test_plot_draws_and_says_where(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(figure: Any, path: Path) -> list[Path]:
        """The pictures themselves are looked at where a run is trained."""
        files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
        for file in files:
            file.write_text(figure.get_suptitle())
        return files

    monkeypatch.setattr("neurograph.plots.save_figure", quick)
    files = [Path(file) for file in document("plot", str(finished), "--out", str(tmp_path), "--top-k", "2")["files"]]
    assert len(files) == 12
    assert all(file.parent == tmp_path and file.stat().st_size for file in files)


def test_export_says_the_same_as_the_network(finished: Path, tmp_path: Path) -> None:
    header = tmp_path / "net.h"
    found = document("export", str(finished), "--out", str(tmp_path / "x"), "--c-header", str(header), "--checks", "3")
    figures = found["figures"]
    assert figures["share_of_equal_predictions"] == 1
    assert figures["accuracy_of_export"] == figures["accuracy_of_network"]
    assert "SELF_CHECK" in header.read_text()
    assert [Path(file) for file in found["files"]] == [tmp_path / "x", header]


def test_diagnose(finished: Path) -> None:
    found = document("diagnose", str(finished), "--steps", "4")
    assert [level["nodes"] for level in found["levels"]] == [16, 24, 4]
    assert found["effectiveness"]["steps"] == len(found["losses"]) == 4
    fresh = document("diagnose", str(finished), "--steps", "4", "--fresh")
    assert fresh["losses"][0] > 2 * found["losses"][0]  # it has not learned yet
    assert document("diagnose", str(finished), "--steps", "4", "--fresh", "--device", "cpu") == fresh
    shown = CliRunner().invoke(app, ["diagnose", str(finished), "--steps", "2"])
    assert "update effectiveness of phases" in shown.output


def test_tune_writes_settings_that_can_be_trained(mnist: Path, tmp_path: Path) -> None:
    arguments = [
        "tune", "--data", "idx", "--root", str(mnist), *SMALL, "--budget", "3", "--population", "2", "--epochs", "1",
        "--repeats", "1", "--max-integers", "3000", "--out", str(tmp_path),
    ]  # fmt: skip
    found = document(*arguments)
    assert found["trials"] == 3
    best = read_config(tmp_path / "best.yaml")
    assert best.train.epochs == 6
    assert best.train.batch_size == found["genome"]["batch_size"]
    before = (tmp_path / "fitness.jsonl").read_bytes()
    assert document(*arguments) == found  # from memory
    assert (tmp_path / "fitness.jsonl").read_bytes() == before


def test_graph_build_and_report(tmp_path: Path) -> None:
    file = tmp_path / "g.json"
    made = document("graph", "build", "--set", "graph.widths=[5,7,2]", "--set", "graph.cardinality=3",
                    "--out", str(file), "--picture", "--seed", "4")  # fmt: skip
    assert (made["nodes"], made["edges"], made["levels"]) == (14, 27, 3)
    assert len(made["files"]) == 3
    rows = json.loads(file.read_text())
    assert rows[0] == {"node_id": "n0", "input_connections": [], "is_input": True, "is_output": False}
    found = document("graph", "report", str(file))
    assert (found["outputs_reached"], found["mean_hops"], found["hops"]) == (2, 2.0, {"n12": 2, "n13": 2})
    assert document("graph", "report", "--config", "note")["nodes"] == 1000


def test_tables_info() -> None:
    found = document("tables", "info", "--set", "tables.phase_bins=16", "--set", "tables.mag_bins=32")
    assert found["bytes"] == 4 * 2 * (16 + 32)  # cosines, sines, magnitudes, their slopes
    assert found["phase_step"] == pytest.approx(2 * np.pi / 16)
    assert {entry["function"].split(".")[-1] for entry in found["compilation"]} >= {"signal_of", "signal_gradients"}


def test_bench_and_claims_say_who_measures() -> None:
    arguments = ["bench", *SMALL, "--blocks", "2", "--steps", "1"]
    rows = document(*arguments)["rows"]
    assert {row["back_end"] for row in rows} == {"dense", "sparse", "gather"}
    assert all(row["trained_samples_per_s"] > 0 for row in rows)
    assert document("claims")["measured_by"] == "claimbench"
    for shown in (CliRunner().invoke(app, arguments), CliRunner().invoke(app, ["claims"])):
        assert "measured by claimbench" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--config", "digitz"], "Did you mean digits"),
        (["train", "--data", "digitz"], "Did you mean digits"),
        (["train", "--set", "train.epoch=3"], "Did you mean epochs"),
        (["train", "--set", "train.epochs=0"], "train.epochs"),
        (["train", "--data", "idx"], "data.root"),
        (["train", "--data", "idx", "--root", "nowhere"], "lacks train-images"),
        (["train", "--data", "digits", "--root", "nowhere"], "--root is the folder of the set idx; the set is digits"),
        (["train", "--data", "glyphs", "--out", "/dev/null/run"], "/dev/null/run cannot be read or written"),
        (["tables", "info", "--set", "seed=4294967296"], "less than 4294967296"),
        (["train", "--data", "glyphs", "--device", "cuda:99"], "device"),
        (["evaluate", "nowhere"], "Train first"),
        (["plot", "nowhere"], "Train first"),
        (["diagnose", "nowhere"], "Train first"),
        (["export", "nowhere"], "Train first"),
        (["graph", "report", "nowhere.json"], "nowhere.json"),
        (["graph", "build", "--set", "graph.widths=[3]"], "graph.widths"),
        (["tables", "info", "--set", "tables.phase_bins=1"], "tables.phase_bins"),
        (["tune", "--data", "digitz"], "Did you mean digits"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_with_a_way_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("neurograph.glyphs._glyph", lambda *_: np.zeros((28, 28), np.float32))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert said in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_bad_files_and_runs_that_are_there(
    capsys: pytest.CaptureFixture[str],
    finished: Path,
    mnist: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neurograph.glyphs._glyph", lambda *_: np.zeros((28, 28), np.float32))
    same = ["train", "--data", "idx", "--root", str(mnist), *SMALL, "--out", str(finished), "--seed", "3"]
    before = (finished / "checkpoint.safetensors").read_bytes()
    assert "--resume" in refused(capsys, *same)
    assert "seed was 3 and is 1" in refused(capsys, *same, "--seed", "1", "--resume")
    assert (finished / "checkpoint.safetensors").read_bytes() == before
    (tmp_path / "checkpoint.safetensors").write_bytes(before[:-40])
    assert "is truncated" in refused(capsys, "evaluate", str(tmp_path))
    for text, said in (("{", "could not be read"), ("3", "JSON list of nodes"), ("[{}]", "is missing")):
        (tmp_path / "g.json").write_text(text)
        assert said in refused(capsys, "graph", "report", str(tmp_path / "g.json"))
    assert "the classes that a network was trained for" in refused(
        capsys, "evaluate", str(finished), "--data", "glyphs"
    )


def test_a_killed_run_goes_on_to_the_bits_of_one_that_was_not(mnist: Path, tmp_path: Path) -> None:
    """A real process, killed between or in the middle of two checkpoints."""
    shared = ["--data", "idx", "--root", str(mnist), *SMALL, "--set", "train.optimizer.schedule=constant",
              "--no-pictures", "--threads", "1"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "neurograph", "train", *shared, "--set", "train.epochs=100000",
         "--out", str(tmp_path / "killed")],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("training on idx: 4/"):
            break
    time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    done = load_checkpoint(tmp_path / "killed" / "checkpoint.safetensors").epoch
    assert done >= 4
    for name in ("killed", "whole"):
        found = document(
            "train", *shared, "--set", f"train.epochs={done + 3}", "--out", str(tmp_path / name), "--resume"
        )
        assert len(found["history"]) == done + 3
    killed, whole = (load_checkpoint(tmp_path / name / "checkpoint.safetensors") for name in ("killed", "whole"))
    assert killed.tensors.keys() == whole.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert torch.equal(killed.tensors[name], tensor), name
    assert killed.values == whole.values


def test_help_flows_and_its_examples_stand_alone() -> None:
    wide = {"COLUMNS": "200", "TERMINAL_WIDTH": "200"}
    for command, paragraph, example in (
        ("export", "the exit code is 1 where they differ.", "$ neurograph export runs/digits --c-header digits.h"),
        ("bench", "noise floors, intervals and a check of equality: make bench-neurograph.", "$ neurograph bench"),
        ("graph report", "Says how inputs reach outputs", "$ neurograph graph report graph.json --json"),
        ("", "Networks whose only trainable state", "$ neurograph evaluate runs/digits"),
    ):
        shown = CliRunner().invoke(app, [*command.split(), "--help"], env=wide).output
        lines = [line.strip() for line in shown.splitlines()]
        assert example in lines
        assert any(paragraph in line for line in lines)


def test_ctrl_c_says_how_to_go_on(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurograph.cli import running

    def interrupted(*arguments: Any, **more: Any) -> None:
        save_checkpoint(*arguments, **more)
        if load_checkpoint(arguments[0]).epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(running, "save_checkpoint", interrupted)
    run = ["train", "--data", "idx", "--root", str(mnist), *SMALL, "--no-pictures", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, run)
    assert (done.exit_code, done.stdout) == (130, "")
    assert f"stopped; the epochs that were done are in {tmp_path / 'run'}: go on with --resume" in done.stderr
    monkeypatch.undo()
    done = CliRunner().invoke(app, [*run, "--resume"])
    assert "going on after epoch 2 of 6" in done.stderr


def test_a_run_can_be_opened_from_anywhere_and_its_files_may_move(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mnist.parent)
    found = document("train", "--data", "idx", "--root", mnist.name, *SMALL, "--set", "train.epochs=1",
                     "--no-pictures", "--out", str(tmp_path / "run"))  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert document("evaluate", "run")["figures"]["accuracy"] == found["figures"]["accuracy"]
    mnist.rename(mnist.with_name("moved"))
    try:
        moved = ["--root", str(mnist.with_name("moved"))]
        for command in ("evaluate", "export", "diagnose"):
            assert document(command, "run", *moved)
    finally:
        mnist.with_name("moved").rename(mnist)


def test_only_square_pictures_are_shifted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, n in (("train", 8), ("t10k", 4)):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", np.zeros((n, 2, 8), np.uint8))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte", (np.arange(n) % 4).astype(np.uint8))
    shift = ["train", "--data", "idx", "--root", str(tmp_path), *SMALL, "--set", "train.shift_augment=true"]
    said = refused(capsys, *shift, "--out", str(tmp_path / "run"))
    assert "a sample of idx is one of 2 × 8" in said


def test_blank_pictures_radiate_nothing_and_a_run_on_them_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurograph.plots.save_figure", lambda figure, path: [path.with_suffix(".png")])
    for name, n in (("train", 8), ("t10k", 4)):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", np.zeros((n, 4, 4), np.uint8))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte", (np.arange(n) % 4).astype(np.uint8))
    found = document("train", "--data", "idx", "--root", str(tmp_path), *SMALL, "--set", "train.epochs=1",
                     "--out", str(tmp_path / "run"))  # fmt: skip
    drawn = {Path(file).stem for file in found["files"] if file.endswith(".png")}
    assert drawn == {"training", "confusion", "indices", "graph", "codes"}


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_tables_fit_their_terminal_and_break_no_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    from neurograph.cli.output import print_frame

    monkeypatch.setenv("COLUMNS", str(width))
    numbers = {f"share_of_{name}": [1.2345e-05, 2 / 3] for name in ("silent", "saturated", "stuck", "spread")}
    print_frame("Levels", pd.DataFrame({"level": [7, 8], **numbers}))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    assert shown.count("1.2345e-05") == shown.count("0.66667") == 4
    assert all(name in shown for name in ("silent", "saturated", "stuck", "spread"))
    assert ("share of silent" in shown) == (width >= 100)


def test_a_narrow_terminal_keeps_the_figures(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurograph.cli.output import progress

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    with progress("training on digits", 400, 3) as report:
        report(123, "loss 0.5000, accuracy 91.00 %")
    shown = capfd.readouterr().err
    assert "123/400" in shown
    assert "accuracy 91.00 %" in shown


def test_a_bar_is_drawn_on_a_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from neurograph.cli.output import progress

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("training", 20, 3) as report:
        report(7, "loss 0.5000, accuracy 91.00 %")
    shown = capfd.readouterr().err
    assert "7/20" in shown
    assert "accuracy 91.00 %" in shown
    assert "━" in shown
