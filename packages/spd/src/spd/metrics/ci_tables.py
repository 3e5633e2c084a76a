"""What causal importances look like over many positions: how many are active, how often, how large."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from spd.config.evals import CI_L0, CIHistograms, CIMeanPerComponent, ComponentActivationDensity
from spd.metrics.measure import Found, Measure, Seen, Subject, sites_matching

__all__ = [
    "G_EDGES",
    "L0",
    "Z_EDGES",
    "ActivationDensity",
    "ActiveComponents",
    "Histograms",
    "MeanPerComponent",
    "groups_of",
    "histogram",
]

G_EDGES = (0.0, 1.0, 100)
"""First edge, last edge and number of bins of the histograms of g."""

Z_EDGES = (-10.0, 10.0, 400)
"""The same for z. Edges are the same each time, so that counts of batches, ranks and runs can be added and compared;
what lies beyond is counted in the outermost bins."""


def groups_of(sites: list[str], groups: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Sites by group: each in the first one of whose patterns any matches it, and in no other.

    Args:
        sites: names.
        groups: patterns by group.

    Returns:
        Names by group; sites that nothing matches are in none.

    >>> groups_of(["a.1", "a.2", "b"], {"second": ("*.2",), "a": ("a.*", "*.1")})
    {'second': ['a.2'], 'a': ['a.1']}
    """
    found: dict[str, list[str]] = {group: [] for group in groups}
    for site in sites:
        for group, patterns in groups.items():
            if any(fnmatchcase(site, pattern) for pattern in patterns):
                found[group].append(site)
                break
    return found


def histogram(values: Float[Tensor, "..."], edges: tuple[float, float, int]) -> Int64[Tensor, " bins"]:
    """Counts of numbers in bins of one width.

    Args:
        values: the numbers.
        edges: first edge, last edge and number of bins.

    Returns:
        The counts; numbers beyond the edges are in the outermost bins.

    >>> histogram(torch.tensor([0.1, 0.9, 1.0, -5.0]), (0.0, 1.0, 2)).tolist()
    [2, 2]
    """
    low, high, bins = edges
    places = ((values.detach().flatten().float() - low) * (bins / (high - low))).floor().clamp(0, bins - 1).long()
    # Not bincount, which waits for a GPU to say how large the numbers are.
    return torch.zeros(bins, dtype=torch.int64, device=values.device).scatter_add_(0, places, torch.ones_like(places))


class L0(Measure):
    """Mean over positions of the components whose importance is strictly above the threshold.

    Args:
        name: what its numbers begin with.
        config: the groups.
    """

    def __init__(self, name: str, config: CI_L0) -> None:
        super().__init__(name)
        self.config = config
        self._groups: dict[str, list[str]] = {}

    def begin(self, subject: Subject) -> None:
        """Finds the groups' sites; each pattern must match one."""
        for group, patterns in self.config.groups.items():
            for pattern in patterns:
                sites_matching(subject.model, pattern, f"{self.name}, group {group!r}")
        self._groups = groups_of(subject.model.target_module_paths, self.config.groups)

    def update(self, seen: Seen) -> None:
        """Adds a batch."""
        threshold = seen.subject.config.ci_alive_threshold
        for site, g in seen.g.items():
            self.add(f"site {site}", (g > threshold).sum())
        self.add("positions", next(iter(seen.g.values())).new_full((), seen.positions, dtype=torch.float64))

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """By site, by group, and in all."""
        by_site = {
            key.removeprefix("site "): float(value / sums["positions"])
            for key, value in sums.items()
            if key.startswith("site ")
        }
        numbers = {f"{self.name}/{site}": value for site, value in by_site.items()}
        for group, sites in self._groups.items():
            numbers[f"{self.name}/group/{group}"] = float(sum(by_site[site] for site in sites))
        numbers[f"{self.name}/total"] = float(sum(by_site.values()))
        return Found(numbers)


class _PerComponent(Measure):
    """A mean over positions for each component."""

    def add_components(self, site: str, values: Shaped[Tensor, "... C"]) -> None:
        """Adds a batch of one site."""
        rows = values.flatten(0, -2)
        self.add(site, rows.sum(0))
        self.add(f"{site} count", rows.new_full((), rows.shape[0], dtype=torch.float64))

    @staticmethod
    def means(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means by site."""
        return {site: sums[site] / sums[f"{site} count"] for site in sums if not site.endswith(" count")}


class ActiveComponents(Measure):
    """Components whose importance is strictly above the threshold at any position of any batch, by site.

    Args:
        name: what its numbers begin with.
    """

    def update(self, seen: Seen) -> None:
        """Adds a batch."""
        for site, g in seen.g.items():
            self.add(site, (g > seen.subject.config.ci_alive_threshold).flatten(0, -2).sum(0))

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """How many, by site."""
        return Found({f"{self.name}/{site}": float((counts > 0).sum()) for site, counts in sums.items()})


class MeanPerComponent(_PerComponent):
    """Each component's mean importance; the table is in the components' own order.

    Args:
        name: what its table begins with.
        config: nothing to set.
    """

    def __init__(self, name: str, config: CIMeanPerComponent) -> None:
        super().__init__(name)

    def update(self, seen: Seen) -> None:
        """Adds a batch."""
        for site, g in seen.g.items():
            self.add_components(site, g)

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """Means by site."""
        return Found(tables={f"{self.name}/{site}": mean.float() for site, mean in self.means(sums).items()})


class ActivationDensity(_PerComponent):
    """Share of positions at which each component's importance is strictly above the threshold.

    Args:
        name: what its table begins with.
        config: nothing to set.
    """

    def __init__(self, name: str, config: ComponentActivationDensity) -> None:
        super().__init__(name)

    def update(self, seen: Seen) -> None:
        """Adds a batch."""
        threshold = seen.subject.config.ci_alive_threshold
        for site, g in seen.g.items():
            self.add_components(site, g > threshold)

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """Shares by site."""
        return Found(tables={f"{self.name}/{site}": share.float() for site, share in self.means(sums).items()})


class Histograms(Measure):
    """Counts of importances before the sigmoid, z, and after it, g; see `G_EDGES` and `Z_EDGES`.

    Args:
        name: what its tables begin with.
        config: how many batches.
    """

    def __init__(self, name: str, config: CIHistograms) -> None:
        super().__init__(name)
        self.config = config
        self._looked_at = 0

    def update(self, seen: Seen) -> None:
        """Adds a batch, unless there were enough."""
        if self.config.n_batches_accum is not None and self._looked_at >= self.config.n_batches_accum:
            return
        self._looked_at += 1
        for site, g in seen.g.items():
            self.add(f"{site}/g", histogram(g, G_EDGES))
            self.add(f"{site}/z", histogram(seen.ci.pre_sigmoid[site], Z_EDGES))

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """Counts by site; over several ranks their mean."""
        return Found(tables={f"{self.name}/{key}": counts for key, counts in sums.items()})
