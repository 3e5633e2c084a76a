"""What all cases share: one linear layer with a mask, on one thread, and batches whose gradients come out exactly."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from resu.core.mask import SparseMask

__all__ = ["Prepared", "batch", "default_device", "mask_of", "weight_of"]

Built = TypeVar("Built")

SEED = 2025


def default_device() -> torch.device:
    """The GPU where this worker may see one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@lru_cache(maxsize=2)
def _weight(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(SEED + seed)
    return torch.randn(size, size, generator=generator).mul_(size**-0.5)


@lru_cache(maxsize=4)
def _mask(size: int, sparsity: float) -> SparseMask:
    generator = torch.Generator().manual_seed(SEED)
    return SparseMask(torch.rand(size, size, generator=generator) >= sparsity)


def weight_of(size: int, seed: int = 0) -> Tensor:
    """A weight with rows of about unit length, made anew for whoever asks.

    Args:
        size: Rows and columns.
        seed: Seed.
    """
    return _weight(size, seed).clone().to(default_device())


def mask_of(size: int, sparsity: float) -> SparseMask:
    """A random mask.

    Args:
        size: Rows and columns.
        sparsity: Share of pruned weights, to about a part in the square root of their number.
    """
    return _mask(size, sparsity).clone().to(default_device())


def batch(size: int, rows: int, seed: int = 0) -> dict[str, Any]:
    """The seed, inputs and the gradient of the loss by the outputs, both of small whole numbers.

    Sums of their products are whole numbers below 2^24, so that the gradient of the weight comes out exactly, in
    whatever order a matrix product adds. Adam divides a gradient by its own size: without this, entries that are
    rounding alone would move either way by a whole learning rate.

    Args:
        size: Columns of both.
        rows: Samples.
        seed: Seed.
    """
    generator = torch.Generator().manual_seed(SEED + 1 + seed)
    x, upstream = (torch.randint(-2, 3, (rows, size), generator=generator).float() for _ in range(2))
    return {"seed": seed, "x": x.to(default_device()), "upstream": upstream.to(default_device())}


class Prepared(Generic[Built]):
    """Something built from inputs once, and again for inputs of another seed: what is timed is its use.

    What the gate has looked at is then what is timed; inputs of one seed are alike.

    Args:
        build: Makes it from inputs with their `seed`.
    """

    def __init__(self, build: Callable[[dict[str, Any]], Built]) -> None:
        self._build, self._seed = build, -1
        self._built: Built | None = None

    def __call__(self, inputs: dict[str, Any]) -> Built:
        """What was built from inputs of this seed."""
        if self._built is None or inputs["seed"] != self._seed:
            self._built = None  # two of them may not fit into memory
            self._built, self._seed = self._build(inputs), inputs["seed"]
        return self._built
