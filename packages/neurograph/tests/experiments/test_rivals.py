"""Rivals, results and the float twin: what is compared is what is said."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from neurograph.config import Config, load_config, overridden
from neurograph.data import load_dataset
from neurograph.errors import CheckpointError, ConfigError
from neurograph.experiments.baselines import choose, run_baselines, summary
from neurograph.experiments.digits import DigitsResult, run_digits
from neurograph.experiments.float_twin import FloatTwin
from neurograph.experiments.results import Rows
from neurograph.experiments.rivals import RIVALS, Rival
from neurograph.experiments.splits import (
    CHOSEN,
    FRESH_SEEDS,
    TRIED,
    TUNING_SEEDS,
    digits_split,
    held_out,
    held_out_accuracy,
)
from neurograph.experiments.tuning import TunerComparison, compare_tuners
from neurograph.model import Model
from neurograph.train.trainer import Trainer

pytestmark = pytest.mark.needs_extra("sklearn")


def _quick(**train: object) -> Config:
    return Config.model_validate(
        {"graph": {"widths": (64, 32, 10)}, "model": {"dim": 4}, "train": {"epochs": 3, "batch_size": 128, **train}}
    )


# --- splits ---------------------------------------------------------------------------------------------------------


def test_splits_are_stratified_and_fresh_ones_were_not_tuned_on() -> None:
    split = digits_split(100)
    assert (split.train_x.shape, split.test_x.shape) == ((1437, 64), (360, 64))
    counts = np.bincount(np.concatenate([split.train_y, split.test_y]))
    assert (np.abs(np.bincount(split.test_y) - counts * 360 / 1797) < 1).all()
    assert not set(FRESH_SEEDS) & set(TUNING_SEEDS)
    assert (digits_split(101).test_y != split.test_y).any()


def test_held_out_samples_are_a_fifth_of_the_training_samples_and_none_of_the_others() -> None:
    data = load_dataset("digits", seed=1)
    found = held_out(data, 1001)
    assert (len(found.train_y), len(found.test_y)) == (1149, 288)
    rows = torch.cat([found.train_x, found.test_x])
    assert sorted(row.numpy().tobytes() for row in rows) == sorted(row.numpy().tobytes() for row in data.train_x)
    assert torch.equal(torch.cat([found.train_y, found.test_y]).bincount(), data.train_y.bincount())


def test_settings_are_chosen_by_held_out_training_samples() -> None:
    config, data = _quick(), held_out(load_dataset("digits", seed=0), 1000)
    model = Model.build(config, seed=0)
    Trainer(model, config.train, seed=0).fit(data.train_x, data.train_y)
    expected = float((model.predict(data.test_x) == data.test_y).double().mean())
    assert held_out_accuracy(config, (0,)) == expected > 0.5
    with pytest.raises(ConfigError, match="on one split at least"):
        held_out_accuracy(config, ())


def test_the_shipped_settings_are_the_best_that_were_tried() -> None:
    assert TRIED[" ".join(CHOSEN)] == max(TRIED.values())
    assert overridden(Config(), CHOSEN) == load_config("digits")
    for changes in TRIED:
        assert overridden(Config(), changes.split()).data.name == "digits"


@pytest.mark.slow
def test_what_was_tried_comes_out_again() -> None:
    assert 100 * held_out_accuracy(Config()) == pytest.approx(TRIED[""], abs=0.5)


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_run_written_and_gone_on_with(tmp_path: Path) -> None:
    told: list[int] = []
    config = _quick()
    result = run_digits((0, 1), config=config, folder=tmp_path, progress=lambda row: told.append(row["seed"]))
    assert told == [0, 1]
    assert result.to_frame()["integers"].tolist() == [4 * (64 + 2 * 42)] * 2
    assert result.mean > 50
    assert result.to_frame()["floats"].tolist() == [0, 0]
    assert {check.name for check in result.checks if check.passed} >= {"integers", "trained floats"}
    assert (tmp_path / "digits.md").read_text() == result.to_markdown()
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
    # The rows are read, not measured again: seconds are the same.
    assert run_digits((0, 1), config=config, folder=tmp_path) == result
    assert (tmp_path / "digits.json").read_text().count('"seed"') >= 2
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write("[]\n")
    with pytest.raises(CheckpointError, match="JSON object"):
        run_digits((0,), config=config, folder=tmp_path)


def test_shuffled_labels_teach_nothing() -> None:
    result = run_digits((0,), config=_quick(), shuffled=True)
    assert result.mean < 30
    assert [check.name for check in result.checks] == ["mean, shuffled labels"]


def test_runs_without_splits_are_refused() -> None:
    for run in (run_digits, compare_tuners):
        with pytest.raises(ConfigError, match="split"):
            run(())


def test_bars_can_be_missed() -> None:
    row = {"seed": 1, "train_accuracy": 1.0, "integers": 9999, "floats": 0, "seconds": 59.0, "wall": 60.0}
    good = DigitsResult(Config(), ({**row, "accuracy": 0.98}, {**row, "accuracy": 0.97}))
    assert good.passed
    assert (good.mean, good.minimum) == (97.5, 97.0)
    for wrong in ({"accuracy": 0.962}, {"integers": 10_001}, {"floats": 1}, {"seconds": 61.0}):
        assert not DigitsResult(Config(), ({**row, "accuracy": 0.99}, {**row, "accuracy": 0.99, **wrong})).passed
    assert "| min | 97 | ≥ 96.3 | met |" in good.to_markdown()


@pytest.mark.slow
def test_the_shipped_settings_meet_their_bars_on_a_tuning_split() -> None:
    assert run_digits((0,)).passed


# --- rivals ---------------------------------------------------------------------------------------------------------


def test_every_rival_has_chosen_one_of_its_candidates() -> None:
    for name, rival in RIVALS.items():
        assert dict(rival.chosen) in [dict(candidate) for candidate in rival.candidates], name


def test_rivals_are_measured_and_gone_on_with(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []

    def run() -> pd.DataFrame:
        return run_baselines(
            (0, 1),
            names=["kNN"],
            path=tmp_path / "rows.jsonl",
            progress=lambda name, seed, _: told.append((name, seed)),
        )

    found = run()
    assert told == [("kNN", 0), ("kNN", 1)]
    assert found.loc["kNN", "mean"] > 97
    assert found.loc["kNN", "parameters"] == 1437 * 64
    assert found.loc["kNN", "splits"] == 2
    pd.testing.assert_frame_equal(run(), found)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


def test_settings_are_chosen_on_held_out_training_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        """Knows what it has seen and answers −1 elsewhere: right on a test sample only if it was trained on it."""

        def __init__(self, seen: list[set[bytes]]) -> None:
            self.seen = seen

        def fit(self, x: np.ndarray, y: np.ndarray) -> None:
            self.known = {row.tobytes() for row in x}
            self.seen.append(self.known)

        def predict(self, x: np.ndarray) -> np.ndarray:
            assert not any(row.tobytes() in self.known for row in x[::20])
            return np.full(len(x), -1)

    seen: list[set[bytes]] = []
    rival = Rival(lambda _settings, _seed: Memory(seen), lambda _: 0, ({"a": 1}, {"a": 2}), {"a": 1})
    monkeypatch.setitem(RIVALS, "memory", rival)
    found = choose("memory", seeds=(0,))
    assert found["accuracy"].tolist() == [0, 0]
    test = {row.tobytes() for row in digits_split(0).test_x}
    assert all(len(known) > 1100 and not known & test for known in seen)


def test_rivals_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="a rival is one of"):
        run_baselines((0,), names=["oracle"])
    with pytest.raises(ConfigError, match="rivals meet on splits"):
        run_baselines((0,), names=[])
    with pytest.raises(ConfigError, match="a choice needs splits and settings"):
        choose("kNN", candidates=[])


@pytest.mark.parametrize(
    "name",
    ["kNN"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("logistic regression", "MLP(128)", "SVC", "random forest")
    ],
)
def test_what_was_chosen_is_the_best_of_what_was_tried(name: str) -> None:
    found = choose(name)
    chosen = RIVALS[name].chosen
    accuracy = found.loc[(found[list(chosen)] == pd.Series(chosen)).all(axis=1), "accuracy"]
    assert accuracy.tolist() == [found["accuracy"].max()]


def test_summaries_are_in_percent_and_sorted() -> None:
    rows = [
        {"name": name, "accuracy": value, "seconds": 2.0, "parameters": 10}
        for name, value in (("a", 0.5), ("a", 0.7), ("b", 0.9))
    ]
    found = summary(rows)
    assert found.index.tolist() == ["b", "a"]
    np.testing.assert_allclose(found.loc["a", ["mean", "min", "sd"]].astype(float), [60, 50, 100 * 0.02**0.5])


@pytest.mark.needs_extra("torchhd")
@pytest.mark.parametrize("name", [name for name in RIVALS if name.startswith("torchhd")])
def test_hyperdimensional_rivals_learn_quietly(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (0.2 * generator.random((90, 12)) + 0.7 * (np.arange(12) // 4 == y[:, None])).astype(np.float32)
    rival = RIVALS[name]
    small = {key: {"dimensions": 500, "epochs": 4}.get(key, value) for key, value in rival.chosen.items()}
    before = torch.random.get_rng_state()
    model = rival.build(small, 0)
    model.fit(x, y)
    assert (model.predict(x) == y).mean() > 0.9
    assert rival.parameters(model) == 3 * 500
    assert (torch.random.get_rng_state() == before).all()
    again = rival.build(small, 0)
    again.fit(x, y)
    assert (again.predict(x) == model.predict(x)).all()
    assert capfd.readouterr().err == ""


# --- the twin -------------------------------------------------------------------------------------------------------


def test_the_twin_starts_as_the_network_without_its_grid() -> None:
    config = _quick()
    twin = FloatTwin(config, seed=3)
    model = Model.build(config.model_copy(update={"model": config.model.model_copy(update={"snap": False})}), seed=3)
    x = torch.rand(20, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(twin.logits(x), model.logits(x), rtol=1e-4, atol=1e-4)
    assert twin.n_parameters == model.store.n_trainable


def _train(**train: object) -> dict[str, object]:
    return {"train": {"epochs": 1, **train}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"radiation": {"top_k": 2}}, "radiation"),
        ({"model": {"merge": "modular"}}, "model.merge"),
        (_train(credit="contrastive"), "train.credit"),
        (_train(optimizer={"kind": "sgd"}), "train.optimizer.kind"),
        (_train(accumulation=4), "train.accumulation"),
    ],
)
def test_what_has_no_twin_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FloatTwin(Config.model_validate(changes))


def test_the_twin_keeps_the_schedule_of_the_settings() -> None:
    x, y = np.eye(4, dtype=np.float32), np.arange(4) % 2

    def moved(schedule: str, epochs: int) -> torch.Tensor:
        config = Config.model_validate(
            {"graph": {"widths": (4, 4, 2), "cardinality": 2},
             "train": {"epochs": epochs, "batch_size": 4, "optimizer": {"schedule": schedule}}}
        )  # fmt: skip
        twin = FloatTwin(config)
        before = twin.angle.detach().clone()
        return (twin.fit(x, y).angle - before).detach()

    # Adam's first step is as long as its rate, which both schedules begin with; later ones are shorter on a cosine.
    torch.testing.assert_close(moved("cosine", 1), moved("constant", 1))
    assert (moved("cosine", 20) - moved("constant", 20)).abs().max() > 0.01


def test_the_twin_learns_numbers() -> None:
    split = digits_split(0)
    twin = FloatTwin(_quick(), seed=0)
    before = twin.angle.detach().clone()
    twin.fit(split.train_x, split.train_y)
    assert (twin.predict(split.test_x) == split.test_y).mean() > 0.5
    steps = (twin.angle - before).detach() / twin.model.tables.phase_step
    assert (steps - steps.round()).abs().max() > 0.1  # not on the grid
    again = FloatTwin(_quick(), seed=0).fit(split.train_x, split.train_y)
    assert torch.equal(again.angle, twin.angle)


# --- tuning ---------------------------------------------------------------------------------------------------------


def test_tuners_are_compared_at_equal_budget(tmp_path: Path) -> None:
    arguments = {"budget": 3, "population": 2, "epochs": 1, "repeats": 1, "full_epochs": 1, "config": _quick()}
    found = compare_tuners((0,), folder=tmp_path, **arguments)  # type: ignore[arg-type]
    assert [(row["method"], row["seed"], row["budget"]) for row in found.rows] == [("genetic", 0, 3), ("random", 0, 3)]
    assert all(
        len(curve) == 3 and curve[-1] == row["fitness"]
        for curve, row in zip(found.curves.values(), found.rows, strict=True)
    )
    assert compare_tuners((0,), folder=tmp_path, **arguments) == found  # type: ignore[arg-type]


def test_the_winner_is_who_found_more() -> None:
    def rows(genetic: float, random: float) -> TunerComparison:
        values = (("genetic", genetic), ("random", random))
        return TunerComparison(
            tuple({"method": m, "seed": 0, "budget": 2, "fitness": v, "accuracy": v} for m, v in values), {}
        )

    assert (rows(0.9, 0.8).winner, rows(0.7, 0.8).winner, rows(0.8, 0.8).winner) == ("genetic", "random", "tie")
    assert rows(0.9, 0.8).gain == pytest.approx(10)
    assert "+10.00 points" in rows(0.9, 0.8).to_markdown()


def test_rows_without_a_path_are_kept_in_memory() -> None:
    rows = Rows()
    rows.add({"b": 1, "a": [2]}, {"x": 1})
    assert rows.find({"a": [2], "b": 1}) == {"x": 1}
    assert rows.find({"a": [2]}) is None


@pytest.mark.parametrize("line", ['{"key": 1, "row": {}}', '{"key": {}, "row": 2}'])
def test_rows_of_something_else_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "rows").write_text(line + "\n")
    with pytest.raises(CheckpointError, match="are JSON objects"):
        Rows(tmp_path / "rows")
