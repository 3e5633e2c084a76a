"""Settings are refused when they are built, and survive a file."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from spd.config.losses import FaithfulnessLoss, PGDReconSubsetLoss, StaticProbability
from spd.config.models import GlobalTransformerConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.config.run import Config, read_config, write_config
from spd.config.schedules import LrSchedule, learning_rate
from spd.errors import ConfigError
from spd.losses import router_of
from spd.routing import route_everywhere, route_uniform_k


def _settings(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "module_info": [{"module_pattern": "*", "C": 4}],
        "ci": {"ci_fn_type": "mlp", "hidden_dims": [8]},
        "output_loss_type": "mse",
        "loss_metrics": [{"classname": "FaithfulnessLoss", "coeff": 1.0}],
        "lr_schedule": {"start_val": 1e-3},
        "steps": 10,
        "batch_size": 8,
    }
    return settings | changes


def test_settings_survive_a_file(tmp_path: Path) -> None:
    config = Config(
        module_info=(ModulePattern(module_pattern="h.*", C=3),),
        ci=GlobalTransformerConfig(d_model=8, n_heads=2),
        tied_weights=(("a", "b"),),
        output_loss_type="kl",
        loss_metrics=(
            FaithfulnessLoss(coeff=1e5),
            PGDReconSubsetLoss(coeff=0.5, step_size=0.5, n_steps=20, routing=StaticProbability(p=0.5)),
        ),
        lr_schedule=LrSchedule(start_val=5e-4, fn_type="cosine", warmup_pct=0.01),
        steps=100,
        batch_size=64,
        perf=PerfConfig(delta_mode="folded"),
    )
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 3}, "stepz: Extra inputs are not permitted"),
        ({"loss_metrics": [{"classname": "Lasso", "coeff": 1}]}, "loss_metrics.0: .*Lasso"),
        ({"loss_metrics": []}, "loss_metrics: .*at least 1"),
        ({"loss_metrics": [{"classname": "FaithfulnessLoss", "coeff": 0}]}, "all are 0"),
        ({"module_info": [{"module_pattern": "*", "C": 0}]}, r"module_info\.0\.C: .*greater than 0"),
        ({"gradient_accumulation_steps": 3}, "divides batch_size"),
        ({"ci": {"ci_fn_type": "mlp", "hidden_dims": []}}, "hidden_dims: .*at least 1"),
        ({"ci": {"ci_fn_type": "cnn"}}, "ci: .*cnn"),
        ({"perf": {"turbo": True}}, "turbo: Extra inputs"),
    ],
)
def test_settings_that_cannot_run_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(_settings(**changes)))
    with pytest.raises(ConfigError, match=message):
        read_config(path)
    with pytest.raises(ValidationError):
        Config.model_validate(_settings(**changes))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not be read"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="could not be read"):
        read_config(tmp_path / "bad.yaml")


def test_settings_do_not_change() -> None:
    config = Config.model_validate(_settings())
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 3  # type: ignore[misc]


def test_routers_by_their_settings() -> None:
    assert router_of(None) is route_everywhere
    assert router_of(PGDReconSubsetLoss(coeff=1, step_size=1, n_steps=1).routing) is route_uniform_k  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fn_type", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [0.5 + 0.5 * math.cos(math.pi * t / 4) for t in range(5)]),
        ("quarter_cosine", [math.cos(math.pi * t / 8) for t in range(5)]),
        ("exponential", [1, 0.5, 0.25, 0.125, 0.0625]),
    ],
)
def test_schedules(fn_type: Any, expected: list[float]) -> None:
    schedule = LrSchedule(start_val=0.3, fn_type=fn_type, halflife=1.0)
    rates = [learning_rate(schedule, step, 5) for step in range(5)]
    assert rates == pytest.approx([0.3 * e for e in expected], abs=1e-12)


def test_a_schedule_starts_anew_after_its_rise_and_may_end_above_zero() -> None:
    schedule = LrSchedule(start_val=1.0, warmup_pct=0.4, fn_type="linear", final_val_frac=0.5)
    assert [learning_rate(schedule, step, 10) for step in range(10)] == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1, 1 - 1 / 12, 1 - 2 / 12, 0.75, 1 - 4 / 12, 1 - 5 / 12]
    )
