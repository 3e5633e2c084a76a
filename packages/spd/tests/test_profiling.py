"""Three ways to see where a step's time goes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spd.config.losses import FaithfulnessLoss, ImportanceMinimalityLoss, StochasticReconLoss
from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.errors import ConfigError
from spd.profiling import profile
from spd.sampling import SourceSampler
from spd.training import Trainer, build_model


def _trainer(**perf: Any) -> Trainer:
    config = Config(
        module_info=(ModulePattern(module_pattern="*", C=4),), ci=MLPConfig(hidden_dims=(3,)),
        output_loss_type="mse", lr_schedule=LrSchedule(start_val=1e-3), steps=100, batch_size=8,
        loss_metrics=(
            FaithfulnessLoss(coeff=1.0), ImportanceMinimalityLoss(coeff=1e-2, pnorm=1.0), StochasticReconLoss(coeff=1.0)
        ),
        perf=PerfConfig(**perf),
    )  # fmt: skip
    return Trainer(build_model(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 5)), config), config, SourceSampler(0))


def _batches() -> Iterator[Tensor]:
    while True:
        yield torch.rand(8, 5)


def test_parts_of_a_step_add_up_to_it() -> None:
    trainer = _trainer()
    found = profile(trainer, _batches(), "events", steps=3)
    assert found.columns == ("part", "wall ms", "process ms", "% of the step")
    parts = {str(row[0]): row for row in found.rows}
    assert list(parts) == [
        "target", "importances", "deltas", "FaithfulnessLoss", "ImportanceMinimalityLoss", "StochasticReconLoss",
        "backward", "optimizer", "rest", "step",
    ]  # fmt: skip
    for column in (1, 2, 3):
        total = sum(float(row[column]) for name, row in parts.items() if name != "step")
        assert total == pytest.approx(float(parts["step"][column]), rel=1e-6)
    assert all(float(row[1]) >= 0 for row in found.rows)
    assert trainer.own_losses.phase is None
    assert trainer.step_count == 5
    assert found.as_dict()["rows"][0]["part"] == "target"


def test_looking_changes_no_number() -> None:
    torch.manual_seed(0)
    x = torch.rand(8, 5)
    one, two = _trainer(), _trainer()
    two.model.load_state_dict(one.model.state_dict())
    for _ in range(4):
        one.step(iter([x]))
    profile(two, iter([x] * 4), "events", steps=2)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_steps_are_timed_one_by_one() -> None:
    found = profile(_trainer(), _batches(), "timer", steps=3)
    assert [row[0] for row in found.rows] == ["3", "4", "5", "median"]
    walls = sorted(float(row[1]) for row in found.rows[:3])
    assert found.rows[3][1] == walls[1]


def test_a_trace_names_operations_and_is_written(tmp_path: Path) -> None:
    trainer = _trainer()
    found = profile(trainer, _batches(), "trace", out=tmp_path / "trace")
    assert trainer.step_count == 2 + 5
    operations = {str(row[0]): row for row in found.rows}
    # Three recorded steps, each with three updates of Python's own loop over parameters at least.
    assert any(name.startswith("aten::") for name in operations)
    assert any(int(row[1]) % 3 == 0 and int(row[1]) > 0 for row in found.rows)
    (file,) = found.files
    assert file.name.endswith(".pt.trace.json")
    assert json.loads(file.read_text())["traceEvents"]


def test_what_cannot_be_looked_at_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one step"):
        profile(_trainer(), _batches(), steps=0)
    with pytest.raises(ConfigError, match="Give out"):
        profile(_trainer(), _batches(), "trace")
