"""What all methods promise: exact counts at every step, zeros where they say so, the same run for the same seed."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from resu.baselines import METHODS, MethodName, build_method, method_config
from resu.baselines.method import Clock, Method, MethodConfig
from resu.core.phases import Phase
from resu.errors import ConfigError

FAST = {
    "set": {"interval": 5},
    "rigl": {"interval": 5},
    "snfs": {"interval": 5},
    "shadow": {"interval": 5},
    "gmp": {"interval": 3},
    "topkast": {"interval": 4},
    "resu": {"changes": {"num_cycles": 3}},
    "resu_paper": {"changes": {"num_cycles": 3}},
}
SPARSE_THROUGHOUT = ("static", "set", "rigl", "shadow")


def test_the_registry_holds_every_name_once() -> None:
    assert tuple(METHODS) == get_args(MethodName)
    assert [method_config(name).model_dump()["name"] for name in METHODS] == list(METHODS)


@pytest.mark.parametrize("name", SPARSE_THROUGHOUT)
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_counts_by_layer_never_change(bench: Callable[..., Any], name: str, sparsity: float) -> None:
    b = bench(name, sparsity=sparsity, **FAST.get(name, {}))
    assert b.counts == b.expected
    assert b.pruned_are_zero()
    for _ in b.run():
        assert b.counts == b.expected
        assert b.pruned_are_zero()


def test_snfs_keeps_the_total_and_moves_it_between_layers(bench: Callable[..., Any]) -> None:
    b = bench("snfs", sparsity=0.8, **FAST["snfs"])
    total, seen = sum(b.expected.values()), {tuple(b.counts.values())}
    for _ in b.run():
        assert sum(b.counts.values()) == total
        assert b.pruned_are_zero()
        seen.add(tuple(b.counts.values()))
    assert len(seen) > 1


@pytest.mark.parametrize("name", list(METHODS))
def test_a_run_ends_with_the_exact_number_of_weights_and_learns(bench: Callable[..., Any], name: str) -> None:
    b = bench(name, steps=60, **FAST.get(name, {}))
    before = b.loss()
    for _ in b.run():
        pass
    assert b.loss() < before
    nonzero = sum(int((sparse.weight != 0).sum()) for sparse in b.sparsifier.parameters.values())
    if name == "dense":
        assert nonzero == sum(sparse.mask.numel for sparse in b.sparsifier.parameters.values())
        return
    total = sum(b.expected.values())
    assert sum(b.counts.values()) == total
    assert nonzero <= total
    assert b.pruned_are_zero()
    assert b.sparsifier.phase in (Phase.TRAIN, Phase.SHADOW)


@pytest.mark.parametrize("name", list(METHODS))
def test_the_seed_decides_everything(bench: Callable[..., Any], name: str) -> None:
    runs = []
    for seed in (3, 3, 4):
        b = bench(name, seed=seed, **FAST.get(name, {}))
        for _ in b.run():
            pass
        runs.append(b.weights())
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rigl", {"interval": 0}, "greater than 0"),
        ("rigl", {"fraction": 1.5}, "less than or equal to 1"),
        ("shadow", {"beta": 1.0}, "less than 1"),
        ("acdc", {"warmup": 0.5, "final": 0.6}, "more than 1"),
        ("topkast", {"exrta": 0.1}, "Extra inputs are not permitted"),
        ("resu", {"changes": {"num_cycles": 0}}, "greater than 0"),
    ],
)
def test_settings_are_refused_when_they_are_built(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        method_config(name, **settings)


def test_what_is_no_method_is_refused(bench: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="got 'rigel'"):
        method_config("rigel")
    sparsifier = bench("dense").sparsifier
    with pytest.raises(ConfigError, match="built from its settings"):
        build_method(MethodConfig(), sparsifier, steps=5)
    with pytest.raises(ConfigError, match="at least one step; got 0"):
        build_method(method_config("dense"), sparsifier, steps=0)


def test_the_clock_ticks_between_its_ends() -> None:
    clock = Clock(interval=10, end=0.5)
    assert [step for step in range(100) if clock.due(step, 100)] == [10, 20, 30, 40]
    # α/2 (1 + cos(π t / T_end)) with T_end = 50: by hand at 0, 1/3, 1/2 and all of it.
    assert [round(clock.annealed(0.3, step, 100), 12) for step in (0, 25, 50, 90)] == [0.3, 0.15, 0.0, 0.0]
    assert clock.annealed(0.4, 50, 300) == pytest.approx(0.4 / 2 * (1 + 0.5))


def test_methods_that_state_nothing_step_every_time(bench: Callable[..., Any]) -> None:
    b = bench("static", steps=5)
    before = [parameter.clone() for parameter in b.model.parameters()]
    for _ in b.run():
        pass
    assert b.stepped == [True] * 5
    assert type(b.method).after_step is Method.after_step
    assert all(not torch.equal(a, b) for a, b in zip(before, b.weights(), strict=True))
