"""Fast forms agree with the plain ones of `spd.reference.oracle` on inputs that are drawn."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spd.kernels import ci_mlp
from spd.kernels.folded import folded_output, take_rows
from spd.kernels.importances import leaky_hard_pair, power
from spd.metrics.faithfulness import faithfulness_loss
from spd.metrics.importance_minimality import importance_minimality_loss
from spd.metrics.output_loss import divergence, output_loss
from spd.models.sigmoids import lower_leaky_hard, upper_leaky_hard
from spd.reference import oracle

SIZES = st.integers(1, 5)


def _normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def _t(x: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x, dtype=np.float64)).requires_grad_()


@pytest.mark.parametrize("kernel", ["einsum", "broadcast", "recompute"])
@given(n=SIZES, c=SIZES, hidden=SIZES, seed=st.integers(0, 99))
def test_the_scalar_network(kernel: ci_mlp.CiKernel, n: int, c: int, hidden: int, seed: int) -> None:
    h, w1, b1, w2 = _normal(seed, n, c), *(_normal(seed + i, c, hidden) for i in (1, 2, 3))
    b2 = _normal(seed + 4, c)
    found = ci_mlp.scalar_mlp(_t(h), _t(w1[:, None]), _t(b1), _t(w2[..., None]), _t(b2[:, None]), kernel)
    np.testing.assert_allclose(found.detach().numpy(), oracle.scalar_network(h, w1, b1, w2, b2), rtol=1e-12, atol=1e-13)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8), st.integers(0, 99))
def test_importances_and_their_gradients(values: list[float], seed: int) -> None:
    values = [*values, 0.0, 1.0, -0.0]  # the edges
    z = _t(values)
    g, penalised = leaky_hard_pair(z)
    np.testing.assert_allclose(g.detach().numpy(), [oracle.g_of(v) for v in values])
    np.testing.assert_allclose(penalised.detach().numpy(), [oracle.penalised_of(v) for v in values])
    of_g, of_penalised = (torch.from_numpy(_normal(seed + i, len(values))) for i in (0, 1))
    (alone,) = torch.autograd.grad((g * of_g).sum(), z, retain_graph=True)
    np.testing.assert_allclose(
        alone.numpy(), [oracle.g_slope(v, d) for v, d in zip(values, of_g.tolist(), strict=True)]
    )
    (found,) = torch.autograd.grad((g * of_g).sum() + (penalised * of_penalised).sum(), z, retain_graph=True)
    plain = (lower_leaky_hard(z) * of_g).sum() + (upper_leaky_hard(z) * of_penalised).sum()
    torch.testing.assert_close(found, torch.autograd.grad(plain, z)[0], rtol=1e-13, atol=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("routed", [False, True])
@given(n=SIZES, c=SIZES, d_in=SIZES, d_out=SIZES, seed=st.integers(0, 99))
def test_the_folded_output(
    bias: bool, shared: bool, routed: bool, n: int, c: int, d_in: int, d_out: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, w, v, u = _normal(seed, n, d_in), _normal(1, d_out, d_in), _normal(2, d_in, c), _normal(3, c, d_out)
    g, r, d = rng.random((n, c)), rng.random((1 if shared else n, c)), rng.random(n)
    b = _normal(4, d_out) if bias else None
    flags = rng.random(n) < 0.5 if routed else None
    rows = None if flags is None else torch.from_numpy(np.flatnonzero(flags))
    expected = oracle.site_output(
        a, w, b, v, u, g, np.broadcast_to(r, (n, c)), d, None if flags is None else flags.astype(float)
    )
    tensors = x, tv, tu, tg, tr, td = tuple(_t(t) for t in (a, v, u, g, r, d))
    y = x @ torch.from_numpy(w.T) + (0 if b is None else torch.from_numpy(b))
    bias_of = None if b is None else torch.from_numpy(b)
    found = folded_output((x if rows is None else take_rows(x, rows)) @ tv, tg, tr, td, tu, y, bias_of, rows)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-11, atol=1e-12)
    # Against the gradients of the same with Δ as a matrix, by the plain operations.
    delta = torch.from_numpy(w) - (tv @ tu).T
    whole = ((x @ tv) * (tg + (1 - tg) * tr)) @ tu + td[:, None] * (x @ delta.T) + (0 if b is None else bias_of)
    plain = whole if flags is None else torch.where(torch.from_numpy(flags)[:, None], whole, y)
    weights = torch.from_numpy(_normal(5, n, d_out))
    one = torch.autograd.grad((found * weights).sum(), tensors, retain_graph=True)
    for mine, other in zip(one, torch.autograd.grad((plain * weights).sum(), tensors), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


@given(st.floats(0.3, 3.0), st.floats(0.0, 0.5), st.integers(1, 3), st.integers(0, 99))
def test_importance_minimality(p: float, beta: float, world_size: int, seed: int) -> None:
    values = {name: np.abs(_normal(seed + i, 4, 3)) for i, name in enumerate("ab")}
    values["a"][0] = 0
    expected = oracle.importance_minimality(values, p, beta=beta, world_size=world_size)
    gradients = []
    for by_hand in (False, True):
        tensors = {name: _t(value) for name, value in values.items()}
        found = importance_minimality_loss(tensors, p, beta=beta, world_size=world_size, by_hand=by_hand)
        assert found.item() == pytest.approx(expected, rel=1e-5)
        gradients.append(torch.autograd.grad(found, list(tensors.values())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("p", [0.5, 1.0, 1.7, 2.0])
def test_a_power_and_its_gradient(p: float) -> None:
    x = torch.rand(20).double().add(1e-3).requires_grad_()
    torch.testing.assert_close(power(x, p), x.pow(p), rtol=1e-13, atol=0)
    (found,) = torch.autograd.grad(power(x, p).sum(), x)
    torch.testing.assert_close(found, p * x.detach() ** (p - 1), rtol=1e-12, atol=0)


@given(n=SIZES, d=st.integers(2, 6), seed=st.integers(0, 99))
def test_losses_of_outputs(n: int, d: int, seed: int) -> None:
    pred, target = _normal(seed, n, d), _normal(seed + 1, n, d)
    one, other = _t(pred), _t(target).detach()
    assert output_loss(one, other, "mse").mean.item() == pytest.approx(oracle.squared_error(pred, target))
    expected = oracle.divergence(pred, target)
    plain, by_hand = output_loss(one, other, "kl"), divergence(one, other.float().log_softmax(-1))
    assert plain.mean.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert by_hand.mean.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    gradients = (torch.autograd.grad(loss.mean, one)[0] for loss in (plain, by_hand))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_faithfulness() -> None:
    weights = {name: (_normal(1, 3, d), _normal(2, d, 4), _normal(3, 4, 3)) for name, d in (("a", 2), ("b", 5))}
    deltas = {name: torch.from_numpy(w - (v @ u).T) for name, (w, v, u) in weights.items()}
    assert faithfulness_loss(deltas).item() == pytest.approx(oracle.faithfulness(weights), rel=1e-6)
