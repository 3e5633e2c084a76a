"""Stock optimizers, models and gradients that attaching refuses."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import ASGD, LBFGS, SGD, Adafactor, Optimizer, SparseAdam

from resu.core.mask import SparseMask
from resu.core.phases import Phase, sparsify
from resu.errors import OptimizerError
from resu.optim.masked import MaskedAdamW
from resu.optim.stock import attach


class Custom(SGD):
    """A class made from a stock one may do anything."""


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        (Adafactor, {}, "one second moment a row and a column"),
        (LBFGS, {}, "inner products over all weights"),
        (ASGD, {}, "decays and averages every weight at every step"),
        (SparseAdam, {}, "takes sparse gradients only"),
        (Custom, {"lr": 0.1}, "whether Custom treats every coordinate by itself is not known"),
    ],
)
def test_other_optimizers_are_refused(kind: type[Optimizer], options: dict[str, Any], reason: str) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(OptimizerError, match=f"SGD, Adam, .*{reason}.*resu.optim.masked.MaskedAdamW"):
        attach(model, kind(model.parameters(), **options))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_is_refused() -> None:
    model = nn.Linear(2, 2, bias=False)
    with pytest.raises(OptimizerError, match="Muon orthogonalises the update of a whole matrix"):
        attach(model, torch.optim.Muon(model.parameters()))


def test_a_masked_optimizer_needs_no_attaching() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(OptimizerError, match="MaskedAdamW freezes coordinates by itself"):
        attach(model, MaskedAdamW(model.parameters()))


def test_an_optimizer_must_hold_what_has_a_mask() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = SGD(model.parameters(), lr=0.1)
    attachment = attach(model, optimizer)
    model[1] = nn.Linear(2, 2)
    sparse = sparsify(model[1].weight, SparseMask.ones((2, 2)), "1.weight")
    with pytest.raises(OptimizerError, match=r"does not hold 1\.weight\. Build the optimizer from the model's present"):
        attach(model, optimizer)
    with pytest.raises(OptimizerError, match=r"does not hold 1\.weight"):
        attachment.before_phase(sparse, Phase.RESU)


def test_a_differentiable_step_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(OptimizerError, match="differentiable=True"):
        attach(model, SGD(model.parameters(), lr=0.1, differentiable=True))


def test_a_sparse_gradient_is_refused_before_anything_is_written() -> None:
    model = nn.Sequential(nn.Embedding(4, 2, sparse=True), nn.Linear(2, 2))
    sparsify(model[0].weight, SparseMask.random((4, 2), 0.5), "0.weight")
    optimizer = SGD(model.parameters(), lr=0.1)
    attach(model, optimizer)
    before = copy.deepcopy(model.state_dict())
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(OptimizerError, match=r"0\.weight is torch\.sparse_coo\. Build the embedding with sparse=False"):
        optimizer.step()
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
