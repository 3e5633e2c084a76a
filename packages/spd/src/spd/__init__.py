"""Stochastic parameter decomposition: what a network's weights do, as a sparse set of rank-one parts.

Every name has one public path, in the module that owns it: `spd.models.component_model.ComponentModel`,
`spd.run_spd.optimize`, `spd.metrics.pgd_recon_loss` and so on. Importing the package alone imports none of them, and no
framework.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
