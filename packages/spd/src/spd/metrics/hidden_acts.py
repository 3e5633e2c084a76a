"""How far what the sites read moves when components are ablated."""

from collections.abc import Iterator, Mapping

from jaxtyping import Float
from torch import Tensor

from spd.metrics.output_loss import SumAndCount, added, output_loss
from spd.metrics.target_run import TargetRun
from spd.models.component_model import OutputWithCache
from spd.models.masks import Deltas, stochastic_mask_infos
from spd.sampling import Sampling, SourceSampler

__all__ = ["stochastic_hidden_acts_recon_loss"]


def stochastic_hidden_acts_recon_loss(
    run: TargetRun,
    importances: Mapping[str, Float[Tensor, "... _"]],
    *,
    sampler: SourceSampler,
    sampling: Sampling = "continuous",
    deltas: Deltas = None,
    n_mask_samples: int = 1,
) -> Float[Tensor, ""]:
    """Mean squared error between every site's input under random masks and in the target, over all sites' numbers.

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

    def moved() -> Iterator[SumAndCount]:
        for _ in range(n_mask_samples):
            infos = stochastic_mask_infos(importances, sampler, sampling, deltas)
            masked = run.model(run.batch, mask_infos=infos, cache_type="input", known=run.known)
            assert isinstance(masked, OutputWithCache)
            for name, acts in run.acts.items():
                if acts.is_floating_point():  # an embedding reads tokens, which no mask moves
                    yield output_loss(masked.cache[name], acts, "mse")

    return added(moved()).mean
