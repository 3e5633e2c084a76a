"""Hugging Face's transposed linear layer, the real one: what it computes, decomposed, against float64 NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spd.config.models import MLPConfig, ModulePattern, SharedMLPConfig
from spd.config.perf import PerfConfig
from spd.models.component_model import ComponentModel
from spd.models.identity_insertion import input_width, insert_identities, is_transposed
from spd.models.masks import ComponentsMaskInfo

pytestmark = pytest.mark.needs_extra("transformers")
BACKENDS = ("ephemeral_hooks", "persistent_hooks", "inline")
D_IN, D_OUT, C = 5, 3, 4


def _layer() -> Any:
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(D_OUT, D_IN)  # outputs come first there
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer.double()


def _model(layer: Any, backend: str, ci: Any = None) -> Any:
    return ComponentModel(
        nn.Sequential(layer), (ModulePattern(module_pattern="0", C=C),), ci or MLPConfig(hidden_dims=(2,)),
        perf=PerfConfig(site_backend=backend), generator=torch.Generator().manual_seed(0),
    ).double()  # fmt: skip


def _numpy(tensor: torch.Tensor) -> Any:
    return tensor.detach().numpy()


def test_it_is_known_for_what_it_is() -> None:
    layer = _layer()
    assert is_transposed(layer)
    assert layer.weight.shape == (D_IN, D_OUT)
    assert input_width(layer) == D_IN
    assert not is_transposed(nn.Linear(D_IN, D_OUT))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("folded", [False, True])
def test_the_masked_output_and_its_gradients_are_the_formula(backend: str, folded: bool) -> None:
    layer = _layer()
    model = _model(layer, backend)
    components = model.components["0"]
    assert (components.V.shape, components.U.shape) == ((D_IN, C), (C, D_OUT))
    x, m, d = (torch.rand(shape, dtype=torch.float64) for shape in ((2, 6, D_IN), (2, 6, C), (2, 6)))
    delta = None if folded else model.calc_weight_deltas()["0"]
    out = model(x, mask_infos={"0": ComponentsMaskInfo(m, "all", (delta, d))})

    v, u, w, b, a, mask, dn = (_numpy(t) for t in (components.V, components.U, layer.weight, layer.bias, x, m, d))
    expected = ((a @ v) * mask) @ u + dn[..., None] * (a @ (w - v @ u)) + b
    np.testing.assert_allclose(_numpy(out), expected, atol=1e-12)

    # d/dU of the sum over outputs: each column of h ⊙ (m − d), summed over positions; d/dV: aᵀ ((m − d) ⊙ (1 Uᵀ)).
    out.sum().backward()
    left = mask - dn[..., None]
    grad_u = np.repeat(((a @ v) * left).sum((0, 1))[:, None], D_OUT, 1)
    grad_v = np.einsum("bpi,bpc->ic", a, left * u.sum(1))
    np.testing.assert_allclose(_numpy(components.U.grad), grad_u, atol=1e-12)
    np.testing.assert_allclose(_numpy(components.V.grad), grad_v, atol=1e-12)
    assert layer.weight.grad is None


def test_delta_has_the_form_of_its_weight() -> None:
    layer = _layer()
    model = _model(layer, "inline")
    components = model.components["0"]
    expected = _numpy(layer.weight) - _numpy(components.V) @ _numpy(components.U)
    np.testing.assert_allclose(_numpy(model.calc_weight_deltas()["0"]), expected, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_importances_read_its_input(backend: str) -> None:
    model = _model(_layer(), backend, SharedMLPConfig(hidden_dims=()))
    x = torch.rand(7, D_IN, dtype=torch.float64)
    z = model.calc_causal_importances(model(x, cache_type="input").cache).pre_sigmoid["0"]
    affine = model.ci_fns["0"].layers[0]
    np.testing.assert_allclose(_numpy(z), _numpy(x) @ _numpy(affine.W) + _numpy(affine.b), atol=1e-12)


def test_an_identity_before_it_has_the_width_of_its_input() -> None:
    model = nn.Sequential(_layer())
    x = torch.rand(4, D_IN, dtype=torch.float64)
    expected = model(x)
    assert insert_identities(model, ("0",)) == ("0.pre_identity",)
    assert torch.equal(model.get_submodule("0.pre_identity").weight, torch.eye(D_IN, dtype=torch.float64))
    assert torch.equal(model(x), expected)
