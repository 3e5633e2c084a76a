"""The training loop: what it does in an epoch, what it goes back to, and what it refuses."""

import math

import numpy as np
import pytest
import torch

from neurograph.config import Config, TrainConfig, overridden
from neurograph.errors import CheckpointError, DataError, DivergenceError
from neurograph.model import Model
from neurograph.train.credit import Gradients, exact_credit
from neurograph.train.trainer import Trainer

CONFIG = Config.model_validate(
    {"graph": {"widths": (9, 12, 3), "cardinality": 4}, "model": {"dim": 4}, "train": {"epochs": 3, "batch_size": 8}}
)


def _samples(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, 9, generator=torch.Generator().manual_seed(1))
    return x, x[:, :3].argmax(1)


def _trainer(*changes: str, seed: int = 0, credit: object = None) -> Trainer:
    config = overridden(CONFIG, changes)
    return Trainer(Model.build(config), config.train, seed=seed, credit=credit)  # type: ignore[arg-type]


def _same(one: Trainer, other: Trainer) -> bool:
    first, second = one.state_dict()[0], other.state_dict()[0]
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_epoch_takes_each_sample_once_in_another_order_each_time() -> None:
    seen: list[list[int]] = []

    def credit(model: Model, x: torch.Tensor, y: torch.Tensor, config: TrainConfig) -> Gradients:
        seen.append((x[:, 0] * 1000).round().int().tolist())
        return exact_credit(model, x, y, config)

    x, y = _samples(20)
    x[:, 0] = torch.arange(20) / 1000
    _trainer("train.epochs=2", credit=credit).fit(x, y)
    assert [len(batch) for batch in seen] == [8, 8, 4] * 2
    orders = [[number for batch in epoch for number in batch] for epoch in (seen[:3], seen[3:])]
    assert [sorted(order) for order in orders] == [list(range(20))] * 2
    assert orders[0] != orders[1] != list(range(20))


def test_rates_fall_as_a_half_cosine_over_the_whole_run() -> None:
    rates: list[float] = []

    def credit(model: Model, x: torch.Tensor, y: torch.Tensor, config: TrainConfig) -> Gradients:
        rates.append(trainer.optimizer.rate)
        return exact_credit(model, x, y, config)

    trainer = _trainer("train.epochs=2", credit=credit)
    trainer.fit(*_samples(16), until=1)
    trainer.fit(*_samples(16))
    np.testing.assert_allclose(rates, [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)], rtol=1e-12)


def test_accumulated_batches_move_indices_by_the_root_of_n_times_their_mean_and_at_the_end() -> None:
    """Five batches by three: one step of three, one of the two that are left."""
    changes = ["train.accumulation=3", "train.optimizer.kind=sgd", "train.optimizer.lr_phase=3000",
               "train.optimizer.lr_mag=3000", "train.optimizer.schedule=constant", "train.epochs=1"]  # fmt: skip
    found: list[tuple[np.ndarray, int]] = []

    def credit(model: Model, x: torch.Tensor, y: torch.Tensor, config: TrainConfig) -> Gradients:
        gradients = exact_credit(model, x, y, config)
        found.append((gradients.phase.double().numpy(), model.store.version))
        return gradients

    trainer = _trainer(*changes, credit=credit)
    before = trainer.model.store.phase.double().numpy()
    trainer.fit(*_samples(40))
    assert [version for _, version in found] == [0, 0, 0, 1, 1]
    assert trainer.model.store.version == 2
    total = sum(
        -3000 * np.mean([gradient for gradient, _ in part], axis=0) * math.sqrt(len(part))
        for part in (found[:3], found[3:])
    )
    moved = trainer.model.store.phase.double().numpy() + trainer.optimizer.residual[0].double().numpy() - before
    np.testing.assert_allclose((moved - total + 256) % 512 - 256, 0, atol=1e-2)
    assert np.abs(total).max() > 3


def test_one_gradient_at_a_time_is_applied_at_once() -> None:
    trainer, other = _trainer(), _trainer()
    x, y = _samples(24)
    for place in range(0, 24, 8):
        trainer.step(x[place : place + 8], y[place : place + 8])
        gradients = exact_credit(other.model, x[place : place + 8], y[place : place + 8], other.config)
        other.optimizer.step(gradients.phase, gradients.mag)
    assert trainer.accumulator.applied == 3
    assert _same(trainer, other)


def test_a_trainer_that_was_saved_between_two_of_n_steps_goes_on_to_the_same_bits() -> None:
    x, y = _samples(80)
    whole, first, second = (_trainer("train.accumulation=4") for _ in range(3))
    for trainer, steps in ((whole, range(10)), (first, range(6))):
        trainer.optimizer.rate = 0.5
        for step in steps:
            trainer.step(x[8 * step : 8 * step + 8], y[8 * step : 8 * step + 8])
    assert first.accumulator.count == 2
    second.step(x[:8], y[:8])  # what it had collected itself is forgotten
    second.load_state_dict(*first.state_dict())
    for step in range(6, 10):
        second.step(x[8 * step : 8 * step + 8], y[8 * step : 8 * step + 8])
    assert _same(second, whole)
    assert not _same(first, whole)


def test_a_loss_that_is_not_finite_puts_everything_back() -> None:
    calls = 0

    def credit(model: Model, x: torch.Tensor, y: torch.Tensor, config: TrainConfig) -> Gradients:
        nonlocal calls
        calls += 1
        gradients = exact_credit(model, x, y, config)
        if calls == 13:  # in the second epoch of 8 steps
            return Gradients(gradients.loss * math.nan, gradients.phase * math.nan, gradients.mag)
        return gradients

    x, y = _samples()
    trainer, other = _trainer(credit=credit), _trainer()
    with pytest.raises(DivergenceError, match=r"that of epoch 2 is nan\. All is put back"):
        trainer.fit(x, y)
    other.fit(x, y, until=1)
    assert trainer.epoch == 1
    assert _same(trainer, other)
    trainer.fit(x, y)
    other.fit(x, y)
    assert _same(trainer, other)
    assert trainer.history == other.history


def test_runs_of_one_seed_are_one_run_and_those_of_others_are_not() -> None:
    runs = [_trainer(seed=seed) for seed in (0, 0, 1, -1, 10**30)]
    for trainer in runs:
        trainer.fit(*_samples(), until=1)
    assert _same(runs[0], runs[1])
    assert not any(_same(runs[0], other) for other in runs[2:])


def test_rows_tell_what_an_epoch_came_to() -> None:
    x, y = _samples()
    told: list[object] = []
    trainer = _trainer()
    before = trainer.model.store.clone()
    (row,) = trainer.fit(x, y, validation=(x[:7].double(), y[:7].int()), progress=told.append, until=1)
    assert told == [row]
    store = trainer.model.store
    changed = int((store.phase != before.phase).sum() + (store.mag != before.mag).sum())
    assert row.moved == changed / (4 * (24 + 15))
    assert row.accuracy == int((trainer.model.predict(x[:7]) == y[:7]).sum()) / 7
    assert trainer.fit(x, y, until=1) == [row]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x.index_fill(1, torch.tensor([2]), math.nan), y), "samples are finite"),
        (lambda x, y: (x * 3, y), r"samples lie in \[0, 1\]"),
        (lambda x, y: (x[:0], y[:0]), "at least one sample"),
        (lambda x, y: (x, y + 1), "label"),
    ],
)
def test_samples_that_do_not_fit_are_refused_before_anything_moves(change, said: str) -> None:
    x, y = _samples()
    trainer = _trainer()
    with pytest.raises(DataError, match=said):
        trainer.fit(*change(x, y))
    with pytest.raises(DataError, match=said):
        trainer.fit(x, y, validation=change(x, y))
    assert (trainer.epoch, trainer.model.store.version) == (0, 0)


def test_samples_whose_shapes_do_not_fit_are_refused() -> None:
    """Where shapes in annotations are not checked."""
    (x, y), trainer = _samples(), _trainer()
    for samples, labels, said in ((x[:, :8], y, "8 numbers for 9"), (x, y[:5], "label"), (x[0], y, "Flatten")):
        with pytest.raises(DataError, match=said):
            trainer._checked(samples, labels)


def test_the_state_of_another_optimizer_is_refused() -> None:
    with pytest.raises(CheckpointError, match="Use the settings it was saved with"):
        _trainer("train.optimizer.kind=sgd").load_state_dict(*_trainer().state_dict())
