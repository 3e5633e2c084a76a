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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patterns": 0}, "patterns"),
        ({"dead": -1}, "greater than or equal to 0"),
        ({"dead": "five"}, "dead"),
        ({"dead": []}, "at least 1 item"),
        ({"dead": [3, 5, 3]}, r"each number of dead gates stands once; it is \[3, 5, 3\]. Drop the repeats"),
        ({"dead": [1, 2, 3], "patterns": 2}, "2 are too few for 3 numbers. Ask for 3 or more"),
        ({"mode": "laser"}, "mode"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_knockout_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        KnockoutSettings.model_validate(settings)


def test_one_number_of_dead_gates_is_a_choice_of_one() -> None:
    assert KnockoutSettings.model_validate({"dead": 7}).dead == (7,)
    assert KnockoutSettings.model_validate({"dead": ["2", "5"]}).dead == (2, 5)
    assert KnockoutSettings.model_validate({"dead": [1, 2, 3], "patterns": 2, "mode": "greedy"}).dead == (1, 2, 3)


def test_settings_survive_json() -> None:
    settings = KnockoutSettings(
        base=TrainSettings(task="copy", bits=3), mode=DamageMode.STRIP, retrain=FitConfig(steps=3)
    )
    assert KnockoutSettings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValidationError, match="frozen"):
        settings.__setattr__("dead", 3)  # written out, because the type checker refuses the assignment as well
