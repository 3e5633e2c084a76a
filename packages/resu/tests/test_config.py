"""Settings: what was published, what is refused, and how steps add up."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from resu.config import PRESETS, CycleConfig, Preset, SelectionConfig
from resu.errors import ConfigError


def test_selection_has_the_published_values() -> None:
    assert SelectionConfig().model_dump() == {
        "beta": 0.9, "delta": 1e-8, "tau": 0.5, "screen": 0.5, "select": 0.2, "weight_decay": 0.0,
    }  # fmt: skip


def test_paper_has_the_published_values() -> None:
    config = CycleConfig.preset("paper")
    published = {
        "initial_sparsity": 0.0, "target_sparsity": 0.7, "sparsity_schedule": "linear", "num_cycles": 5,
        "steps_per_cycle": 1000, "train_fraction": 0.6, "stabilize_fraction": 0.1, "resu_fraction": 0.3,
        "resu_lr": 1e-4, "resu_epsilon": 0.1, "resu_init": "normal", "use_selective": True,
        "commit_strategy": "amnesty", "amnesty_start": 0.10, "amnesty_end": 0.02, "score": "magnitude",
        "pruning": "wanda", "granularity": "element", "base_lr": 1e-3, "weight_decay": 0.01, "warmup_steps": 100,
        "seed": 42, "log_every": 50, "eval_every": 200, "checkpoint_every": 1,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in published} == published
    assert (config.selection, config.clear_state, config.freeze_others) == (SelectionConfig(), True, True)
    assert (config.recovery_steps, config.total_steps, config.prune_first) == (0, 5000, False)


def test_defaults_are_what_was_found_to_work() -> None:
    config = CycleConfig()
    assert config == CycleConfig.preset("default")
    assert (config.resu_init, config.resu_lr, config.resu_lr_scale, config.score) == ("zero", None, 0.1, "momentum")
    assert config.num_cycles >= 15
    assert (config.amnesty_start, config.amnesty_end) == (0.30, 0.02)
    assert not config.use_selective
    assert not config.clear_state
    assert not config.freeze_others
    assert (config.total_steps - config.recovery_steps) / config.total_steps == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aggressive", {"target_sparsity": 0.9, "num_cycles": 7, "steps_per_cycle": 2000, "amnesty_end": 0.05}),
        ("conservative", {"target_sparsity": 0.5, "num_cycles": 3, "steps_per_cycle": 500, "use_selective": False}),
        ("densification", {"initial_sparsity": 0.7, "target_sparsity": 0.0, "amnesty_end": 0.10}),
        ("quick", {"target_sparsity": 0.5, "num_cycles": 2, "steps_per_cycle": 100, "log_every": 10}),
    ],
)
def test_the_other_presets(name: Preset, expected: dict[str, Any]) -> None:
    config = CycleConfig.preset(name)
    assert {field: getattr(config, field) for field in expected} == expected


def test_every_preset_has_a_name_in_the_type() -> None:
    assert set(PRESETS) == set(get_args(Preset))


def test_changes_go_over_the_preset() -> None:
    config = CycleConfig.preset("paper", seed=7, use_selective=False, score="momentum")
    assert (config.seed, config.score, config.resu_lr) == (7, "momentum", 1e-4)
    assert CycleConfig.preset("paper").seed == 42


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a preset is one of default, paper, .*; 'fast' is none\. Choose one"):
        CycleConfig.preset("fast")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_fraction": 0.5}, r"fractions of a cycle add up to 1; .* add up to 0\.6"),
        ({"sparsity_schedule": "custom"}, "sparsities is None"),
        ({"sparsities": (0.5,)}, "sparsity_schedule is 'constant'"),
        ({"use_selective": True}, "RESU-Selective steps θ without the optimizer"),
        ({"pruning": "wanda", "granularity": "row"}, "pruned by magnitude; pruning is 'wanda'"),
        ({"steps_per_cycle": 1}, "steps_per_cycle is 1"),
        ({"target_sparsity": 1.0}, "less than 1"),
        ({"initial_sparsity": -0.1}, "greater than or equal to 0"),
        ({"target_sparsity": float("nan")}, "target_sparsity"),
        ({"resu_fraction": 0.0, "train_fraction": 1.0}, "greater than 0"),
        ({"resu_lr": 0.0}, "greater than 0"),
        ({"num_cycles": 0}, "greater than 0"),
        ({"recovery_fraction": 1.0}, "less than 1"),
        ({"sparsity": 0.5}, "Extra inputs"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CycleConfig(**changes)


@pytest.mark.parametrize("changes", [{"beta": 1.0}, {"screen": 0.0}, {"select": 1.1}, {"tau": -0.1}, {"gamma": 1.0}])
def test_selections_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SelectionConfig(**changes)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CycleConfig().seed = 1  # type: ignore[misc]


def test_settings_survive_json() -> None:
    for name in get_args(Preset):
        config = CycleConfig.preset(name)
        assert CycleConfig.model_validate_json(config.model_dump_json()) == config


def test_fractions_count_whole_steps_where_floats_do_not() -> None:
    config = CycleConfig(
        steps_per_cycle=100, train_fraction=0.42, stabilize_fraction=0.29, resu_fraction=0.29, recovery_fraction=0
    )
    assert config.phase_steps == {"train": 42, "stabilize": 29, "resu": 29}  # 0.29 * 100 < 29 in floats


@given(
    steps=st.integers(2, 3000),
    fractions=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(1e-3, 1)),
)
def test_phases_fill_a_cycle(steps: int, fractions: tuple[float, float, float]) -> None:
    total = sum(fractions)
    train, stabilize, resu = (fraction / total for fraction in fractions)
    config = CycleConfig(steps_per_cycle=steps, train_fraction=train, stabilize_fraction=stabilize, resu_fraction=resu)
    found = config.phase_steps
    assert sum(found.values()) == steps
    assert min(found.values()) >= 0
    assert found["resu"] >= 1


@given(steps=st.integers(60, 20000), cycles=st.integers(1, 22), recovery=st.sampled_from([0.0, 0.1, 0.25, 0.5]))
def test_for_steps_meets_the_number_of_steps(steps: int, cycles: int, recovery: float) -> None:
    config = CycleConfig(num_cycles=cycles, recovery_fraction=recovery)
    if steps * (1 - recovery) / cycles < 2:
        return
    fitted = config.for_steps(steps)
    assert fitted.total_steps == steps
    assert fitted.recovery_steps >= round(recovery * steps) - 1
    assert fitted.recovery_steps - recovery * steps < cycles + 1  # no more than what does not divide evenly
    assert fitted.model_dump(exclude={"steps_per_cycle", "recovery_fraction"}) == config.model_dump(
        exclude={"steps_per_cycle", "recovery_fraction"}
    )


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"20 steps over 22 cycles and a recovery of 0\.25 leave 0\. Train longer"):
        CycleConfig().for_steps(20)
