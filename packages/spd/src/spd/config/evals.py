"""Settings of what an evaluation measures and draws, told apart by the original's class names."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from spd.config.base import Frozen
from spd.config.losses import RoutingConfig, UniformKSubset

__all__ = [
    "CI_L0",
    "CEandKLLosses",
    "CIHistograms",
    "CIMeanPerComponent",
    "ComponentActivationDensity",
    "DenseCI",
    "DirectionMatchConfig",
    "EvalConfig",
    "IdentityCI",
    "IdentityCIError",
    "PGDMultiBatchReconLoss",
    "PGDMultiBatchReconSubsetLoss",
    "PermutedCIPlots",
    "StochasticReconSubsetCEAndKL",
    "UVPlots",
]

_Patterns = dict[str, tuple[str, ...]]


class IdentityCI(Frozen):
    """Sites whose importances should make an identity.

    Args:
        layer_pattern: over the sites' names, in the manner of file names.
        n_features: of the input.
    """

    layer_pattern: str
    n_features: PositiveInt


class DenseCI(Frozen):
    """Sites in which k components should serve all features.

    Args:
        layer_pattern: over the sites' names.
        k: dense components.
    """

    layer_pattern: str
    k: PositiveInt


class CI_L0(Frozen):  # noqa: N801  # the original's name
    """Components above the threshold, on average over positions: by site, by group, and in all.

    Args:
        groups: patterns over the sites' names, by group; a site counts in the first group that matches.
    """

    classname: Literal["CI_L0"] = "CI_L0"
    groups: _Patterns = Field(default_factory=dict)


class CEandKLLosses(Frozen):
    """Cross-entropy to the next token, and divergence from the target, under six kinds of masks.

    Args:
        rounding_threshold: an importance above it is rounded to 1, else to 0.
    """

    classname: Literal["CEandKLLosses"] = "CEandKLLosses"
    rounding_threshold: NonNegativeFloat = 0.0


class IdentityCIError(Frozen):
    """Errors of the importances of single features, see `spd.metrics.ground_truth`.

    Args:
        identity_ci: sites with one component a feature.
        dense_ci: sites with k components for all.
        tolerances: at which entries are counted.
    """

    classname: Literal["IdentityCIError"] = "IdentityCIError"
    identity_ci: tuple[IdentityCI, ...] = ()
    dense_ci: tuple[DenseCI, ...] = ()
    tolerances: tuple[PositiveFloat, ...] = (0.1, 0.2)


class DirectionMatchConfig(Frozen):
    """MMCS and ML2R: cosine and length of components against the target's columns, and components that are alive.

    Args:
        layer_pattern: over the sites' names.
    """

    classname: Literal["DirectionMatch"] = "DirectionMatch"
    layer_pattern: str = "*"


class CIHistograms(Frozen):
    """Histograms of importances, before and after the sigmoid; drawn.

    Args:
        n_batches_accum: batches that are looked at; None = all.
    """

    classname: Literal["CIHistograms"] = "CIHistograms"
    n_batches_accum: PositiveInt | None = None


class CIMeanPerComponent(Frozen):
    """Each component's mean importance, in descending order; drawn."""

    classname: Literal["CIMeanPerComponent"] = "CIMeanPerComponent"


class ComponentActivationDensity(Frozen):
    """How often each component's importance is above the threshold; drawn as histograms."""

    classname: Literal["ComponentActivationDensity"] = "ComponentActivationDensity"


class PermutedCIPlots(Frozen):
    """Importances of single features, components in the order of the features they serve; drawn as heat maps.

    Args:
        identity_patterns: sites ordered as an identity.
        dense_patterns: sites ordered by their sums.
    """

    classname: Literal["PermutedCIPlots"] = "PermutedCIPlots"
    identity_patterns: tuple[str, ...] = ("*",)
    dense_patterns: tuple[str, ...] = ()


class UVPlots(Frozen):
    """V and U, components in the order of `PermutedCIPlots`; drawn as heat maps.

    Args:
        identity_patterns: sites ordered as an identity.
        dense_patterns: sites ordered by their sums.
    """

    classname: Literal["UVPlots"] = "UVPlots"
    identity_patterns: tuple[str, ...] = ("*",)
    dense_patterns: tuple[str, ...] = ()


class StochasticReconSubsetCEAndKL(Frozen):
    """Cross-entropy and divergence with some sites masked at random and the others as in the target; worst subset too.

    Args:
        include_patterns: subsets by name: only sites that match are masked.
        exclude_patterns: subsets by name: all sites but those that match are masked.
        n_mask_samples: draws.
    """

    classname: Literal["StochasticReconSubsetCEAndKL"] = "StochasticReconSubsetCEAndKL"
    include_patterns: _Patterns = Field(default_factory=dict)
    exclude_patterns: _Patterns = Field(default_factory=dict)
    n_mask_samples: PositiveInt = 1


class PGDMultiBatchReconLoss(Frozen):
    """The loss at sources that an adversary found for many batches at once.

    Args:
        init: where sources start.
        step_size: of the ascent.
        n_steps: steps of ascent.
        gradient_accumulation_steps: batches that each step's gradient is summed over, the same ones in all steps.
    """

    classname: Literal["PGDMultiBatchReconLoss"] = "PGDMultiBatchReconLoss"
    init: Literal["random", "ones", "zeroes"] = "random"
    step_size: PositiveFloat
    n_steps: PositiveInt
    gradient_accumulation_steps: PositiveInt = 1


class PGDMultiBatchReconSubsetLoss(PGDMultiBatchReconLoss):
    """The same where a router says so.

    Args:
        routing: where the components stand in.
    """

    classname: Literal["PGDMultiBatchReconSubsetLoss"] = "PGDMultiBatchReconSubsetLoss"  # type: ignore[assignment]
    routing: RoutingConfig = UniformKSubset()


EvalConfig = Annotated[
    CI_L0
    | CEandKLLosses
    | IdentityCIError
    | DirectionMatchConfig
    | CIHistograms
    | CIMeanPerComponent
    | ComponentActivationDensity
    | PermutedCIPlots
    | UVPlots
    | StochasticReconSubsetCEAndKL
    | PGDMultiBatchReconLoss
    | PGDMultiBatchReconSubsetLoss,
    Field(discriminator="classname"),
]
"""Any measurement of an evaluation; all training losses are measured besides."""
