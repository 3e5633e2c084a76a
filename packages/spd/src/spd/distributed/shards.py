"""Fully sharded: every rank holds its share of all parameters, and gathers the rest while it is needed.

For targets that fill a device. Uses PyTorch's `fully_shard` (Zhao et al., *PyTorch FSDP: Experiences on Scaling Fully
Sharded Data Parallel*, 2023, arXiv:2304.11277), in two trees that know nothing of each other:

- The frozen target. The children of its lists of modules, the blocks of a transformer, are gathered one at a time, in
  each pass; the rest of it, for the time of a pass.
- The components and causal-importance functions. They are gathered for a microbatch, forward and backward. Between
  microbatches gradients exist as shares only, and the optimizer's moments always do.

An adversary takes gradients in the middle of the forward pass. These end the passes of the target, after which its tree
gives its memory back, and would do the same to the parameters in training if they were in that tree.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from spd.config.perf import PerfConfig
from spd.distributed.ranks import Distributed
from spd.distributed.replicas import Shareable, check_can_be_shared, join
from spd.errors import ConfigError
from spd.models.component_model import ComponentModel
from spd.models.sites import Site

__all__ = ["gathered", "gathered_state", "shard", "whole"]


def whole(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """All of a tensor, of which ranks may hold shares; all ranks call it.

    Args:
        tensor: perhaps a share.

    Returns:
        The whole; the tensor itself where it is no share.
    """
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard(trainer: Shareable, distributed: Distributed) -> None:
    """Makes a trainer one of several, each of which holds its share of the target, of what is trained, of the moments.

    Parameters and buffers become those of rank 0. Whatever else reads components or causal-importance functions between
    steps does so within `gathered`. Does nothing for the only process.

    Args:
        trainer: between two steps, perhaps restored from a checkpoint, with a sampler of its rank's own; at the same
            step on all ranks.
        distributed: this process.

    Raises:
        ConfigError: settings that cannot be sharded.
        RankError: another rank ended or hung.
    """
    if distributed.world_size == 1:
        return
    # Here, since this takes seconds that nobody else needs to spend.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    check_can_be_shared(trainer)
    _check(trainer.config.perf)
    join(trainer, distributed)
    model = trainer.model
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(distributed.broadcast(tensor))
    mesh = init_device_mesh(distributed.device.type, (distributed.world_size,))
    _shard_target(model, mesh)
    before = dict(_trained(model))
    losses = _Sharded(model, trainer.losses)
    fully_shard(losses, mesh=mesh, reshard_after_forward=False)
    after = dict(_trained(model))
    _move(trainer, {id(p): after[name] for name, p in before.items()})
    trainer.losses = losses


@contextmanager
def gathered(trainer: Shareable) -> Iterator[ComponentModel]:
    """Within the context components and causal-importance functions are whole, for evaluation; all ranks enter it.

    Args:
        trainer: sharded or not, between two steps.

    Yields:
        The decomposed network.
    """
    losses = trainer.losses
    if not isinstance(losses, _Sharded):
        yield trainer.model
        return
    units: Any = losses
    units.unshard()
    try:
        yield trainer.model
    finally:
        units.reshard()


def gathered_state(trainer: Shareable, distributed: Distributed) -> dict[str, Shaped[Tensor, "..."]]:
    """Parameters and moments as a checkpoint holds them, whole; all ranks call it.

    Args:
        trainer: sharded or not, between two steps.
        distributed: this process.

    Returns:
        On rank 0 copies in the CPU's memory, `model/<parameter>` and `optimizer/<parameter>/<moment>`; on other ranks
        nothing.
    """
    found: dict[str, Tensor] = {}
    for name, p in _trained(trainer.model):
        own: dict[str, Tensor] = {f"model/{name}": p.detach()}
        own |= {f"optimizer/{name}/{key}": value for key, value in trainer.optimizer.state.get(p, {}).items()}
        for key, value in own.items():
            full = whole(value)
            if distributed.is_main:
                found[key] = full.to("cpu", copy=True).contiguous()
    return found


# --- how --------------------------------------------------------------------------------------------------------------


class _Sharded(nn.Module):
    """The losses, as a module that has the parameters in training, and not the target's."""

    def __init__(self, model: ComponentModel, losses: Any) -> None:
        super().__init__()
        self.components, self.ci_fns = model._components, model._ci_fns
        self._losses = (losses,)  # in a tuple, so that the target does not become a part of this

    def forward(self, batch: Shaped[Tensor, "..."], fraction: float) -> Any:
        return self._losses[0](batch, fraction)


@dataclass(frozen=True)
class _ShardedSite(Site):
    """A site whose frozen weight is gathered when it is asked for."""

    @property
    def weight(self) -> Float[Tensor, "..."]:
        """The leaf's frozen weight, whole."""
        return whole(cast(Tensor, self.module.weight))


def _check(perf: PerfConfig) -> None:
    if perf.cache_target_weights:
        raise ConfigError(
            "a sharded target's weights are gathered when they are needed; perf.cache_target_weights would keep them "
            "whole on every rank. Switch it off."
        )
    compiled = [name for name, on in perf.model_dump().items() if name.startswith("compile_") and on is True]
    if compiled:
        raise ConfigError(
            f"sharded modules run as they are; perf.{compiled[0]} is on. Switch it off, or share without shards."
        )
    if perf.amp == "fp16":
        raise ConfigError(
            "scaled gradients of shares would be checked by each rank alone; perf.amp is 'fp16'. Take bf16, or off."
        )


def _trained(model: ComponentModel) -> Iterator[tuple[str, nn.Parameter]]:
    for name, p in model.named_parameters():
        if not name.startswith("target_model."):
            yield name, p


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The children of the outermost lists of modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def _shard_target(model: ComponentModel, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    target = model.target_model
    for block in _blocks(target):
        if next(block.parameters(), None) is not None:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(target, mesh=mesh, reshard_after_forward=True)
    for name, site in model._sites.items():
        model._sites[name] = _ShardedSite(site.name, site.module, site.components)
        site.module.register_forward_pre_hook(partial(_gather_again, _around(target, name)), with_kwargs=True)


def _around(target: nn.Module, path: str) -> list[Any]:
    """The units that a module of the target is in, from the innermost."""
    from torch.distributed.fsdp import FSDPModule

    parts = path.split(".")
    modules = (target.get_submodule(".".join(parts[:n])) for n in range(len(parts), -1, -1))
    return [module for module in modules if isinstance(module, FSDPModule)]


def _gather_again(units: list[Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a module runs: its input will gather what surrounds it, when a gradient reaches that.

    A gradient usually enters a unit by its output, which gathers it; but a loss that compares inputs of sites sends it
    in by these.
    """
    x = args[0] if args else next(iter(kwargs.values()))
    if not x.requires_grad:
        return

    def gather(gradient: Tensor) -> None:
        for unit in units:
            unit.unshard()

    x.register_hook(gather)


def _move(trainer: Any, shares: dict[int, nn.Parameter]) -> None:
    """Gives a trainer's optimizer the shares in place of the parameters, and shares of their moments."""
    optimizer = trainer.optimizer
    moments = {id(p): state for p, state in optimizer.state.items()}
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for p in group["params"]:
            if id(p) in moments:
                optimizer.state[shares[id(p)]] = _shared(moments[id(p)], p, shares[id(p)])
        group["params"] = [shares[id(p)] for p in group["params"]]
    trainer._component_parameters = [shares[id(p)] for p in trainer._component_parameters]
    trainer._ci_parameters = [shares[id(p)] for p in trainer._ci_parameters]


def _shared(state: dict[str, Tensor], p: Tensor, share: Any) -> dict[str, Tensor]:
    from torch.distributed.tensor import distribute_tensor

    return {
        key: distribute_tensor(value, share.device_mesh, share.placements) if value.shape == p.shape else value
        for key, value in state.items()
    }
