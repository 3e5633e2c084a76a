"""Which weights to prune: by magnitude, by calibration data (Wanda, DSNoT), in N:M groups.

Every function gives a `resu.core.mask.SparseMask` and leaves the weights as they are; `Sparsifier.set_masks` puts masks
into force.
"""

__all__: list[str] = []
