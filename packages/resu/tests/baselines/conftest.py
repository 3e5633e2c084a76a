"""A small network with a method on it, stepped as a training loop would."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from resu.baselines import Method, build_method, method_config
from resu.optim.masked import MaskedAdamW
from resu.sparsifier import Sparsifier


class Bench:
    """Two linear layers, random data of two dozen examples, and a method."""

    def __init__(
        self, name: str, sparsity: float, steps: int, seed: int, layout: str, settings: dict[str, Any]
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5))
        for parameter in self.model.parameters():
            parameter.data.normal_(0, 0.4, generator=generator)
        self.x = torch.randn(24, 12, generator=generator)
        self.y = torch.randint(5, (24,), generator=generator)
        self.optimizer = MaskedAdamW(self.model.parameters(), lr=0.01, layout=layout, backend="eager")
        self.sparsifier = Sparsifier(self.model, sparsity, optimizer=self.optimizer, seed=seed)
        self.steps = steps
        self.method: Method[Any] = build_method(method_config(name, **settings), self.sparsifier, steps=steps)
        self.stepped: list[bool] = []

    def step(self, step: int) -> None:
        self.method.before_step(step)
        nn.functional.cross_entropy(self.model(self.x), self.y).backward()
        self.stepped.append(self.method.after_backward(step))
        if self.stepped[-1]:
            self.optimizer.step()
        self.method.after_step(step)
        self.optimizer.zero_grad()

    def run(self) -> Iterator[int]:
        for step in range(self.steps):
            self.step(step)
            yield step

    @property
    def counts(self) -> dict[str, int]:
        return {name: sparse.mask.n_active for name, sparse in self.sparsifier.parameters.items()}

    @property
    def expected(self) -> dict[str, int]:
        return self.sparsifier.counts()

    def pruned_are_zero(self) -> bool:
        layers = self.sparsifier.parameters.values()
        return all(bool((sparse.weight[~sparse.mask.row_bool(slice(None))] == 0).all()) for sparse in layers)

    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]

    def loss(self) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(self.model(self.x), self.y))


@pytest.fixture
def bench() -> Callable[..., Bench]:
    """`bench("rigl", sparsity=…, steps=…, seed=…, interval=…)` builds one."""

    def build(
        name: str, *, sparsity: float = 0.8, steps: int = 40, seed: int = 0, layout: str = "dense", **settings: Any
    ) -> Bench:
        return Bench(name, sparsity, steps, seed, layout, settings)

    return build
