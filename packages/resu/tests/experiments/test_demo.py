"""The demonstration: what its history says is what its masks did."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from resu.distribution import active_counts
from resu.errors import ConfigError
from resu.experiments import demo
from resu.experiments.data import TaskData
from resu.experiments.demo import RESULT, DemoResult, run_demo

SHAPES = {"0.weight": (300, 64), "2.weight": (100, 300), "4.weight": (10, 100)}


@pytest.fixture
def result(monkeypatch: pytest.MonkeyPatch, small_task: TaskData, tmp_path: Path) -> tuple[DemoResult, list[Any]]:
    monkeypatch.setattr(demo, "load_task", lambda name, seed=0: small_task)
    told: list[Any] = []
    found = run_demo(
        "digits", tmp_path, sparsity=0.8, cycles=4, steps=120, learning_rate=0.02, backend="eager",
        progress=lambda *what: told.append(what),
    )  # fmt: skip
    return found, told


def test_history_is_one_entry_a_commit(result: tuple[DemoResult, list[Any]]) -> None:
    found, told = result
    assert [cycle.cycle for cycle in found.history] == [0, 1, 2, 3]
    # ⌊120 · 0.75 / 4⌋ = 22 steps a cycle.
    assert [cycle.step for cycle in found.history] == [22, 44, 66, 88]
    assert [(done, total) for done, total, _ in told] == [(22, 120), (44, 120), (66, 120), (88, 120), (120, 120)]
    for c, cycle in enumerate(found.history):
        sparsity = 0.8 - 0.4 * (1 - c / 3) ** 3
        assert cycle.sparsity == pytest.approx(sparsity, abs=1e-4)
        # Amnesty reserves r(c) of the places of each layer, as far as the layer has pruned weights.
        places, share = active_counts(SHAPES, sparsity), 0.30 - 0.07 * c
        reserved = sum(min(share * places[name], math.prod(shape) - places[name]) for name, shape in SHAPES.items())
        assert cycle.resurrected == pytest.approx(reserved, abs=3)
        assert cycle.resurrected == cycle.lost
        assert cycle.resurrection_rate == pytest.approx(cycle.resurrected / (cycle.sparsity * found.weights))
        assert cycle.churn == pytest.approx(2 * cycle.resurrected / found.weights)
        kept = (1 - cycle.sparsity) * found.weights - cycle.resurrected
        assert cycle.jaccard == pytest.approx(kept / (kept + 2 * cycle.resurrected))
        assert 0 <= cycle.score <= 100


def test_what_came_back_is_counted_and_weighed(result: tuple[DemoResult, list[Any]]) -> None:
    found, _ = result
    assert found.weights == 50200
    assert found.active == 50200 - round(0.8 * 50200)
    assert max(cycle.resurrected for cycle in found.history) <= found.resurrected
    assert found.resurrected <= sum(cycle.resurrected for cycle in found.history)
    assert found.history[-1].resurrected <= found.survivors <= min(found.resurrected, found.active)
    assert found.score > 30
    assert found.score_without_survivors < found.score


def test_the_file_holds_the_result(result: tuple[DemoResult, list[Any]], tmp_path: Path) -> None:
    found, _ = result
    assert found.files == (tmp_path / RESULT,)
    assert [path.name for path in tmp_path.iterdir()] == [RESULT]
    saved = json.loads((tmp_path / RESULT).read_text())
    assert saved["survivors"] == found.survivors
    assert saved["history"][2]["sparsity"] == found.history[2].sparsity
    assert "files" not in saved


def test_a_demonstration_prunes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"above 0; got 0\.0"):
        run_demo("digits", tmp_path, sparsity=0.0)
