"""A compiled step: one graph without breaks, few recompilations, and the same numbers."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from spd.config.perf import PerfConfig
from spd.drawing import DrawnSampler, PlannedCall, RecordingSampler
from spd.perf import compiling
from spd.perf.compiling import compile_methods, compile_modules, compiled
from spd.sampling import SourceSampler

SCRIPT = Path(__file__).with_name("compile_counts.py")


def _counts(task: str, steps: int, rows: int = 32, **switches: Any) -> dict[str, Any]:
    """From a process without the shape checker, which costs breaks of its own."""
    command = [sys.executable, str(SCRIPT), task, str(steps), str(rows), json.dumps(switches)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_step_is_one_graph() -> None:
    found = _counts(
        "tms", 4, compile_step=True, site_backend="inline", lazy_metrics=True, optimizer="fused", skip_range_checks=True
    )
    assert (found["breaks"], found["graphs"], found["frames"]) == (0, 1, 1), found
    assert found["loss"] < 1e-5
    assert found["gradient"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["none", "all"])
@pytest.mark.parametrize(("task", "recompilations"), [("tms", 0), ("resid_mlp", 1), ("lm", 0)])
def test_two_hundred_steps_recompile_next_to_never(task: str, recompilations: int, preset: str) -> None:
    """With adversaries, annealed powers and sources that are kept; those count their steps, which are seen once."""
    found = _counts(task, 200, preset=preset, compile_step=True, site_backend="inline", row_dedup=False)
    assert found["breaks"] == 0, found["reasons"]
    assert found["graphs"] <= 1 + recompilations
    assert found["loss"] < 1e-4


@pytest.mark.slow
def test_rows_that_are_left_out_cost_few_recompilations() -> None:
    found = _counts("tms", 200, 1024, preset="all", compile_step=True)
    assert found["breaks"] == 0, found["reasons"]
    assert found["graphs"] <= 3
    assert found["plans"] <= 5


SWITCHES: dict[str, dict[str, Any]] = {
    "compile_ci_fns": {"compile_ci_fns": True},
    "compile_components": {"compile_components": True},
    "compile_target": {"compile_target": True, "site_backend": "inline"},
    "compile_losses": {"compile_losses": True},
    "compile_step": {"compile_step": True, "site_backend": "inline"},
    "all and compile_step": {"preset": "all", "compile_step": True, "row_dedup": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["tms", "resid_mlp", "lm"])
@pytest.mark.parametrize("name", SWITCHES)
def test_compilation_changes_nothing(name: str, task: str) -> None:
    found = _counts(task, 3, **SWITCHES[name])
    assert found["graphs"] > 0
    assert found["loss"] < 1e-5
    assert found["gradient"] < 1e-4


@pytest.mark.slow
def test_code_is_generated_and_gives_the_same() -> None:
    found = _counts("tms", 3, backend="inductor", preset="all", compile_step=True, row_dedup=False)
    assert found["graphs"] == 1
    assert found["loss"] < 1e-5
    assert found["gradient"] < 1e-4


def test_modules_are_compiled_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    module = nn.Linear(3, 2)
    names, x = list(module.state_dict()), torch.ones(1, 3)
    before = module(x)
    compile_modules([module])
    assert list(module.state_dict()) == names
    assert module._compiled_call_impl is not None
    torch.testing.assert_close(module(x), before)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


def test_switches_compile_what_they_say(small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    names = list(small.trainer_of("tms").model.state_dict())
    on = small.trainer_of("tms", PerfConfig(compile_ci_fns=True, compile_components=True, compile_target=True)).model
    assert all(fn._compiled_call_impl is not None for fn in on.ci_fns.values())
    assert all(part._compiled_call_impl is not None and "folded" in vars(part) for part in on.components.values())
    assert on.target_model._compiled_call_impl is not None
    assert list(on.state_dict()) == names
    off = small.trainer_of("tms").model
    assert all(fn._compiled_call_impl is None for fn in off.ci_fns.values())
    assert "folded" not in vars(off.components["linear1"])


def test_methods_are_compiled_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")

    class Doubler:
        def twice(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    doubler = Doubler()
    compile_methods([doubler], ["twice"])
    assert torch.equal(doubler.twice(torch.ones(2)), 2 * torch.ones(2))
    assert "twice" in vars(doubler)


def test_only_inductor_is_told_of_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda function, **how: calls.append(how) or function)
    compiled(abs, "reduce-overhead")
    compiled(abs)
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    compiled(abs, "reduce-overhead")
    assert calls == [{"backend": "inductor", "mode": "reduce-overhead"}, {"backend": "inductor"}, {"backend": "eager"}]


def test_what_is_drawn_beforehand_is_what_would_have_been_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **how: function)

    def function(sampler: SourceSampler, x: torch.Tensor) -> torch.Tensor:
        return x + sampler.uniform((2,)) + sampler.ranks(3, (2,)).sum(0) + sampler.sources((2,), "binomial")

    planned, plain, own = PlannedCall(function), SourceSampler(4), SourceSampler(4)
    x = torch.zeros(2)
    for _ in range(3):
        torch.testing.assert_close(planned("one kind", own, x), function(plain, x))
    recorder = RecordingSampler(SourceSampler(4))
    function(recorder, x)
    assert recorder.plan.wanted == [((2,), None), ((3, 2), None), ((2,), 2)]
    drawn = DrawnSampler(recorder.plan.draw(SourceSampler(4)))
    torch.testing.assert_close(function(drawn, x), function(SourceSampler(4), x))
