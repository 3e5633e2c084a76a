"""Digits that are drawn: a set of pictures of 28 × 28 pixels that needs no file and no package."""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from neurograph.errors import DataError

__all__ = ["synthetic_glyphs"]


def synthetic_glyphs(n: int, *, seed: int = 0) -> tuple[Float32[Tensor, "n 28 28"], Int64[Tensor, " n"]]:
    """Drawn digits: strokes of varying place, size, slant, turn and width on a noisy ground.

    Args:
        n: how many, the classes in equal shares as far as n allows.
        seed: of everything that varies.

    Returns:
        Pictures in [0, 1], and their digits in random order.

    Raises:
        DataError: n below 1.

    >>> pictures, labels = synthetic_glyphs(20)
    >>> labels.bincount().tolist()
    [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    if n < 1:
        raise DataError(f"at least one glyph is drawn; got {n}. Ask for more.")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 10)
    pictures = np.stack([_glyph(_STROKES[digit], rng) for digit in labels])
    return torch.from_numpy(pictures), torch.from_numpy(labels.astype(np.int64))


def _arc(
    x: float, y: float, width: float, height: float, start: int, end: int, points: int = 9
) -> list[tuple[float, float]]:
    """A part of an ellipse, angles in degrees clockwise from the right, y downwards."""
    angles = np.deg2rad(np.linspace(start, end, points))
    return [(x + width * float(np.cos(a)), y + height * float(np.sin(a))) for a in angles]


_STROKES: tuple[Float[np.ndarray, "segments 2 2"], ...] = tuple(
    np.array([pair for line in lines for pair in pairwise(line)])
    for lines in (
        [_arc(0.0, 0.0, 0.62, 1.0, 0, 360, 17)],
        [[(-0.4, -0.6), (0.05, -1.0), (0.05, 1.0)]],
        [[*_arc(0.0, -0.45, 0.6, 0.55, 190, 380), (-0.62, 1.0), (0.65, 1.0)]],
        [[*_arc(-0.05, -0.5, 0.55, 0.5, 215, 450), *_arc(-0.05, 0.5, 0.62, 0.5, 270, 505)]],
        [[(0.35, 1.0), (0.35, -1.0), (-0.65, 0.4), (0.7, 0.4)]],
        [[(0.55, -1.0), (-0.45, -1.0), (-0.5, -0.15), *_arc(-0.05, 0.35, 0.62, 0.65, 235, 505)]],
        [[*_arc(0.35, 0.3, 0.9, 1.3, 275, 180), *_arc(0.0, 0.4, 0.55, 0.6, 180, 540, 17)]],
        [[(-0.6, -1.0), (0.6, -1.0), (-0.15, 1.0)]],
        [_arc(0.0, -0.5, 0.5, 0.5, 0, 360, 17), _arc(0.0, 0.5, 0.6, 0.5, 0, 360, 17)],
        [[*_arc(0.0, -0.4, 0.55, 0.6, 0, 360, 17), (0.5, 0.2), (0.2, 1.0)]],
    )
)
_PIXELS = np.stack(np.meshgrid(np.arange(28.0), np.arange(28.0), indexing="xy"), axis=-1).reshape(-1, 1, 2)


def _glyph(strokes: Float[np.ndarray, "segments 2 2"], rng: np.random.Generator) -> Float32[np.ndarray, "28 28"]:
    turn, slant = rng.normal(0.0, 0.12), rng.normal(0.0, 0.15)
    size = 8.0 * rng.uniform(0.8, 1.1, 2)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    slanted = np.array([[1.0, -slant], [0.0, 1.0]])
    ends = strokes @ (turned @ slanted @ np.diag(size)).T + 13.5 + rng.uniform(-2.5, 2.5, 2)
    start, along = ends[:, 0], ends[:, 1] - ends[:, 0]
    # The distance of each pixel from the nearest stroke; ink fades over one pixel.
    x, y = (_PIXELS[:, :, axis] - start[:, axis] for axis in (0, 1))
    at = ((x * along[:, 0] + y * along[:, 1]) / np.maximum((along**2).sum(-1), 1e-9)).clip(0, 1)
    nearest = np.sqrt(((x - at * along[:, 0]) ** 2 + (y - at * along[:, 1]) ** 2).min(1))
    ink = (rng.uniform(0.9, 1.8) + 0.5 - nearest).clip(0.0, 1.0) * rng.uniform(0.75, 1.0)
    return (ink + rng.normal(0.0, 0.04, ink.shape)).clip(0.0, 1.0).reshape(28, 28).astype(np.float32)
