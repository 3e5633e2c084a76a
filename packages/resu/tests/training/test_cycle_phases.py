"""Cycles: what happens when, how many weights are left, how a cycle ends early, and what is said of it."""

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resu.config import CycleConfig
from resu.core.mask import SparseMask
from resu.core.phases import Phase, SparseParameter
from resu.optim.masked import MaskedAdamW
from resu.sparsifier import Sparsifier
from resu.training.cycle import CyclePhase, RESUTrainer

Loss = Callable[[nn.Module, Any], Tensor]
Config = Callable[..., CycleConfig]
MakeAdamW = Callable[[nn.Module], MaskedAdamW]
Until = Callable[[RESUTrainer, CyclePhase, Any], None]
Weights = Callable[[RESUTrainer], dict[str, Tensor]]


# --- order and counts -------------------------------------------------------------------------------------------------


def test_a_published_cycle_has_its_phases_in_order(
    model: nn.Module, batches: Any, loss_of: Loss, adamw: MakeAdamW
) -> None:
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


def test_pruning_commit_and_hooks_see_their_phase(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
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
def test_sparsities_are_exactly_those_asked_for(
    name: str, model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW, weights: Weights
) -> None:
    trainer = RESUTrainer(model, config(name), adamw(model), loss_of)
    history = trainer.train(batches)
    numel = 12 * 24 + 24 * 4
    assert len(history) == 3
    for stats in history:
        assert stats.sparsity == pytest.approx(round(stats.target_sparsity * numel) / numel, abs=1e-12)
    zeros = sum(int((weight == 0).sum()) for weight in weights(trainer).values())
    assert zeros == round(history[-1].target_sparsity * numel)  # counted in the weights, not in the masks


def test_after_the_last_commit_active_weights_train_on(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW, weights: Weights
) -> None:
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


def test_where_nothing_is_pruned_weights_train_instead_of_theta(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW, weights: Weights
) -> None:
    trainer = RESUTrainer(model, config("paper"), adamw(model), loss_of)  # the first cycle is dense
    trainer.train(batches, max_steps=7)
    before = weights(trainer)
    trainer.train(batches, max_steps=5)
    assert all(bool((w != before[name]).all()) for name, w in weights(trainer).items())
    first = trainer.cycle.history[0]
    assert (first.sparsity, first.resurrected, first.churn, first.jaccard) == (0.0, 0, 0.0, 1.0)
    assert first.steps == {"train": 10, "stabilize": 2}


def test_several_calls_are_one_training(
    batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW, weights: Weights
) -> None:
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


def test_the_statement_on_a_parameter_is_what_the_phase_says(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW, until: Until
) -> None:
    trainer = RESUTrainer(model, config(), adamw(model), loss_of)
    states: list[SparseParameter] = list(trainer.sparsifier.parameters.values())
    for cycle_phase, phase in ((CyclePhase.STABILIZE, Phase.TRAIN), (CyclePhase.RESU, Phase.RESU)):
        until(trainer, cycle_phase, batches)
        assert {state.phase for state in states} == {phase}


# --- an early end -----------------------------------------------------------------------------------------------------


def test_an_end_in_the_middle_of_resu_is_a_commit(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW, until: Until
) -> None:
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


def test_a_closed_cycle_leaves_the_optimizer_alone(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW, until: Until
) -> None:
    optimizer = adamw(model)
    trainer = RESUTrainer(model, config("paper", prune_first=True, initial_sparsity=0.5), optimizer, loss_of)
    until(trainer, CyclePhase.RESU, batches)
    trainer.cycle.close()
    before = [p.detach().clone() for p in model.parameters()]
    trainer.train(batches, max_steps=1)
    assert not torch.equal(before[1], list(model.parameters())[1])  # biases were frozen by the hook


# --- what is said of a cycle ------------------------------------------------------------------------------------------


def test_the_counts_add_up(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW, until: Until
) -> None:
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


def test_losses_are_means_by_phase(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
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
    model: nn.Module, batches: Any, loss_of: Loss, caplog: pytest.LogCaptureFixture, config: Config, adamw: MakeAdamW
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


def test_an_evaluation_may_be_one_number(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
    trainer = RESUTrainer(model, config(num_cycles=1), adamw(model), loss_of, eval_fn=lambda net: 3.0)
    trainer.train(batches)
    assert trainer.evaluations == [(12, {"eval": 3.0})]
