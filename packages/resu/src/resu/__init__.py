"""Sparse training in which pruned weights compete to come back, at the cost of dense training.

Not there yet: this module is empty on purpose.
"""

__all__: list[str] = []
