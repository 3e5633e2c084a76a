"""Measurements from single features: errors of importances, orders of components, and directions in weights."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from spd.config.evals import DirectionMatchConfig, IdentityCIError, PermutedCIPlots, UVPlots
from spd.errors import ConfigError
from spd.metrics.ground_truth import dense_ci_error, direction_scores, identity_ci_error, identity_order
from spd.metrics.measure import Found, Measure, Subject, sites_matching
from spd.models.component_model import ComponentModel
from spd.models.components import EmbeddingComponents, LinearComponents

__all__ = ["CIErrors", "ComponentMatrices", "Directions", "PermutedImportances", "component_order"]


def component_order(
    importances: Float[Tensor, "features C"], *, dense: bool = False, threshold: float | int = 0.0
) -> Int64[Tensor, " C"]:
    """Components in the order in which they are drawn.

    Args:
        importances: g of each feature alone.
        dense: by their sums; else each feature's own component comes at the feature's place, and the others follow,
            those that are ever above the threshold first, by their sums.
        threshold: see `dense`.

    Returns:
        A permutation of the components.

    >>> component_order(torch.tensor([[0.0, 0.0, 1.0, 0.1], [0.0, 1.0, 0.0, 0.0]])).tolist()
    [2, 1, 3, 0]
    """
    g = importances.detach().cpu()
    alive = (g > threshold).any(0)
    weight = g.sum(0) + alive * (g.shape[0] + 1)  # every one that is alive before every one that is not
    rest = weight.argsort(descending=True, stable=True)
    if dense:
        return rest
    own = torch.tensor(identity_order(g)[: min(g.shape)], dtype=torch.int64)
    return torch.cat([own, rest[~torch.isin(rest, own)]])


class CIErrors(Measure):
    """Entries that the importances of single features should not have; see `spd.metrics.ground_truth`.

    Args:
        name: what its numbers begin with.
        config: sites, features and tolerances.

    Raises:
        ConfigError: no site at all.
    """

    def __init__(self, name: str, config: IdentityCIError) -> None:
        super().__init__(name)
        if not (config.identity_ci or config.dense_ci):
            raise ConfigError(f"{name} compares sites; identity_ci and dense_ci are empty. Name one, or leave it out.")
        self.config = config
        self._k: dict[str, int | None] = {}

    def begin(self, subject: Subject) -> None:
        """Feeds in single features."""
        found = subject.single_features
        features = subject.example.shape[-1]
        wanted: list[tuple[str, int | None]] = []
        for identity in self.config.identity_ci:
            if identity.n_features != features:
                raise ConfigError(
                    f"n_features of {self.name} is the width of the network's input, {features}; got "
                    f"{identity.n_features} for {identity.layer_pattern!r}. Correct it."
                )
            wanted += [(site, None) for site in sites_matching(subject.model, identity.layer_pattern, self.name)]
        for dense in self.config.dense_ci:
            wanted += [(site, dense.k) for site in sites_matching(subject.model, dense.layer_pattern, self.name)]
        for site, k in wanted:
            if site in self._k:
                raise ConfigError(
                    f"a site of {self.name} is compared with one form; {site} is matched by two patterns. Narrow one."
                )
            self._k[site] = k
            self.fixed[site] = found[site]

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """Errors by site and tolerance."""
        numbers: dict[str, float] = {}
        for tolerance in self.config.tolerances:
            for site, k in self._k.items():
                g = sums[site]
                error = identity_ci_error(g, tolerance) if k is None else dense_ci_error(g, k, tolerance)
                numbers[f"{self.name}/{site}/{tolerance:g}"] = float(error)
        return Found(numbers)


class _Ordered(Measure):
    """Sites with components in an order."""

    def __init__(self, name: str, config: PermutedCIPlots | UVPlots) -> None:
        super().__init__(name)
        self.config = config
        self._dense: dict[str, bool] = {}
        self._threshold = 0.0

    def begin(self, subject: Subject) -> None:
        """Finds the sites; one that patterns of both kinds match is dense, since "*" stands for all others."""
        self._threshold = subject.config.ci_alive_threshold
        for patterns, dense in ((self.config.identity_patterns, False), (self.config.dense_patterns, True)):
            for pattern in patterns:
                self._dense |= dict.fromkeys(sites_matching(subject.model, pattern, self.name), dense)
        for site in self._dense:
            self.fixed[f"{site}/importances"] = subject.single_features[site]

    def orders(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The order of each site."""
        return {
            site: component_order(sums[f"{site}/importances"].float(), dense=dense, threshold=self._threshold)
            for site, dense in self._dense.items()
        }


class PermutedImportances(_Ordered):
    """Importances of single features, and the order of the components.

    Args:
        name: what its tables begin with.
        config: the sites.
    """

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """By site: importances in the components' own order, and the order."""
        tables = {f"{self.name}/{site}/order": order for site, order in self.orders(sums).items()}
        return Found(tables=tables | {f"{self.name}/{key}": value.float() for key, value in sums.items()})


class ComponentMatrices(_Ordered):
    """V and U, and the order of the components.

    Args:
        name: what its tables begin with.
        config: the sites.
    """

    def begin(self, subject: Subject) -> None:
        """Takes V and U."""
        super().begin(subject)
        for site in self._dense:
            components = subject.model.components[site]
            self.fixed[f"{site}/V"], self.fixed[f"{site}/U"] = components.V.detach(), components.U.detach()

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """By site: importances, V and U in the components' own order, and the order."""
        tables = {f"{self.name}/{site}/order": order for site, order in self.orders(sums).items()}
        return Found(tables=tables | {f"{self.name}/{key}": value.float() for key, value in sums.items()})


class Directions(Measure):
    """MMCS and ML2R of each site; see `spd.metrics.ground_truth`.

    Args:
        name: what its numbers begin with.
        config: the sites.
    """

    def __init__(self, name: str, config: DirectionMatchConfig) -> None:
        super().__init__(name)
        self.config = config
        self._sites: list[str] = []

    def begin(self, subject: Subject) -> None:
        """Compares the weights."""
        self._sites = sites_matching(subject.model, self.config.layer_pattern, self.name)
        for site in self._sites:
            components = subject.model.components[site]
            mmcs, ml2r = direction_scores(_columns_last(subject.model, site), components)
            self.fixed[f"{site}/mmcs"], self.fixed[f"{site}/ml2r"] = mmcs, ml2r

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """Both of each site."""
        numbers = {}
        for site in self._sites:
            numbers[f"{self.name}/{site}/mmcs"] = float(sums[f"{site}/mmcs"])
            numbers[f"{self.name}/{site}/ml2r"] = float(sums[f"{site}/ml2r"])
        return Found(numbers)


def _columns_last(model: ComponentModel, site: str) -> Tensor:
    """The weight with one column for each thing that the site reads, as a linear layer has it."""
    weight, components = model.target_weight(site), model.components[site]
    stored_by_row = isinstance(components, EmbeddingComponents) or (
        isinstance(components, LinearComponents) and components.transposed
    )
    return weight.T if stored_by_row else weight
