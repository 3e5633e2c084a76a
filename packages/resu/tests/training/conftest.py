"""A small task, the optimizers that a cycle has to work with, and short cycles on it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resu.config import CycleConfig
from resu.optim.masked import MaskedAdamW, MaskedSGD
from resu.training.cycle import CyclePhase, RESUTrainer

Batch = tuple[Tensor, Tensor]

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "masked adamw": lambda params: MaskedAdamW(params, lr=1e-2, backend="eager"),
    "masked adamw signbit": lambda params: MaskedAdamW(params, lr=1e-2, layout="signbit", backend="eager"),
    "masked adamw compact": lambda params: MaskedAdamW(params, lr=1e-2, layout="compact", backend="eager"),
    "masked sgd": lambda params: MaskedSGD(params, lr=0.05, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-2),
    "adam amsgrad": lambda params: torch.optim.Adam(params, lr=1e-2, amsgrad=True),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=1e-3),
}


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compilation costs more than all steps of these tests."""
    monkeypatch.setenv("RESU_BACKEND", "eager")


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 4))


@pytest.fixture(scope="session")
def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 12, generator=generator)
    y = (x @ torch.randn(12, 4, generator=generator)).argmax(1)
    return [(x[i : i + 16], y[i : i + 16]) for i in range(0, 96, 16)]


@pytest.fixture(scope="session")
def loss_of() -> Callable[[nn.Module, Batch], Tensor]:
    return lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture(params=list(OPTIMIZERS))
def make_optimizer(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Every optimizer in turn."""
    return OPTIMIZERS[request.param]


@pytest.fixture(params=["masked adamw signbit", "sgd"])
def make_some(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """One of ours and a stock one, where any optimizer will do."""
    return OPTIMIZERS[request.param]


@pytest.fixture(scope="session")
def adamw() -> Callable[[nn.Module], MaskedAdamW]:
    """`adamw(model)`: one of ours, where any optimizer will do and one is enough."""
    return lambda model: MaskedAdamW(model.parameters(), lr=1e-2, backend="eager")


@pytest.fixture(scope="session")
def config() -> Callable[..., CycleConfig]:
    """`config(name, **changes)`: three short cycles of 4 TRAIN, 2 STABILIZE and 6 RESU steps."""

    def build(name: str = "default", **changes: Any) -> CycleConfig:
        short = {
            "num_cycles": 3, "steps_per_cycle": 12, "train_fraction": 1 / 3, "stabilize_fraction": 1 / 6,
            "resu_fraction": 0.5, "recovery_fraction": 0.0, "pruning": "magnitude",
        }  # fmt: skip
        return CycleConfig.preset(name, **(short | changes))

    return build


@pytest.fixture(scope="session")
def weights() -> Callable[[RESUTrainer], dict[str, Tensor]]:
    """`weights(trainer)`: a copy of every weight with a mask, by its name."""
    return lambda trainer: {name: sparse.weight.clone() for name, sparse in trainer.sparsifier.parameters.items()}


@pytest.fixture(scope="session")
def until() -> Callable[[RESUTrainer, CyclePhase, Any], None]:
    """`until(trainer, phase, batches)`: trains up to the beginning of a phase."""

    def run(trainer: RESUTrainer, phase: CyclePhase, batches: Any) -> None:
        for _ in range(200):
            if trainer.cycle.phase is phase:
                return
            trainer.train(batches, max_steps=1)
        pytest.fail(f"{phase} never came")

    return run
