"""Cycles: θ trains and all else keeps what it has, state of the optimizer included."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import resu.core.selective
from resu.config import CycleConfig
from resu.core.phases import Phase
from resu.core.selective import SelectionResult, select_coordinates
from resu.optim.masked import MaskedAdamW
from resu.sparsifier import Sparsifier
from resu.training.cycle import CyclePhase, RESUTrainer

Loss = Callable[[nn.Module, Any], Tensor]
Config = Callable[..., CycleConfig]
MakeAdamW = Callable[[nn.Module], MaskedAdamW]
Until = Callable[[RESUTrainer, CyclePhase, Any], None]
Weights = Callable[[RESUTrainer], dict[str, Tensor]]
MovedShare = Callable[[RESUTrainer, Any, int], float]


@pytest.fixture
def moved_share(until: Until, weights: Weights) -> MovedShare:
    """The share of writable pruned coordinates with a gradient that moved in so many RESU steps."""

    def share(trainer: RESUTrainer, batches: Any, steps: int) -> float:
        until(trainer, CyclePhase.RESU, batches)
        before = weights(trainer)
        slope = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in before.items()}
        for _ in range(steps):
            trainer.train(batches, max_steps=1)
            for name, sparse in trainer.sparsifier.parameters.items():
                assert sparse.gradient is not None
                slope[name] |= sparse.gradient != 0
        assert trainer.cycle.phase is CyclePhase.RESU
        moved = counted = 0
        for name, sparse in trainer.sparsifier.parameters.items():
            counts = sparse.writable().row_bool(slice(None)) & slope[name]
            counted += int(counts.sum())
            moved += int((counts & (sparse.weight != before[name])).sum())
        assert counted > 100
        return moved / counted

    return share


# --- θ trains ---------------------------------------------------------------------------------------------------------


def test_theta_really_trains(
    make_optimizer: Callable[[Any], Any],
    model: nn.Module,
    batches: Any,
    loss_of: Loss,
    config: Config,
    moved_share: MovedShare,
) -> None:
    trainer = RESUTrainer(model, config(score="magnitude"), make_optimizer(model.parameters()), loss_of)
    assert moved_share(trainer, batches, 5) >= 0.99


@pytest.mark.parametrize("changes", [{"resu_init": "normal"}, {"resu_init": "uniform"}, {"clear_state": True}])
def test_theta_really_trains_under_other_settings(
    changes: dict[str, Any],
    make_some: Callable[[Any], Any],
    model: nn.Module,
    batches: Any,
    loss_of: Loss,
    config: Config,
    moved_share: MovedShare,
) -> None:
    settings = config(score="magnitude", freeze_others=True, **changes)
    trainer = RESUTrainer(model, settings, make_some(model.parameters()), loss_of)
    assert moved_share(trainer, batches, 5) >= 0.99


def test_every_selected_coordinate_moves_under_paper(
    make_some: Callable[[Any], Any],
    model: nn.Module,
    batches: Any,
    loss_of: Loss,
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    until: Until,
    weights: Weights,
) -> None:
    """RESU-Selective lets a fifth of θ move in a step; what it ever selected has moved, and nothing else."""
    selected: dict[int, Tensor] = {}

    def spy(grad: Tensor, consistency: Tensor, settings: Any) -> SelectionResult:
        result = select_coordinates(grad, consistency, settings)
        chosen = result.mask & (grad != 0)
        selected[grad.numel()] = selected.get(grad.numel(), torch.zeros_like(chosen)) | chosen
        return result

    monkeypatch.setattr(resu.core.selective, "select_coordinates", spy)
    trainer = RESUTrainer(
        model, config("paper", prune_first=True, initial_sparsity=0.5), make_some(model.parameters()), loss_of
    )
    until(trainer, CyclePhase.RESU, batches)
    before = weights(trainer)
    trainer.train(batches, max_steps=5)
    moved = chosen = strays = 0
    for name, sparse in trainer.sparsifier.parameters.items():
        pruned = ~sparse.mask.row_bool(slice(None))
        changed, ever = (sparse.weight != before[name])[pruned], selected[sparse.mask.n_pruned]
        moved, chosen = moved + int((changed & ever).sum()), chosen + int(ever.sum())
        strays += int((changed & ~ever).sum()) + int((sparse.weight != before[name])[~pruned].sum())
    assert chosen > 50
    assert moved / chosen >= 0.99
    assert strays == 0


def test_a_subset_of_theta_trains_alone(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW, until: Until, weights: Weights
) -> None:
    trainer = RESUTrainer(model, config(resu_subset=0.3), adamw(model), loss_of)
    until(trainer, CyclePhase.RESU, batches)
    before = weights(trainer)
    trainer.train(batches, max_steps=5)
    for name, sparse in trainer.sparsifier.parameters.items():
        assert sparse.subset is not None
        assert sparse.subset.n_active == int(0.3 * sparse.mask.n_pruned)
        moved, chosen = sparse.weight != before[name], sparse.subset.row_bool(slice(None))
        assert moved.any()
        assert not (moved & ~chosen).any()


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize(("changes", "expected"), [({"resu_lr": 3e-4}, [3e-4] * 2), ({}, [1e-3, 5e-4])])
def test_theta_has_its_own_learning_rate(
    changes: dict[str, Any],
    expected: list[float],
    scheduled: bool,
    model: nn.Module,
    batches: Any,
    loss_of: Loss,
    config: Config,
    adamw: MakeAdamW,
    until: Until,
) -> None:
    """Adam's first step from zero is η in size, where the gradient is large beside ε."""
    optimizer = adamw(model)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 if scheduled else 1.0)
    trainer = RESUTrainer(model, config(**changes), optimizer, loss_of, scheduler=rates)
    until(trainer, CyclePhase.RESU, batches)
    trainer.train(batches, max_steps=1)
    sparse = trainer.sparsifier.parameters["0.weight"]
    assert sparse.gradient is not None
    theta = sparse.weight[~sparse.mask.row_bool(slice(None)) & (sparse.gradient.abs() > 1e-4)].abs()
    torch.testing.assert_close(theta, torch.full_like(theta, expected[scheduled]), rtol=1e-3, atol=0.0)


def test_selective_steps_have_the_published_size(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW, until: Until
) -> None:
    """On the first step C = 1 up to δ, so θ moves by η g on what is selected."""
    trainer = RESUTrainer(
        model, config("paper", prune_first=True, initial_sparsity=0.5, resu_init="zero"), adamw(model), loss_of
    )
    until(trainer, CyclePhase.RESU, batches)
    trainer.train(batches, max_steps=1)
    for sparse in trainer.sparsifier.parameters.values():
        assert sparse.gradient is not None
        moved = sparse.weight.ne(0) & ~sparse.mask.row_bool(slice(None))
        assert int(moved.sum()) == int(0.2 * sparse.mask.n_pruned)
        torch.testing.assert_close(sparse.weight[moved], -1e-4 * sparse.gradient[moved], rtol=1e-4, atol=0.0)


# --- what stays as it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "paper"])
def test_active_weights_keep_every_bit_in_resu(
    name: str,
    make_optimizer: Callable[[Any], Any],
    model: nn.Module,
    batches: Any,
    loss_of: Loss,
    config: Config,
    until: Until,
    weights: Weights,
) -> None:
    settings = config(name, prune_first=True, initial_sparsity=0.5, score="magnitude")
    trainer = RESUTrainer(model, settings, make_optimizer(model.parameters()), loss_of)
    until(trainer, CyclePhase.RESU, batches)
    before = weights(trainer)
    trainer.train(batches, max_steps=5)
    for layer, sparse in trainer.sparsifier.parameters.items():
        active = sparse.mask.row_bool(slice(None))
        assert torch.equal(sparse.weight[active], before[layer][active])


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("selective", [False, True])
def test_other_parameters_train_unless_they_are_frozen(
    freeze: bool,
    selective: bool,
    make_some: Callable[[Any], Any],
    model: nn.Sequential,
    batches: Any,
    loss_of: Loss,
    config: Config,
    until: Until,
) -> None:
    settings = config(freeze_others=freeze, use_selective=selective, score="magnitude")
    trainer = RESUTrainer(model, settings, make_some(model.parameters()), loss_of)
    until(trainer, CyclePhase.RESU, batches)
    before = [model[0].bias.detach().clone(), model[2].bias.detach().clone()]  # type: ignore[operator]
    trainer.train(batches, max_steps=5)
    moved = [bool((bias != old).all()) for bias, old in zip((model[0].bias, model[2].bias), before, strict=True)]
    assert moved == [not freeze] * 2
    assert model[0].bias.grad is not None  # hidden from the optimizer only
    until(trainer, CyclePhase.TRAIN, batches)
    trainer.train(batches, max_steps=1)
    assert not torch.equal(model[0].bias, before[0])  # type: ignore[arg-type]


def test_the_state_of_active_weights_is_kept_by_default(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
    optimizer = adamw(model)
    trainer = RESUTrainer(model, config(), optimizer, loss_of)
    trainer.train(batches, max_steps=5)
    sparse = trainer.sparsifier.parameters["0.weight"]
    active = sparse.mask.row_bool(slice(None))
    trainer.train(batches, max_steps=1)  # the last of STABILIZE: RESU begins after it
    kept = {name: optimizer.state[sparse.parameter][name][active].clone() for name in ("exp_avg", "exp_avg_sq")}
    assert trainer.cycle.phase is CyclePhase.RESU
    trainer.train(batches, max_steps=5)
    for name, moment in kept.items():
        assert moment.any()
        assert torch.equal(optimizer.state[sparse.parameter][name][active], moment)
    assert [stats.cleared_states for stats in trainer.train(batches)] == [0, 0, 0]


def state_bytes(state: dict[str, Any]) -> int:
    return sum(x.numel() * x.element_size() for x in state.values() if isinstance(x, Tensor) and x.dim())


def test_paper_deletes_the_weights_state_before_theta_has_one(
    make_optimizer: Callable[[Any], Any],
    model: nn.Module,
    batches: Any,
    loss_of: Loss,
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    until: Until,
) -> None:
    optimizer = make_optimizer(model.parameters())
    settings = config("paper", prune_first=True, initial_sparsity=0.5)
    trainer = RESUTrainer(model, settings, optimizer, loss_of)
    numel, events = {"0.weight": 12 * 24, "2.weight": 24 * 4}, []
    until(trainer, CyclePhase.STABILIZE, batches)
    trainer.train(batches, max_steps=1)
    sizes = {n: state_bytes(optimizer.state[s.parameter]) for n, s in trainer.sparsifier.parameters.items()}
    assert all(size >= 4 * numel[name] * 0.5 for name, size in sizes.items())  # there was something to delete

    enter, init = Sparsifier.enter_resu, resu.core.selective.RESUSelective.__init__

    def entering(self: Sparsifier, *args: Any, **kwargs: Any) -> None:
        events.append("phase")
        assert not any(sparse.parameter in optimizer.state for sparse in self.parameters.values())
        assert all(sparse.phase is Phase.TRAIN for sparse in self.parameters.values())
        enter(self, *args, **kwargs)

    def theta_state(self: Any, *args: Any, **kwargs: Any) -> None:
        events.append("theta")
        assert not any(sparse.parameter in optimizer.state for sparse in trainer.sparsifier.parameters.values())
        init(self, *args, **kwargs)

    monkeypatch.setattr(Sparsifier, "enter_resu", entering)
    monkeypatch.setattr(resu.core.selective.RESUSelective, "__init__", theta_state)
    trainer.train(batches, max_steps=1)
    assert events == ["phase", "theta", "theta"]
    assert trainer.cycle.stepping.cleared_states == 2
    trainer.train(batches, max_steps=5)
    for sparse in trainer.sparsifier.parameters.values():  # nor does it come back while θ has its own
        assert state_bytes(optimizer.state.get(sparse.parameter, {})) == 0
    history = trainer.train(batches)
    assert [stats.cleared_states for stats in history] == [2, 2, 2]
    assert history[-1].sparsity == pytest.approx(0.7, abs=0.01)


def test_the_user_s_optimizer_begins_anew_where_states_are_cleared(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW, until: Until, weights: Weights
) -> None:
    """Steps must be counted from 1 again: with old counts the first steps would be about three times too long."""
    trainer = RESUTrainer(model, config(clear_state=True, resu_lr=1e-3), adamw(model), loss_of)
    until(trainer, CyclePhase.RESU, batches)
    until(trainer, CyclePhase.TRAIN, batches)
    before = weights(trainer)
    trainer.train(batches, max_steps=1)
    for name, sparse in trainer.sparsifier.parameters.items():
        assert float((sparse.weight - before[name]).abs().max()) < 1.5e-2  # lr 1e-2, and not 3.2 times that


# --- gradients that are not finite ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bad"), [("default", float("nan")), ("paper", float("inf"))])
def test_steps_without_finite_gradients_are_skipped_and_counted(
    name: str,
    bad: float,
    make_some: Callable[[Any], Any],
    model: nn.Module,
    batches: Any,
    loss_of: Loss,
    config: Config,
) -> None:
    broken = {3, 9}  # one in TRAIN, one in RESU

    def sometimes(net: nn.Module, batch: Any) -> Tensor:
        return loss_of(net, batch) * (bad if trainer.cycle.step in broken else 1.0)

    settings = config(name, prune_first=True, initial_sparsity=0.5, num_cycles=1, score="magnitude")
    trainer = RESUTrainer(model, settings, make_some(model.parameters()), sometimes)
    for step in range(11):
        before = [p.detach().clone() for p in model.parameters()]
        trainer.train(batches, max_steps=1)
        same = all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
        assert same == (step in broken)
    (stats,) = trainer.train(batches)
    assert (stats.skipped_steps, trainer.cycle.skipped_steps) == (2, 2)
    assert all(0 < loss < 10 for loss in stats.losses.values())
    assert all(bool(p.isfinite().all()) for p in model.parameters())
