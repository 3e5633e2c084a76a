"""Masked AdamW and SGD against the formula in float64, set by set, over every layout and back end that runs here."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from resu.core.mask import SparseMask
from resu.core.phases import Phase, SparseParameter, release, sparse_state, sparsify
from resu.core.signs import SignBitMask
from resu.errors import OptimizerError
from resu.kernels.backend import has_compiler
from resu.optim.masked import MaskedAdamW, MaskedSGD

LR, B1, B2, EPS, WD = 0.01, 0.9, 0.99, 1e-8, 0.1
LAYOUTS = ["dense", "signbit", "compact"]


def weight_of(shape: tuple[int, ...], seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def gradients(shape: tuple[int, ...], steps: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def run(optimizer: torch.optim.Optimizer, weight: nn.Parameter, grads: list[torch.Tensor]) -> None:
    for grad in grads:
        weight.grad = grad.clone()
        optimizer.step()


class AdamInFloat64:
    """AdamW of single coordinates, with a step count for each of the two sets."""

    def __init__(self, w: torch.Tensor) -> None:
        self.w = w.detach().double().numpy().copy()
        self.m, self.v = np.zeros_like(self.w), np.zeros_like(self.w)
        self.t = np.zeros(self.w.shape, int)

    def step(self, grad: torch.Tensor, written: np.ndarray, lr: float = LR) -> None:
        g, s = grad.double().numpy(), written
        self.t[s] += 1
        self.w[s] *= 1 - lr * WD
        self.m[s] = B1 * self.m[s] + (1 - B1) * g[s]
        self.v[s] = B2 * self.v[s] + (1 - B2) * g[s] ** 2
        m_hat, v_hat = self.m[s] / (1 - B1 ** self.t[s]), self.v[s] / (1 - B2 ** self.t[s])
        self.w[s] -= lr * m_hat / (np.sqrt(v_hat) + EPS)


def adamw(weight: nn.Parameter, layout: str, backend: str = "eager") -> MaskedAdamW:
    return MaskedAdamW([weight], LR, (B1, B2), EPS, WD, layout=layout, backend=backend)


COMPILED = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")


def assert_frozen(before: torch.Tensor, after: torch.Tensor, frozen: torch.Tensor) -> None:
    assert torch.equal(before[frozen].view(torch.int32), after.detach()[frozen].view(torch.int32))


@pytest.mark.parametrize("layout", LAYOUTS)
@given(
    shape=st.sampled_from([(5,), (3, 31), (4, 64), (7, 33), (2, 3, 3, 3)]),
    sparsity=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 99),
)
def test_each_phase_moves_its_set_by_the_formula_and_nothing_else(
    layout: str, shape: tuple[int, ...], sparsity: float, seed: int
) -> None:
    weight = weight_of(shape, seed)
    mask = SparseMask.random(shape, sparsity, seed=seed)
    sparse = sparsify(weight, mask.clone())
    optimizer = adamw(weight, layout)
    expected = AdamInFloat64(weight)
    active = mask.to_bool().numpy()
    for phase, written in ((Phase.TRAIN, active), (Phase.RESU, ~active), (Phase.JOINT, np.ones_like(active))):
        if layout == "compact" and phase is not Phase.TRAIN:  # its moments begin anew with each phase
            expected.m[:], expected.v[:], expected.t[:] = 0, 0, 0
        expected.m[~active], expected.v[~active], expected.t[~active] = 0, 0, 0
        optimizer.before_phase(sparse, phase)
        sparse.phase = phase
        before = weight.detach().clone()
        for grad in gradients(shape, 3, seed + 7):
            weight.grad = grad.clone()
            optimizer.step()
            expected.step(grad, written)
        np.testing.assert_allclose(weight.detach().numpy(), expected.w, rtol=2e-6, atol=1e-7)
        assert_frozen(before, weight, torch.from_numpy(~written))
    assert (isinstance(sparse.mask, SignBitMask)) == (layout == "signbit")
    assert sparse.mask == mask


@pytest.mark.parametrize("layout", ["dense", "signbit"])
@pytest.mark.parametrize("backend", ["eager", pytest.param("compile", marks=COMPILED)])
@pytest.mark.parametrize("shape", [(8, 64), (5, 45)])
def test_back_ends_agree_in_all_phases(layout: str, backend: str, shape: tuple[int, int]) -> None:
    def trained(kind: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        weight = weight_of(shape)
        sparse = sparsify(weight, SparseMask.random(shape, 0.6))
        optimizer = adamw(weight, layout, kind)
        for index, phase in enumerate([Phase.TRAIN, Phase.SHADOW, Phase.RESU, Phase.JOINT, Phase.TRAIN]):
            optimizer.before_phase(sparse, phase)
            sparse.phase, sparse.beta, sparse.pruned_lr_scale = phase, 0.5, 0.3
            run(optimizer, weight, gradients(shape, 3, index))
        return weight.detach(), list(optimizer.moments_rows(weight, slice(None)) or [])

    a, moments_a = trained("eager")
    b, moments_b = trained(backend)
    torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-7)
    for x, y in zip(moments_b, moments_a, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)  # they pass through 0


@COMPILED
def test_a_change_of_phase_compiles_nothing() -> None:
    from torch._dynamo.utils import counters

    weight = weight_of((8, 64))
    sparse = sparsify(weight, SparseMask.random((8, 64), 0.5))
    optimizer = adamw(weight, "dense", "compile")
    run(optimizer, weight, gradients((8, 64), 2))
    before = counters["stats"]["unique_graphs"]
    for phase in (Phase.RESU, Phase.SHADOW, Phase.JOINT, Phase.TRAIN):
        optimizer.before_phase(sparse, phase)
        sparse.phase = phase
        optimizer.param_groups[0]["lr"] *= 0.5
        old = weight.detach().clone()
        run(optimizer, weight, gradients((8, 64), 2))
        assert not torch.equal(weight.detach(), old)
    assert before > 0
    assert counters["stats"]["unique_graphs"] == before


@pytest.mark.parametrize("layout", ["dense", "signbit"])
def test_shadow_gathers_means_where_nothing_is_written(layout: str) -> None:
    shape, beta = (4, 40), 0.7
    weight = weight_of(shape)
    sparse = sparsify(weight, SparseMask.random(shape, 0.5))
    pruned = ~sparse.mask.to_bool()
    sparse.mask.apply_(weight.detach())
    optimizer = adamw(weight, layout)
    sparse.phase, sparse.beta = Phase.SHADOW, beta
    grads = gradients(shape, 5)
    run(optimizer, weight, grads)
    mean, size = np.zeros(shape), np.zeros(shape)
    for grad in grads:
        g = grad.double().numpy()
        mean, size = beta * mean + (1 - beta) * g, beta * size + (1 - beta) * np.abs(g)
    m, v = optimizer.moments_rows(weight, slice(None)) or (None, None)
    assert m is not None
    assert v is not None
    np.testing.assert_allclose(m[pruned], mean[pruned.numpy()], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(v[pruned], size[pruned.numpy()], rtol=1e-5, atol=1e-7)
    assert torch.equal(weight.detach()[pruned], torch.zeros(int(pruned.sum())))


def test_a_subset_is_all_that_trains() -> None:
    for layout in LAYOUTS:
        weight = weight_of((6, 50))
        sparse = sparsify(weight, SparseMask.random((6, 50), 0.8))
        sparse.subset = (~sparse.mask) & SparseMask.random((6, 50), 0.7, seed=3)
        sparse.phase = Phase.RESU
        before = weight.detach().clone()
        run(adamw(weight, layout), weight, gradients((6, 50), 4))
        chosen = sparse.subset.to_bool()
        assert_frozen(before, weight, ~chosen)
        assert bool((weight.detach()[chosen] != before[chosen]).all())


def test_gradients_are_read_by_their_own_order() -> None:
    """A transposed gradient has the storage order of another matrix."""
    transposed, plain = weight_of((6, 40)), weight_of((6, 40))
    grad = torch.randn(40, 6).T
    for weight, given_grad in ((transposed, grad), (plain, grad.contiguous())):
        sparsify(weight, SparseMask.random((6, 40), 0.5))
        weight.grad = given_grad
        adamw(weight, "dense").step()
    assert not transposed.grad.is_contiguous()  # type: ignore[union-attr]
    assert torch.equal(transposed.detach(), plain.detach())


@pytest.mark.parametrize("make", [lambda p: MaskedAdamW(p, 0.1), lambda p: MaskedSGD(p, 0.1, momentum=0.9)])
def test_a_step_is_whole_or_not_at_all(make: object) -> None:
    sparse_weight, plain = weight_of((4, 40)), weight_of((5,))
    sparsify(sparse_weight, SparseMask.random((4, 40), 0.5))
    optimizer = make([sparse_weight, plain])  # type: ignore[operator]
    for weight in (sparse_weight, plain):
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    before = [weight.detach().clone() for weight in (sparse_weight, plain)]
    sparse_weight.grad[2, 3] = float("nan")  # type: ignore[index]
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert all(torch.equal(a, b.detach()) for a, b in zip(before, (sparse_weight, plain), strict=True))
    sparse_weight.grad[2, 3] = 0.0  # type: ignore[index]
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert not torch.equal(before[0], sparse_weight.detach())


def test_without_a_mask_it_is_torchs_adamw() -> None:
    ours, theirs = weight_of((5, 7)), weight_of((5, 7))
    grads = gradients((5, 7), 5)
    run(MaskedAdamW([ours], LR, (B1, B2), EPS, WD), ours, grads)
    run(torch.optim.AdamW([theirs], LR, (B1, B2), EPS, WD, fused=True), theirs, grads)
    assert torch.equal(ours.detach(), theirs.detach())


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_moves_its_set_as_torchs_moves_a_vector_of_it(momentum: float, nesterov: bool) -> None:
    shape = (6, 40)
    weight = weight_of(shape)
    mask = SparseMask.random(shape, 0.7)
    sparsify(weight, mask)
    active = mask.to_bool()
    alone = nn.Parameter(weight.detach()[active].clone())
    before, grads = weight.detach().clone(), gradients(shape, 5)
    run(MaskedSGD([weight], 0.1, momentum, WD, nesterov), weight, grads)
    theirs = torch.optim.SGD([alone], 0.1, momentum, weight_decay=WD, nesterov=nesterov)
    run(theirs, alone, [grad[active] for grad in grads])
    torch.testing.assert_close(weight.detach()[active], alone.detach(), rtol=1e-6, atol=1e-7)
    assert_frozen(before, weight, ~active)


@pytest.mark.parametrize("layout", ["dense", "signbit"])
def test_what_is_resurrected_takes_its_moments_along(layout: str) -> None:
    """Bias-corrected: the next update is that of a coordinate with its own step count, but for the count itself."""
    weight = weight_of((4, 40))
    sparse = sparsify(weight, SparseMask.random((4, 40), 0.5))
    optimizer = adamw(weight, layout)
    run(optimizer, weight, gradients((4, 40), 50))
    optimizer.before_phase(sparse, Phase.RESU)
    sparse.phase = Phase.RESU
    run(optimizer, weight, gradients((4, 40), 4, seed=9))
    m, v = (x.clone() for x in optimizer.moments_rows(weight, slice(None)) or ())
    was = sparse.mask.to_bool()
    now = SparseMask.random((4, 40), 0.5, seed=4).to_bool()
    optimizer.commit_rows(sparse, slice(0, 4), was, now)
    sparse.mask.set_rows(slice(0, 4), now)
    optimizer.after_commit(sparse)
    m_now, v_now = optimizer.moments_rows(weight, slice(None)) or ()
    grown, stayed = now & ~was, now & was
    for new, old, beta in ((m_now, m, B1), (v_now, v, B2)):
        factor = (1 - beta**50) / (1 - beta**4)
        torch.testing.assert_close(new[grown], old[grown] * factor, rtol=1e-5, atol=0)
        assert torch.equal(new[stayed], old[stayed])
        assert not new[~now].any()
    assert torch.equal(sparse.mask.to_bool(), now)


def test_states_survive_being_saved() -> None:
    for layout in LAYOUTS:
        weights = [weight_of((4, 40)), weight_of((4, 40))]
        optimizers = []
        for weight in weights:
            sparsify(weight, SparseMask.random((4, 40), 0.5))
            optimizers.append(adamw(weight, layout))
        first, second = optimizers
        run(first, weights[0], gradients((4, 40), 3))
        second.load_state_dict(copy.deepcopy(first.state_dict()))  # torch shares the tensors otherwise
        weights[1].data.copy_(weights[0].data)
        for optimizer, weight in zip(optimizers, weights, strict=True):
            run(optimizer, weight, gradients((4, 40), 3, seed=8))
        assert torch.equal(weights[0].detach(), weights[1].detach()), layout
        state: SparseParameter | None = sparse_state(weights[1])
        assert state is not None
        assert state.mask == SparseMask.random((4, 40), 0.5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_weight_that_gets_its_mask_late_keeps_its_moments(layout: str) -> None:
    """Dense steps, then a mask: active coordinates go on as if they had been alone all the time."""
    shape = (4, 40)
    weight, grads = weight_of(shape), gradients(shape, 8)
    optimizer = adamw(weight, layout)
    expected = AdamInFloat64(weight)
    run(optimizer, weight, grads[:4])
    for grad in grads[:4]:
        expected.step(grad, np.ones(shape, bool))
    mask = SparseMask.random(shape, 0.5)
    sparsify(weight, mask.clone())
    before = weight.detach().clone()
    run(optimizer, weight, grads[4:])
    for grad in grads[4:]:
        expected.step(grad, mask.to_bool().numpy())
    np.testing.assert_allclose(weight.detach().numpy(), expected.w, rtol=2e-6, atol=1e-7)
    assert_frozen(before, weight, ~mask.to_bool())


def test_compact_moments_are_as_long_as_what_is_written() -> None:
    weight = weight_of((10, 64))
    sparse = sparsify(weight, SparseMask.random((10, 64), 0.9))
    optimizer = adamw(weight, "compact")
    run(optimizer, weight, gradients((10, 64), 1))
    assert optimizer.state[weight]["exp_avg"].numel() == 64
    optimizer.before_phase(sparse, Phase.RESU)
    assert not optimizer.state.get(weight)
    sparse.phase = Phase.RESU
    run(optimizer, weight, gradients((10, 64), 1))
    assert optimizer.state[weight]["exp_avg_sq"].numel() == 576


def test_bad_input_is_refused() -> None:
    weight = weight_of((2, 3))
    with pytest.raises(OptimizerError, match=r"layout is auto, dense, signbit or compact; got 'thin'"):
        MaskedAdamW([weight], layout="thin")  # type: ignore[arg-type]
    with pytest.raises(OptimizerError, match=r"betas\[1\] is at least 0 and below 1; got 1.0"):
        MaskedAdamW([weight], betas=(0.9, 1.0))
    with pytest.raises(OptimizerError, match=r"lr is at least 0; got -1"):
        MaskedSGD([weight], lr=-1)
    with pytest.raises(OptimizerError, match=r"keeps its momentum dense"):
        MaskedSGD([weight], layout="compact")
    with pytest.raises(OptimizerError, match=r"momentum is 0"):
        MaskedSGD([weight], nesterov=True)
    sparse = sparsify(weight, SparseMask.ones((2, 3)))
    optimizer = MaskedAdamW([weight], layout="compact", backend="eager")
    with pytest.raises(OptimizerError, match=r"SHADOW gathers statistics"):
        optimizer.before_phase(sparse, Phase.SHADOW)
    run(optimizer, weight, gradients((2, 3), 1))
    with pytest.raises(OptimizerError, match=r"compact layout keeps moments of written coordinates only"):
        optimizer.moments_rows(weight, slice(None))
    release(weight)
    assert sparse_state(weight) is None
