"""The original's trainer: how it entered the RESU phase and ran it, and a layer that has entered.

What is rebuilt, and from what, is told in `original_effective`. Two ways of entering the phase are told apart
(`clear_state`), which is the note's fix #1. Defects of the trainer, kept on purpose and each named where it stands:

- STATE KEPT: with W frozen, the optimizer's 2 |W| of state for it stay alive unless they are deleted.
- θ NEVER UPDATED: the trainer's RESU phase steps θ only where W has a gradient, and W is frozen.
- θ.grad NEVER ZEROED: what backward leaves there adds up over the phase.
- ALL ELSE FROZEN: the main optimizer is not stepped during the phase, biases included.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from resu.reference.original_effective import Forward
from resu.reference.original_layers import OriginalRESULinear

__all__ = [
    "Rebuilt",
    "build",
    "enter_resu_phase",
    "resu_phase",
]


def enter_resu_phase(layers: Iterable[OriginalRESULinear], optimizer: Optimizer, clear_state: bool) -> None:
    """The trainer's entry: the note's fix #1 where `clear_state` is set, STATE KEPT where it is not.

    Args:
        layers: layers with a mask.
        optimizer: the main optimizer.
        clear_state: delete its state of W before θ is made.
    """
    layers = list(layers)
    if clear_state:
        for layer in layers:
            if layer.weight in optimizer.state:
                del optimizer.state[layer.weight]
    for layer in layers:
        layer.enter_resu_mode()


def resu_phase(model: nn.Module, batches: Iterable[Any], loss_fn: Callable[[nn.Module, Any], Float[Tensor, ""]]) -> int:
    """The trainer's RESU phase. θ NEVER UPDATED, θ.grad NEVER ZEROED, ALL ELSE FROZEN.

    Args:
        model: holds layers in RESU mode.
        batches: one a step.
        loss_fn: model and batch → loss.

    Returns:
        How many updates of θ were made: none.
    """
    updates = 0
    layers = [module for module in model.modules() if isinstance(module, OriginalRESULinear)]
    for batch in batches:
        loss_fn(model, batch).backward()
        for layer in layers:
            if layer.weight.grad is not None:
                layer.resu_step(layer.weight.grad)
                updates += 1
    return updates


class Rebuilt(NamedTuple):
    """A layer of the original in its RESU phase, with the optimizer that trained it before.

    Args:
        layer: in RESU mode.
        optimizer: AdamW over weight and bias, after one step.
    """

    layer: OriginalRESULinear
    optimizer: Optimizer


def build(
    in_features: int,
    out_features: int,
    sparsity: float,
    *,
    forward_form: Forward = Forward.CACHED,
    clear_state: bool = True,
    bias: bool = False,
    seed: int = 0,
) -> Rebuilt:
    """A layer that was trained densely for one step of AdamW, pruned by magnitude, and has entered RESU.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        sparsity: s.
        forward_form: how the effective weight is formed.
        clear_state: the note's fix #1.
        bias: whether the layer has a bias.
        seed: of weights, data and noise; the global generator is put back afterwards.

    Returns:
        Layer and optimizer.

    >>> from resu.reference.original_memory import live_parts
    >>> live_parts(build(8, 8, 0.5))["cached M*W"]
    256
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = OriginalRESULinear(in_features, out_features, bias, forward_form)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
        layer(torch.randn(4, in_features)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        layer.prune_by_magnitude(sparsity)
        enter_resu_phase([layer], optimizer, clear_state)
    return Rebuilt(layer, optimizer)
