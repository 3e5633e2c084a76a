"""A mask in signs that nothing else needs."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from resu.core.bits import pack_rows, words_per_row
from resu.core.mask import SparseMask

__all__ = ["SignBitMask"]


class SignBitMask(SparseMask):
    """A mask kept in the signs of an array that has no sign of its own, at no cost in memory.

    A second moment is a mean of squares, never negative: its sign bit is free. Set (also that of −0) = pruned.

    Args:
        carrier: second moments by rows and columns; signs are read as they stand.
        shape: the weight's shape.

    >>> second = torch.tensor([[0.5, -0.0, -2.0]])
    >>> SignBitMask(second, (1, 3)).pruned_indices.tolist()
    [1, 2]
    """

    def __init__(self, carrier: Float[Tensor, "rows cols"], shape: Sequence[int]) -> None:
        self._set(carrier, tuple(shape))

    @property
    def bits(self) -> Int32[Tensor, "rows words"]:
        """The words, packed anew each time."""
        words = torch.empty(self.rows, words_per_row(self.cols), dtype=torch.int32, device=self.device)
        for part in self.chunks():
            words[part] = pack_rows(self.row_bool(part))
        return words

    def _count(self) -> int:
        return sum(int(self.row_bool(part).sum()) for part in self.chunks())

    def row_bool(self, part: slice) -> Bool[Tensor, "part cols"]:
        """Some rows as booleans, True = active."""
        return torch.signbit(self._words[part]).logical_not_()

    def update_inplace(self, other: SparseMask) -> None:
        """Becomes the other mask: signs change, magnitudes stay."""
        self.check_shape(other.shape, "other mask")
        for part in self.chunks():
            self.set_rows(part, other.row_bool(part).to(self.device))

    def set_rows(self, part: slice, active: Bool[Tensor, "part cols"]) -> None:
        """Replaces some rows: signs change, magnitudes stay."""
        size = self._words[part].abs()
        self._words[part] = torch.where(active, size, -size)
        self._n_active = None

    @property
    def nbytes(self) -> int:
        """Nothing: the signs were there."""
        return 0
