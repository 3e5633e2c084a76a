"""Differentiable boolean circuits that learn, survive knocked-out gates and repair themselves.

Every name has one public path, in the submodule that owns it: `boolean_nca_cc.circuits.model.gen_circuit`,
`boolean_nca_cc.circuits.train.train_step`, `boolean_nca_cc.knockout.shotgun` and so on. Importing the package alone
imports none of them, and no framework.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
