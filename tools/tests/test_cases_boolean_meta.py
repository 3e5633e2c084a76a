"""Cases of the learned rules: what they count is worked out by hand from trainings and epochs that are made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("boolean_nca_cc")
pytest.importorskip("flax")

from boolean_nca_cc.experiments import meta_run, repair_run
from boolean_nca_cc.meta import training
from boolean_nca_cc.reference import eager_meta
from claimbench.cases.boolean_nca_cc import CASES, meta
from claimbench.ledger import load_claims

BY_ID = {case.id: case for case in CASES}
CLAIMS = {claim.id: claim for claim in load_claims("boolean_nca_cc")}


def values(case: str, **params: Any) -> dict[str, Any]:
    found = list(BY_ID[case].values(params))  # type: ignore[misc]
    assert len({row.name for row in found}) == len(found)
    assert {row.variant for row in found} == {"best"}
    return {row.name: row for row in found}


def asked(claim: str) -> set[str]:
    return {part.figure.quantity for part in CLAIMS[claim].parts}


# --- a step -----------------------------------------------------------------------------------------------------------


class State(NamedTuple):
    """A training of one weight, with the first moment of its Adam."""

    weights: np.ndarray
    moment: np.ndarray

    @property
    def opt_state(self) -> np.ndarray:
        return self.moment


Told = SimpleNamespace


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Three forms of an epoch: the original's loss is off by a tenth, the eager one's gradient by a fifth."""
    calls = {"ours": 0, "original": 0, "eager": 0}

    def begun(_config: Any, _spec: Any) -> tuple[None, State]:
        return None, State(np.zeros(2), np.zeros(2))

    def form(name: str, loss: Any, moment: list[float]) -> Callable[..., Any]:
        def call(config: Any, _spec: Any, _rule: None, state: State, _data: Any, *_epochs: int) -> Any:
            calls[name] += 1
            assert state.weights.any(), "an untrained rule does nothing"
            assert not config.pool.reset
            assert not config.damage.dead
            return State(state.weights, np.array(moment)), Told(loss=loss)

        return call

    monkeypatch.setattr(training, "start_training", begun)
    monkeypatch.setattr(training, "meta_epochs", form("ours", np.array([2.0]), [0.5, 1.0]))
    monkeypatch.setattr(eager_meta, "original_epoch", form("original", 2.2, [0.5, 1.0]))
    monkeypatch.setattr(eager_meta, "eager_epoch", form("eager", 2.0, [0.5, 0.8]))
    monkeypatch.setattr(eager_meta, "as_lists", lambda state: state)
    monkeypatch.setattr(meta, "_first_moment", lambda moment: [moment])
    return calls


def test_three_forms_of_an_epoch_are_compared_and_timed(
    monkeypatch: pytest.MonkeyPatch, epochs: dict[str, int]
) -> None:
    took = {"ours": 2, "original": 6, "eager": 40}

    def seconds(call: Callable[[], Any], _clock: Any) -> float:
        before = dict(epochs)
        call()
        (name,) = [name for name in epochs if epochs[name] > before[name]]
        return float(took[name])

    monkeypatch.setattr(meta, "seconds", seconds)
    found = {name: row.value for name, row in values("boolean.meta_step", bits=4, rule="gnn", eager=1).items()}
    assert set(found) == asked("boolean.meta_step.ours") | {"milliseconds"}
    assert found["original_loss_off"] == pytest.approx(0.1)
    assert found["eager_loss_off"] == found["original_gradient_off"] == 0
    assert found["eager_gradient_off"] == pytest.approx(0.2)
    assert found["milliseconds"] == 2000
    assert found["faster_than_original"] == pytest.approx(3)
    assert found["faster_than_eager"] == pytest.approx(20)
    assert epochs == {"ours": 1 + meta.ROUNDS + 1, "original": 1 + meta.ROUNDS + 1, "eager": 2}


@pytest.mark.usefixtures("epochs")
def test_the_slow_form_is_left_out_where_it_is_not_asked_for() -> None:
    found = values("boolean.meta_step", bits=4, rule="gnn", eager=0)
    assert {name for name in found if "eager" in name} == set()


# --- learning ---------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """A repair whose means are told by the seed of its patterns."""

    seed: int

    @property
    def healed(self) -> np.ndarray:
        return np.array([[0.1, 0.1], [1.0, 0.9 + (self.seed - 1007) / 100]])

    def summary(self) -> dict[str, Any]:
        low = (self.seed - 1007) / 100
        return {
            "baseline": 1.0, "nothing": {"mean": 0.8}, "rule": {"mean": 0.96 + low},
            "gradient_same_steps": {"mean": 0.9}, "gradient": {"mean": 0.99},
        }  # fmt: skip


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Trainings of three evaluations, 300 s apart; the one with seed 8 is exact at the second, that with 7 at none."""
    asked_for: list[Any] = []
    now = [0.0]
    monkeypatch.setattr(meta, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def trained(settings: Any, evaluations: int) -> Any:
        exact = {7: [0.9, 0.95, 0.99], 8: [0.9, 1.0, 0.99]}[settings.meta.seed]
        return SimpleNamespace(
            record={"configured": np.array(exact[:evaluations])},
            spec=SimpleNamespace(hidden_gates=np.arange(160)),
        )

    def run(settings: Any, folder: Path, report: Callable[[int, int, str], None]) -> Any:
        assert folder.is_dir()
        asked_for.append(settings)
        for done in range(3):
            now[0] += 300.0
            report(done, 3, "")
        return SimpleNamespace(trained=trained(settings, 3))

    def repair(rule: Any, **given: Any) -> Outcome:
        assert given.keys() == {"dead", "patterns", "steps", "seed", "retrain"}
        assert (given["dead"], given["steps"], given["retrain"].steps) == (8, 20, 100)
        asked_for.append(rule)
        return Outcome(given["seed"])

    monkeypatch.setattr(meta_run, "run_meta_training", run)
    monkeypatch.setattr(meta_run, "load_rule", lambda _folder: trained(asked_for[-1], 2))
    monkeypatch.setattr(repair_run, "run_repair", repair)
    return asked_for


def test_rules_are_trained_with_their_own_seeds_and_judged_on_patterns_of_their_own(trainings: list[Any]) -> None:
    rows = values("boolean.meta_learning", rule="gnn", bits=8, first=7, seeds=2)
    found = {name: row.value for name, row in rows.items()}
    assert set(found) == asked("boolean.meta_learning.ours")
    settings = trainings[::2]
    assert [one.meta.seed for one in settings] == [one.base.seed for one in settings] == [7, 8]
    assert {one.meta.rule.kind for one in settings} == {"gnn"}
    assert found["reached"] == 1
    assert found["minutes"] == 10
    assert found["rule"] == pytest.approx(0.965)
    low, high = rows["rule"].interval
    assert low == pytest.approx(0.96)
    assert high == pytest.approx(0.97)
    assert found["worst"] == pytest.approx(0.9)
    assert [found[name] for name in ("baseline", "nothing", "gradient_same_steps", "gradient")] == [1, 0.8, 0.9, 0.99]
    assert "8 of 160 hidden gates dead" in rows["nothing"].detail


def test_a_training_out_of_time_is_stopped_and_its_last_checkpoint_used(
    monkeypatch: pytest.MonkeyPatch, trainings: list[Any]
) -> None:
    monkeypatch.setattr(meta, "LIMIT", 500.0)
    rows = values("boolean.meta_learning", rule="attention", bits=8, first=7, seeds=1)
    assert rows["reached"].value == 0
    assert "minutes" not in rows
    assert trainings[1].record["configured"].tolist() == [0.9, 0.95]


def test_the_claim_is_about_both_rules_at_full_size() -> None:
    grid = BY_ID["boolean.meta_learning"].values_grid
    assert [(point["rule"], point["bits"], point["first"], point["seeds"]) for point in grid] == [
        ("attention", 8, 100, 3), ("gnn", 8, 100, 3),
    ]  # fmt: skip
    assert {config.damage.dead for config in meta.LEARNING.values()} == {meta.DEAD}
    assert CLAIMS["boolean.meta_learning.ours"].duration == "long"
