"""All losses of a step: each by its settings, and their weighted sum."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from spd.config import losses as c
from spd.config.perf import PgdSchedule
from spd.errors import ConfigError
from spd.metrics.faithfulness import faithfulness_loss
from spd.metrics.hidden_acts import stochastic_hidden_acts_recon_loss
from spd.metrics.importance_minimality import annealed_p, importance_minimality_loss
from spd.metrics.pgd_recon import (
    persistent_pgd_recon_loss,
    pgd_recon_layerwise_loss,
    pgd_recon_loss,
    pgd_recon_subset_loss,
)
from spd.metrics.pgd_utils import Attack, PersistentSources
from spd.metrics.recon import (
    ci_masked_recon_layerwise_loss,
    ci_masked_recon_loss,
    ci_masked_recon_subset_loss,
    stochastic_recon_layerwise_loss,
    stochastic_recon_loss,
    stochastic_recon_subset_loss,
    unmasked_recon_loss,
)
from spd.metrics.target_run import TargetRun
from spd.models.component_model import CIOutputs
from spd.models.masks import FOLDED, Deltas
from spd.routing import Router, route_at_random, route_everywhere, route_uniform_k
from spd.sampling import Sampling, SourceSampler

__all__ = ["LossContext", "compute_losses", "deltas_for", "router_of", "scheduled_steps", "sources_of", "total_loss"]


def sources_of(loss: c.PersistentPGDReconLoss) -> PersistentSources:
    """Sources as settings say, not yet drawn.

    Args:
        loss: the settings.

    Returns:
        The sources.
    """
    return PersistentSources(loss.lr, loss.scope, loss.n, loss.optimizer, parametrisation=loss.parametrisation)


def scheduled_steps(n_steps: int, step_size: float, schedule: PgdSchedule | None, fraction: float) -> tuple[int, float]:
    """Steps of the adversary, and their size, at a point of training.

    Args:
        n_steps: in the loss's settings.
        step_size: in the loss's settings.
        schedule: how the adversary begins.
        fraction: of training done.

    Returns:
        Both, changed as long as fewer steps are taken.

    >>> [scheduled_steps(20, 0.1, PgdSchedule(n_steps_start=4, step_size_factor=3.0), f)[0] for f in (0.0, 0.25, 0.5)]
    [4, 12, 20]
    """
    if schedule is None:
        return n_steps, step_size
    share = min(1.0, fraction / schedule.ramp_frac)
    steps = min(n_steps, round(schedule.n_steps_start + (n_steps - schedule.n_steps_start) * share))
    return steps, step_size * (schedule.step_size_factor if steps < n_steps else 1.0)


def router_of(routing: c.UniformKSubset | c.StaticProbability | None) -> Router:
    """A router by its settings.

    Args:
        routing: the settings; None = everywhere.

    Returns:
        The router.
    """
    if routing is None:
        return route_everywhere
    return route_at_random(routing.p) if isinstance(routing, c.StaticProbability) else route_uniform_k


@dataclass
class LossContext:
    """What losses are computed from.

    Args:
        run: the target's pass.
        ci: causal importances.
        sampler: draws.
        sampling: continuous or binomial.
        deltas: what masked passes do with Δ.
        weight_deltas: makes Δ by site, for faithfulness.
        n_mask_samples: draws of a stochastic loss.
        fraction: of training done.
        detach_pgd: search without the parameters.
        pgd_schedule: how the adversary begins; None = as its settings say from the first step on.
        pgd_batch_fraction: share of the batch that the adversary searches on.
        persistent: sources that are kept, by the place of their loss in the list.
        dropped: see `importance_minimality_loss`.
        world_size: ranks.
        reduce: combines the gradients of shared sources over ranks.
        broadcast: makes shared sources what the first rank drew.
    """

    run: TargetRun
    ci: CIOutputs
    sampler: SourceSampler
    sampling: Sampling
    deltas: Deltas
    weight_deltas: Callable[[], Mapping[str, Float[Tensor, "..."]]]
    n_mask_samples: int = 1
    fraction: float = 0.0
    detach_pgd: bool = False
    pgd_schedule: PgdSchedule | None = None
    pgd_batch_fraction: float = 1.0
    persistent: dict[int, PersistentSources] = field(default_factory=dict)
    dropped: Mapping[str, tuple[Float[Tensor, " _"], int]] | None = None
    world_size: int = 1
    reduce: Callable[[Tensor], Tensor] | None = None
    broadcast: Callable[[Tensor], Tensor] | None = None

    @property
    def g(self) -> dict[str, Float[Tensor, "... _"]]:
        """Importances for masks, by site."""
        return self.ci.lower_leaky

    def random(self) -> dict[str, Any]:
        """What stochastic losses take."""
        return {
            "sampler": self.sampler, "sampling": self.sampling, "deltas": self.deltas,
            "n_mask_samples": self.n_mask_samples,
        }  # fmt: skip

    def attack(self, loss: c.PGDReconLoss | c.PGDReconLayerwiseLoss | c.PGDReconSubsetLoss) -> dict[str, Any]:
        """What losses with an adversary take."""
        n_steps, step_size = scheduled_steps(loss.n_steps, loss.step_size, self.pgd_schedule, self.fraction)
        attack = Attack(
            step_size, n_steps, loss.init, loss.mask_scope, self.detach_pgd, self.reduce, self.broadcast,
            check=not self.run.model.perf.skip_range_checks and self.run.model.by_hand,
            batch_fraction=self.pgd_batch_fraction,
        )  # fmt: skip
        return {"sampler": self.sampler, "attack": attack, "deltas": self.deltas}


def compute_losses(losses: Sequence[c.LossConfig], context: LossContext) -> dict[str, Float[Tensor, ""]]:
    """Every loss of a list, in its order; a second one of a kind is named "…_2".

    Args:
        losses: the settings.
        context: what they are computed from.

    Returns:
        Losses by name, not multiplied by their coefficients.
    """
    found: dict[str, Tensor] = {}
    for index, loss in enumerate(losses):
        name, count = str(loss.classname), 2
        while name in found:
            name, count = f"{loss.classname}_{count}", count + 1
        found[name] = _compute(loss, index, context)
    return found


def _compute(loss: c.LossConfig, index: int, at: LossContext) -> Tensor:
    run, g = at.run, at.g
    match loss:
        case c.FaithfulnessLoss():
            return faithfulness_loss(at.weight_deltas())
        case c.ImportanceMinimalityLoss():
            p = annealed_p(
                at.fraction, loss.pnorm, start_frac=loss.p_anneal_start_frac, final_p=loss.p_anneal_final_p,
                end_frac=loss.p_anneal_end_frac,
            )  # fmt: skip
            return importance_minimality_loss(
                at.ci.upper_leaky, p, eps=loss.eps, beta=loss.beta, world_size=at.world_size, dropped=at.dropped,
                by_hand=run.model.by_hand and run.model.perf.ci_kernel != "einsum",
            )  # fmt: skip
        case c.UnmaskedReconLoss():
            return unmasked_recon_loss(run)
        case c.CIMaskedReconLoss():
            return ci_masked_recon_loss(run, g)
        case c.CIMaskedReconLayerwiseLoss():
            return ci_masked_recon_layerwise_loss(run, g)
        case c.CIMaskedReconSubsetLoss():
            return ci_masked_recon_subset_loss(run, g, sampler=at.sampler, router=router_of(loss.routing))
        case c.StochasticReconLoss():
            return stochastic_recon_loss(run, g, **at.random())
        case c.StochasticReconLayerwiseLoss():
            return stochastic_recon_layerwise_loss(run, g, **at.random())
        case c.StochasticReconSubsetLoss():
            return stochastic_recon_subset_loss(run, g, router=router_of(loss.routing), **at.random())
        case c.StochasticHiddenActsReconLoss():
            return stochastic_hidden_acts_recon_loss(run, g, **at.random())
        case c.PGDReconLoss():
            return pgd_recon_loss(run, g, **at.attack(loss))
        case c.PGDReconLayerwiseLoss():
            return pgd_recon_layerwise_loss(run, g, **at.attack(loss))
        case c.PGDReconSubsetLoss():
            return pgd_recon_subset_loss(run, g, router=router_of(loss.routing), **at.attack(loss))
        case c.PersistentPGDReconLoss():
            if index not in at.persistent:
                at.persistent[index] = sources_of(loss)
            kept = at.persistent[index]
            return persistent_pgd_recon_loss(
                run, g, sampler=at.sampler, persistent=kept, n_updates=loss.n_updates, deltas=at.deltas,
                router=router_of(loss.routing), reduce=at.reduce, broadcast=at.broadcast,
            )  # fmt: skip
    raise ConfigError(f"a loss is one of those in spd.config.losses; got {loss!r}. Use one of them.")


def total_loss(losses: Sequence[c.LossConfig], values: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """Σ coefficient · loss.

    Args:
        losses: the settings, at least one.
        values: from `compute_losses` of the same list.

    Returns:
        The sum.

    Raises:
        ConfigError: an empty list.
    """
    total: Tensor | None = None
    for loss, value in zip(losses, values.values(), strict=True):
        total = loss.coeff * value if total is None else total + loss.coeff * value
    if total is None:
        raise ConfigError("training needs at least one loss; the list is empty. Add one to loss_metrics.")
    return total


def deltas_for(
    delta_mode: str, use_delta_component: bool, weight_deltas: Callable[[], Mapping[str, Float[Tensor, "..."]]]
) -> Deltas:
    """What masked passes do with Δ.

    Args:
        delta_mode: "materialised" or "folded".
        use_delta_component: whether Δ is a component at all.
        weight_deltas: makes Δ by site.

    Returns:
        None, `FOLDED`, or Δ by site.
    """
    if not use_delta_component:
        return None
    return FOLDED if delta_mode == "folded" else weight_deltas()
