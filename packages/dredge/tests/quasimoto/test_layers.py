import math

import numpy as np
import pytest
import torch

from dredge.errors import ModelError
from dredge.quasimoto.layers import RandomFourierFeatures, SirenLayer

pytestmark = pytest.mark.needs_extra("torch")


def test_a_layer_of_sines() -> None:
    layer = SirenLayer(3, 5, omega_0=7).double()
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight, bias = (p.detach().numpy() for p in (layer.linear.weight, layer.linear.bias))
    np.testing.assert_allclose(layer(x).detach().numpy(), np.sin(7 * (x.numpy() @ weight.T + bias)), atol=1e-12)


@pytest.mark.parametrize(("is_first", "bound"), [(True, 1 / 50), (False, math.sqrt(6 / 50) / 30)])
def test_weights_start_within_the_published_bounds(is_first: bool, bound: float) -> None:
    largest = SirenLayer(50, 400, is_first=is_first).linear.weight.abs().max().item()
    assert 0.99 * bound < largest <= bound


def test_fixed_frequencies() -> None:
    model = RandomFourierFeatures(2, 6, 3.0).double()
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    projected = x.numpy() @ model.B.numpy()
    features = np.concatenate([np.sin(projected), np.cos(projected)], axis=1)
    expected = features @ model.linear.weight.detach().numpy().T + model.linear.bias.item()
    np.testing.assert_allclose(model(x).detach().numpy(), expected, atol=1e-12)
    assert [name for name, _ in model.named_parameters()] == ["linear.weight", "linear.bias"]
    assert RandomFourierFeatures(1, 4096, 10.0).B.std().item() == pytest.approx(10, rel=0.1)


def test_sizes_start_at_one() -> None:
    with pytest.raises(ModelError, match="got 0, 3"):
        SirenLayer(0, 3)
    with pytest.raises(ModelError, match="got 1, 0"):
        RandomFourierFeatures(1, 0)
    with pytest.raises(ModelError, match="omega_0 is a positive number; got 0"):
        SirenLayer(1, 3, omega_0=0)
