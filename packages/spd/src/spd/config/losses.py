"""Settings of the losses, told apart by the original's class names."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from spd.config.base import Frozen

__all__ = [
    "CIMaskedReconLayerwiseLoss",
    "CIMaskedReconLoss",
    "CIMaskedReconSubsetLoss",
    "FaithfulnessLoss",
    "ImportanceMinimalityLoss",
    "LossConfig",
    "PGDReconLayerwiseLoss",
    "PGDReconLoss",
    "PGDReconSubsetLoss",
    "PersistentPGDReconLoss",
    "RoutingConfig",
    "StaticProbability",
    "StochasticHiddenActsReconLoss",
    "StochasticReconLayerwiseLoss",
    "StochasticReconLoss",
    "StochasticReconSubsetLoss",
    "UniformKSubset",
    "UnmaskedReconLoss",
]

_Share = Annotated[float, Field(ge=0, le=1)]


class UniformKSubset(Frozen):
    """A random number of sites at each position; see `spd.routing.route_uniform_k`."""

    routing_type: Literal["uniform_k_subset"] = "uniform_k_subset"


class StaticProbability(Frozen):
    """Each site with the same chance; see `spd.routing.route_at_random`.

    Args:
        p: the chance.
    """

    routing_type: Literal["static_probability"] = "static_probability"
    p: _Share


RoutingConfig = Annotated[UniformKSubset | StaticProbability, Field(discriminator="routing_type")]


class _Loss(Frozen):
    """What all losses have.

    Args:
        coeff: factor in the total.
    """

    coeff: NonNegativeFloat


class _Subset(_Loss):
    routing: RoutingConfig = UniformKSubset()


class _PGD(_Loss):
    init: Literal["random", "ones", "zeroes"] = "random"
    step_size: PositiveFloat
    n_steps: PositiveInt
    mask_scope: Literal["shared_across_batch", "unique_per_datapoint"] = "shared_across_batch"


class FaithfulnessLoss(_Loss):
    """See `spd.metrics.faithfulness`."""

    classname: Literal["FaithfulnessLoss"] = "FaithfulnessLoss"


class ImportanceMinimalityLoss(_Loss):
    """See `spd.metrics.importance_minimality`.

    Args:
        pnorm: p.
        p_anneal_start_frac: share of training after which p changes.
        p_anneal_final_p: what it changes to.
        p_anneal_end_frac: share of training after which it stays.
        eps: ε.
        beta: β.
    """

    classname: Literal["ImportanceMinimalityLoss"] = "ImportanceMinimalityLoss"
    pnorm: PositiveFloat
    p_anneal_start_frac: _Share = 1.0
    p_anneal_final_p: PositiveFloat | None = None
    p_anneal_end_frac: _Share = 1.0
    eps: NonNegativeFloat = 1e-12
    beta: NonNegativeFloat = 0.0


class UnmaskedReconLoss(_Loss):
    """See `spd.metrics.recon`."""

    classname: Literal["UnmaskedReconLoss"] = "UnmaskedReconLoss"


class CIMaskedReconLoss(_Loss):
    """See `spd.metrics.recon`."""

    classname: Literal["CIMaskedReconLoss"] = "CIMaskedReconLoss"


class CIMaskedReconLayerwiseLoss(_Loss):
    """See `spd.metrics.recon`."""

    classname: Literal["CIMaskedReconLayerwiseLoss"] = "CIMaskedReconLayerwiseLoss"


class CIMaskedReconSubsetLoss(_Subset):
    """See `spd.metrics.recon`."""

    classname: Literal["CIMaskedReconSubsetLoss"] = "CIMaskedReconSubsetLoss"


class StochasticReconLoss(_Loss):
    """See `spd.metrics.recon`."""

    classname: Literal["StochasticReconLoss"] = "StochasticReconLoss"


class StochasticReconLayerwiseLoss(_Loss):
    """See `spd.metrics.recon`."""

    classname: Literal["StochasticReconLayerwiseLoss"] = "StochasticReconLayerwiseLoss"


class StochasticReconSubsetLoss(_Subset):
    """See `spd.metrics.recon`."""

    classname: Literal["StochasticReconSubsetLoss"] = "StochasticReconSubsetLoss"


class StochasticHiddenActsReconLoss(_Loss):
    """See `spd.metrics.hidden_acts`."""

    classname: Literal["StochasticHiddenActsReconLoss"] = "StochasticHiddenActsReconLoss"


class PGDReconLoss(_PGD):
    """See `spd.metrics.pgd_recon`."""

    classname: Literal["PGDReconLoss"] = "PGDReconLoss"


class PGDReconLayerwiseLoss(_PGD):
    """See `spd.metrics.pgd_recon`."""

    classname: Literal["PGDReconLayerwiseLoss"] = "PGDReconLayerwiseLoss"


class PGDReconSubsetLoss(_PGD):
    """See `spd.metrics.pgd_recon`."""

    classname: Literal["PGDReconSubsetLoss"] = "PGDReconSubsetLoss"
    routing: RoutingConfig = UniformKSubset()


class PersistentPGDReconLoss(_Loss):
    """See `spd.metrics.pgd_utils.PersistentSources`.

    Args:
        lr: of the ascent.
        n_updates: steps of ascent in each training step.
        scope: positions that share a source.
        n: examples' worth of sources, for "repeat_across_batch".
        optimizer: of the ascent.
        parametrisation: how sources stay in [0, 1].
        routing: where the components stand in; None = everywhere.
    """

    classname: Literal["PersistentPGDReconLoss"] = "PersistentPGDReconLoss"
    lr: PositiveFloat = 0.1
    n_updates: PositiveInt = 1
    scope: Literal["single", "broadcast_across_batch", "repeat_across_batch", "unique_per_datapoint"] = (
        "broadcast_across_batch"
    )
    n: PositiveInt = 1
    optimizer: Literal["sign", "adam"] = "adam"
    parametrisation: Literal["clamp", "sigmoid"] = "clamp"
    routing: RoutingConfig | None = None


LossConfig = Annotated[
    FaithfulnessLoss
    | ImportanceMinimalityLoss
    | UnmaskedReconLoss
    | CIMaskedReconLoss
    | CIMaskedReconLayerwiseLoss
    | CIMaskedReconSubsetLoss
    | StochasticReconLoss
    | StochasticReconLayerwiseLoss
    | StochasticReconSubsetLoss
    | StochasticHiddenActsReconLoss
    | PGDReconLoss
    | PGDReconLayerwiseLoss
    | PGDReconSubsetLoss
    | PersistentPGDReconLoss,
    Field(discriminator="classname"),
]
"""Any loss."""
