"""The loss at sources that an adversary found for several batches at once.

One set of sources serves all positions of all batches. In every step of the ascent the gradient is added up over the
same batches before its sign is taken, so that more data can be attacked than fits into memory at once.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from spd.config.evals import PGDMultiBatchReconLoss, PGDMultiBatchReconSubsetLoss
from spd.data import mixed_seed
from spd.errors import ConfigError
from spd.metrics.measure import Found, Measure, Subject, mean_of
from spd.metrics.output_loss import SumAndCount, added
from spd.metrics.pgd_utils import Attack, initial_sources, mask_infos_of
from spd.metrics.target_run import TargetRun
from spd.models.masks import Deltas
from spd.routing import Router, route_everywhere
from spd.sampling import SourceSampler

__all__ = ["MultiBatchPGD", "multibatch_pgd_sum"]

Importances = Mapping[str, Float[Tensor, "... _"]]


def multibatch_pgd_sum(
    see: Callable[[Shaped[Tensor, "..."]], tuple[TargetRun, Importances]],
    batches: Sequence[Shaped[Tensor, "..."]],
    *,
    source_sampler: SourceSampler,
    sampler: SourceSampler,
    attack: Attack,
    deltas: Deltas = None,
    router: Router = route_everywhere,
) -> SumAndCount:
    """The loss over batches at the sources found for all of them.

    Args:
        see: the target's pass over a batch, and g by site; called again in each step, so that no batch's activations
            are kept while another one is looked at.
        batches: the data, the same in each step.
        source_sampler: draws where sources start; the same on all ranks.
        sampler: draws the routing of each batch, once.
        attack: how to search, with shared sources.
        deltas: Δ by site, folded, or None; without gradients.
        router: where the components stand in.

    Returns:
        Sum and divisor over all batches, without gradients.

    Raises:
        ConfigError: no batches, or sources for single positions.
    """
    if not batches or attack.mask_scope != "shared_across_batch":
        raise ConfigError(
            f"an adversary of several batches has one set of sources for them; got {attack.mask_scope!r} and "
            f"{len(batches)} batches. Share the sources, and give a batch."
        )
    run, g = see(batches[0])
    sources = initial_sources(g, attack.init, attack.mask_scope, source_sampler)
    routings = [router(tuple(g), _positions(see(batch)[1]), sampler) for batch in batches]
    for _ in range(attack.n_steps):
        tried = {name: source.detach().requires_grad_() for name, source in sources.items()}
        gradients = {name: torch.zeros_like(source) for name, source in sources.items()}
        for batch, routing in zip(batches, routings, strict=True):
            run, g = see(batch)
            with torch.enable_grad():
                loss = run.masked(mask_infos_of(g, tried, deltas, routing)).total
            # A source that nothing reads, that of Δ where Δ is left out for example, has no gradient.
            found = torch.autograd.grad(loss, list(tried.values()), allow_unused=True)
            for name, gradient in zip(tried, found, strict=True):
                gradients[name] += 0.0 if gradient is None else gradient
        for name, gradient in gradients.items():
            total = gradient if attack.reduce is None else attack.reduce(gradient)
            sources[name] = (sources[name] + attack.step_size * total.sign()).clamp_(0, 1)

    def final(batch: Tensor, routing: Mapping[str, Tensor] | str) -> SumAndCount:
        run, g = see(batch)
        return run.masked(mask_infos_of(g, sources, deltas, routing))  # type: ignore[arg-type]

    with torch.no_grad():
        return added(final(batch, routing) for batch, routing in zip(batches, routings, strict=True))


def _positions(importances: Importances) -> Sequence[int]:
    return next(iter(importances.values())).shape[:-1]


class MultiBatchPGD(Measure):
    """The loss of `multibatch_pgd_sum` over the evaluation's first batches.

    Args:
        name: of its number.
        config: the adversary.
        router: where the components stand in.
    """

    def __init__(
        self, name: str, config: PGDMultiBatchReconLoss | PGDMultiBatchReconSubsetLoss, router: Router
    ) -> None:
        super().__init__(name)
        self.config, self.router = config, router
        self.keeps = config.gradient_accumulation_steps

    def again(self, subject: Subject, kept: Sequence[Shaped[Tensor, "..."]]) -> None:
        """Searches, and keeps the loss."""

        def see(batch: Tensor) -> tuple[TargetRun, Importances]:
            seen = subject.see(batch)
            return seen.run, seen.g

        config = self.config
        attack = Attack(config.step_size, config.n_steps, config.init, reduce=subject.reduce_mean)
        # A seed of its own, not the evaluation's sampler: the sources must begin at the same place on every rank.
        shared = SourceSampler(mixed_seed("sources", self.name, subject.config.eval_seed), subject.example.device)
        found = multibatch_pgd_sum(
            see, kept[: self.keeps], source_sampler=shared, sampler=subject.sampler, attack=attack,
            deltas=subject.deltas, router=self.router,
        )  # fmt: skip
        self.add_mean("loss", found)

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """The loss."""
        return Found({self.name: mean_of(sums, "loss")})
