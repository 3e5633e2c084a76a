"""Stochastic parameter decomposition: what a network's weights do, as a sparse set of rank-one parts.

Not there yet: this module is empty on purpose.
"""

__all__: list[str] = []
