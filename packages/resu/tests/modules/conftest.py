"""Layers in each storage mode, with optimizers that may train them, and a step that takes either kind of θ."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resu.core.resurrection import StorageMode
from resu.modules.linear import RESULinear
from resu.optim.masked import MaskedAdamW

Train = Callable[..., None]


@pytest.fixture
def layer_of() -> Callable[..., RESULinear]:
    """`layer_of(mode, sparsity)`: 37 → 16 features, weights from one seed, pruned where a sparsity is given."""

    def make(mode: StorageMode, sparsity: float = 0.6, **options: Any) -> RESULinear:
        torch.manual_seed(3)
        layer = RESULinear(37, 16, storage_mode=mode, **options)
        if sparsity:
            layer.prune_by_magnitude(sparsity)
        return layer

    return make


@pytest.fixture
def train() -> Train:
    """`train(layer, optimizer, steps)`: steps on a regression, every input and output different from zero."""

    def run(layer: nn.Module, optimizer: Any, steps: int = 5, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            x, y = torch.randn(24, 37, generator=generator), torch.randn(24, 16, generator=generator)
            optimizer.zero_grad()
            (layer(x) - y).square().mean().backward()
            optimizer.step()

    return run


@pytest.fixture
def theta_optimizer() -> Callable[[RESULinear], Any]:
    """An optimizer that trains θ, wherever it lives; biases stay."""

    def make(layer: RESULinear) -> Any:
        if layer.storage_mode is StorageMode.INPLACE:
            return MaskedAdamW([layer.weight], lr=1e-2, backend="eager")
        return torch.optim.AdamW([layer.resurrection.theta], lr=1e-2)

    return make


@pytest.fixture
def pruned_values() -> Callable[[RESULinear], Tensor]:
    """θ as a copied vector, in every mode."""
    return lambda layer: layer.resurrection.values().clone()
