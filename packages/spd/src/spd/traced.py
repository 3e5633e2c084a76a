"""Losses with an adversary, in a form that a compiler follows without a break.

`spd.metrics.pgd_utils` takes gradients for sources that it marks as needing one. A compiler cannot follow that within a
graph whose own result still has gradients to be taken. Here the search takes the gradient of a function
(`torch.func.grad`), with importances, Δ and parameters held fixed; draws, their order and all numbers are the same.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from spd.config import losses as c
from spd.errors import ConfigError
from spd.losses import LossContext, router_of, sources_of
from spd.metrics.output_loss import SumAndCount
from spd.metrics.pgd_utils import Attack, PersistentSources, initial_sources, mask_infos_of
from spd.metrics.recon import layer_by_layer
from spd.models.masks import FOLDED, Deltas
from spd.routing import Router, route_everywhere

__all__ = ["SEARCHING", "traced_loss"]

SEARCHING = (c.PGDReconLoss, c.PGDReconLayerwiseLoss, c.PGDReconSubsetLoss, c.PersistentPGDReconLoss)
"""The losses that have another form here."""

Sources = dict[str, Tensor]
Importances = Mapping[str, Tensor]


def traced_loss(loss: c.LossConfig, index: int, at: LossContext) -> Float[Tensor, ""]:
    """The same as `spd.losses` makes of one of these losses.

    Args:
        loss: the settings.
        index: the loss's place.
        at: what it is computed from.

    Returns:
        The loss.

    Raises:
        ConfigError: a loss without an adversary.
    """
    if isinstance(loss, c.PersistentPGDReconLoss):
        if index not in at.persistent:
            at.persistent[index] = sources_of(loss)
        return _persistent(loss, at.persistent[index], at)
    if isinstance(loss, c.PGDReconLayerwiseLoss):
        attack = at.attack(loss)["attack"]
        return layer_by_layer(at.g, lambda one: _search(one, attack, route_everywhere, at)).mean
    if isinstance(loss, c.PGDReconLoss | c.PGDReconSubsetLoss):
        router = router_of(loss.routing) if isinstance(loss, c.PGDReconSubsetLoss) else route_everywhere
        return _search(at.g, at.attack(loss)["attack"], router, at).mean
    raise ConfigError(f"only losses with an adversary have another form for a compiler; got {loss!r}. Use spd.losses.")


def _held(importances: Importances, deltas: Deltas) -> tuple[Importances, Deltas]:
    free = {name: importance.detach() for name, importance in importances.items()}
    if deltas is None or deltas == FOLDED:
        return free, deltas
    return free, {name: delta.detach() for name, delta in deltas.items()}


def _slopes(loss: Callable[[Sources], SumAndCount], sources: Sources) -> Sources:
    def value(tried: Sources) -> Tensor:
        return loss(tried).mean

    found: Sources = torch.func.grad(value)(sources)
    return {name: gradient.detach() for name, gradient in found.items()}


def _search(importances: Importances, attack: Attack, router: Router, at: LossContext) -> SumAndCount:
    sources = initial_sources(importances, attack.init, attack.mask_scope, at.sampler)
    if attack.broadcast is not None and attack.mask_scope == "shared_across_batch":
        sources = {name: attack.broadcast(source) for name, source in sources.items()}
    positions = next(iter(importances.values())).shape[:-1]
    routing = router(tuple(importances), positions, at.sampler)
    free, held = _held(importances, at.deltas)
    for _ in range(attack.n_steps):
        slopes = _slopes(
            lambda tried: at.run.masked(mask_infos_of(free, tried, held, routing), searching=True), sources
        )
        for name, slope in slopes.items():
            if attack.reduce is not None and attack.mask_scope == "shared_across_batch":
                slope = attack.reduce(slope)
            sources[name] = (sources[name] + attack.step_size * slope.sign()).clamp(0, 1)
    return at.run.masked(mask_infos_of(importances, sources, at.deltas, routing))


def _persistent(loss: c.PersistentPGDReconLoss, kept: PersistentSources, at: LossContext) -> Tensor:
    importances = at.g
    positions = next(iter(importances.values())).shape[:-1]
    kept.start(importances, at.sampler, at.broadcast)
    routing = router_of(loss.routing)(tuple(importances), positions, at.sampler)
    free, held = _held(importances, at.deltas)
    for _ in range(loss.n_updates):
        slopes = _slopes(
            lambda tried: at.run.masked(
                mask_infos_of(free, kept.values(positions, tried), held, routing), searching=True
            ),
            dict(kept.sources),
        )
        kept.steps += 1
        for name, slope in slopes.items():
            if at.reduce is not None and kept.scope != "unique_per_datapoint":
                slope = at.reduce(slope)
            moved = kept.sources[name] + kept.lr * kept._direction(name, slope)
            kept.sources[name] = moved.clamp(0, 1) if kept.parametrisation == "clamp" else moved
    return at.run.masked(mask_infos_of(importances, kept.values(positions), at.deltas, routing)).mean
