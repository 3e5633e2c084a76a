"""A run from its settings: what it writes, that it goes on exactly, and that it stops before it spoils anything."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spd.checkpoint import latest
from spd.config.evals import CI_L0
from spd.config.losses import FaithfulnessLoss, ImportanceMinimalityLoss, StochasticReconLoss
from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PRESETS, PerfConfig
from spd.config.run import Config, read_config
from spd.config.schedules import LrSchedule
from spd.data import SparseFeatures
from spd.errors import CheckpointError, DataError, DivergenceError
from spd.run_log import read_log
from spd.run_spd import CHECKPOINTS, RunResult, optimize


def settings(**changes: Any) -> Config:
    found: dict[str, Any] = {
        "module_info": tuple(ModulePattern(module_pattern=name, C=6) for name in "02"),
        "ci": MLPConfig(hidden_dims=(4,)), "output_loss_type": "mse", "steps": 20, "batch_size": 16,
        "loss_metrics": (
            ImportanceMinimalityLoss(coeff=1e-3, pnorm=1.0), StochasticReconLoss(coeff=1.0), FaithfulnessLoss(coeff=0.1)
        ),
        "lr_schedule": LrSchedule(start_val=1e-2, fn_type="cosine"), "faithfulness_warmup_steps": 3,
        "train_log_freq": 5, "n_eval_steps": 2, "eval_metrics": (CI_L0(),), "perf": PRESETS["all"],
    }  # fmt: skip
    return Config(**(found | changes))


def run(folder: Path, config: Config, **more: Any) -> RunResult:
    torch.manual_seed(0)
    target = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 5))
    parts = config.gradient_accumulation_steps
    train, test = (SparseFeatures(5, config.batch_size // parts, 0.4, seed=seed) for seed in (0, 1))
    train, test = more.pop("train", train), more.pop("test", test)
    return optimize(target, config, "cpu", train, test, None, folder, **more)


def bits(result: RunResult) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in result.model.parameters()]


def test_a_run_writes_settings_figures_evaluation_and_checkpoint(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    steps: list[int] = []
    result = run(
        tmp_path, settings(eval_freq=10, save_freq=10), progress=lambda done, all_, figures: seen.append((done, all_)),
        callbacks=[lambda trainer, step: steps.append(trainer.step_count)],
    )  # fmt: skip
    assert read_config(tmp_path / "config.yaml") == result.trainer.config
    assert seen == [(n, 20) for n in (1, 5, 10, 15, 20)]
    assert steps == list(range(1, 21))
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines if "loss/total" in line] == [1, 5, 10, 15, 20]
    assert [line["step"] for line in lines if "eval/CI_L0/total" in line] == [0, 10, 20]
    names = {"loss/ImportanceMinimalityLoss", "loss/StochasticReconLoss", "loss/FaithfulnessLoss", "L0/0", "L0/2"}
    assert names <= set(lines[1])
    assert json.loads((tmp_path / "evaluation.json").read_text())
    assert [p.name for p in sorted((tmp_path / CHECKPOINTS).iterdir())] == [
        f"step_{n:08d}.safetensors" for n in (10, 20)
    ]
    assert all(file.exists() for file in result.files)


@pytest.mark.parametrize(
    "perf",
    [PerfConfig(), PRESETS["all"], PRESETS["all"].model_copy(update={"num_workers": 2})],
    ids=["none", "all", "workers"],
)
def test_two_hundred_steps_are_a_hundred_saved_loaded_and_a_hundred_more(tmp_path: Path, perf: PerfConfig) -> None:
    config = settings(steps=200, save_freq=100, eval_freq=50, perf=perf, gradient_accumulation_steps=2)
    whole = run(tmp_path / "whole", config)

    class StoppedError(Exception):
        pass

    def stop(trainer: Any, step: Any) -> None:
        if trainer.step_count == 130:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(tmp_path / "parts", config, callbacks=[stop])
    saved = latest(tmp_path / "parts" / CHECKPOINTS)
    assert saved is not None
    assert saved.name == "step_00000100.safetensors"
    again = run(tmp_path / "parts", config, resume_from=saved)
    assert bits(again) == bits(whole)
    assert again.evaluation.numbers == whole.evaluation.numbers
    assert read_log(tmp_path / "parts") == read_log(tmp_path / "whole")


def test_a_run_of_plain_batches_goes_on_too(tmp_path: Path) -> None:
    stream = SparseFeatures(5, 16, 0.4)
    loader = [(stream.batch(i), None) for i in range(7)]  # begun anew when it ends
    config = settings(steps=20, save_freq=10)
    whole = run(tmp_path / "a", config, train=loader)
    first = tmp_path / "a" / CHECKPOINTS / "step_00000010.safetensors"
    again = run(tmp_path / "b", config, train=loader, resume_from=first)
    assert bits(again) == bits(whole)
    with pytest.raises(DataError, match="gave none"):
        run(tmp_path / "c", config, train=[])


def test_evaluations_do_not_change_what_is_learned(tmp_path: Path) -> None:
    often = run(tmp_path / "often", settings(eval_freq=2, slow_eval_freq=4))
    never = run(tmp_path / "never", settings())
    assert bits(often) == bits(never)


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    run(tmp_path, settings())
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="a folder of its own"):
        run(tmp_path, settings(seed=1))
    with pytest.raises(CheckpointError, match="seed is 0, now it is 1"):
        run(tmp_path, settings(seed=1), resume_from=latest(tmp_path / CHECKPOINTS))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert read_config(tmp_path / "config.yaml").seed == 0


@pytest.mark.parametrize("perf", ["none", "all"])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_itself(tmp_path: Path, perf: str) -> None:
    def spoil(trainer: Any, step: Any) -> None:
        if trainer.step_count == 13:
            with torch.no_grad():
                next(iter(trainer.model.components.values())).V.fill_(float("nan"))

    config = settings(save_freq=6, perf=PRESETS[perf])
    with pytest.raises(DivergenceError, match="FaithfulnessLoss"):
        run(tmp_path, config, callbacks=[spoil])
    saved = latest(tmp_path / CHECKPOINTS)
    assert saved is not None
    assert saved.name == "step_00000012.safetensors"
    again = run(tmp_path, config, resume_from=saved)
    assert all(bool(p.isfinite().all()) for p in again.model.parameters())


def test_parameters_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    def spoil(trainer: Any, step: Any) -> None:
        if trainer.step_count == 12:
            with torch.no_grad():
                next(iter(trainer.model.components.values())).V.fill_(float("inf"))

    # No figure is read between the step that spoils and the one that saves.
    with pytest.raises(DivergenceError, match="components"):
        run(tmp_path, settings(save_freq=4, train_log_freq=100), callbacks=[spoil])
    assert latest(tmp_path / CHECKPOINTS) == tmp_path / CHECKPOINTS / "step_00000008.safetensors"


_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import test_run_spd as t
from spd.checkpoint import latest
folder = Path({folder!r})
config = t.settings(steps=3000, save_freq=20)
t.run(folder, config, resume_from=latest(folder / t.CHECKPOINTS), progress=lambda *a: print(a[0], flush=True))
"""


def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    code = _RUN.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 100:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    saved = latest(tmp_path / CHECKPOINTS)
    assert saved is not None
    at = int(saved.stem.removeprefix("step_"))
    assert at >= 60
    config = settings(steps=at + 25, save_freq=20)
    run(tmp_path, config, resume_from=saved)
    found = [line["step"] for line in read_log(tmp_path) if "loss/total" in line]
    assert found == [1, *range(5, at + 26, 5)]
