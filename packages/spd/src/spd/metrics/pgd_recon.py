"""Reconstruction losses under masks that an adversary chose: full, layerwise, subset, and with persistent sources."""

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor

from spd.metrics.output_loss import SumAndCount
from spd.metrics.pgd_utils import Attack, PersistentSources, Sources, mask_infos_of, pgd_sum
from spd.metrics.recon import layer_by_layer
from spd.metrics.target_run import TargetRun
from spd.models.masks import Deltas
from spd.routing import Router, route_everywhere
from spd.sampling import SourceSampler

__all__ = ["persistent_pgd_recon_loss", "pgd_recon_layerwise_loss", "pgd_recon_loss", "pgd_recon_subset_loss"]

Importances = Mapping[str, Float[Tensor, "... _"]]


def pgd_recon_loss(
    run: TargetRun,
    importances: Importances,
    *,
    sampler: SourceSampler,
    attack: Attack,
    deltas: Deltas = None,
) -> Float[Tensor, ""]:
    """All sites masked as the adversary chose; see `spd.metrics.pgd_utils`.

    Args:
        run: the target's pass.
        importances: g by site.
        sampler: draws where sources start.
        attack: how to search.
        deltas: Δ by site, folded, or None.

    Returns:
        The loss.
    """
    return pgd_sum(run, importances, sampler=sampler, attack=attack, deltas=deltas).mean


def pgd_recon_layerwise_loss(
    run: TargetRun,
    importances: Importances,
    *,
    sampler: SourceSampler,
    attack: Attack,
    deltas: Deltas = None,
) -> Float[Tensor, ""]:
    """A search of its own for each site, masked alone; see `pgd_recon_loss`."""
    return layer_by_layer(
        importances,
        lambda one: pgd_sum(run, one, sampler=sampler, attack=attack, deltas=deltas),
    ).mean


def pgd_recon_subset_loss(
    run: TargetRun,
    importances: Importances,
    *,
    sampler: SourceSampler,
    attack: Attack,
    router: Router,
    deltas: Deltas = None,
) -> Float[Tensor, ""]:
    """Masked where a router says so, the same positions in all steps of the search; see `pgd_recon_loss`.

    Args:
        run: the target's pass.
        importances: g by site.
        sampler: draws where sources start, and the routing.
        attack: how to search.
        router: says where.
        deltas: Δ by site, folded, or None.

    Returns:
        The loss.
    """
    return pgd_sum(run, importances, sampler=sampler, attack=attack, deltas=deltas, router=router).mean


def persistent_pgd_recon_loss(
    run: TargetRun,
    importances: Importances,
    *,
    sampler: SourceSampler,
    persistent: PersistentSources,
    n_updates: int = 1,
    deltas: Deltas = None,
    router: Router = route_everywhere,
    reduce: Callable[[Tensor], Tensor] | None = None,
    broadcast: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, ""]:
    """The loss at sources that are kept between steps, after some steps of ascent from where they were.

    Args:
        run: the target's pass.
        importances: g by site.
        sampler: draws sources at the first step, and the routing.
        persistent: the sources, which are moved.
        n_updates: steps of ascent.
        deltas: Δ by site, folded, or None.
        router: where the components stand in.
        reduce: combines the gradients of shared sources over ranks; None on one process.
        broadcast: makes shared sources what the first rank drew; None on one process.

    Returns:
        The loss.
    """
    positions = next(iter(importances.values())).shape[:-1]
    persistent.start(importances, sampler, broadcast)
    routing = router(tuple(importances), positions, sampler)
    free = {name: importance.detach() for name, importance in importances.items()}

    def loss(at: Importances, kept: Sources | None) -> SumAndCount:
        infos = mask_infos_of(at, persistent.values(positions, kept), deltas, routing)
        return run.masked(infos, searching=kept is not None)

    for _ in range(n_updates):
        persistent.update(lambda kept: loss(free, kept), reduce)
    return loss(importances, None).mean
