"""From a picture to contexts, and from classes to code vectors, as the seed commit did both.

ADAPTER NEVER TRAINED: 1.574 million weights stay as they were drawn; no optimizer had them. What it does is therefore a
fixed random projection, and any other would serve: this one has its layers, its size and its quantiser.

DROPOUT LEFT ON: the training context never switched it off while contexts were collected, so that one picture shown
twice in training gives two sets of contexts.

TOO MANY CODES: ten vectors cannot be orthogonal in five dimensions; what is called orthogonal is not.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from neurograph.reference.original.settings import OriginalSettings
from neurograph.reference.original.tables import OriginalTables

__all__ = ["OriginalAdapter", "class_codes"]

PIXEL_MEAN, PIXEL_DEVIATION = 0.1307, 0.3081
DROPOUT = 0.1
SWEEPS = 50


class OriginalAdapter(nn.Module):
    """Linear (Xavier), LayerNorm, dropout, adaptive quantiser: a picture to (phase, magnitude) of each input node.

    Args:
        settings: Sizes and seed.
    """

    def __init__(self, settings: OriginalSettings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.n_inputs * settings.dim * 2
        self.linear = nn.Linear(settings.pixels**2, width)
        self.norm = nn.LayerNorm(width)
        generator = torch.Generator().manual_seed(settings.seed)
        with torch.no_grad():
            bound = math.sqrt(6.0 / (settings.pixels**2 + width))
            self.linear.weight.uniform_(-bound, bound, generator=generator)
            self.linear.bias.zero_()
        self._dropout = torch.Generator().manual_seed(settings.seed + 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(p.numel() * p.element_size() for p in self.parameters())

    @torch.no_grad()
    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise one picture.

        Args:
            picture: Pixels in [0, 1], any square number of them; enlarged to the side of the settings.

        Returns:
            Phase and magnitude indices, (n_inputs, D) each.
        """
        side = math.isqrt(picture.numel())
        square = picture.reshape(1, 1, side, side).float()
        if side != self.settings.pixels:
            square = functional.interpolate(square, size=self.settings.pixels, mode="bilinear", align_corners=False)
        v = self.norm(self.linear(((square - PIXEL_MEAN) / PIXEL_DEVIATION).flatten()))
        if self.training:
            keep = torch.rand(v.shape, generator=self._dropout) >= DROPOUT
            v = v * keep / (1 - DROPOUT)
        v = v.view(self.settings.n_inputs, 2, self.settings.dim)
        phase = _cells(_minmax(v[:, 0]).sqrt(), self.settings.phase_bins)
        mag = _cells(_minmax((v[:, 1].abs() + 1e-8).log()), self.settings.mag_bins)
        return phase, mag


def _minmax(v: Tensor) -> Tensor:
    low, high = v.amin(dim=-1, keepdim=True), v.amax(dim=-1, keepdim=True)
    return (v - low) / (high - low).clamp(min=1e-12)


def _cells(share: Tensor, bins: int) -> Tensor:
    return (share * bins).floor().long().clamp(0, bins - 1)


def class_codes(settings: OriginalSettings, tables: OriginalTables) -> tuple[Tensor, Tensor]:
    """The seed's "orthogonal" class codes: Gram–Schmidt, two squashing maps, then hill climbing by single indices.

    Args:
        settings: C and D; the draw has seed 42 whatever the run's.
        tables: Lookup tables, for their bins.

    Returns:
        Phase and magnitude indices, (C, D) each.
    """
    phase, mag = _codes(settings.n_classes, settings.dim, tables.phase_bins, tables.mag_bins)
    return phase.clone(), mag.clone()


@cache
def _codes(c: int, d: int, phase_bins: int, mag_bins: int) -> tuple[Tensor, Tensor]:
    tables = OriginalTables(phase_bins, mag_bins)
    rows = torch.randn(c, d, generator=torch.Generator().manual_seed(42), dtype=torch.float64)
    for i in range(c):
        for j in range(min(i, d - 1)):  # after D vectors nothing is left; the original ran out of dimensions as well
            rows[i] -= (rows[i] @ rows[j]) * rows[j]
        rows[i] /= rows[i].norm().clamp(min=1e-8)
    phase = _cells((2 * (torch.atan(2 * rows) + math.pi / 2)).remainder(2 * math.pi) / (2 * math.pi), phase_bins)
    mag = _cells(torch.sigmoid(3 * rows), mag_bins)
    best = _mean_coherence(tables, phase, mag)
    for _ in range(SWEEPS):
        improved = False
        for indices, bins in ((phase, phase_bins), (mag, mag_bins)):
            for i in range(c):
                for k in range(min(3, d)):
                    for step in (1, -1):
                        old = int(indices[i, k])
                        indices[i, k] = (old + step) % bins
                        found = _mean_coherence(tables, phase, mag)
                        if found < best - 1e-9:
                            best, improved = found, True
                        else:
                            indices[i, k] = old
        if not improved:
            break
    return phase, mag


def _mean_coherence(tables: OriginalTables, phase: Tensor, mag: Tensor) -> float:
    vectors = (tables.cos[phase] * tables.mag[mag]).numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    gram = np.abs(vectors @ vectors.T)
    count = len(gram)
    return float((gram.sum() - gram.trace()) / (count * (count - 1)))
