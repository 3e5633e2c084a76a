"""The norm that clipping bounds is that of what moves."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from resu.core.mask import SparseMask
from resu.core.phases import Phase, sparsify
from resu.errors import OptimizerError
from resu.optim.clip import clip_grad_norm_
from resu.optim.masked import MaskedAdamW
from resu.sparsifier import Sparsifier


@given(
    sparsity=st.floats(0, 0.95),
    p=st.sampled_from([1.0, 2.0, 3.0, math.inf]),
    phase=st.sampled_from(list(Phase)),
    limit=st.floats(0.01, 100),
    seed=st.integers(0, 1000),
)
def test_the_norm_is_over_what_may_be_written(sparsity: float, p: float, phase: Phase, limit: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Linear(7, 5)
    mask = SparseMask.random((5, 7), sparsity, seed=seed)
    sparsify(model.weight, mask).phase = phase
    model.weight.grad, model.bias.grad = torch.randn(5, 7), torch.randn(5)
    active = mask.to_bool().numpy()
    written = {Phase.RESU: ~active, Phase.JOINT: np.ones_like(active)}.get(phase, active)
    before = [model.weight.grad.double().numpy().copy(), model.bias.grad.double().numpy().copy()]
    expected = np.linalg.norm(np.concatenate([before[0][written], before[1]]), p)
    assert float(clip_grad_norm_(model.parameters(), limit, p)) == pytest.approx(expected, rel=1e-5)
    factor = min(1.0, limit / (expected + 1e-6))
    np.testing.assert_allclose(model.weight.grad.numpy(), before[0] * factor, rtol=1e-5)
    np.testing.assert_allclose(model.bias.grad.numpy(), before[1] * factor, rtol=1e-5)


def test_without_masks_it_is_torchs_own() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(3, 4), torch.randn(5), torch.randn(600, 500).t()]
    ours, theirs = ([nn.Parameter(torch.zeros(g.shape)) for g in gradients] for _ in range(2))
    for p, q, g in zip(ours, theirs, gradients, strict=True):
        p.grad, q.grad = g.clone(), g.clone()
    ours.append(nn.Parameter(torch.zeros(2)))  # no gradient
    torch.testing.assert_close(clip_grad_norm_(ours, 1.5), nn.utils.clip_grad_norm_(theirs, 1.5))
    for p, q in zip(ours, theirs, strict=False):
        torch.testing.assert_close(p.grad, q.grad)


def test_sources() -> None:
    def fresh(optimizer: bool) -> tuple[nn.Module, Sparsifier]:
        torch.manual_seed(0)
        model = nn.Linear(6, 4)
        kept: Any = MaskedAdamW(model.parameters()) if optimizer else None
        sparsifier = Sparsifier(model, 0.5, optimizer=kept)
        sparsifier.prune()
        model(torch.ones(2, 6)).square().sum().backward()
        return model, sparsifier

    model, sparsifier = fresh(True)
    everything = clip_grad_norm_(sparsifier, 0.1)
    for source in (fresh(True)[0], fresh(True)[0].parameters()):
        torch.testing.assert_close(clip_grad_norm_(source, 0.1), everything)
    weight_only = clip_grad_norm_(fresh(False)[1], 0.1)
    assert weight_only < everything
    torch.testing.assert_close(clip_grad_norm_(fresh(True)[0].weight, 0.1), weight_only)
    assert float(torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.parameters()]))) > 0.1, (
        "frozen coordinates do not count"
    )


def test_frozen_coordinates_that_are_not_finite_do_not_count() -> None:
    weight = nn.Parameter(torch.zeros(1, 3))
    sparsify(weight, SparseMask(torch.tensor([[1, 1, 0]])))
    weight.grad = torch.tensor([[3.0, 4.0, float("inf")]])
    assert clip_grad_norm_(weight, 1.0) == 5.0
    assert weight.grad[0, :2].tolist() == pytest.approx([0.6, 0.8], rel=1e-5)


def test_a_norm_that_is_not_finite() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, float("nan")])
    with pytest.raises(OptimizerError, match="must be finite here; it is nan"):
        clip_grad_norm_(weight, 1.0, error_if_nonfinite=True)
    assert weight.grad[0] == 1.0
    assert clip_grad_norm_(weight, 1.0).isnan()


def test_nothing_to_clip() -> None:
    assert clip_grad_norm_([nn.Parameter(torch.zeros(2))], 1.0) == 0.0


@pytest.mark.parametrize(("limit", "p"), [(-1.0, 2.0), (float("nan"), 2.0), (1.0, 0.0)])
def test_a_bound_out_of_range(limit: float, p: float) -> None:
    with pytest.raises(OptimizerError, match=r"a norm of at least 0, of a type above 0; got max_norm ="):
        clip_grad_norm_([], limit, p)
