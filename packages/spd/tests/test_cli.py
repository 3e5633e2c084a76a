"""The command: what it prints, what it writes, and how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from spd.cli import main
from spd.cli.options import seeds_of
from spd.errors import ConfigError
from spd.experiments.registry import load_config
from spd.experiments.tasks import build_task
from spd.training import build_model
from spd.weights import load_components

SHORT = [
    "--set", "steps=12", "--set", "batch_size=64", "--set", "train_log_freq=4", "--set", "n_eval_steps=1",
    "--set", "faithfulness_warmup_steps=2", "--set", "eval_freq=6", "--set", "slow_eval_freq=6", "--set", "save_freq=6",
]  # fmt: skip


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def document(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    found, out, err = call(capsys, *arguments, "--json")
    assert found == code, err
    return json.loads(out)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    with pytest.raises(SystemExit) as ended:
        main(["run", "tms_5-2", *SHORT, "--out", str(folder), "--no-pictures"])
    assert not ended.value.code
    return folder


def test_help_names_every_command_and_imports_no_framework() -> None:
    code = "import sys, spd.cli; assert not {'torch', 'wandb', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    for command in ("list", "train-target", "run", "evaluate", "plot", "convert", "profile", "bench"):
        shown = subprocess.run(
            [sys.executable, "-m", "spd", command, "--help"], check=True, capture_output=True, text=True,
            env={**os.environ, "COLUMNS": "100"},
        )  # fmt: skip
        assert "Examples" in shown.stdout


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "list")
    names = {one["name"] for one in found["experiments"]}
    assert {"tms_5-2", "tms_5-2-id", "tms_40-10", "tms_40-10-id", "resid_mlp1", "ih", "gpt2"} <= names
    assert "tms_5-2" in found["targets"]


def test_run_writes_what_it_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = document(capsys, "run", "tms_5-2", *SHORT, "--out", str(tmp_path / "run"))
    assert found["settings"]["perf"]["site_backend"] == "inline"
    assert "CI_L0/total" in found["numbers"]
    assert {check["name"] for check in found["checks"]} >= {"IdentityCIError/linear1/0.1", "CI_alive/linear2"}
    assert all(Path(file).stat().st_size for file in found["files"])
    assert any(file.endswith(".png") for file in found["files"])


def test_a_check_that_fails_is_an_exit_code_where_that_was_asked_for(
    capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    code, out, _ = call(capsys, "evaluate", str(finished))
    assert code == 0
    assert "FAILED" in out
    assert "checks passed" in out
    assert call(capsys, "evaluate", str(finished), "--require")[0] == 1


def test_evaluate_repeats_the_figures_of_the_run(capsys: pytest.CaptureFixture[str], finished: Path) -> None:
    numbers = document(capsys, "evaluate", str(finished))["numbers"]
    assert numbers == json.loads((finished / "evaluation.json").read_text())["numbers"]


def test_plot_draws_and_says_where(capsys: pytest.CaptureFixture[str], finished: Path) -> None:
    files = [Path(file) for file in document(capsys, "plot", str(finished))["files"]]
    assert {file.suffix for file in files} == {".png", ".svg"}
    assert all(file.parent == finished / "figures" for file in files)


def test_a_run_that_is_there_is_not_written_over_and_goes_on(
    capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    code, _, err = call(capsys, "run", "tms_5-2", *SHORT, "--out", str(finished))
    assert code == 2
    assert "--resume" in err
    code, _, err = call(
        capsys, "run", "tms_5-2", *SHORT, "--set", "steps=13", "--out", str(finished), "--resume", "--no-pictures"
    )
    assert code == 0, err
    assert (finished / "checkpoints" / "step_00000013.safetensors").exists()


def test_seeds_make_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = call(capsys, "run", "tms_5-2", *SHORT, "--seeds", "0,3", "--out", str(tmp_path), "--require")
    assert code == 1, err
    assert "0 of 2 seeds passed" in out
    rows = json.loads((tmp_path / "seeds.json").read_text())
    assert [row["seed"] for row in rows] == [0, 3]
    assert rows[0]["numbers"] != rows[1]["numbers"]
    assert (tmp_path / "seed-3" / "metrics.jsonl").exists()


def test_seeds_of_ranges() -> None:
    assert seeds_of("0-2,7,1") == [0, 1, 2, 7]
    for text in ("", "a", "3-1", "1-"):
        with pytest.raises(ConfigError, match="seeds are"):
            seeds_of(text if text != "1-" else "-1-")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "tms_9-9"], "tms_5-2"),
        (["run", "tms_5-2", "--set", "stepz=3"], "stepz"),
        (["run", "tms_5-2", "--set", "steps=0"], "steps"),
        (["run", "tms_5-2", "--set", "module_info.0.C=0"], "module_info.0.C"),
        (["run", "tms_5-2", "--set", "module_info.0.module_pattern=conv*"], "matches none"),
        (["run", "tms_5-2", "--set", "loss_metrics.0.classname=L1"], "classname"),
        (["run", "tms_5-2", "--perf", "most"], "quick-start"),
        (["run", "tms_5-2", "--set", "perf.amp=bf16"], "kl"),
        (["evaluate", "nowhere"], "holds config.yaml"),
        (["plot", "nowhere"], "holds config.yaml"),
        (["bench", "--flags", "warp"], "warp"),
        (["bench", "--blocks", "0"], "at least 1"),
        (["train-target", "tms_9-9"], "tms_5-2"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err + out
    assert not list(tmp_path.rglob("*.safetensors"))


def test_switches_come_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "perf.yaml"
    file.write_text(yaml.safe_dump({"optimizer": "foreach"}))
    found = document(capsys, "run", "tms_5-2", *SHORT, "--perf", str(file), "--out", str(tmp_path / "run"))
    assert found["settings"]["perf"]["optimizer"] == "foreach"
    assert found["settings"]["perf"]["site_backend"] == "ephemeral_hooks"
    file.write_text("optimizerr: foreach")
    assert "optimizerr" in call(capsys, "run", "tms_5-2", "--perf", str(file), "--out", str(tmp_path / "b"))[2]


def test_bench_compares_switches(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "bench", "--flags", "delta_mode,optimizer", "--blocks", "2", "--steps", "1")
    assert [row["name"] for row in found["variants"]] == ["none", "delta_mode", "optimizer"]
    assert all(row["cpu_ms"] > 0 and row["low"] <= row["ratio"] <= row["high"] for row in found["variants"])


@pytest.mark.parametrize("mode", ["timer", "events", "trace"])
def test_profile(capsys: pytest.CaptureFixture[str], tmp_path: Path, mode: str) -> None:
    code, out, err = call(
        capsys, "profile", "tms_5-2", "--mode", mode, "--steps", "5", "--set", "batch_size=32", "--out", str(tmp_path)
    )
    assert code == 0, err
    assert f"tms_5-2, {mode}" in out


def test_train_target(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = document(capsys, "train-target", "tms_5-2", "--steps", "20", "--out", str(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").stat().st_size < 100_000
    assert found["figures"]
    found = document(
        capsys, "run", "tms_5-2", *SHORT, "--set", f"task_config.target={tmp_path / 'a.safetensors'}", "--out",
        str(tmp_path / "run"), "--no-pictures",
    )  # fmt: skip
    assert found["numbers"]


def test_convert_reads_what_the_original_wrote(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = load_config("tms_5-2")
    one, other = (build_model(build_task(config).target, config) for _ in range(2))
    state = {name: p.detach().clone() for name, p in one.named_parameters()}
    # The original has no tied parameters: the second site's are the first one's, transposed.
    state["_components.linear2.V"] = state["_components.linear1.U"].T.clone()
    state["_components.linear2.U"] = state["_components.linear1.V"].T.clone()
    state |= {name: value.clone() for name, value in one.target_model.state_dict(prefix="target_model.").items()}
    torch.save(state, tmp_path / "model_10.pth")
    found = document(capsys, "convert", str(tmp_path / "model_10.pth"), "tms_5-2")
    assert found["files"] == [str(tmp_path / "model_10.safetensors")]
    with torch.no_grad():
        other.components["linear1"].V.zero_()
    load_components(other, tmp_path / "model_10.safetensors")
    assert torch.equal(other.components["linear1"].V, one.components["linear1"].V)
    code, _, err = call(capsys, "convert", str(tmp_path / "model_10.pth"), "tms_40-10", "--out", str(tmp_path / "b"))
    assert code == 2
    assert "shape" in err
    assert not (tmp_path / "b").exists()


def test_two_processes_under_torchrun(tmp_path: Path) -> None:
    shown = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "spd", "run",
            "tms_5-2", *SHORT, "--out", str(tmp_path / "run"), "--no-pictures", "--json",
        ],
        capture_output=True, text=True, timeout=180, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr[-3000:]
    assert json.loads(shown.stdout)["numbers"]  # one document: one rank prints
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if "loss/total" in json.loads(line)] == [1, 4, 8, 12]
