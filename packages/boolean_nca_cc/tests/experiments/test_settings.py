"""Settings are refused when they are built."""

import pytest
from pydantic import ValidationError

from boolean_nca_cc.config import FitConfig
from boolean_nca_cc.experiments.settings import DamageMode, KnockoutSettings, TrainSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "greater than or equal to 1"),
        ({"bits": 17}, "less than or equal to 16"),
        ({"test_fraction": 1.0}, "less than 1"),
        ({"checkpoint_every": 15}, "checkpoint_every 15 is no multiple of log_every 10"),
        ({"widht": 3}, "Extra inputs are not permitted"),
        ({"fit": {"steps": -1}}, "greater than or equal to 0"),
    ],
)
def test_train_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate(settings)


@pytest.mark.parametrize("settings", [{"patterns": 0}, {"dead": -1}, {"mode": "laser"}, {"chunk": 0}])
def test_knockout_settings(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        KnockoutSettings.model_validate(settings)


def test_settings_survive_json() -> None:
    settings = KnockoutSettings(
        base=TrainSettings(task="copy", bits=3), mode=DamageMode.STRIP, retrain=FitConfig(steps=3)
    )
    assert KnockoutSettings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValidationError, match="frozen"):
        settings.__setattr__("dead", 3)  # written out, because the type checker refuses the assignment as well
