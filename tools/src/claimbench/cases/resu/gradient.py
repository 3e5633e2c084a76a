"""θ's gradient: none through the plain scatter, and the right one through the autograd function."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from claimbench.case import Case, Counted, Workload
from claimbench.cases.resu.problem import batch, mask_of, weight_of
from claimbench.errors import CaseError
from claimbench.record import Params
from resu.core.resurrection import StorageMode
from resu.modules.linear import RESULinear
from resu.reference import original_effective, original_layers

__all__ = ["CASES"]

ROWS = 64


def _not_timed(params: Params) -> Workload:
    raise CaseError(f"this case is checked, not timed; got {params}")


def _layers(size: int, sparsity: float) -> dict[str, Any]:
    mask, weight = mask_of(size, sparsity), weight_of(size)
    layers: dict[str, Any] = {}
    for name, form in (
        ("before", original_effective.Forward.CACHED_PLAIN),
        ("after", original_effective.Forward.CACHED),
    ):
        layer = original_layers.OriginalRESULinear(size, size, bias=False, forward_form=form).to(weight.device)
        layer.weight.data.copy_(weight)
        layer.mask = original_effective.SparseMask(mask.mask)
        layer.enter_resu_mode(use_selective=False)
        layers[name] = layer
    ours = RESULinear(size, size, bias=False, device=weight.device, storage_mode=StorageMode.COMPACT)
    ours.weight.data.copy_(weight)
    ours.set_mask(mask)
    ours.enter_resu_mode()
    return layers | {"best": ours}


def _gradients(params: Params) -> Iterable[Counted]:
    """The note's own check, and the gradient against indexing in float64: sums of whole numbers, so exactly."""
    size, sparsity = int(params["size"]), float(params["sparsity"])
    data = batch(size, ROWS)
    pruned = ~mask_of(size, sparsity).to_bool()
    expected = (data["upstream"].double().T @ data["x"].double())[pruned]
    for name, layer in _layers(size, sparsity).items():
        output: Tensor = layer(data["x"])
        if output.requires_grad:
            output.backward(data["upstream"])
        gradient = layer.resurrection.theta.grad
        words = "one layer, loss.backward()" if output.requires_grad else "nothing here requires a gradient"
        yield Counted("gradient_present", float(gradient is not None), name, detail=words)
        if gradient is not None:
            largest = float(torch.abs(gradient.double() - expected).max())
            yield Counted("largest_difference", largest, name, detail="from float64 indexing of the weight's gradient")


CASES = (
    Case(
        "resu.gradient",
        "the gradient of θ after one backward pass",
        "torch",
        _not_timed,
        values=_gradients,
        values_grid=({"size": 256, "sparsity": 0.5}, {"size": 256, "sparsity": 0.9}),
        original=(original_effective.PhiScatterFunction, original_effective.phi_scatter),
    ),
)
