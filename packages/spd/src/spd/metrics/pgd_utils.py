"""Masks chosen by an adversary: projected gradient ascent on how far components are ablated.

A mask is m = g + (1 − g) s with sources s in [0, 1]; one more source for each site is the mask of Δ. The adversary
looks for the sources that move the output most: s ← clamp(s + η sign(∂ loss / ∂ s), 0, 1) (Madry et al., *Towards Deep
Learning Models Resistant to Adversarial Attacks*, 2018, arXiv:1706.06083). The loss at the sources found then trains
the components. Persistent sources go on from step to step instead of starting anew, so that one ascent a step is
enough.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from spd.errors import ConfigError, SamplingError
from spd.metrics.output_loss import SumAndCount
from spd.metrics.target_run import TargetRun
from spd.models.component_model import ComponentModel
from spd.models.masks import FOLDED, ComponentsMaskInfo, Deltas, Interpolated, make_mask_infos
from spd.routing import Router, Routing, route_everywhere
from spd.sampling import SourceSampler

__all__ = [
    "Attack",
    "MaskScope",
    "PGDInit",
    "PersistentSources",
    "ascend",
    "initial_sources",
    "mask_infos_of",
    "persistent_shape",
    "pgd_sum",
]

PGDInit = Literal["random", "ones", "zeroes"]
MaskScope = Literal["shared_across_batch", "unique_per_datapoint"]
Importances = Mapping[str, Float[Tensor, "... _"]]
Sources = dict[str, Float[Tensor, "... _"]]


@dataclass(frozen=True)
class Attack:
    """How the adversary searches.

    Args:
        step_size: η.
        n_steps: steps of ascent.
        init: where sources start.
        mask_scope: one set of sources for the whole batch, or one for each position.
        detach: search without the gradients of the parameters, which the search does not need.
        reduce: combines a shared source's gradient over ranks; None on one process.
        broadcast: makes a shared source what the first rank drew; None on one process.
        check: look in each pass whether sources are within [0, 1], as the original does.
        batch_fraction: share of the batch, its first examples, that is searched on. Shared sources found there are then
            judged on the whole batch, sources of single positions on that share.
    """

    step_size: float
    n_steps: int
    init: PGDInit = "random"
    mask_scope: MaskScope = "shared_across_batch"
    detach: bool = False
    reduce: Callable[[Tensor], Tensor] | None = None
    broadcast: Callable[[Tensor], Tensor] | None = None
    check: bool = False
    batch_fraction: float = 1.0


def initial_sources(importances: Importances, init: PGDInit, scope: MaskScope, sampler: SourceSampler) -> Sources:
    """Sources for all components of each site, and the one of Δ at the end.

    Args:
        importances: g by site.
        init: at random from U(0, 1), all ones or all zeroes.
        scope: over the whole batch, or for each position.
        sampler: draws them.

    Returns:
        By site, (…, C + 1); shared ones have 1 for each axis of positions.
    """
    found = {}
    for name, importance in importances.items():
        *positions, c = importance.shape
        shape = ([1] * len(positions) if scope == "shared_across_batch" else positions) + [c + 1]
        if init == "random":
            found[name] = sampler.uniform(shape)
        else:
            found[name] = torch.full(shape, float(init == "ones"), device=importance.device)
    return found


def mask_infos_of(
    importances: Importances, sources: Mapping[str, Float[Tensor, "... _"]], deltas: Deltas, routing: Routing = "all"
) -> dict[str, ComponentsMaskInfo]:
    """Masks from sources.

    Args:
        importances: g by site.
        sources: by site, see `initial_sources`.
        deltas: Δ by site, folded, or None, which leaves the last source unused.
        routing: where the components stand in.

    Returns:
        Masks by site; where Δ is folded, as g and s.
    """
    masks: dict[str, Tensor | Interpolated] = {}
    delta_masks = {}
    for name, importance in importances.items():
        source = sources[name]
        mask = Interpolated(importance, source[..., :-1])
        masks[name] = mask if deltas == FOLDED else mask.mask
        if deltas is not None:
            delta = None if deltas == FOLDED else deltas[name]
            delta_masks[name] = (delta, source[..., -1].expand(importance.shape[:-1]))
    return make_mask_infos(masks, routing, delta_masks or None)


@contextmanager
def _without_parameters(model: ComponentModel) -> Iterator[None]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def _detached(importances: Importances, deltas: Deltas) -> tuple[Importances, Deltas]:
    free = {name: importance.detach() for name, importance in importances.items()}
    if deltas is None or deltas == FOLDED:
        return free, deltas
    return free, {name: delta.detach() for name, delta in deltas.items()}


def ascend(
    loss: Callable[[Importances, Deltas, Sources], SumAndCount],
    model: ComponentModel,
    importances: Importances,
    deltas: Deltas,
    sources: Sources,
    attack: Attack,
) -> Sources:
    """Steps of ascent from given sources.

    Args:
        loss: of importances, Δ and sources.
        model: whose parameters are left out of the search where the attack says so.
        importances: g by site.
        deltas: Δ by site, folded, or None.
        sources: where to start.
        attack: how to search.

    Returns:
        The sources found, without gradients.
    """
    if attack.detach:
        importances, deltas = _detached(importances, deltas)
    shared = attack.mask_scope == "shared_across_batch"
    for _ in range(attack.n_steps):
        tried = {name: source.detach().requires_grad_() for name, source in sources.items()}
        with _without_parameters(model) if attack.detach else nullcontext():
            value = loss(importances, deltas, tried).mean
            gradients = torch.autograd.grad(value, list(tried.values()), allow_unused=True)
        sources = {}
        for (name, source), gradient in zip(tried.items(), gradients, strict=True):
            if gradient is None:
                sources[name] = source.detach()
                continue
            if shared and attack.reduce is not None:
                gradient = attack.reduce(gradient)
            sources[name] = (source.detach() + attack.step_size * gradient.sign()).clamp_(0, 1)
    return sources


def pgd_sum(
    run: TargetRun,
    importances: Importances,
    *,
    sampler: SourceSampler,
    attack: Attack,
    deltas: Deltas = None,
    router: Router = route_everywhere,
) -> SumAndCount:
    """The loss at the sources that the adversary finds. Sources are drawn first, then the routing, once.

    Args:
        run: the target's pass.
        importances: g by site; sites that are left out keep the target's layer.
        sampler: draws.
        attack: how to search.
        deltas: Δ by site, folded, or None.
        router: where the components stand in.

    Returns:
        Sum and divisor, with gradients for importances and parameters, none for the sources.
    """
    sources = initial_sources(importances, attack.init, attack.mask_scope, sampler)
    if attack.broadcast is not None and attack.mask_scope == "shared_across_batch":
        sources = {name: attack.broadcast(source) for name, source in sources.items()}
    positions = next(iter(importances.values())).shape[:-1]
    routing = router(tuple(importances), positions, sampler)
    whole = run, importances, routing
    part = whole
    if attack.batch_fraction < 1:
        n = math.ceil(attack.batch_fraction * positions[0])
        part = run.part(n), _first(importances, n), routing if isinstance(routing, str) else _first(routing, n)
        if attack.mask_scope == "unique_per_datapoint":
            whole, sources = part, _first(sources, n)
    on, at, routed = part

    def loss(g: Importances, weight_deltas: Deltas, tried: Sources) -> SumAndCount:
        if attack.check:
            _check_sources(tried)
        return on.masked(mask_infos_of(g, tried, weight_deltas, routed), searching=True)

    found = ascend(loss, run.model, at, deltas, sources, attack)
    if attack.check:
        _check_sources(found)
    on, at, routed = whole
    return on.masked(mask_infos_of(at, found, deltas, routed))


def _first(tensors: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: tensor[:n] for name, tensor in tensors.items()}


def _check_sources(sources: Sources) -> None:
    flat = torch.cat([source.detach().reshape(-1) for source in sources.values()])
    if bool(flat.max() > 1) or bool(flat.min() < 0):
        raise SamplingError(
            f"sources are from 0 to 1; got some from {flat.min().item():.4g} to {flat.max().item():.4g}. Start within, "
            "and clamp after each step."
        )


# --- persistent sources -----------------------------------------------------------------------------------------------

SourceScope = Literal["single", "broadcast_across_batch", "repeat_across_batch", "unique_per_datapoint"]


def persistent_shape(positions: Sequence[int], scope: SourceScope, n: int = 1) -> list[int]:
    """Positions that persistent sources are kept for.

    Args:
        positions: batch, and then any axes of positions within an example.
        scope: one for all; one for each position within an example; n examples' worth, repeated; one for each.
        n: examples' worth, for "repeat_across_batch".

    Returns:
        The shape.

    Raises:
        ConfigError: n that does not divide the batch.

    >>> persistent_shape((8, 5), "broadcast_across_batch"), persistent_shape((8, 5), "repeat_across_batch", 4)
    ([1, 5], [4, 5])
    """
    batch, *rest = positions
    if scope == "single":
        return [1] * len(positions)
    if scope == "broadcast_across_batch":
        return [1, *rest]
    if scope == "unique_per_datapoint":
        return list(positions)
    if batch % n:
        raise ConfigError(
            f"sources that are repeated over a batch divide it; got {n} for a batch of {batch}. Choose a divisor."
        )
    return [n, *rest]


@dataclass
class PersistentSources:
    """Sources that are kept from one training step to the next.

    Args:
        lr: of the ascent.
        scope: see `persistent_shape`.
        n: examples' worth, for "repeat_across_batch".
        optimizer: "sign" or "adam".
        betas: of Adam.
        parametrisation: "clamp" keeps s itself in [0, 1], "sigmoid" keeps the logits of s.
        sources: by site; empty before the first step.
    """

    lr: float
    scope: SourceScope = "broadcast_across_batch"
    n: int = 1
    optimizer: Literal["sign", "adam"] = "adam"
    betas: tuple[float, float] = (0.9, 0.99)
    parametrisation: Literal["clamp", "sigmoid"] = "clamp"
    sources: Sources = field(default_factory=dict)
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    steps: int = 0

    def start(
        self,
        importances: Importances,
        sampler: SourceSampler,
        broadcast: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Draws sources from U(0, 1) for sites that have none.

        Args:
            importances: g by site.
            sampler: draws.
            broadcast: makes sources what the first rank drew; None on one process. Those of single examples stay.
        """
        for name, importance in importances.items():
            if name in self.sources:
                continue
            *positions, c = importance.shape
            drawn = sampler.uniform([*persistent_shape(positions, self.scope, self.n), c + 1])
            if broadcast is not None and self.scope != "unique_per_datapoint":
                drawn = broadcast(drawn)
            self.sources[name] = torch.logit(drawn, eps=1e-6) if self.parametrisation == "sigmoid" else drawn

    def values(self, positions: Sequence[int], kept: Sources | None = None) -> Sources:
        """Sources in [0, 1], laid out for a batch.

        Args:
            positions: of the batch.
            kept: in place of the sources that are kept.

        Returns:
            By site.
        """
        found = {}
        for name, source in (self.sources if kept is None else kept).items():
            value = source.sigmoid() if self.parametrisation == "sigmoid" else source
            if self.scope == "repeat_across_batch":
                value = value.repeat(positions[0] // self.n, *([1] * (value.dim() - 1)))
            found[name] = value
        return found

    def update(self, loss: Callable[[Sources], SumAndCount], reduce: Callable[[Tensor], Tensor] | None = None) -> None:
        """One step of ascent.

        Args:
            loss: of the sources as they are kept.
            reduce: combines gradients over ranks; None on one process, and for sources of single examples.
        """
        tried = {name: source.detach().requires_grad_() for name, source in self.sources.items()}
        gradients = torch.autograd.grad(loss(tried).mean, list(tried.values()), allow_unused=True)
        self.steps += 1
        for (name, source), gradient in zip(tried.items(), gradients, strict=True):
            if gradient is None:
                continue
            if reduce is not None and self.scope != "unique_per_datapoint":
                gradient = reduce(gradient)
            moved = source.detach() + self.lr * self._direction(name, gradient)
            self.sources[name] = moved.clamp_(0, 1) if self.parametrisation == "clamp" else moved

    def _direction(self, name: str, gradient: Tensor) -> Tensor:
        if self.optimizer == "sign":
            return gradient.sign()
        zero = torch.zeros_like(gradient)
        m, v = self.moments.get(name, (zero, zero))
        m, v = m.lerp(gradient, 1 - self.betas[0]), v.lerp(gradient.square(), 1 - self.betas[1])
        self.moments[name] = (m, v)
        corrected = m / (1 - self.betas[0] ** self.steps)
        return corrected / ((v / (1 - self.betas[1] ** self.steps)).sqrt() + 1e-8)

    def state_dict(self) -> dict[str, Any]:
        """Sources, moments and the count of steps."""
        return {"sources": dict(self.sources), "moments": dict(self.moments), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state.

        Args:
            state: from `state_dict`.
        """
        self.sources, self.moments = dict(state["sources"]), dict(state["moments"])
        self.steps = int(state["steps"])
