"""At which positions a site's components stand in for its layer.

A router is given the sites, the shape of the positions and a sampler, and answers with one mask a site, or "all".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from spd.errors import ConfigError
from spd.sampling import SourceSampler

__all__ = ["Router", "Routing", "route_at_random", "route_everywhere", "route_uniform_k"]

Routing = Mapping[str, Bool[Tensor, "..."]] | Literal["all"]
Router = Callable[[Sequence[str], Sequence[int], SourceSampler], Routing]


def route_everywhere(sites: Sequence[str], positions: Sequence[int], sampler: SourceSampler) -> Literal["all"]:
    """All sites at all positions; draws nothing.

    Args:
        sites: names.
        positions: shape of the positions.
        sampler: not used.

    Returns:
        "all".
    """
    return "all"


def route_uniform_k(
    sites: Sequence[str], positions: Sequence[int], sampler: SourceSampler
) -> dict[str, Bool[Tensor, "..."]]:
    """For each position k ~ U{1 … L} of the L sites, chosen by a random permutation: at least one everywhere.

    Args:
        sites: L names.
        positions: shape of the positions.
        sampler: draws k, then the permutations.

    Returns:
        A mask a site.

    >>> masks = route_uniform_k(("a", "b"), (100,), SourceSampler(0))
    >>> bool((masks["a"] | masks["b"]).all()), bool((masks["a"] & masks["b"]).any())
    (True, True)
    """
    n = len(sites)
    chosen = sampler.integers(n, positions) + 1
    return dict(zip(sites, sampler.ranks(n, positions) < chosen, strict=True))


def route_at_random(p: float) -> Router:
    """Each site at each position with chance p, independently; at some positions perhaps none.

    Args:
        p: the chance.

    Returns:
        The router.

    Raises:
        ConfigError: p outside [0, 1].

    >>> masks = route_at_random(0.25)(("a",), (1000,), SourceSampler(0))
    >>> 200 < int(masks["a"].sum()) < 300
    True
    """
    if not 0 <= p <= 1:
        raise ConfigError(f"the chance that a site is routed is from 0 to 1; got {p}. Give 0.5 for half of them.")

    def route(sites: Sequence[str], positions: Sequence[int], sampler: SourceSampler) -> dict[str, Tensor]:
        flags = sampler.bernoulli(p, (len(sites), *positions))
        return dict(zip(sites, torch.unbind(flags), strict=True))

    return route
