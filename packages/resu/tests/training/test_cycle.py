"""Cycles: what happens when, who moves and who does not, and what is said of it."""

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import resu.core.selective
from resu.config import CycleConfig
from resu.core.mask import SparseMask
from resu.core.phases import Phase, SparseParameter
from resu.core.selective import SelectionResult, select_coordinates
from resu.errors import CheckpointError, ConfigError, OptimizerError
from resu.optim.masked import MaskedAdamW, MaskedSGD
from resu.optim.stock import attach
from resu.pruning.wanda import wanda
from resu.sparsifier import Sparsifier
from resu.training.clock import heed_masks
from resu.training.cycle import CyclePhase, RESUCycle, RESUTrainer

Loss = Callable[[nn.Module, Any], Tensor]


def adamw(model: nn.Module) -> MaskedAdamW:
    return MaskedAdamW(model.parameters(), lr=1e-2, backend="eager")


def config(name: str = "default", **changes: Any) -> CycleConfig:
    """Three short cycles of 4 TRAIN, 2 STABILIZE and 6 RESU steps."""
    short = {
        "num_cycles": 3, "steps_per_cycle": 12, "train_fraction": 1 / 3, "stabilize_fraction": 1 / 6,
        "resu_fraction": 0.5, "recovery_fraction": 0.0, "pruning": "magnitude",
    }  # fmt: skip
    return CycleConfig.preset(name, **(short | changes))


def weights(trainer: RESUTrainer) -> dict[str, Tensor]:
    return {name: sparse.weight.clone() for name, sparse in trainer.sparsifier.parameters.items()}


def until(trainer: RESUTrainer, phase: CyclePhase, batches: Any) -> None:
    """Trains up to the beginning of a phase."""
    for _ in range(200):
        if trainer.cycle.phase is phase:
            return
        trainer.train(batches, max_steps=1)
    pytest.fail(f"{phase} never came")


def moved_share(trainer: RESUTrainer, batches: Any, steps: int) -> float:
    """The share of writable pruned coordinates with a gradient that moved in so many RESU steps."""
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


# --- order and counts -------------------------------------------------------------------------------------------------


def test_a_published_cycle_has_its_phases_in_order(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    paper = CycleConfig.preset("paper", num_cycles=2, steps_per_cycle=20, pruning="magnitude", initial_sparsity=0.5)
    trainer = RESUTrainer(model, paper, adamw(model), loss_of)
    seen: list[tuple[int, str]] = []
    while not trainer.cycle.done:
        trainer.cycle.start()
        seen.append((trainer.cycle.cycle, str(trainer.cycle.phase)))
        trainer.train(batches, max_steps=1)
    found = [(*key, len(list(group))) for key, group in itertools.groupby(seen)]
    assert found == [
        (0, "train", 12), (0, "stabilize", 2), (0, "resu", 6), (1, "train", 12), (1, "stabilize", 2), (1, "resu", 6),
    ]  # fmt: skip
    assert [stats.steps for stats in trainer.cycle.history] == [{"train": 12, "stabilize": 2, "resu": 6}] * 2


def test_pruning_commit_and_hooks_see_their_phase(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    seen: list[CyclePhase] = []

    def pruner(sparsifier: Sparsifier, sparsity: float) -> dict[str, SparseMask]:
        seen.append(trainer.cycle.phase)
        return {name: SparseMask.random(sparse.mask.shape, sparsity) for name, sparse in sparsifier.parameters.items()}

    trainer = RESUTrainer(model, config(num_cycles=1, prune_first=False), adamw(model), loss_of, pruner)
    commit = trainer.sparsifier.commit

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(trainer.cycle.phase)
        return commit(*args, **kwargs)

    trainer.sparsifier.commit = spy  # type: ignore[method-assign]
    trainer.train(batches)
    assert seen == [CyclePhase.PRUNE, CyclePhase.COMMIT]


@pytest.mark.parametrize("name", ["default", "paper", "aggressive", "conservative", "densification", "quick"])
def test_sparsities_are_exactly_those_asked_for(name: str, model: nn.Module, batches: Any, loss_of: Loss) -> None:
    trainer = RESUTrainer(model, config(name), adamw(model), loss_of)
    history = trainer.train(batches)
    numel = 12 * 24 + 24 * 4
    assert len(history) == 3
    for stats in history:
        assert stats.sparsity == pytest.approx(round(stats.target_sparsity * numel) / numel, abs=1e-12)
    zeros = sum(int((weight == 0).sum()) for weight in weights(trainer).values())
    assert zeros == round(history[-1].target_sparsity * numel)  # counted in the weights, not in the masks


def test_after_the_last_commit_active_weights_train_on(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    trainer = RESUTrainer(model, config(recovery_fraction=0.25), adamw(model), loss_of)
    trainer.train(batches, max_steps=36)
    assert (len(trainer.cycle.history), trainer.cycle.phase, trainer.cycle.done) == (3, CyclePhase.TRAIN, False)
    before = weights(trainer)
    trainer.train(batches)
    assert trainer.cycle.step == trainer.config.total_steps == 48
    for name, sparse in trainer.sparsifier.parameters.items():
        active = sparse.mask.row_bool(slice(None))
        assert bool((sparse.weight != before[name])[active].all())
        assert not sparse.weight[~active].any()


def test_where_nothing_is_pruned_weights_train_instead_of_theta(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    trainer = RESUTrainer(model, config("paper"), adamw(model), loss_of)  # the first cycle is dense
    trainer.train(batches, max_steps=7)
    before = weights(trainer)
    trainer.train(batches, max_steps=5)
    assert all(bool((w != before[name]).all()) for name, w in weights(trainer).items())
    first = trainer.cycle.history[0]
    assert (first.sparsity, first.resurrected, first.churn, first.jaccard) == (0.0, 0, 0.0, 1.0)
    assert first.steps == {"train": 10, "stabilize": 2}


def test_several_calls_are_one_training(batches: Any, loss_of: Loss) -> None:
    ends = []
    for pieces in (None, 5):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 4))
        trainer = RESUTrainer(net, config(), adamw(net), loss_of)
        while not trainer.cycle.done:
            trainer.train(batches, max_steps=pieces)
        ends.append((weights(trainer), trainer.cycle.history))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])


# --- θ trains ---------------------------------------------------------------------------------------------------------


def test_theta_really_trains(
    make_optimizer: Callable[[Any], Any], model: nn.Module, batches: Any, loss_of: Loss
) -> None:
    trainer = RESUTrainer(model, config(score="magnitude"), make_optimizer(model.parameters()), loss_of)
    assert moved_share(trainer, batches, 5) >= 0.99


@pytest.mark.parametrize("changes", [{"resu_init": "normal"}, {"resu_init": "uniform"}, {"clear_state": True}])
def test_theta_really_trains_under_other_settings(
    changes: dict[str, Any], make_some: Callable[[Any], Any], model: nn.Module, batches: Any, loss_of: Loss
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


def test_a_subset_of_theta_trains_alone(model: nn.Module, batches: Any, loss_of: Loss) -> None:
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
    changes: dict[str, Any], expected: list[float], scheduled: bool, model: nn.Module, batches: Any, loss_of: Loss
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


def test_selective_steps_have_the_published_size(model: nn.Module, batches: Any, loss_of: Loss) -> None:
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
    name: str, make_optimizer: Callable[[Any], Any], model: nn.Module, batches: Any, loss_of: Loss
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


def test_the_state_of_active_weights_is_kept_by_default(model: nn.Module, batches: Any, loss_of: Loss) -> None:
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
    model: nn.Module, batches: Any, loss_of: Loss
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
    name: str, bad: float, make_some: Callable[[Any], Any], model: nn.Module, batches: Any, loss_of: Loss
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


# --- what is said of a cycle ------------------------------------------------------------------------------------------


def test_the_counts_add_up(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    settings = config(amnesty_start=0.4, amnesty_end=0.1, distribution="uniform", target_sparsity=0.5)
    trainer = RESUTrainer(model, settings, adamw(model), loss_of)
    masks = []
    while not trainer.cycle.done:
        until(trainer, CyclePhase.RESU, batches)
        old = {name: sparse.mask.clone() for name, sparse in trainer.sparsifier.parameters.items()}
        trainer.train(batches, max_steps=6)
        masks.append((old, {name: sparse.mask.clone() for name, sparse in trainer.sparsifier.parameters.items()}))
    for cycle, (stats, (old, new)) in enumerate(zip(trainer.cycle.history, masks, strict=True)):
        assert stats.budget == pytest.approx(0.4 - 0.3 * cycle / 3)
        both = sum(old[name].overlap_with(new[name]) for name in old)
        back = sum(new[name].difference(old[name]).n_active for name in old)
        pruned = sum(mask.n_pruned for mask in old.values())
        assert (stats.kept_active, stats.resurrected, stats.lost) == (both, back, 192 - both)
        assert back == sum(int(stats.budget * n) for n in (144, 48))  # of the places of either layer
        assert stats.resurrection_rate == pytest.approx(back / pruned)
        assert stats.churn == pytest.approx((back + 192 - both) / 384)
        assert stats.jaccard == pytest.approx(both / (192 + back))


def test_losses_are_means_by_phase(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    seen: dict[str, list[float]] = {}

    def recorded(net: nn.Module, batch: Any) -> Tensor:
        loss = loss_of(net, batch)
        seen.setdefault(str(trainer.cycle.phase), []).append(float(loss.detach()))
        return loss

    trainer = RESUTrainer(model, config(num_cycles=1), adamw(model), recorded)
    (stats,) = trainer.train(batches)
    assert stats.losses == pytest.approx({phase: sum(found) / len(found) for phase, found in seen.items()})
    assert set(stats.losses) == {"train", "stabilize", "resu"}


def test_logs_evaluations_and_cycles_are_told(
    model: nn.Module, batches: Any, loss_of: Loss, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[dict[str, Any]] = []
    settings = config(num_cycles=2, log_every=10, eval_every=9)

    def evaluate(net: nn.Module) -> dict[str, float]:
        assert not net.training
        assert not torch.is_grad_enabled()
        return {"accuracy": 0.5}

    with caplog.at_level(logging.INFO, logger="resu"):
        trainer = RESUTrainer(model, settings, adamw(model), loss_of, eval_fn=evaluate, logger=told.append)  # type: ignore[arg-type]
        trainer.train(batches)
    assert model.training
    assert [(facts["step"], facts["phase"]) for facts in told if "loss" in facts] == [(10, "resu"), (20, "resu")]
    assert [facts["step"] for facts in told if "accuracy" in facts] == [9, 18, 24]
    assert trainer.evaluations == [(9, {"accuracy": 0.5}), (18, {"accuracy": 0.5}), (24, {"accuracy": 0.5})]
    assert [facts["cycle"] for facts in told if "churn" in facts] == [0, 1]
    assert len(caplog.records) == len(told) == 7


def test_an_evaluation_may_be_one_number(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    trainer = RESUTrainer(model, config(num_cycles=1), adamw(model), loss_of, eval_fn=lambda net: 3.0)
    trainer.train(batches)
    assert trainer.evaluations == [(12, {"eval": 3.0})]


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_masks_near_enough_are_left_alone(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    for tolerance, prunes in ((0.0, 1), (0.2, 0)):
        calls: list[float] = []
        sparsifier = Sparsifier(model, 0.5, distribution="uniform", optimizer=adamw(model))
        sparsifier.prune(sparsity=0.4)
        settings = config(target_sparsity=0.5, prune_tolerance=tolerance, num_cycles=1, distribution="uniform")

        def pruner(sparse: Sparsifier, sparsity: float, calls: list[float] = calls) -> dict[str, SparseMask]:
            calls.append(sparsity)
            return {name: SparseMask.random(s.mask.shape, sparsity) for name, s in sparse.parameters.items()}

        trainer = RESUTrainer(model, settings, sparsifier.optimizer, loss_of, pruner, sparsifier=sparsifier)  # type: ignore[arg-type]
        assert trainer.train(batches)[0].sparsity == 0.5
        assert calls == [0.5] * prunes
        trainer.cycle.close()
        sparsifier.detach()


def test_a_stabilizer_may_give_better_masks(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    calls: list[float] = []

    def stabilizer(sparsifier: Sparsifier) -> dict[str, SparseMask]:
        calls.append(sparsifier.sparsity)
        return {name: SparseMask.random(s.mask.shape, 0.5, seed=9) for name, s in sparsifier.parameters.items()}

    settings = config(target_sparsity=0.5, num_cycles=2, distribution="uniform")
    trainer = RESUTrainer(model, settings, adamw(model), loss_of, stabilizer=stabilizer)
    trainer.train(batches, max_steps=1)
    for sparse in trainer.sparsifier.parameters.values():
        assert sparse.mask == SparseMask.random(sparse.mask.shape, 0.5, seed=9)
    trainer.train(batches)
    assert calls == [0.5]  # after the one PRUNE that there was


def test_wanda_takes_its_inputs_from_the_loader(model: nn.Sequential, batches: Any, loss_of: Loss) -> None:
    """An input that is always 0 has no say, so its weights are pruned first."""
    quiet = [(torch.where(torch.arange(12) < 6, x, 0.0), y) for x, y in batches]
    settings = config(pruning="wanda", target_sparsity=0.5, distribution="uniform", calibration_batches=2)
    trainer = RESUTrainer(model, settings, adamw(model), loss_of)
    trainer.train(quiet, max_steps=1)
    mask = trainer.sparsifier.parameters["0.weight"].mask
    assert mask.to_bool()[:, :6].all()
    assert not mask.to_bool()[:, 6:].any()


def test_a_pruner_may_be_one_of_the_package_s_own(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    def pruner(sparsifier: Sparsifier, sparsity: float) -> dict[str, SparseMask]:
        return wanda(model, batches, sparsity)

    trainer = RESUTrainer(model, config(target_sparsity=0.5, distribution="uniform"), adamw(model), loss_of, pruner)
    trainer.train(batches, max_steps=1)
    assert trainer.sparsifier.sparsity == 0.5


def test_whole_rows_may_be_pruned(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    settings = config(granularity="row", target_sparsity=0.5, distribution="uniform")
    trainer = RESUTrainer(model, settings, adamw(model), loss_of)
    trainer.train(batches, max_steps=1)
    for sparse in trainer.sparsifier.parameters.values():
        kept = sparse.mask.to_bool().float().mean(1)
        assert sorted(kept.tolist()) == [0.0] * (sparse.mask.rows // 2) + [1.0] * (sparse.mask.rows // 2)


def test_wanda_without_inputs_is_refused(model: nn.Module) -> None:
    optimizer = adamw(model)
    with pytest.raises(ConfigError, match="neither a pruner nor calibration was given"):
        RESUCycle(Sparsifier(model, 0.5, optimizer=optimizer), CycleConfig.preset("paper"), optimizer)


# --- other models, other loops ----------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding, a convolution, and a head that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.conv(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["default", "paper"])
def test_embeddings_convolutions_and_tied_weights(name: str) -> None:
    torch.manual_seed(0)
    net, tokens = Tied(), [torch.randint(20, (4, 6)) for _ in range(3)]

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten())

    trainer = RESUTrainer(net, config(name, target_sparsity=0.5, pruning="wanda"), None, loss)
    assert set(trainer.sparsifier.parameters) == {"embed.weight", "conv.weight"}
    history = trainer.train(tokens)
    numel = 160 + 192
    assert history[-1].sparsity == pytest.approx(round(0.5 * numel) / numel)
    assert net.head.weight is net.embed.weight


@pytest.mark.parametrize("selective", [False, True])
def test_a_loop_with_closures(
    selective: bool, make_some: Callable[[Any], Any], model: nn.Module, batches: Any, loss_of: Loss
) -> None:
    """The closure makes the gradients inside the step; it is evaluated once, and θ trains all the same."""
    inner = make_some(model.parameters())
    optimizer = heed_masks(model, inner)
    sparsifier = Sparsifier(model, 0.5, optimizer=optimizer)
    cycle = RESUCycle(sparsifier, config(use_selective=selective, freeze_others=True, score="magnitude"), optimizer)
    cycle.start()
    calls = 0
    data: Iterator[Any] = itertools.cycle(batches)
    while cycle.phase is not CyclePhase.RESU or cycle.step < 11:
        batch = next(data)

        def closure(batch: Any = batch) -> float:
            nonlocal calls
            calls += 1
            inner.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss.item()

        loss = inner.step(closure)
        assert loss > 0
        cycle.advance(loss)
    assert calls == 11
    for sparse in sparsifier.parameters.values():
        assert sparse.weight[~sparse.mask.row_bool(slice(None))].any()


def test_an_end_in_the_middle_of_resu_is_a_commit(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    trainer = RESUTrainer(model, config(), adamw(model), loss_of)
    until(trainer, CyclePhase.RESU, batches)
    trainer.train(batches, max_steps=3)
    trainer.cycle.finish()
    assert (trainer.cycle.done, len(trainer.cycle.history)) == (True, 1)
    assert trainer.cycle.history[0].resurrected > 0
    assert trainer.sparsifier.phase is Phase.TRAIN
    trainer.cycle.finish()
    assert trainer.cycle.advance() is None
    assert trainer.cycle.step == 9


def test_a_closed_cycle_leaves_the_optimizer_alone(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    optimizer = adamw(model)
    trainer = RESUTrainer(model, config("paper", prune_first=True, initial_sparsity=0.5), optimizer, loss_of)
    until(trainer, CyclePhase.RESU, batches)
    trainer.cycle.close()
    before = [p.detach().clone() for p in model.parameters()]
    trainer.train(batches, max_steps=1)
    assert not torch.equal(before[1], list(model.parameters())[1])  # biases were frozen by the hook


# --- the trainer's own optimizer, and refusals ------------------------------------------------------------------------


def test_the_trainer_makes_an_optimizer_with_a_warm_up(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    rates: list[float] = []
    settings = config(base_lr=0.02, weight_decay=0.3, warmup_steps=4)

    def recorded(net: nn.Module, batch: Any) -> Tensor:
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        return loss_of(net, batch)

    trainer = RESUTrainer(model, settings, None, recorded)
    trainer.train(batches, max_steps=6)
    assert rates == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.02, 0.02])
    assert isinstance(trainer.optimizer, MaskedAdamW)
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.3


def test_an_optimizer_that_heeds_masks_is_taken_as_it_is(model: nn.Module) -> None:
    masked = MaskedSGD(model.parameters(), lr=0.1)
    assert heed_masks(model, masked) is masked
    attachment = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert heed_masks(model, attachment) is attachment


def test_optimizers_that_cannot_keep_weights_frozen_are_refused(model: nn.Module, loss_of: Loss) -> None:
    with pytest.raises(OptimizerError, match="LBFGS"):
        RESUTrainer(model, config(), torch.optim.LBFGS(model.parameters()), loss_of)


@pytest.mark.parametrize(
    ("score", "make", "fits"),
    [
        ("momentum", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), True),
        ("momentum", lambda p: torch.optim.Adamax(p), True),
        ("momentum", lambda p: torch.optim.SGD(p, lr=0.1), False),
        ("momentum", lambda p: MaskedSGD(p, lr=0.1), False),
        ("momentum", lambda p: torch.optim.RMSprop(p, momentum=0.9), False),
        ("momentum", lambda p: MaskedAdamW(p, layout="compact"), False),
        ("consistency", lambda p: torch.optim.NAdam(p), True),
        ("consistency", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), False),
    ],
)
def test_a_score_that_could_not_be_had_at_the_commit_is_refused_at_once(
    score: str, make: Callable[[Any], Any], fits: bool, model: nn.Module, batches: Any, loss_of: Loss
) -> None:
    if fits:
        trainer = RESUTrainer(model, config(score=score), make(model.parameters()), loss_of)
        assert trainer.train(batches)[-1].resurrected > 0
    else:
        with pytest.raises(OptimizerError, match=f"the score '{score}' reads the mean of .* does not keep that"):
            RESUTrainer(model, config(score=score), make(model.parameters()), loss_of)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_gradients_are_still_there_at_the_commit(
    name: str, make_some: Callable[[Any], Any], model: nn.Module, batches: Any, loss_of: Loss
) -> None:
    settings = config(name, score="gradient", prune_first=True, initial_sparsity=0.5)
    history = RESUTrainer(model, settings, make_some(model.parameters()), loss_of).train(batches)
    assert all(stats.resurrected > 0 for stats in history)


def test_a_sparsifier_with_another_optimizer_is_refused(model: nn.Module, loss_of: Loss) -> None:
    with pytest.raises(ConfigError, match="built with none and the loop steps a MaskedAdamW"):
        RESUTrainer(model, config(), adamw(model), loss_of, sparsifier=Sparsifier(model, 0.5))


def test_a_sparsifier_s_attachment_is_found_again(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sparsifier = Sparsifier(model, 0.5, optimizer=attach(model, optimizer))
    trainer = RESUTrainer(model, config(), optimizer, loss_of, sparsifier=sparsifier)
    assert len(trainer.train(batches)) == 3
    assert trainer.cycle.optimizer is sparsifier.optimizer


def test_an_optimizer_of_another_model_is_refused(model: nn.Module, loss_of: Loss) -> None:
    with pytest.raises(OptimizerError, match=r"does not hold 0\.weight"):
        RESUTrainer(model, config(), adamw(nn.Linear(2, 2)), loss_of)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, b: 1.0, "it returned a float"),
        (lambda m, b: m(b[0]), r"a tensor of shape \(16, 4\) with a gradient"),
        (lambda m, b: m(b[0]).sum().detach(), r"a tensor of shape \(\) without a gradient"),
    ],
)
def test_what_is_no_loss_is_refused(loss: Any, message: str, model: nn.Module, batches: Any) -> None:
    trainer = RESUTrainer(model, config(), adamw(model), loss)
    with pytest.raises(ConfigError, match=message):
        trainer.train(batches)


def test_loaders_that_give_nothing_or_once_are_refused(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    trainer = RESUTrainer(model, config(), adamw(model), loss_of)
    with pytest.raises(ConfigError, match="this one gives none"):
        trainer.train([])
    with pytest.raises(ConfigError, match="a list_iterator gives them once"):
        trainer.train(iter(batches))


def test_other_settings_are_refused_and_other_intervals_are_not(model: nn.Module) -> None:
    optimizer = adamw(model)
    cycle = RESUCycle(Sparsifier(model, 0.5, optimizer=optimizer), config(), optimizer)
    cycle.check_settings(config(log_every=1, checkpoint_steps=3).model_dump(mode="json"))
    with pytest.raises(CheckpointError, match=r"seed was 5 and is 0\. Resume with the same settings"):
        cycle.check_settings(config(seed=5).model_dump(mode="json"))


def test_the_statement_on_a_parameter_is_what_the_phase_says(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    trainer = RESUTrainer(model, config(), adamw(model), loss_of)
    states: list[SparseParameter] = list(trainer.sparsifier.parameters.values())
    for cycle_phase, phase in ((CyclePhase.STABILIZE, Phase.TRAIN), (CyclePhase.RESU, Phase.RESU)):
        until(trainer, cycle_phase, batches)
        assert {state.phase for state in states} == {phase}
