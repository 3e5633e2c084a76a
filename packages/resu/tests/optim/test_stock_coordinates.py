"""Attached stock optimizers in a step: what is frozen keeps every bit, what is written moves as if it were alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop, Rprop
from torch.utils._python_dispatch import TorchDispatchMode

from resu.core.mask import SparseMask
from resu.core.phases import Phase, SparseParameter, sparsify
from resu.optim.stock import Attachment, attach

Begin = Callable[..., tuple[SparseParameter, Optimizer, Attachment]]
Alone = Callable[..., tuple[nn.Parameter, Optimizer]]
Enter = Callable[[SparseParameter, Attachment, Phase], None]
Step = Callable[[SparseParameter, Optimizer, Tensor], None]
Bits = Callable[[Tensor], Tensor]

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
    dtype: torch.dtype, seed: int, begin: Begin, alone: Alone, enter: Enter, step: Step, bits: Bits,
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
def test_a_frozen_weight_may_hold_anything(bad: float, begin: Begin, step: Step, bits: Bits) -> None:
    value = torch.tensor([[1.0, bad]])
    sparse, optimizer, _ = begin(AdamW, {"weight_decay": 0.5}, value, SparseMask(torch.tensor([[1, 0]])))
    step(sparse, optimizer, torch.ones(1, 2))
    assert bits(sparse.parameter)[0, 1] == bits(value)[0, 1]
    assert sparse.parameter[0, 0] < 1


@pytest.mark.parametrize("phase", [Phase.RESU, Phase.JOINT])
def test_the_learning_rate_of_pruned_weights_is_scaled(phase: Phase, begin: Begin, enter: Enter, step: Step) -> None:
    value, mask = torch.zeros(1, 4), SparseMask(torch.tensor([[1, 1, 0, 0]]))
    sparse, optimizer, attachment = begin(SGD, {"lr": 1.0}, value, mask)
    enter(sparse, attachment, phase)
    sparse.pruned_lr_scale = 0.25
    step(sparse, optimizer, torch.ones(1, 4))
    first = -1.0 if phase is Phase.JOINT else 0.0
    assert sparse.parameter.tolist() == [[first, first, -0.25, -0.25]]
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_a_subset_is_all_that_resu_writes(begin: Begin, enter: Enter, step: Step) -> None:
    mask = SparseMask(torch.tensor([[1, 0, 0, 0]]))
    sparse, optimizer, attachment = begin(AdamW, {}, torch.ones(1, 4), mask)
    enter(sparse, attachment, Phase.RESU)
    sparse.subset = SparseMask(torch.tensor([[0, 0, 1, 0]]))
    step(sparse, optimizer, torch.ones(1, 4))
    assert (sparse.parameter.detach() != 1).tolist() == [[False, False, True, False]]


@pytest.mark.parametrize(("kind", "options"), [(SGD, {"momentum": 0.9, "dampening": 0.5}), (AdamW, {})])
def test_many_slices_of_rows_and_gradients_of_any_layout(
    kind: type[Optimizer], options: dict[str, Any], begin: Begin, alone: Alone
) -> None:
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


def test_after_detaching_all_move(begin: Begin, step: Step) -> None:
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
def test_a_step_makes_nothing_as_large_as_a_hundredth_of_the_weight(
    phase: Phase, begin: Begin, enter: Enter, step: Step
) -> None:
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
