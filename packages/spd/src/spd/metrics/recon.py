"""Reconstruction losses: how far the target's output moves when components are ablated.

Each exists in three forms: *full*, with all sites masked at once; *layerwise*, one pass for each site with that one
masked and all others as in the target; and *subset*, with a router that says at which positions the components stand
in. A layerwise loss is the mean over all its passes.
"""

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor

from spd.metrics.output_loss import SumAndCount, added
from spd.metrics.target_run import TargetRun
from spd.models.masks import Deltas, make_mask_infos, stochastic_mask_infos
from spd.routing import Router, route_everywhere
from spd.sampling import Sampling, SourceSampler

__all__ = [
    "ci_masked_recon_layerwise_loss",
    "ci_masked_recon_loss",
    "ci_masked_recon_subset_loss",
    "layer_by_layer",
    "stochastic_recon_layerwise_loss",
    "stochastic_recon_loss",
    "stochastic_recon_subset_loss",
    "unmasked_recon_loss",
]

Importances = Mapping[str, Float[Tensor, "... _"]]


def layer_by_layer(importances: Importances, each: Callable[[Importances], SumAndCount]) -> SumAndCount:
    """Adds a loss over sites, one site at a time.

    Args:
        importances: g by site.
        each: the loss with one site masked.

    Returns:
        Sum and divisor over all sites.
    """
    return added(each({name: importance}) for name, importance in importances.items())


def unmasked_recon_loss(run: TargetRun) -> Float[Tensor, ""]:
    """All components in place, nothing ablated and no Δ: what the components alone make of the network.

    Args:
        run: the target's pass.

    Returns:
        The loss.
    """
    infos = make_mask_infos(dict.fromkeys(run.model.target_module_paths))
    return run.masked(infos).mean


def ci_masked_recon_loss(
    run: TargetRun,
    importances: Importances,
) -> Float[Tensor, ""]:
    """Masks m = g, no Δ: everything unimportant is ablated as far as it can be.

    Args:
        run: the target's pass.
        importances: g by site.

    Returns:
        The loss.
    """
    return run.masked(make_mask_infos(importances)).mean


def ci_masked_recon_layerwise_loss(
    run: TargetRun,
    importances: Importances,
) -> Float[Tensor, ""]:
    """Masks m = g, one site at a time; see `ci_masked_recon_loss`."""
    return layer_by_layer(importances, lambda one: run.masked(make_mask_infos(one))).mean


def ci_masked_recon_subset_loss(
    run: TargetRun,
    importances: Importances,
    *,
    sampler: SourceSampler,
    router: Router,
) -> Float[Tensor, ""]:
    """Masks m = g where a router says so; see `ci_masked_recon_loss`.

    Args:
        run: the target's pass.
        importances: g by site.
        sampler: draws the routing.
        router: says where.

    Returns:
        The loss.
    """
    positions = next(iter(importances.values())).shape[:-1]
    routing = router(tuple(importances), positions, sampler)
    return run.masked(make_mask_infos(importances, routing)).mean


def _stochastic(
    run: TargetRun,
    importances: Importances,
    sampler: SourceSampler,
    sampling: Sampling,
    deltas: Deltas,
    router: Router,
    n_mask_samples: int,
) -> SumAndCount:
    return added(
        run.masked(stochastic_mask_infos(importances, sampler, sampling, deltas, router)) for _ in range(n_mask_samples)
    )


def stochastic_recon_loss(
    run: TargetRun,
    importances: Importances,
    *,
    sampler: SourceSampler,
    sampling: Sampling = "continuous",
    deltas: Deltas = None,
    n_mask_samples: int = 1,
) -> Float[Tensor, ""]:
    """Random masks m = g + (1 − g) r, Δ with a mask of its own; the mean over fresh draws.

    Args:
        run: the target's pass.
        importances: g by site.
        sampler: draws the masks.
        sampling: continuous or binomial.
        deltas: Δ by site, folded, or None.
        n_mask_samples: draws.

    Returns:
        The loss.
    """
    return _stochastic(run, importances, sampler, sampling, deltas, route_everywhere, n_mask_samples).mean


def stochastic_recon_layerwise_loss(
    run: TargetRun,
    importances: Importances,
    *,
    sampler: SourceSampler,
    sampling: Sampling = "continuous",
    deltas: Deltas = None,
    n_mask_samples: int = 1,
) -> Float[Tensor, ""]:
    """Random masks, one site at a time; see `stochastic_recon_loss`."""
    return layer_by_layer(
        importances,
        lambda one: _stochastic(run, one, sampler, sampling, deltas, route_everywhere, n_mask_samples),
    ).mean


def stochastic_recon_subset_loss(
    run: TargetRun,
    importances: Importances,
    *,
    sampler: SourceSampler,
    router: Router,
    sampling: Sampling = "continuous",
    deltas: Deltas = None,
    n_mask_samples: int = 1,
) -> Float[Tensor, ""]:
    """Random masks where a router says so; see `stochastic_recon_loss`.

    Args:
        run: the target's pass.
        importances: g by site.
        sampler: draws masks and routing.
        router: says where.
        sampling: continuous or binomial.
        deltas: Δ by site, folded, or None.
        n_mask_samples: draws.

    Returns:
        The loss.
    """
    return _stochastic(run, importances, sampler, sampling, deltas, router, n_mask_samples).mean
