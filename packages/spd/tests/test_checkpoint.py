"""A resumed run is the run that was never stopped, and a file is whole, absent or refused."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spd.background import Background
from spd.checkpoint import latest, read_config_of, restore, save
from spd.config.losses import ImportanceMinimalityLoss, PersistentPGDReconLoss, StochasticReconLoss
from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.data import SparseFeatures, batches
from spd.errors import CheckpointError
from spd.sampling import SourceSampler
from spd.training import Trainer, build_model


def _config(**changes: Any) -> Config:
    settings: dict[str, Any] = {
        "module_info": tuple(ModulePattern(module_pattern=name, C=6) for name in "02"),
        "ci": MLPConfig(hidden_dims=(4,)), "output_loss_type": "mse", "steps": 40, "batch_size": 16,
        "loss_metrics": (
            ImportanceMinimalityLoss(coeff=1e-3, pnorm=1.0), StochasticReconLoss(coeff=1.0),
            PersistentPGDReconLoss(coeff=0.1, scope="single"),
        ),
        "lr_schedule": LrSchedule(start_val=1e-2, fn_type="cosine"),
    }  # fmt: skip
    return Config(**(settings | changes))


def _trainer(config: Config, width: int = 3) -> Trainer:
    torch.manual_seed(0)
    target = nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 5))
    return Trainer(build_model(target, config), config, SourceSampler(config.seed))


def _run(trainer: Trainer, steps: int) -> None:
    stream = batches(SparseFeatures(5, 16, 0.4), "cpu", trainer.config.perf, start=trainer.step_count)
    for _ in range(steps):
        trainer.step(stream)
    stream.close()  # type: ignore[attr-defined]


def _bits(trainer: Trainer) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in trainer.model.parameters()]


@pytest.mark.parametrize(
    "perf",
    [
        PerfConfig(),
        PerfConfig(optimizer="fused", site_backend="inline", delta_mode="folded", ci_kernel="recompute"),
        PerfConfig(num_workers=1, device_prefetch=True),
    ],
    ids=["control", "fast", "workers"],
)
def test_a_resumed_run_ends_with_the_bits_of_one_that_was_not_stopped(tmp_path: Path, perf: PerfConfig) -> None:
    whole = _trainer(_config(perf=perf))
    _run(whole, 20)
    half = _trainer(_config(perf=perf))
    _run(half, 10)
    path = save(half, tmp_path)
    assert path == latest(tmp_path)
    again = _trainer(_config(perf=perf))
    restore(again, path)
    assert again.step_count == 10
    _run(again, 10)
    assert _bits(again) == _bits(whole)


def test_the_settings_are_in_the_file(tmp_path: Path) -> None:
    config = _config(seed=3)
    assert read_config_of(save(_trainer(config), tmp_path)) == config
    assert latest(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seed": 1}, "seed is 0, now it is 1"), ({"batch_size": 8}, "batch_size is 16, now it is 8")],
)
def test_other_settings_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = save(_trainer(_config()), tmp_path)
    other = _trainer(_config(**changes))
    before = _bits(other)
    with pytest.raises(CheckpointError, match=message):
        restore(other, path)
    assert _bits(other) == before


def test_another_target_is_refused_and_another_way_to_run_is_not(tmp_path: Path) -> None:
    path = save(_trainer(_config()), tmp_path)
    with pytest.raises(CheckpointError, match="differs at"):
        restore(_trainer(_config(), width=4), path)
    restore(_trainer(_config(steps=80, perf=PerfConfig(site_backend="inline"))), path)


def test_files_that_cannot_be_trusted_are_refused(tmp_path: Path) -> None:
    path = save(_trainer(_config()), tmp_path)
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[-5] ^= 1
    for name, content, message in (
        ("cut", data[: len(data) // 2], "is truncated"), ("text", b"hello", "is not"),
        ("flipped", bytes(flipped), "damaged"),
        ("later", data.replace(b'\\"format\\": 1', b'\\"format\\": 9'), "has format 9"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            restore(_trainer(_config()), tmp_path / name)
    with pytest.raises(CheckpointError, match="is not"):
        restore(_trainer(_config()), tmp_path / "missing")


def test_a_file_that_a_thread_writes_holds_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    trainer = _trainer(_config())
    _run(trainer, 3)
    whole = save(trainer, tmp_path / "now").read_bytes()
    gate = threading.Event()
    with Background(capacity=2) as background:
        background.submit(gate.wait)
        path = save(trainer, tmp_path / "later", background)
        _run(trainer, 2)  # training goes on before anything is written
        assert not path.exists()
        gate.set()
    assert path.read_bytes() == whole


def test_a_disk_that_cannot_be_written_is_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = _trainer(_config())

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spd.tensor_files.save_file", full)
    with pytest.raises(OSError, match="No space left"), Background() as background:
        save(trainer, tmp_path, background)
    assert not list(tmp_path.iterdir())


_ENDLESS = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_checkpoint import _config, _run, _trainer
from spd.background import Background
from spd.checkpoint import save
trainer = _trainer(_config(steps=100000))
background = Background() if {threaded!r} else None
while True:
    _run(trainer, 1)
    save(trainer, Path({folder!r}), background)
    print(trainer.step_count, flush=True)
"""


@pytest.mark.parametrize("threaded", [False, True])
def test_a_process_that_is_killed_leaves_only_whole_files(tmp_path: Path, threaded: bool) -> None:
    code = _ENDLESS.format(tests=str(Path(__file__).parent), folder=str(tmp_path), threaded=threaded)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 5:
            break
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) >= (2 if threaded else 5)
    for path in files:
        restore(_trainer(_config(steps=100000)), path)
