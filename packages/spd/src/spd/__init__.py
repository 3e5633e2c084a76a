"""Stochastic parameter decomposition: what a network's weights do, as a sparse set of rank-one parts.

The beginning of it: the decomposed network, its losses and the training step; see the README for what is not there yet.
Every name has one public path, in the module that owns it. Importing the package alone imports no framework.
"""

__all__: list[str] = []
