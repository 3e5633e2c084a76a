"""Components against float64 NumPy, written out from the formulas."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf
from torch import nn

from spd.errors import ConfigError
from spd.models.components import (
    EmbeddingComponents,
    Identity,
    LinearComponents,
    MLPCiFn,
    VectorMLPCiFn,
    VectorSharedMLPCiFn,
)


def _double(x: torch.Tensor) -> Any:
    return x.detach().double().numpy()


def _gelu(x: Any) -> Any:
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def _linear(d_in: int, d_out: int, c: int, *, bias: bool, transposed: bool = False, seed: int = 0) -> LinearComponents:
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(d_out, generator=generator) if bias else None
    return LinearComponents(d_in, d_out, c, bias=b, transposed=transposed, generator=generator).double()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@given(d_in=st.integers(1, 6), d_out=st.integers(1, 6), c=st.integers(1, 7), seed=st.integers(0, 99))
def test_the_masked_output_is_the_formula(
    bias: bool, transposed: bool, d_in: int, d_out: int, c: int, seed: int
) -> None:
    components = _linear(d_in, d_out, c, bias=bias, transposed=transposed, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    a, m, d = (torch.rand(s, generator=generator).double() for s in ((2, 3, d_in), (2, 3, c), (2, 3)))
    w = torch.randn(d_out, d_in, generator=generator).double()
    target = w.T.contiguous() if transposed else w
    delta = target - components.weight

    v, u, an, mn, dn, wn = (_double(t) for t in (components.V, components.U, a, m, d, w))
    expected = ((an @ v) * mn) @ u + dn[..., None] * (an @ (wn - (v @ u).T).T)
    b = 0 if components.bias is None else _double(components.bias)
    np.testing.assert_allclose(_double(components(a, m, (delta, d))), expected + b, atol=1e-12)
    target_out = torch.from_numpy(an @ wn.T + b)
    folded = components.folded(components.get_inner_acts(a), m, d, target_out)
    np.testing.assert_allclose(_double(folded), expected + b, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_the_folded_form_are_those_of_the_matrix(bias: bool) -> None:
    components = _linear(4, 3, 5, bias=bias)
    w = torch.randn(3, 4, dtype=torch.float64)
    a, m, d = torch.randn(6, 4).double(), torch.rand(6, 5).double().requires_grad_(), torch.rand(6).double()
    target_out = a @ w.T + (0 if components.bias is None else components.bias)
    inputs = [components.V, components.U, m]
    whole = components(a, m, (w - components.weight, d)).square().sum()
    folded = components.folded(components.get_inner_acts(a), m, d, target_out).square().sum()
    for one, other in zip(torch.autograd.grad(whole, inputs), torch.autograd.grad(folded, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_an_unmasked_output_is_the_same_in_either_order() -> None:
    components = _linear(4, 3, 5, bias=True)
    a = torch.randn(7, 4).double()
    torch.testing.assert_close(components.unmasked(a), components(a))
    assert components.fused_is_cheaper(torch.ones(1000, 4)) is True
    assert _linear(100, 100, 2, bias=False).fused_is_cheaper(torch.ones(4, 100)) is False


def test_an_embedding_looks_its_components_up() -> None:
    components = EmbeddingComponents(11, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    tokens, m, d = torch.tensor([[0, 10], [3, 3]]), torch.rand(2, 2, 3).double(), torch.rand(2, 2).double()
    w = torch.randn(11, 4).double()
    v, u, wn, t = _double(components.V), _double(components.U), w.numpy(), tokens.numpy()
    expected = (v[t] * m.numpy()) @ u + d.numpy()[..., None] * (wn - v @ u)[t]
    np.testing.assert_allclose(_double(components(tokens, m, (w - components.weight, d))), expected, atol=1e-12)
    folded = components.folded(components.get_inner_acts(tokens), m, d, w[tokens])
    np.testing.assert_allclose(_double(folded), expected, atol=1e-12)


def test_initial_spreads_are_those_of_the_paper() -> None:
    components = LinearComponents(400, 300, 200, generator=torch.Generator().manual_seed(0))
    assert components.V.std().item() == pytest.approx(400**-0.5, rel=0.02)
    assert components.U.std().item() == pytest.approx(200**-0.5, rel=0.02)
    fn = MLPCiFn(500, [64], generator=torch.Generator().manual_seed(0))
    first, last = fn.layers
    assert first.W.std().item() == pytest.approx(2**0.5, rel=0.02)  # fan-in 1, gain √2
    assert last.W.std().item() == pytest.approx(64**-0.5, rel=0.02)  # fan-in 64, gain 1
    assert not first.b.any()
    assert not last.b.any()


def test_the_scalar_network_is_the_formula() -> None:
    fn = MLPCiFn(3, [5], generator=torch.Generator().manual_seed(0)).double()
    nn.init.normal_(fn.layers[0].b)
    nn.init.normal_(fn.layers[1].b)
    h = torch.randn(4, 2, 3).double()
    w1, b1, w2, b2 = (_double(p) for layer in fn.layers for p in (layer.W, layer.b))
    expected = (_gelu(h.numpy()[..., None] * w1[:, 0] + b1) * w2[..., 0]).sum(-1) + b2[:, 0]
    np.testing.assert_allclose(_double(fn(h)), expected, atol=1e-12)


def test_the_vector_network_is_the_formula() -> None:
    fn = VectorMLPCiFn(3, 4, [5, 2], generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(6, 4).double()
    expected = np.zeros((6, 3))
    for c in range(3):
        out = x.numpy()
        for index, layer in enumerate(fn.layers):
            out = out @ _double(layer.W)[c] + _double(layer.b)[c]
            out = _gelu(out) if index < 2 else out
        expected[:, c] = out[:, 0]
    np.testing.assert_allclose(_double(fn(x)), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (4,)])
def test_vector_networks_side_by_side_give_the_numbers_and_gradients_of_single_ones(shape: tuple[int, ...]) -> None:
    one, other = (
        VectorMLPCiFn(3, 4, [5], kernel=kernel, generator=torch.Generator().manual_seed(0)).double()
        for kernel in ("einsum", "recompute")
    )
    for fn in (one, other):
        fn.layers[0].b.data += torch.linspace(-1, 1, 15).double().view(3, 5)
        fn.layers[1].b.data += 0.5
    x = torch.randn(shape).double().requires_grad_()
    expected, found = one(x), other(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), [x, *one.parameters()])
    got = torch.autograd.grad((found * weights).sum(), [x, *other.parameters()])
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("hidden", [[], [7], [7, 2]])
def test_the_shared_network_is_the_formula(hidden: list[int]) -> None:
    fn = VectorSharedMLPCiFn(3, 4, hidden, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(6, 4).double()
    out = x.numpy()
    for index, layer in enumerate(fn.layers):
        out = out @ _double(layer.W) + _double(layer.b)
        out = _gelu(out) if index < len(hidden) else out
    np.testing.assert_allclose(_double(fn(x)), out, atol=1e-12)


def test_an_identity_is_nothing_with_a_weight() -> None:
    identity = Identity(3)
    x = torch.randn(2, 3)
    assert identity(x) is x
    assert torch.equal(x @ identity.weight.T, x)
    assert not identity.state_dict()


@pytest.mark.parametrize("c", [0, -1])
def test_a_weight_has_at_least_one_component(c: int) -> None:
    with pytest.raises(ConfigError, match=f"got C = {c}"):
        LinearComponents(2, 2, c)


def test_hidden_layers_are_asked_for_where_they_are_needed() -> None:
    with pytest.raises(ConfigError, match="hidden_dims is empty"):
        MLPCiFn(3, [])
    with pytest.raises(ConfigError, match="hidden_dims is empty"):
        VectorMLPCiFn(3, 4, [])
    with pytest.raises(ConfigError, match="at least one unit"):
        VectorSharedMLPCiFn(3, 4, [0])
