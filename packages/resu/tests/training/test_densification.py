"""Densification: the sparsities that were asked for, and pauses where they were asked for."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from resu.config import CycleConfig
from resu.errors import ConfigError
from resu.optim.masked import MaskedAdamW
from resu.training.cycle import CyclePhase, RESUTrainer
from resu.training.densification import DensificationPlan, Pause, PauseReason

Loss = Callable[[nn.Module, Any], Tensor]
NUMEL = 12 * 24 + 24 * 4


def trained(plan: DensificationPlan, model: nn.Module, loss_of: Loss, **changes: Any) -> RESUTrainer:
    settings = CycleConfig.preset("densification", **({"steps_per_cycle": 10, "recovery_fraction": 0.0} | changes))
    optimizer = MaskedAdamW(model.parameters(), lr=1e-2)
    return RESUTrainer(model, settings, optimizer, loss_of, plan=plan)


@pytest.mark.parametrize(
    ("plan", "asked"),
    [
        (DensificationPlan.linear(0.7, 0.0, 5), (0.7, 0.525, 0.35, 0.175, 0.0)),
        (DensificationPlan.stepped(), (0.7, 0.5, 0.3, 0.1, 0.0)),
        (DensificationPlan.stepped((0.9, 0.9, 0.4)), (0.9, 0.9, 0.4)),
    ],
)
def test_measured_sparsities_are_exactly_those_asked_for(
    plan: DensificationPlan, asked: Sequence[float], model: nn.Module, batches: Any, loss_of: Loss
) -> None:
    trainer = trained(plan, model, loss_of)
    zeros: list[int] = []
    for cycle in range(len(asked)):
        plan.on_cycle(cycle, lambda net, _: zeros.append(sum(int((w == 0).sum()) for w in net[::2].parameters())))
    history = trainer.train(batches)
    expected = [round(s * NUMEL) for s in asked]
    assert [round(stats.sparsity * NUMEL, 9) for stats in history] == expected
    assert [stats.target_sparsity for stats in history] == pytest.approx(asked)
    assert zeros == expected  # counted in the weights themselves; biases are not 0


def test_the_preset_densifies_by_itself(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    """The published schedule, of which the original measured .0, .131, .175, .131 and .0."""
    settings = CycleConfig.preset("densification", steps_per_cycle=10)
    history = RESUTrainer(model, settings, MaskedAdamW(model.parameters(), lr=1e-2), loss_of).train(batches)
    expected = [round(s * NUMEL) / NUMEL for s in (0.7, 0.525, 0.35, 0.175, 0.0)]
    assert [stats.sparsity for stats in history] == pytest.approx(expected, abs=1e-12)
    assert [stats.budget for stats in history] == pytest.approx([0.30, 0.26, 0.22, 0.18, 0.14])


def test_what_came_back_was_trained(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    """θ starts at 0; what a denser mask takes in is no longer 0."""
    trainer = trained(DensificationPlan.stepped((0.6, 0.2)), model, loss_of, resu_fraction=0.6, train_fraction=0.4)
    history = trainer.train(batches)
    assert history[1].resurrected >= NUMEL * 0.4 - 1
    assert history[1].lost == 0
    for sparse in trainer.sparsifier.parameters.values():
        assert int((sparse.weight != 0).sum()) >= 0.98 * sparse.mask.n_active


def test_pauses_come_after_every_cycle_but_the_last(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    calls: list[tuple[nn.Module, int]] = []
    plan = DensificationPlan.linear(
        0.6, 0.0, 4, reason=PauseReason.EVAL, steps=50, callback=lambda net, cycle: calls.append((net, cycle)),
        metadata={"game": "go"},
    )  # fmt: skip
    assert [(pause.after_cycle, pause.reason, pause.steps) for pause in plan.pauses] == [
        (0, PauseReason.EVAL, 50), (1, PauseReason.EVAL, 50), (2, PauseReason.EVAL, 50),
    ]  # fmt: skip
    assert plan.pauses[0].metadata == {"game": "go"}
    trained(plan, model, loss_of).train(batches)
    assert calls == [(model, 0), (model, 1), (model, 2)]


@pytest.mark.parametrize(("every", "expected"), [(0, []), (1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2]), (5, [])])
def test_pauses_every_so_many_cycles(every: int, expected: list[int]) -> None:
    plan = DensificationPlan.linear(0.5, 0.1, 5, pause_every=every)
    assert [pause.after_cycle for pause in plan.pauses] == expected
    assert [cycle for cycle in range(5) if plan.pause_after(cycle) is not None] == expected


def test_a_training_may_stop_at_each_pause(model: nn.Module, batches: Any, loss_of: Loss) -> None:
    trainer = trained(DensificationPlan.stepped((0.6, 0.4, 0.2)), model, loss_of)
    stops = []
    while not trainer.cycle.done:
        history = trainer.train(batches, until_pause=True)
        stops.append((None if trainer.pause is None else trainer.pause.after_cycle, len(history), trainer.cycle.step))
    assert stops == [(0, 1, 10), (1, 2, 20), (None, 3, 30)]


def test_whoever_trains_in_a_pause_may_know_nothing_of_masks(model: nn.Sequential, batches: Any, loss_of: Loss) -> None:
    def reinforce(net: nn.Module, cycle: int) -> None:
        net.eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.01)

    trainer = trained(DensificationPlan.stepped((0.6, 0.4), callback=reinforce), model, loss_of)
    bias = model[0].bias.detach().clone()  # type: ignore[operator]
    trainer.train(batches, until_pause=True)
    assert trainer.cycle.phase is CyclePhase.TRAIN
    assert model.training
    assert not torch.equal(model[0].bias, bias)  # type: ignore[arg-type]
    for sparse in trainer.sparsifier.parameters.values():
        assert int((sparse.weight != 0).sum()) == sparse.mask.n_active


def test_further_callbacks_follow_in_the_order_of_registration() -> None:
    calls: list[str] = []
    plan = DensificationPlan((0.5, 0.3), [Pause(0, callback=lambda net, cycle: calls.append("pause"))])
    plan.on_cycle(0, lambda net, cycle: calls.append("first"))
    plan.on_cycle(0, lambda net, cycle: calls.append("second"))
    plan.on_cycle(1, lambda net, cycle: calls.append("last"))
    net = nn.Linear(1, 1)
    assert [plan.run_callbacks(net, cycle) for cycle in (0, 1)] == [3, 1]
    assert calls == ["pause", "first", "second", "last"]


@given(sparsities=st.lists(st.floats(0, 0.99), min_size=1, max_size=8))
def test_a_plan_changes_cycles_and_sparsities_only(sparsities: list[float]) -> None:
    falling = sorted(sparsities, reverse=True)
    config = CycleConfig.preset("densification")
    configured = DensificationPlan.stepped(falling).configure(config)
    assert configured.sparsities == tuple(falling)
    assert configured.num_cycles == len(falling)
    changed = {"sparsities", "num_cycles", "sparsity_schedule"}
    assert configured.model_dump(exclude=changed) == config.model_dump(exclude=changed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DensificationPlan((0.3, 0.5)), r"0\.5 comes after 0\.3"),
        (lambda: DensificationPlan(()), "it is empty"),
        (lambda: DensificationPlan((0.5, 0.3), [Pause(2)]), "cycles 0 to 1; cycle 2 is none"),
        (lambda: DensificationPlan((0.5, 0.3), [Pause(0), Pause(0)]), r"after cycles \[0, 0\]"),
        (lambda: DensificationPlan((0.5, 0.3), [Pause(0, steps=-1)]), "-1 was given"),
        (lambda: DensificationPlan((0.5, 0.3)).on_cycle(-1, print), "cycle -1 is none"),
        (lambda: DensificationPlan.linear(0.5, 0.1, 3, pause_every=-1), "pause_every is -1"),
        (lambda: DensificationPlan.linear(0.1, 0.5, 3), "densification never prunes"),
        (lambda: DensificationPlan.linear(1.0, 0.5, 3), "the start is 1.0"),
    ],
)
def test_bad_plans_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
