"""One masked weight under a stock optimizer that is attached, and the same values under one that is alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from resu.core.mask import SparseMask
from resu.core.phases import Phase, SparseParameter, sparsify
from resu.optim.stock import Attachment, attach


class Weight(nn.Module):
    """One weight, as a model."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(value.clone())


@pytest.fixture(scope="session")
def model_of() -> type[Weight]:
    """`model_of(value)`: one weight, as a model."""
    return Weight


@pytest.fixture(scope="session")
def begin() -> Callable[..., tuple[SparseParameter, Optimizer, Attachment]]:
    """`begin(kind, options, value, mask)`: a weight with its mask, an optimizer of it, and what attaches the two."""

    def build(
        kind: type[Optimizer], options: dict[str, Any], value: Tensor, mask: SparseMask
    ) -> tuple[SparseParameter, Optimizer, Attachment]:
        model = Weight(value)
        sparse = sparsify(model.weight, mask)
        optimizer = kind(model.parameters(), **{"lr": 0.01, **options})
        return sparse, optimizer, attach(model, optimizer)

    return build


@pytest.fixture(scope="session")
def alone() -> Callable[..., tuple[nn.Parameter, Optimizer]]:
    """`alone(kind, options, values)`: a parameter without a mask, and an optimizer of it."""

    def build(kind: type[Optimizer], options: dict[str, Any], values: Tensor) -> tuple[nn.Parameter, Optimizer]:
        parameter = nn.Parameter(values.clone())
        return parameter, kind([parameter], **{"lr": 0.01, **options})

    return build


@pytest.fixture(scope="session")
def enter() -> Callable[[SparseParameter, Attachment, Phase], None]:
    """`enter(sparse, attachment, phase)`: the attachment is told, then the phase begins."""

    def change(sparse: SparseParameter, attachment: Attachment, phase: Phase) -> None:
        attachment.before_phase(sparse, phase)
        sparse.phase = phase

    return change


@pytest.fixture(scope="session")
def step() -> Callable[[SparseParameter, Optimizer, Tensor], None]:
    """`step(sparse, optimizer, gradient)`: one step with this gradient."""

    def run(sparse: SparseParameter, optimizer: Optimizer, gradient: Tensor) -> None:
        sparse.parameter.grad = gradient.clone()
        optimizer.step()

    return run


@pytest.fixture(scope="session")
def bits() -> Callable[[Tensor], Tensor]:
    """`bits(x)`: every bit, so that −0 and NaN compare."""
    return lambda x: x.detach().clone().view(torch.int32 if x.dtype == torch.float32 else torch.int64)
