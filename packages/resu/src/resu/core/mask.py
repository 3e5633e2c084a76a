"""The mask of a weight: which coordinates are active and which are pruned, one bit each.

A mask divides the coordinates of a weight W into the active set A (bit 1) and the pruned set P (bit 0). The subspaces
that they span are orthogonal and together the whole space, so M ⊙ x and (1 − M) ⊙ x add up to x. Nothing here keeps an
index vector or a float copy alive: one such copy costs as much as W itself.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int32, Shaped
from torch import Tensor

from resu.core.bits import pack_rows, popcount, unpack_rows, words_per_row
from resu.errors import MaskError

__all__ = ["MaskStats", "SparseMask", "check_sparsity", "chunk_rows", "row_shape"]

_WHOLE = 1 << 18
_SHARE = 512
_SMALLEST = 2048


@dataclass(frozen=True)
class MaskStats:
    """Counts of a mask.

    Args:
        n_active: coordinates in A.
        n_pruned: coordinates in P.
        sparsity: n_pruned over all.
        bytes: what the packed mask occupies.
    """

    n_active: int
    n_pruned: int
    sparsity: float
    bytes: int


def row_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns under which a weight is packed: the first dimension and the rest; a vector is one row.

    Args:
        shape: the weight's shape.

    Returns:
        Rows and columns.

    Raises:
        MaskError: a scalar, or a shape without elements.

    >>> row_shape((8, 3, 2, 2)), row_shape((5,))
    ((8, 12), (1, 5))
    """
    numel = math.prod(shape)
    if not len(shape) or not numel:
        raise MaskError(
            f"a mask belongs to a weight with at least one dimension and one element; the shape is {tuple(shape)}. "
            "Leave such parameters out."
        )
    return (1, numel) if len(shape) == 1 else (shape[0], numel // shape[0])


def chunk_rows(rows: int, cols: int, elements: int | None = None) -> Iterator[slice]:
    """Slices of rows that cover a weight, so that temporaries stay small beside it.

    Args:
        rows: rows of the weight.
        cols: columns of the weight.
        elements: about how many elements a slice has; None = 1/512 of the weight and at least 2048, or all of a weight
            of up to 2^18 elements.

    Yields:
        The slices, in order.

    >>> [s.stop for s in chunk_rows(4, 10, elements=20)]
    [2, 4]
    """
    total = rows * cols
    if elements is None:
        elements = total if total <= _WHOLE else max(_SMALLEST, total // _SHARE)
    step = max(1, elements // cols)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


class SparseMask:
    """A packed mask over a weight of any shape.

    Args:
        mask: one value a coordinate; True or nonzero = active.

    Raises:
        MaskError: a scalar or an empty mask.

    >>> mask = SparseMask(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> mask.n_active, mask.sparsity, mask.pruned_indices.tolist()
    (2, 0.5, [1, 2])
    """

    def __init__(self, mask: Shaped[Tensor, "..."]) -> None:
        rows, cols = row_shape(mask.shape)
        flags = (mask if mask.dtype == torch.bool else mask != 0).reshape(rows, cols)
        words = torch.empty(rows, words_per_row(cols), dtype=torch.int32, device=mask.device)
        for part in chunk_rows(rows, cols):
            words[part] = pack_rows(flags[part])
        self._set(words, tuple(mask.shape))

    def _set(self, words: Tensor, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.rows, self.cols = row_shape(shape)
        self._words = words
        self._n_active: int | None = None

    # --- making -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_bits(cls, bits: Int32[Tensor, "rows words"], shape: Sequence[int]) -> "SparseMask":
        """A mask over packed words, which are not copied.

        Args:
            bits: packed by rows, see `resu.core.bits`.
            shape: the weight's shape.

        Returns:
            The mask.

        Raises:
            MaskError: words that do not fit the shape.

        >>> SparseMask.from_bits(torch.tensor([[5]], dtype=torch.int32), (3,)).n_active
        2
        """
        rows, cols = row_shape(shape)
        if tuple(bits.shape) != (rows, words_per_row(cols)) or bits.dtype != torch.int32:
            raise MaskError(
                f"a weight of shape {tuple(shape)} has int32 words of shape {(rows, words_per_row(cols))}; got "
                f"{bits.dtype} of shape {tuple(bits.shape)}. Pack the mask with resu.core.bits.pack_rows."
            )
        mask = cls.__new__(cls)
        mask._set(bits, tuple(shape))
        return mask

    @classmethod
    def ones(cls, shape: Sequence[int], device: torch.device | str | None = None) -> "SparseMask":
        """Everything active.

        >>> SparseMask.ones((2, 3)).sparsity
        0.0
        """
        rows, cols = row_shape(shape)
        words = torch.full((rows, words_per_row(cols)), -1, dtype=torch.int32, device=device)
        if cols % 32:
            words[:, -1] = (1 << cols % 32) - 1
        return cls.from_bits(words, shape)

    @classmethod
    def zeros(cls, shape: Sequence[int], device: torch.device | str | None = None) -> "SparseMask":
        """Everything pruned.

        >>> SparseMask.zeros((2, 3)).n_pruned
        6
        """
        rows, cols = row_shape(shape)
        return cls.from_bits(torch.zeros(rows, words_per_row(cols), dtype=torch.int32, device=device), shape)

    @classmethod
    def random(
        cls, shape: Sequence[int], sparsity: float, *, seed: int = 0, device: torch.device | str | None = None
    ) -> "SparseMask":
        """Exactly `round(sparsity * numel)` coordinates pruned, drawn without replacement.

        Args:
            shape: the weight's shape.
            sparsity: share of pruned coordinates, in [0, 1).
            seed: same seed, same mask, on every device.
            device: where the mask lives.

        Returns:
            The mask.

        Raises:
            MaskError: a sparsity outside [0, 1).

        >>> SparseMask.random((10, 10), 0.25).n_pruned
        25
        """
        check_sparsity(sparsity)
        total = math.prod(shape)
        flags = torch.ones(total, dtype=torch.bool)
        generator = torch.Generator().manual_seed(seed)
        flags[torch.randperm(total, generator=generator)[: round(sparsity * total)]] = False
        return cls(flags.view(tuple(shape)).to(device) if device is not None else flags.view(tuple(shape)))

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def bits(self) -> Int32[Tensor, "rows words"]:
        """The packed words."""
        return self._words

    @property
    def device(self) -> torch.device:
        """Where the mask lives."""
        return self._words.device

    @property
    def numel(self) -> int:
        """Coordinates in all."""
        return self.rows * self.cols

    @property
    def n_active(self) -> int:
        """Coordinates in A; counted once and kept."""
        if self._n_active is None:
            self._n_active = self._count()
        return self._n_active

    def _count(self) -> int:
        return popcount(self._words)

    @property
    def n_pruned(self) -> int:
        """Coordinates in P."""
        return self.numel - self.n_active

    @property
    def sparsity(self) -> float:
        """Share of pruned coordinates."""
        return self.n_pruned / self.numel

    @property
    def density(self) -> float:
        """Share of active coordinates."""
        return self.n_active / self.numel

    def row_bool(self, part: slice) -> Bool[Tensor, "part cols"]:
        """Some rows as booleans, True = active.

        Args:
            part: which rows.

        Returns:
            The flags.
        """
        return unpack_rows(self._words[part], self.cols)

    def chunks(self, elements: int | None = None) -> Iterator[slice]:
        """Slices of rows that cover the mask; see `chunk_rows`.

        Args:
            elements: about how many elements a slice has.

        Returns:
            The slices.
        """
        return chunk_rows(self.rows, self.cols, elements)

    def to_bool(self) -> Bool[Tensor, "..."]:
        """The whole mask as booleans in the weight's shape: one byte a weight."""
        return self.row_bool(slice(None)).reshape(self.shape)

    @property
    def mask(self) -> Float[Tensor, "..."]:
        """The whole mask as float32 in the weight's shape: as large as the weight, made anew each time."""
        return self.to_bool().float()

    @property
    def active_indices(self) -> Int[Tensor, " active"]:
        """Flat indices of A, ascending, made anew each time."""
        return self.to_bool().flatten().nonzero().flatten()

    @property
    def pruned_indices(self) -> Int[Tensor, " pruned"]:
        """Flat indices of P, ascending, made anew each time."""
        return (~self.to_bool().flatten()).nonzero().flatten()

    def stats(self) -> MaskStats:
        """Counts and bytes."""
        return MaskStats(self.n_active, self.n_pruned, self.sparsity, self.nbytes)

    @property
    def nbytes(self) -> int:
        """What the packed mask occupies."""
        return self._words.numel() * 4

    # --- applying -----------------------------------------------------------------------------------------------------

    def check_shape(self, shape: Sequence[int], what: str = "tensor") -> None:
        """Refuses a tensor of another shape.

        Args:
            shape: the shape that came.
            what: what it is, for the message.

        Raises:
            MaskError: another shape than the mask's.
        """
        if tuple(shape) != self.shape:
            raise MaskError(
                f"a mask fits the weight that it was made for, of shape {self.shape}; the {what} has shape "
                f"{tuple(shape)}. Make a mask for that shape."
            )

    def apply(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """M ⊙ x, exactly 0 at P whatever x holds there.

        >>> SparseMask(torch.tensor([True, False])).apply(torch.tensor([2.0, float("nan")])).tolist()
        [2.0, 0.0]
        """
        self.check_shape(x.shape)
        return torch.where(self.to_bool(), x, torch.zeros((), dtype=x.dtype, device=x.device))

    def apply_inverse(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """(1 − M) ⊙ x, exactly 0 at A whatever x holds there.

        >>> SparseMask(torch.tensor([True, False])).apply_inverse(torch.tensor([2.0, 3.0])).tolist()
        [0.0, 3.0]
        """
        self.check_shape(x.shape)
        return torch.where(self.to_bool(), torch.zeros((), dtype=x.dtype, device=x.device), x)

    def apply_(self, x: Float[Tensor, "..."], *, inverse: bool = False) -> Float[Tensor, "..."]:
        """Zeroes x in place at P, by slices of rows.

        Args:
            x: a contiguous tensor of the mask's shape.
            inverse: zero it at A instead.

        Returns:
            x.

        Raises:
            MaskError: another shape, or a tensor that is not contiguous.
        """
        self.check_shape(x.shape)
        if not x.is_contiguous():
            raise MaskError("a mask is applied in place to a contiguous tensor; this one is not. Pass x.contiguous().")
        view = x.detach().view(self.rows, self.cols)
        for part in self.chunks():
            active = self.row_bool(part)
            view[part].masked_fill_(active if inverse else ~active, 0)
        return x

    def where(self, active: Float[Tensor, "..."], pruned: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The first argument at A, the second at P.

        >>> SparseMask(torch.tensor([True, False])).where(torch.tensor([1.0, 1.0]), torch.tensor([9.0, 9.0])).tolist()
        [1.0, 9.0]
        """
        self.check_shape(active.shape)
        return torch.where(self.to_bool(), active, pruned)

    # --- set algebra --------------------------------------------------------------------------------------------------

    def _same(self, other: "SparseMask") -> Tensor:
        self.check_shape(other.shape, "other mask")
        return other.bits.to(self.device)

    def __and__(self, other: "SparseMask") -> "SparseMask":
        return SparseMask.from_bits(self.bits & self._same(other), self.shape)

    def __or__(self, other: "SparseMask") -> "SparseMask":
        return SparseMask.from_bits(self.bits | self._same(other), self.shape)

    def __invert__(self) -> "SparseMask":
        return SparseMask.from_bits(self.bits ^ SparseMask.ones(self.shape, self.device).bits, self.shape)

    def difference(self, other: "SparseMask") -> "SparseMask":
        """What is active here and pruned there.

        >>> a, b = SparseMask(torch.tensor([True, True])), SparseMask(torch.tensor([True, False]))
        >>> a.difference(b).active_indices.tolist()
        [1]
        """
        return SparseMask.from_bits(self.bits & ~self._same(other), self.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SparseMask) and self.shape == other.shape and torch.equal(self.bits, self._same(other))

    __hash__ = None  # type: ignore[assignment]  # a mask changes in place

    def overlap_with(self, other: "SparseMask") -> int:
        """How many coordinates are active in both."""
        return (self & other).n_active

    def jaccard_similarity(self, other: "SparseMask") -> float:
        """|A ∩ A'| / |A ∪ A'|; 1 for two empty sets.

        >>> a, b = SparseMask(torch.tensor([True, True])), SparseMask(torch.tensor([True, False]))
        >>> a.jaccard_similarity(b)
        0.5
        """
        union = (self | other).n_active
        return 1.0 if not union else self.overlap_with(other) / union

    # --- changing and keeping -----------------------------------------------------------------------------------------

    def update_inplace(self, other: "SparseMask") -> None:
        """Becomes the other mask, in the same storage.

        Args:
            other: a mask of the same shape.

        Raises:
            MaskError: another shape.
        """
        self._words.copy_(self._same(other))
        self._n_active = None

    def set_rows(self, part: slice, active: Bool[Tensor, "part cols"]) -> None:
        """Replaces some rows.

        Args:
            part: which rows.
            active: True = active.
        """
        self._words[part] = pack_rows(active)
        self._n_active = None

    def clone(self) -> "SparseMask":
        """A packed copy."""
        return SparseMask.from_bits(self.bits.clone(), self.shape)

    def to(self, device: torch.device | str) -> "SparseMask":
        """The mask on a device."""
        return SparseMask.from_bits(self.bits.to(device), self.shape)

    def state_dict(self) -> dict[str, Tensor]:
        """The mask as it is saved: `bits`, uint8 of shape (rows, ceil(cols / 8)), and `shape`."""
        octets = self.bits.contiguous().view(torch.uint8)[:, : -(-self.cols // 8)]
        return {"bits": octets.clone(), "shape": torch.tensor(self.shape, dtype=torch.int64)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "SparseMask":
        """The inverse of `state_dict`.

        Args:
            state: `bits` and `shape`.

        Returns:
            The mask.

        Raises:
            MaskError: bits that do not fit the shape.

        >>> mask = SparseMask.random((3, 11), 0.4)
        >>> SparseMask.from_state_dict(mask.state_dict()) == mask
        True
        """
        octets, shape = state["bits"], tuple(int(n) for n in state["shape"])
        rows, cols = row_shape(shape)
        if octets.dtype != torch.uint8 or tuple(octets.shape) != (rows, -(-cols // 8)):
            raise MaskError(
                f"a saved mask of shape {shape} has uint8 bits of shape {(rows, -(-cols // 8))}; got {octets.dtype} of "
                f"shape {tuple(octets.shape)}. The file belongs to another weight, or is damaged."
            )
        padded = torch.nn.functional.pad(octets, (0, words_per_row(cols) * 4 - octets.shape[1]))
        words = padded.contiguous().view(torch.int32)
        return cls.from_bits(words & cls.ones(shape, words.device).bits, shape)

    def __repr__(self) -> str:
        return f"SparseMask(shape={self.shape}, active={self.n_active}, sparsity={self.sparsity:.4f})"


def check_sparsity(sparsity: float) -> None:
    """Refuses a sparsity outside [0, 1).

    Args:
        sparsity: share of pruned coordinates.

    Raises:
        MaskError: outside the range, or not a number.
    """
    if not 0 <= sparsity < 1:
        raise MaskError(
            f"a sparsity is a share of pruned weights, at least 0 and below 1; got {sparsity}. At 1 nothing would be "
            "left; give 0.9 for ninety per cent."
        )
