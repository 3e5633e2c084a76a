"""What a forward pass is told about each site: masks of the components, of Δ, and where they apply at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from spd.routing import Router, route_everywhere
from spd.sampling import Sampling, SourceSampler

__all__ = [
    "FOLDED",
    "ComponentsMaskInfo",
    "Deltas",
    "Interpolated",
    "Mask",
    "make_mask_infos",
    "mask_of",
    "stochastic_mask_infos",
    "whole_mask",
]

FOLDED: Literal["folded"] = "folded"
"""Stands for all Δ: what they do to an output is computed from the target layer's own output, and no Δ is made."""

Deltas = Mapping[str, Float[Tensor, "..."]] | Literal["folded"] | None
"""Δ by site, `FOLDED`, or None where Δ is left out."""


@dataclass(frozen=True)
class Interpolated:
    """A mask m = g + (1 − g) r that has not been computed: the folded form never needs it by itself.

    Args:
        importance: g.
        sources: r in [0, 1].

    >>> import torch
    >>> Interpolated(torch.tensor([0.0, 0.5]), torch.tensor([0.5, 0.5])).mask.tolist()
    [0.5, 0.75]
    """

    importance: Float[Tensor, "... C"]
    sources: Float[Tensor, "... C"]

    @property
    def mask(self) -> Float[Tensor, "... C"]:
        """The mask."""
        return mask_of(self.importance, self.sources)


Mask = Float[Tensor, "... C"] | Interpolated | None
"""A mask as numbers, as what it is made of, or None for all ones."""


def whole_mask(mask: Mask) -> Float[Tensor, "... C"] | None:
    """A mask as numbers.

    Args:
        mask: in any form.

    Returns:
        The numbers; None = all ones.
    """
    return mask.mask if isinstance(mask, Interpolated) else mask


@dataclass(frozen=True)
class ComponentsMaskInfo:
    """Masks of one site.

    Args:
        component_mask: m; None = all ones.
        routing_mask: positions at which the components stand in for the layer; "all" = everywhere.
        weight_delta_and_mask: Δ, or None for the folded form, and its mask d, one number a position; None leaves Δ out.
    """

    component_mask: Float[Tensor, "... C"] | Interpolated | None
    routing_mask: Bool[Tensor, "..."] | Literal["all"] = "all"
    weight_delta_and_mask: tuple[Float[Tensor, "..."] | None, Float[Tensor, "..."]] | None = None


def make_mask_infos(
    component_masks: Mapping[str, Float[Tensor, "... _"] | Interpolated | None],
    routing_masks: Mapping[str, Bool[Tensor, "..."]] | Literal["all"] = "all",
    weight_deltas_and_masks: Mapping[str, tuple[Float[Tensor, "..."] | None, Float[Tensor, "..."]]] | None = None,
) -> dict[str, ComponentsMaskInfo]:
    """Puts masks together, site by site.

    Args:
        component_masks: m by site, None = all ones; sites that are not named keep the target's layer.
        routing_masks: by site, or "all".
        weight_deltas_and_masks: Δ and d by site; None leaves Δ out.

    Returns:
        Masks by site.
    """
    return {
        name: ComponentsMaskInfo(
            mask,
            "all" if routing_masks == "all" else routing_masks[name],
            None if weight_deltas_and_masks is None else weight_deltas_and_masks[name],
        )
        for name, mask in component_masks.items()
    }


def mask_of(importance: Float[Tensor, "... C"], sources: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
    """The mask m = g + (1 − g) r: a component may be ablated as far as it is not important.

    Args:
        importance: g.
        sources: r in [0, 1].

    Returns:
        The mask.
    """
    return importance + (1 - importance) * sources


def stochastic_mask_infos(
    importances: Mapping[str, Float[Tensor, "... _"]],
    sampler: SourceSampler,
    sampling: Sampling,
    deltas: Deltas = None,
    router: Router = route_everywhere,
) -> dict[str, ComponentsMaskInfo]:
    """Draws fresh masks for every site: of the components, of Δ, and the routing.

    The mask of Δ is drawn from U(0, 1) in both ways of sampling.

    Args:
        importances: g by site; one site that is left out keeps the target's layer.
        sampler: draws, site by site: r, then d where there is Δ; the routing comes last.
        sampling: continuous or binomial.
        deltas: Δ by site, `FOLDED`, or None.
        router: where the components stand in.

    Returns:
        Masks by site; where Δ is folded, as g and r.
    """
    masks: dict[str, Tensor | Interpolated] = {}
    delta_masks = {}
    for name, importance in importances.items():
        mask = Interpolated(importance, sampler.sources(importance.shape, sampling))
        masks[name] = mask if deltas == FOLDED else mask.mask
        if deltas is not None:
            delta = None if deltas == FOLDED else deltas[name]
            delta_masks[name] = (delta, sampler.uniform(importance.shape[:-1]))
    positions = next(iter(importances.values())).shape[:-1]
    return make_mask_infos(masks, router(tuple(masks), positions, sampler), delta_masks or None)
