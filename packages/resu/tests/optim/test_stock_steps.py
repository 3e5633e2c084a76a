"""Attached stock optimizers in a loop: schedulers, scalers, closures, gradients that are not finite, interruptions."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resu.core.mask import SparseMask
from resu.core.phases import Phase, SparseParameter, sparsify
from resu.optim.stock import Attachment, attach

Begin = Callable[..., tuple[SparseParameter, Optimizer, Attachment]]
Alone = Callable[..., tuple[nn.Parameter, Optimizer]]
Enter = Callable[[SparseParameter, Attachment, Phase], None]
Step = Callable[[SparseParameter, Optimizer, Tensor], None]
Bits = Callable[[Tensor], Tensor]


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_schedules_of_rate_and_decay_go_on(kind: type[Optimizer], begin: Begin, alone: Alone, step: Step) -> None:
    torch.manual_seed(0)
    value, mask = torch.randn(4, 4), SparseMask.random((4, 4), 0.5)
    flags, options = mask.to_bool(), {"lr": 0.5, "weight_decay": 0.2}
    sparse, optimizer, _ = begin(kind, options, value, mask)
    other, single = alone(kind, options, value[flags])
    schedules = [lr_scheduler.CosineAnnealingLR(o, T_max=6) for o in (optimizer, single)]
    seen = []
    handle = register_optimizer_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["weight_decay"]))
    for k in range(4):
        gradient = torch.randn(4, 4)
        for o in (optimizer, single):
            o.param_groups[0]["weight_decay"] = 0.2 / (k + 1)
        step(sparse, optimizer, gradient)
        other.grad = gradient[flags]
        single.step()
        for schedule in schedules:
            schedule.step()
    handle.remove()
    assert seen == [0.2 / (k + 1) for k in range(4) for _ in range(2)], "nothing but the two optimizers has stepped"
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25 * (1 + math.cos(math.pi * 4 / 6)))
    torch.testing.assert_close(sparse.parameter.detach()[flags], other.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.JOINT])
def test_a_grad_scaler(fused: bool, phase: Phase, begin: Begin, alone: Alone, enter: Enter, bits: Bits) -> None:
    """The scaler unscales before a plain step, and leaves that to a fused one; what overflowed is skipped."""
    torch.manual_seed(0)
    value, mask = torch.randn(4, 4), SparseMask.random((4, 4), 0.5)
    written = mask.to_bool() | (phase is Phase.JOINT)
    options = {"weight_decay": 0.2, "fused": fused}
    sparse, optimizer, attachment = begin(Adam, options, value, mask)
    enter(sparse, attachment, phase)
    other, single = alone(Adam, options, value[written])
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=100)
    for factor in (1.0, float("inf"), 2.0):
        gradient = torch.randn(4, 4)
        scaler.scale((sparse.parameter * gradient * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if math.isfinite(factor):
            other.grad = gradient[written] * factor
            single.step()
    assert scaler.get_scale() == 128.0
    assert attachment.skipped_steps == int(fused), "a plain step is not even called by the scaler"
    torch.testing.assert_close(sparse.parameter.detach()[written], other.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(bits(sparse.parameter)[~written], bits(value)[~written])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_a_gradient_that_is_not_finite_skips_the_whole_step(bad: float, where: str) -> None:
    model = nn.Linear(3, 2)
    sparsify(model.weight, SparseMask.random((2, 3), 0.5))
    optimizer = AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    attachment = attach(model, optimizer)
    before = copy.deepcopy(model.state_dict())
    model(torch.ones(1, 3)).sum().backward()
    getattr(model, where).grad.view(-1)[-1] = bad
    gradient = model.weight.grad
    optimizer.step()
    assert attachment.skipped_steps == 1
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert not any(optimizer.state.values()), "no state, not even a step count"
    assert model.weight.grad is gradient
    optimizer.zero_grad()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert attachment.skipped_steps == 1
    assert not torch.equal(model.bias, before["bias"])


@pytest.mark.parametrize("positional", [True, False])
def test_a_closure_is_evaluated_once_before_its_gradients_are_used(positional: bool, begin: Begin) -> None:
    sparse, optimizer, _ = begin(SGD, {"lr": 1.0}, torch.ones(1, 2), SparseMask(torch.tensor([[1, 0]])))
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = sparse.parameter.sum()
        loss.backward()
        return loss.detach()

    loss = optimizer.step(closure) if positional else optimizer.step(closure=closure)
    assert float(loss) == 2.0
    assert len(calls) == 1
    assert sparse.parameter.tolist() == [[0.0, 1.0]]


def test_an_interrupted_step_leaves_masked_weights_and_groups_alone() -> None:
    model = nn.Linear(2, 2)
    sparsify(model.weight, SparseMask.random((2, 2), 0.5))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.3)
    attach(model, optimizer)
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.param_groups[0]["lr"] = "fast"
    with pytest.raises(TypeError):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.1
    assert torch.equal(model.weight, before)
    assert optimizer.param_groups[0]["weight_decay"] == 0.3
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)
