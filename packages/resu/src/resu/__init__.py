"""Sparse training in which pruned weights come back, at the cost of dense training.

Every name has one public path, in the module that owns it: `resu.sparsifier.Sparsifier`,
`resu.optim.masked.MaskedAdamW`, `resu.modules.linear.RESULinear` and so on. Importing the package alone imports none of
them, and no framework.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
