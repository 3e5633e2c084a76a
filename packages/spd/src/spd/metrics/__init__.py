"""Losses, and what a decomposition is judged by."""

from spd.metrics.faithfulness import faithfulness_loss
from spd.metrics.hidden_acts import stochastic_hidden_acts_recon_loss
from spd.metrics.importance_minimality import importance_minimality_loss
from spd.metrics.pgd_recon import (
    persistent_pgd_recon_loss,
    pgd_recon_layerwise_loss,
    pgd_recon_loss,
    pgd_recon_subset_loss,
)
from spd.metrics.recon import (
    ci_masked_recon_layerwise_loss,
    ci_masked_recon_loss,
    ci_masked_recon_subset_loss,
    stochastic_recon_layerwise_loss,
    stochastic_recon_loss,
    stochastic_recon_subset_loss,
    unmasked_recon_loss,
)

__all__ = [
    "ci_masked_recon_layerwise_loss",
    "ci_masked_recon_loss",
    "ci_masked_recon_subset_loss",
    "faithfulness_loss",
    "importance_minimality_loss",
    "persistent_pgd_recon_loss",
    "pgd_recon_layerwise_loss",
    "pgd_recon_loss",
    "pgd_recon_subset_loss",
    "stochastic_hidden_acts_recon_loss",
    "stochastic_recon_layerwise_loss",
    "stochastic_recon_loss",
    "stochastic_recon_subset_loss",
    "unmasked_recon_loss",
]
