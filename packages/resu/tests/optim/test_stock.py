"""Attached stock optimizers: what is frozen keeps every bit, what is written moves as if it were alone."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import (
    ASGD,
    LBFGS,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
    SparseAdam,
    lr_scheduler,
)
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from resu.core.mask import SparseMask
from resu.core.phases import Phase, SparseParameter, sparsify
from resu.errors import OptimizerError
from resu.optim.masked import MaskedAdamW
from resu.optim.stock import Attachment, attach

CASES: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {}),
    (SGD, {"weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "dampening": 0.5, "maximize": True, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "foreach": True, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "fused": True, "weight_decay": 0.1}),
    (Adam, {}),
    (Adam, {"weight_decay": 0.1, "amsgrad": True}),
    (Adam, {"weight_decay": 0.1, "maximize": True, "foreach": True}),
    (Adam, {"weight_decay": 0.1, "fused": True}),
    (Adam, {"weight_decay": 0.1, "eps": 0.0}),
    (AdamW, {"weight_decay": 0.1}),
    (AdamW, {"weight_decay": 0.1, "amsgrad": True, "foreach": True}),
    (AdamW, {"weight_decay": 0.1, "fused": True, "maximize": True}),
    (RMSprop, {"weight_decay": 0.1}),
    (RMSprop, {"weight_decay": 0.1, "momentum": 0.9, "centered": True, "foreach": True}),
    (RMSprop, {"weight_decay": 0.1, "momentum": 0.5, "maximize": True}),
    (Adagrad, {"weight_decay": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.3}),
    (Adagrad, {"weight_decay": 0.1, "foreach": True, "maximize": True}),
    (Adagrad, {"weight_decay": 0.1, "fused": True}),
    (Adadelta, {"weight_decay": 0.1}),
    (Adadelta, {"weight_decay": 0.1, "foreach": True, "maximize": True}),
    (Adamax, {"weight_decay": 0.1}),
    (Adamax, {"weight_decay": 0.1, "foreach": True, "maximize": True}),
    (NAdam, {"weight_decay": 0.1}),
    (NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True, "foreach": True}),
    (RAdam, {"weight_decay": 0.1}),
    (RAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    (RAdam, {"weight_decay": 0.1, "foreach": True}),
    (Rprop, {}),
    (Rprop, {"foreach": True, "maximize": True}),
]
IDS = [" ".join([kind.__name__, *(f"{k}={v}" for k, v in options.items())]) for kind, options in CASES]
SEVERAL: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {"momentum": 0.9, "dampening": 0.5}),
    (Adam, {"amsgrad": True}),
    (AdamW, {}),
    (NAdam, {}),
    (Adagrad, {}),
    (RMSprop, {"momentum": 0.9}),
    (Rprop, {}),
]


class Weight(nn.Module):
    """One weight, as a model."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(value.clone())


def bits(x: Tensor) -> Tensor:
    """Every bit, so that −0 and NaN compare."""
    return x.detach().clone().view(torch.int32 if x.dtype == torch.float32 else torch.int64)


def begin(
    kind: type[Optimizer], options: dict[str, Any], value: Tensor, mask: SparseMask
) -> tuple[SparseParameter, Optimizer, Attachment]:
    model = Weight(value)
    sparse = sparsify(model.weight, mask)
    optimizer = kind(model.parameters(), **{"lr": 0.01, **options})
    return sparse, optimizer, attach(model, optimizer)


def alone(kind: type[Optimizer], options: dict[str, Any], values: Tensor) -> tuple[nn.Parameter, Optimizer]:
    parameter = nn.Parameter(values.clone())
    return parameter, kind([parameter], **{"lr": 0.01, **options})


def enter(sparse: SparseParameter, attachment: Attachment, phase: Phase) -> None:
    attachment.before_phase(sparse, phase)
    sparse.phase = phase


def step(sparse: SparseParameter, optimizer: Optimizer, gradient: Tensor) -> None:
    sparse.parameter.grad = gradient.clone()
    optimizer.step()


# --- frozen and written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), CASES, ids=IDS)
@settings(max_examples=6)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    sparsity=st.floats(0, 0.99),
    phase=st.sampled_from([Phase.TRAIN, Phase.RESU]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_frozen_keep_every_bit_and_written_move_as_if_alone(
    kind: type[Optimizer], options: dict[str, Any], shape: list[int], sparsity: float, phase: Phase,
    dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    value = torch.randn(shape, dtype=dtype)
    value[torch.rand(shape) < 0.2] = -0.0
    value[torch.rand(shape) < 0.1] = 1e-40  # a denormal number in float32
    mask = SparseMask.random(shape, sparsity, seed=seed)
    sparse, optimizer, attachment = begin(kind, options, value, mask)
    enter(sparse, attachment, phase)
    written = mask.to_bool() if phase is Phase.TRAIN else ~mask.to_bool()
    other, single = alone(kind, options, value[written])
    for _ in range(3):
        gradient = torch.randn(shape, dtype=dtype)
        step(sparse, optimizer, gradient)
        assert torch.equal(sparse.parameter.grad, gradient)
        other.grad = gradient[written]
        single.step()
    after = sparse.parameter.detach()
    assert torch.equal(bits(after)[~written], bits(value)[~written])
    tight = 1e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(after[written], other.detach(), rtol=tight, atol=tight)
    if written.any():
        assert not torch.equal(after[written], value[written])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.0, 1e-45])
def test_a_frozen_weight_may_hold_anything(bad: float) -> None:
    value = torch.tensor([[1.0, bad]])
    sparse, optimizer, _ = begin(AdamW, {"weight_decay": 0.5}, value, SparseMask(torch.tensor([[1, 0]])))
    step(sparse, optimizer, torch.ones(1, 2))
    assert bits(sparse.parameter)[0, 1] == bits(value)[0, 1]
    assert sparse.parameter[0, 0] < 1


@pytest.mark.parametrize(("kind", "options"), SEVERAL)
def test_phases_are_two_optimizers_one_for_each_set(kind: type[Optimizer], options: dict[str, Any]) -> None:
    """Active weights go on where they stopped; pruned ones begin anew with each phase."""
    torch.manual_seed(0)
    options = {"weight_decay": 0.1, **options} if kind is not Rprop else options
    value, mask = torch.randn(6, 5), SparseMask.random((6, 5), 0.5, seed=3)
    flags = mask.to_bool()
    sparse, optimizer, attachment = begin(kind, options, value, mask)
    active, active_optimizer = alone(kind, options, value[flags])
    pruned, pruned_optimizer = alone(kind, options, value[~flags])
    phases = [Phase.TRAIN, Phase.RESU, Phase.TRAIN, Phase.JOINT, Phase.RESU]
    for phase in phases:
        enter(sparse, attachment, phase)
        pruned, pruned_optimizer = alone(kind, options, pruned.detach())
        for _ in range(3):
            gradient = torch.randn(6, 5)
            step(sparse, optimizer, gradient)
            active.grad, pruned.grad = gradient[flags], gradient[~flags]
            if phase is not Phase.RESU:
                active_optimizer.step()
            if phase is not Phase.TRAIN:
                pruned_optimizer.step()
    torch.testing.assert_close(sparse.parameter.detach()[flags], active.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sparse.parameter.detach()[~flags], pruned.detach(), rtol=1e-6, atol=1e-6)


def test_resu_may_come_before_any_training() -> None:
    value, mask = torch.randn(4, 4), SparseMask.random((4, 4), 0.5)
    flags, options = mask.to_bool(), {"momentum": 0.9, "dampening": 0.7}
    sparse, optimizer, attachment = begin(SGD, options, value, mask)
    enter(sparse, attachment, Phase.RESU)
    step(sparse, optimizer, torch.randn(4, 4))
    enter(sparse, attachment, Phase.TRAIN)
    active, single = alone(SGD, options, value[flags])
    for _ in range(2):
        gradient = torch.randn(4, 4)
        step(sparse, optimizer, gradient)
        active.grad = gradient[flags]
        single.step()
    torch.testing.assert_close(sparse.parameter.detach()[flags], active.detach())


@pytest.mark.parametrize("phase", [Phase.RESU, Phase.JOINT])
def test_the_learning_rate_of_pruned_weights_is_scaled(phase: Phase) -> None:
    value, mask = torch.zeros(1, 4), SparseMask(torch.tensor([[1, 1, 0, 0]]))
    sparse, optimizer, attachment = begin(SGD, {"lr": 1.0}, value, mask)
    enter(sparse, attachment, phase)
    sparse.pruned_lr_scale = 0.25
    step(sparse, optimizer, torch.ones(1, 4))
    first = -1.0 if phase is Phase.JOINT else 0.0
    assert sparse.parameter.tolist() == [[first, first, -0.25, -0.25]]
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_a_subset_is_all_that_resu_writes() -> None:
    mask = SparseMask(torch.tensor([[1, 0, 0, 0]]))
    sparse, optimizer, attachment = begin(AdamW, {}, torch.ones(1, 4), mask)
    enter(sparse, attachment, Phase.RESU)
    sparse.subset = SparseMask(torch.tensor([[0, 0, 1, 0]]))
    step(sparse, optimizer, torch.ones(1, 4))
    assert (sparse.parameter.detach() != 1).tolist() == [[False, False, True, False]]


@pytest.mark.parametrize(("kind", "options"), [(SGD, {"momentum": 0.9, "dampening": 0.5}), (AdamW, {})])
def test_many_slices_of_rows_and_gradients_of_any_layout(kind: type[Optimizer], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    value, mask = torch.randn(600, 450), SparseMask.random((600, 450), 0.8)
    assert len(list(mask.chunks())) > 100
    flags = mask.to_bool()
    sparse, optimizer, _ = begin(kind, options, value, mask)
    other, single = alone(kind, options, value[flags])
    for _ in range(2):
        gradient = torch.randn(450, 600).t()
        sparse.parameter.grad = gradient
        optimizer.step()
        other.grad = gradient[flags]
        single.step()
    torch.testing.assert_close(sparse.parameter.detach()[flags], other.detach(), rtol=1e-6, atol=1e-7)
    assert torch.equal(sparse.parameter.detach()[~flags], value[~flags])


def test_parameters_without_a_mask_are_stepped_as_ever() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    twin = copy.deepcopy(model)
    sparsify(model[0].weight, SparseMask.random((3, 4), 0.5))
    optimizers = [AdamW(m.parameters(), lr=0.1, weight_decay=0.3) for m in (model, twin)]
    attach(model, optimizers[0])
    x = torch.randn(5, 4)
    for net, optimizer in zip((model, twin), optimizers, strict=True):
        net(x).square().sum().backward()
        optimizer.step()
    assert torch.equal(model[1].weight, twin[1].weight)
    assert torch.equal(model[0].bias, twin[0].bias)
    assert not torch.equal(model[0].weight, twin[0].weight)


def test_after_detaching_all_move() -> None:
    sparse, optimizer, attachment = begin(SGD, {}, torch.ones(1, 2), SparseMask(torch.tensor([[1, 0]])))
    attachment.detach()
    step(sparse, optimizer, torch.ones(1, 2))
    assert bool((sparse.parameter < 1).all())


class _Largest(TorchDispatchMode):
    """The largest storage that an operation made."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known, self.bytes = {x.untyped_storage().data_ptr() for x in known}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in self.known:
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("phase", Phase)
def test_a_step_makes_nothing_as_large_as_a_hundredth_of_the_weight(phase: Phase) -> None:
    value, mask = torch.randn(640, 512), SparseMask.random((640, 512), 0.5)
    sparse, optimizer, attachment = begin(AdamW, {"weight_decay": 0.1}, value, mask)
    enter(sparse, attachment, phase)
    step(sparse, optimizer, torch.ones_like(value))
    gradient = torch.randn_like(value)
    sparse.parameter.grad = gradient
    state = [x for x in optimizer.state[sparse.parameter].values() if isinstance(x, Tensor)]
    with _Largest([sparse.parameter, gradient, mask.bits, *state]) as largest:
        optimizer.step()
        attachment.before_phase(sparse, Phase.TRAIN)
    assert 0 < largest.bytes <= value.numel() * 4 / 100


# --- schedulers, scalers, closures, trouble ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_schedules_of_rate_and_decay_go_on(kind: type[Optimizer]) -> None:
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
def test_a_grad_scaler(fused: bool, phase: Phase) -> None:
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
def test_a_closure_is_evaluated_once_before_its_gradients_are_used(positional: bool) -> None:
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


@pytest.mark.parametrize(("kind", "options"), SEVERAL)
def test_a_saved_optimizer_goes_on_bit_for_bit_in_the_middle_of_resu(
    kind: type[Optimizer], options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    mask = SparseMask.random((4, 5), 0.5)
    sparse, optimizer, attachment = begin(kind, options, torch.randn(4, 5), mask)
    gradients = [torch.randn(4, 5) for _ in range(6)]
    step(sparse, optimizer, gradients[0])
    enter(sparse, attachment, Phase.RESU)
    step(sparse, optimizer, gradients[1])
    again, resumed, second = begin(kind, options, sparse.parameter.detach(), mask.clone())
    again.phase = Phase.RESU
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, o, a in ((sparse, optimizer, attachment), (again, resumed, second)):
        step(one, o, gradients[2])
        step(one, o, gradients[3])
        enter(one, a, Phase.TRAIN)
        step(one, o, gradients[4])
    assert torch.equal(bits(sparse.parameter), bits(again.parameter))


def test_a_state_from_a_dense_run_is_taken_over() -> None:
    torch.manual_seed(0)
    value, mask = torch.randn(3, 3), SparseMask.random((3, 3), 0.5)
    flags = mask.to_bool()
    model = Weight(value)
    optimizer = Adam(model.parameters(), lr=0.1)
    other, single = alone(Adam, {"lr": 0.1}, value)
    attachment = attach(model, optimizer)
    for k in range(4):
        gradient = torch.randn(3, 3)
        if k == 2:
            attachment.before_phase(sparsify(model.weight, mask), Phase.TRAIN)
        model.weight.grad, other.grad = gradient.clone(), gradient
        optimizer.step()
        single.step()
    torch.testing.assert_close(model.weight.detach()[flags], other.detach()[flags])
    assert not torch.equal(model.weight.detach()[~flags], other.detach()[~flags])


# --- commits and statistics -------------------------------------------------------------------------------------------


def commit(sparse: SparseParameter, attachment: Attachment, new: SparseMask) -> None:
    for part in new.chunks():
        attachment.commit_rows(sparse, part, sparse.mask.row_bool(part), new.row_bool(part))
    sparse.mask.update_inplace(new)
    attachment.after_commit(sparse)


def test_what_comes_back_takes_its_moments_along() -> None:
    mask, new = SparseMask(torch.tensor([[1, 1, 0, 0]])), SparseMask(torch.tensor([[1, 0, 1, 0]]))
    sparse, optimizer, attachment = begin(Adam, {"betas": (0.9, 0.99)}, torch.ones(1, 4), mask)
    gradient = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    for _ in range(4):
        step(sparse, optimizer, gradient)
    enter(sparse, attachment, Phase.RESU)
    step(sparse, optimizer, gradient)
    commit(sparse, attachment, new)
    mean, square = attachment.moments(sparse.parameter) or (None, None)
    assert mean is not None
    assert square is not None
    # With the gradient constant, m = g (1 − β^t) whoever has taken t steps; what was carried has the active set's t.
    mean_t, square_t = 1 - 0.9**4, 1 - 0.99**4
    torch.testing.assert_close(mean, torch.tensor([[1.0, 0.0, 3.0, 0.0]]) * mean_t)
    torch.testing.assert_close(square, torch.tensor([[1.0, 0.0, 9.0, 0.0]]) * square_t)
    rows = attachment.moments_rows(sparse.parameter, slice(0, 1))
    assert rows is not None
    assert torch.equal(rows[0], mean)


def test_what_is_grown_without_steps_of_its_own_begins_fresh() -> None:
    mask, new = SparseMask(torch.tensor([[1, 1, 0]])), SparseMask(torch.tensor([[1, 0, 1]]))
    sparse, optimizer, attachment = begin(Rprop, {"lr": 0.5}, torch.ones(1, 3), mask)
    for sign in (1.0, 1.0, 1.0):
        step(sparse, optimizer, torch.full((1, 3), sign))
    commit(sparse, attachment, new)
    state = optimizer.state[sparse.parameter]
    torch.testing.assert_close(state["step_size"], torch.tensor([[0.72, 0.5, 0.5]]))
    assert state["prev"].tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize(("kind", "options"), [(Adam, {}), (AdamW, {}), (SGD, {"momentum": 0.9}), (NAdam, {})])
def test_shadow_gathers_statistics_in_free_moments(kind: type[Optimizer], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    value, mask = torch.randn(3, 4), SparseMask.random((3, 4), 0.5)
    flags = mask.to_bool()
    sparse, optimizer, attachment = begin(kind, options, value * mask.mask, mask)
    other, single = alone(kind, options, value[flags])
    enter(sparse, attachment, Phase.SHADOW)
    sparse.beta = 0.75
    mean, size = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    for _ in range(3):
        gradient = torch.randn(3, 4)
        step(sparse, optimizer, gradient)
        other.grad = gradient[flags]
        single.step()
        mean, size = 0.75 * mean + 0.25 * gradient.double(), 0.75 * size + 0.25 * gradient.double().abs()
    m, v = attachment.moments(sparse.parameter) or (None, None)
    assert m is not None
    torch.testing.assert_close(m[~flags].double(), mean[~flags], rtol=1e-6, atol=1e-7)
    assert (v is None) == (kind is SGD)
    torch.testing.assert_close(sparse.parameter.detach()[flags], other.detach(), rtol=1e-6, atol=1e-6)
    assert bool((sparse.parameter.detach()[~flags] == 0).all())
    if v is not None:
        torch.testing.assert_close(v[~flags].double(), size[~flags], rtol=1e-6, atol=1e-7)
        commit(sparse, attachment, ~mask)
        assert bool((m[~flags] == 0).all())
        unbiased = (size[~flags] / (1 - 0.75**3)).square()
        torch.testing.assert_close(v[~flags].double(), unbiased, rtol=1e-5, atol=1e-7)
        assert bool((v[flags] == 0).all())


def test_moments_are_none_before_the_first_step_and_where_there_are_none() -> None:
    sparse, optimizer, attachment = begin(Adam, {}, torch.ones(1, 2), SparseMask(torch.tensor([[1, 0]])))
    assert attachment.moments(sparse.parameter) is None
    assert attachment.moments_rows(torch.ones(1), slice(0, 1)) is None
    sparse, optimizer, attachment = begin(RMSprop, {}, torch.ones(1, 2), SparseMask(torch.tensor([[1, 0]])))
    step(sparse, optimizer, torch.ones(1, 2))
    assert attachment.moments(sparse.parameter) is None


@pytest.mark.parametrize(("kind", "options"), [(SGD, {}), (RMSprop, {}), (Adagrad, {}), (Rprop, {})])
def test_shadow_needs_a_mean_of_the_gradient(kind: type[Optimizer], options: dict[str, Any]) -> None:
    sparse, _, attachment = begin(kind, options, torch.ones(1, 2), SparseMask(torch.tensor([[1, 0]])))
    with pytest.raises(OptimizerError, match=f"SHADOW gathers .* {kind.__name__} keeps no mean.*MaskedAdamW"):
        attachment.before_phase(sparse, Phase.SHADOW)


# --- what is refused --------------------------------------------------------------------------------------------------


class Custom(SGD):
    """A class made from a stock one may do anything."""


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        (Adafactor, {}, "one second moment a row and a column"),
        (LBFGS, {}, "inner products over all weights"),
        (ASGD, {}, "decays and averages every weight at every step"),
        (SparseAdam, {}, "takes sparse gradients only"),
        (Custom, {"lr": 0.1}, "whether Custom treats every coordinate by itself is not known"),
    ],
)
def test_other_optimizers_are_refused(kind: type[Optimizer], options: dict[str, Any], reason: str) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(OptimizerError, match=f"SGD, Adam, .*{reason}.*resu.optim.masked.MaskedAdamW"):
        attach(model, kind(model.parameters(), **options))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_is_refused() -> None:
    model = nn.Linear(2, 2, bias=False)
    with pytest.raises(OptimizerError, match="Muon orthogonalises the update of a whole matrix"):
        attach(model, torch.optim.Muon(model.parameters()))


def test_a_masked_optimizer_needs_no_attaching() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(OptimizerError, match="MaskedAdamW freezes coordinates by itself"):
        attach(model, MaskedAdamW(model.parameters()))


def test_an_optimizer_must_hold_what_has_a_mask() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = SGD(model.parameters(), lr=0.1)
    attachment = attach(model, optimizer)
    model[1] = nn.Linear(2, 2)
    sparse = sparsify(model[1].weight, SparseMask.ones((2, 2)), "1.weight")
    with pytest.raises(OptimizerError, match=r"does not hold 1\.weight\. Build the optimizer from the model's present"):
        attach(model, optimizer)
    with pytest.raises(OptimizerError, match=r"does not hold 1\.weight"):
        attachment.before_phase(sparse, Phase.RESU)


def test_a_differentiable_step_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(OptimizerError, match="differentiable=True"):
        attach(model, SGD(model.parameters(), lr=0.1, differentiable=True))


def test_a_sparse_gradient_is_refused_before_anything_is_written() -> None:
    model = nn.Sequential(nn.Embedding(4, 2, sparse=True), nn.Linear(2, 2))
    sparsify(model[0].weight, SparseMask.random((4, 2), 0.5), "0.weight")
    optimizer = SGD(model.parameters(), lr=0.1)
    attach(model, optimizer)
    before = copy.deepcopy(model.state_dict())
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(OptimizerError, match=r"0\.weight is torch\.sparse_coo\. Build the embedding with sparse=False"):
        optimizer.step()
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
