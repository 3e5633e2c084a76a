"""Attached stock optimizers over phases: what goes on, begins anew, is saved or carried along, what SHADOW gathers."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop, Rprop

from resu.core.mask import SparseMask
from resu.core.phases import Phase, SparseParameter, sparsify
from resu.errors import OptimizerError
from resu.optim.stock import Attachment, attach

Begin = Callable[..., tuple[SparseParameter, Optimizer, Attachment]]
Alone = Callable[..., tuple[nn.Parameter, Optimizer]]
Enter = Callable[[SparseParameter, Attachment, Phase], None]
Step = Callable[[SparseParameter, Optimizer, Tensor], None]
Bits = Callable[[Tensor], Tensor]

SEVERAL: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {"momentum": 0.9, "dampening": 0.5}),
    (Adam, {"amsgrad": True}),
    (AdamW, {}),
    (NAdam, {}),
    (Adagrad, {}),
    (RMSprop, {"momentum": 0.9}),
    (Rprop, {}),
]


# --- what goes on, and what begins anew -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), SEVERAL)
def test_phases_are_two_optimizers_one_for_each_set(
    kind: type[Optimizer], options: dict[str, Any], begin: Begin, alone: Alone, enter: Enter, step: Step
) -> None:
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


def test_resu_may_come_before_any_training(begin: Begin, alone: Alone, enter: Enter, step: Step) -> None:
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


@pytest.mark.parametrize(("kind", "options"), SEVERAL)
def test_a_saved_optimizer_goes_on_bit_for_bit_in_the_middle_of_resu(
    kind: type[Optimizer], options: dict[str, Any], begin: Begin, enter: Enter, step: Step, bits: Bits
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


def test_a_state_from_a_dense_run_is_taken_over(model_of: Callable[[Tensor], Any], alone: Alone) -> None:
    torch.manual_seed(0)
    value, mask = torch.randn(3, 3), SparseMask.random((3, 3), 0.5)
    flags = mask.to_bool()
    model = model_of(value)
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


def test_what_comes_back_takes_its_moments_along(begin: Begin, enter: Enter, step: Step) -> None:
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


def test_what_is_grown_without_steps_of_its_own_begins_fresh(begin: Begin, step: Step) -> None:
    mask, new = SparseMask(torch.tensor([[1, 1, 0]])), SparseMask(torch.tensor([[1, 0, 1]]))
    sparse, optimizer, attachment = begin(Rprop, {"lr": 0.5}, torch.ones(1, 3), mask)
    for sign in (1.0, 1.0, 1.0):
        step(sparse, optimizer, torch.full((1, 3), sign))
    commit(sparse, attachment, new)
    state = optimizer.state[sparse.parameter]
    torch.testing.assert_close(state["step_size"], torch.tensor([[0.72, 0.5, 0.5]]))
    assert state["prev"].tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize(("kind", "options"), [(Adam, {}), (AdamW, {}), (SGD, {"momentum": 0.9}), (NAdam, {})])
def test_shadow_gathers_statistics_in_free_moments(
    kind: type[Optimizer], options: dict[str, Any], begin: Begin, alone: Alone, enter: Enter, step: Step
) -> None:
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


def test_moments_are_none_before_the_first_step_and_where_there_are_none(begin: Begin, step: Step) -> None:
    sparse, optimizer, attachment = begin(Adam, {}, torch.ones(1, 2), SparseMask(torch.tensor([[1, 0]])))
    assert attachment.moments(sparse.parameter) is None
    assert attachment.moments_rows(torch.ones(1), slice(0, 1)) is None
    sparse, optimizer, attachment = begin(RMSprop, {}, torch.ones(1, 2), SparseMask(torch.tensor([[1, 0]])))
    step(sparse, optimizer, torch.ones(1, 2))
    assert attachment.moments(sparse.parameter) is None


@pytest.mark.parametrize(("kind", "options"), [(SGD, {}), (RMSprop, {}), (Adagrad, {}), (Rprop, {})])
def test_shadow_needs_a_mean_of_the_gradient(kind: type[Optimizer], options: dict[str, Any], begin: Begin) -> None:
    sparse, _, attachment = begin(kind, options, torch.ones(1, 2), SparseMask(torch.tensor([[1, 0]])))
    with pytest.raises(OptimizerError, match=f"SHADOW gathers .* {kind.__name__} keeps no mean.*MaskedAdamW"):
        attachment.before_phase(sparse, Phase.SHADOW)
