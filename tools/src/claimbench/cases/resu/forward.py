"""The forward pass in RESU: M ⊙ W anew each time, cached as published, and ours.

Ours are three: the cache as a plain sum (`best`, which the claim is about), the layer as it is shipped, which writes θ
into a copy of W (`compact`), and θ in W's own pruned slots (`inplace`), where the forward pass is F.linear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from claimbench.case import Case, Tolerance, Work, Workload
from claimbench.cases.resu.problem import Prepared, batch, default_device, mask_of, weight_of
from claimbench.record import Params
from resu.core.resurrection import StorageMode
from resu.modules.linear import RESULinear
from resu.reference import original_effective, original_layers

__all__ = ["CASES"]

BATCH = 32
SPARSITY = 0.5

ROUNDING = Tolerance(relative=1e-4, absolute=1e-4, reason="float32 sums of up to 2048 products, in another order")


def _theta(size: int, seed: int) -> Tensor:
    mask = mask_of(size, SPARSITY)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(mask.n_pruned, generator=generator).mul_(0.1 * size**-0.5).to(mask.device)


def _of_original(form: original_effective.Forward) -> Callable[[dict[str, Any]], nn.Module]:
    def build(inputs: dict[str, Any]) -> nn.Module:
        size, seed = inputs["x"].shape[1], inputs["seed"]
        layer = original_layers.OriginalRESULinear(size, size, bias=False, forward_form=form).to(default_device())
        layer.weight.data.copy_(weight_of(size, seed))
        layer.mask = original_effective.SparseMask(mask_of(size, SPARSITY).mask)
        layer.enter_resu_mode(use_selective=False)
        layer.resurrection.theta.data.copy_(_theta(size, seed))
        return layer

    return build


class PlainSum(RESULinear):
    """Our cached form: the weight is 0 at P and φ(θ) is 0 at A, so that their sum is all there is to do."""

    def effective_weight(self) -> Tensor:
        """W + φ(θ), without reading the mask; W is frozen, and φ's derivative gathers."""
        return self.weight + self.resurrection.phi()


def _ours(kind: type[RESULinear], mode: StorageMode) -> Callable[[dict[str, Any]], nn.Module]:
    def build(inputs: dict[str, Any]) -> nn.Module:
        size, seed = inputs["x"].shape[1], inputs["seed"]
        layer = kind(size, size, bias=False, device=default_device(), storage_mode=mode)
        layer.weight.data.copy_(weight_of(size, seed))
        layer.set_mask(mask_of(size, SPARSITY))
        layer.enter_resu_mode(init="zero")
        layer.resurrection.assign(_theta(size, seed))
        return layer

    return build


FORMS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "before": _of_original(original_effective.Forward.RECOMPUTE),
    "after": _of_original(original_effective.Forward.CACHED),
    "best": _ours(PlainSum, StorageMode.COMPACT),
    "compact": _ours(RESULinear, StorageMode.COMPACT),
    "inplace": _ours(RESULinear, StorageMode.INPLACE),
}


def _trainable(layer: Any) -> nn.Parameter:
    """What the gradient of θ arrives at: θ itself, or the weight that holds it."""
    if isinstance(layer, RESULinear) and layer.storage_mode is StorageMode.INPLACE:
        return layer.weight
    theta: nn.Parameter = layer.resurrection.theta
    return theta


def _forward(prepared: Prepared[nn.Module]) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
    return lambda inputs: {"output": prepared(inputs)(inputs["x"])}


def _forward_backward(prepared: Prepared[nn.Module]) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
    def call(inputs: dict[str, Any]) -> dict[str, Tensor]:
        layer = prepared(inputs)
        parameter = _trainable(layer)
        output = layer(inputs["x"])
        output.backward(inputs["upstream"])
        # Not kept until the next call: what one variant keeps, the allocator has to find anew for the others.
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        return {"output": output, "gradient": gradient}

    return call


PASSES = {"forward": _forward, "forward and backward": _forward_backward}


def _effective(inputs: dict[str, Any]) -> Tensor:
    """W_eff in float64."""
    size, seed = inputs["x"].shape[1], inputs["seed"]
    pruned = ~mask_of(size, SPARSITY).to_bool()
    return weight_of(size, seed).double().masked_scatter_(pruned, _theta(size, seed).double())


def _setup(params: Params) -> Workload:
    size, what = int(params["size"]), str(params["pass"])

    def oracle(inputs: dict[str, Any]) -> dict[str, Tensor]:
        x = inputs["x"].double()
        found = {"output": functional.linear(x, _effective(inputs))}
        if what != "forward":
            found["gradient"] = (inputs["upstream"].double().T @ x)[~mask_of(size, SPARSITY).to_bool()]
        return found

    def compare(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        # In place, the gradient of the whole weight is there; θ's is the part of it at P.
        pruned = ~mask_of(size, SPARSITY).to_bool()
        return {name: found[pruned] if found.shape == pruned.shape else found for name, found in outputs.items()}

    flops = 2.0 * BATCH * size**2
    return Workload(
        inputs=lambda seed: batch(size, BATCH, seed),
        variants={name: PASSES[what](Prepared(build)) for name, build in FORMS.items()},
        oracle=oracle,
        tolerance=ROUNDING,
        compare=compare,
        work={"inplace": Work(bytes=4.0 * size**2, flops=flops if what == "forward" else 2 * flops)},
    )


def _masking(params: Params) -> Workload:
    size = int(params["size"])

    def form(build: Callable[[dict[str, Any]], nn.Module]) -> Callable[[dict[str, Any]], Tensor]:
        prepared: Prepared[Any] = Prepared(build)
        return lambda inputs: prepared(inputs).effective_weight()

    return Workload(
        inputs=lambda seed: batch(size, BATCH, seed),
        variants={name: form(FORMS[name]) for name in ("before", "after", "best", "compact")},
        oracle=_effective,
    )


SIZES = (1024, 2048)

CASES = (
    Case(
        "resu.forward",
        "a linear layer in RESU at 50 %, batch 32",
        "torch",
        _setup,
        grid=tuple({"pass": what, "size": size} for what in PASSES for size in SIZES),
        variants=tuple(FORMS),
        original=(
            original_layers.OriginalRESULinear,
            original_effective.EffectiveWeightFunction,
            original_effective.phi_scatter,
        ),
        quick_grid=tuple({"pass": what, "size": 1024} for what in PASSES),
        budget=8.0,
        precision=0.01,
    ),
    Case(
        "resu.masking",
        "the effective weight alone: what masking adds to a dense layer",
        "torch",
        _masking,
        grid=tuple({"size": size} for size in SIZES),
        variants=("before", "after", "best", "compact"),
        original=(original_effective.EffectiveWeightFunction, original_effective.phi_scatter),
        quick_grid=({"size": 1024},),
        budget=3.0,
        precision=0.01,
    ),
)
