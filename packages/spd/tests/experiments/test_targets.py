"""The toy targets: their forms against NumPy, and that superposition is learnt."""

import numpy as np
import pytest
import torch

from spd.errors import ConfigError
from spd.experiments.resid_mlp.model import ResidMLP
from spd.experiments.tms.model import TMSModel
from spd.experiments.tms.train_tms import TMSTrainConfig, train_tms


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("training", [False, True])
def test_superposition_is_the_formula_and_tied(layers: int, training: bool) -> None:
    model = TMSModel(5, 2, n_hidden_layers=layers, generator=torch.Generator().manual_seed(0)).train(training)
    x = torch.rand(7, 5)
    w, b = model.linear1.weight.detach().double().numpy(), model.linear2.bias.detach().double().numpy()
    expected = np.maximum(x.double().numpy() @ w.T @ w + b, 0)
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        model.linear1.weight.mul_(2)
    assert torch.equal(model.linear2.weight, model.linear1.weight.T)


def test_gradients_of_both_uses_reach_the_one_weight() -> None:
    model = TMSModel(5, 2, generator=torch.Generator().manual_seed(0)).train()
    w = model.linear1.weight.detach().clone().requires_grad_()
    x = torch.rand(7, 5)
    model(x).square().sum().backward()
    torch.relu(x @ w.T @ w + model.linear2.bias.detach()).square().sum().backward()
    torch.testing.assert_close(model.linear1.weight.grad, w.grad)


def test_five_features_in_two_dimensions_make_a_pentagon() -> None:
    model, error = train_tms(TMSTrainConfig(zero_bias=True, steps=2500))
    assert error < 0.002
    w = model.linear1.weight.detach()
    np.testing.assert_allclose(w.norm(dim=0).numpy(), 1.13, atol=0.03)
    angles = torch.rad2deg(torch.atan2(w[1], w[0])).sort().values
    np.testing.assert_allclose(angles.diff().numpy(), 72, atol=2)


def test_the_residual_network_is_the_formula() -> None:
    model = ResidMLP(6, 9, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(5, 6).double()
    e = model.W_E.numpy()
    np.testing.assert_allclose(np.linalg.norm(e, axis=1), 1, rtol=1e-6)
    stream = x.numpy() @ e
    for layer in model.layers:
        w_in, w_out = layer.mlp_in.weight.detach().numpy(), layer.mlp_out.weight.detach().numpy()
        stream = stream + np.maximum(stream @ w_in.T, 0) @ w_out.T
    np.testing.assert_allclose(model(x).detach().numpy(), stream @ e.T, rtol=1e-9)
    assert ResidMLP.label(torch.tensor([-1.0, 2.0])).tolist() == [-1.0, 4.0]


def test_sizes_are_positive() -> None:
    with pytest.raises(ConfigError, match="got 0, 2 and 0"):
        TMSModel(0, 2)
    with pytest.raises(ConfigError, match="0 layers"):
        ResidMLP(3, 4, 5, 0)
