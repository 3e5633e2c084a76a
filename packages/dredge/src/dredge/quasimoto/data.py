"""The published targets, and variants of them that tell a model that fits from one that is lucky.

Products of functions of single coordinates are found as outer products: the functions are evaluated once for each
point of an axis, not once for each point of the grid.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dredge.errors import ModelError

__all__ = ["generate_4d_data", "generate_6d_data", "generate_data"]

Flat = Float[Tensor, " points"]
Column = Float[Tensor, "points 1"]


def _axis(limit: int, grid_size: int) -> Tensor:
    if grid_size < 2:
        raise ModelError(f"a grid has at least 2 points an axis; got {grid_size}. Take more.")
    return torch.linspace(-limit, limit, grid_size)


def _coordinates(axis: Tensor, dims: int) -> list[Tensor]:
    return [grid.flatten() for grid in torch.meshgrid(*[axis] * dims, indexing="ij")]


def generate_data() -> tuple[Column, Column, Column]:
    """A chirp with a glitch: 1000 points of sin(x² / 2) exp(−x² / 10) on [−10, 10], and half a sin(20 x) on a stretch.

    Returns:
        Places, times (zeros) and values, each 1000 × 1.

    >>> x, t, y = generate_data()
    >>> round(y.square().mean().item(), 5)
    0.07087
    """
    x = torch.linspace(-10, 10, 1000)[:, None]
    y = torch.sin(x**2 / 2) * torch.exp(-(x**2) / 10)
    y[500:550] += 0.5 * torch.sin(20 * x[500:550])
    return x, torch.zeros_like(x), y


def generate_4d_data(
    grid_size: int = 20, *, shift: Sequence[float | int] = (0, 0, 0), odd: bool = False
) -> tuple[Flat, Flat, Flat, Flat, Column]:
    """exp(−|x|² / 2) sin(2 x) cos(2 y) sin(2 z) on a grid of [−5, 5]³ at time 0.

    The published target is even and sits at the origin, which flatters models that can do no other.

    Args:
        grid_size: points of an axis.
        shift: where the target's centre is.
        odd: cos(2 x) in place of sin(2 x), which makes the target odd.

    Returns:
        x, y, z and t, each with grid_size³ numbers, and values as a column.

    Raises:
        ModelError: fewer than two points an axis, or a shift that is no place.

    >>> round(generate_4d_data(20)[4].square().mean().item(), 7)
    0.0005856
    """
    axis = _axis(5, grid_size)
    if len(shift) != 3:
        raise ModelError(f"a shift has three coordinates; got {len(shift)}. Give each.")
    waves = (torch.cos if odd else torch.sin, torch.cos, torch.sin)
    a, b, c = (torch.exp(-0.5 * (axis - s) ** 2) * wave(2 * (axis - s)) for s, wave in zip(shift, waves, strict=True))
    x, y, z = _coordinates(axis, 3)
    return x, y, z, torch.zeros_like(x), (a[:, None, None] * b[:, None] * c).reshape(-1, 1)


def generate_6d_data(grid_size: int = 8) -> tuple[Flat, Flat, Flat, Flat, Flat, Flat, Column]:
    """exp(−|x|² / 10) sin(x₁ + x₂) cos(x₃) sin(x₄ − x₅) cos(x₂ x₄) on a grid of [−3, 3]⁵ at time 0.

    Args:
        grid_size: points of an axis.

    Returns:
        x₁, …, x₅ and t, each with grid_size⁵ numbers, and values as a column.

    Raises:
        ModelError: fewer than two points an axis.

    >>> round(generate_6d_data(8)[6].square().mean().item(), 6)
    0.00418
    """
    axis = _axis(3, grid_size)
    window = torch.exp(-(axis**2) / 10)
    pair = window[:, None] * window
    first = pair * torch.sin(axis[:, None] + axis)  # x1, x2
    third = window * torch.cos(axis)
    last = pair * torch.sin(axis[:, None] - axis)  # x4, x5
    mixed = torch.cos(axis[:, None] * axis)  # x2, x4
    left = first[:, :, None] * third  # x1, x2, x3
    right = mixed[:, :, None] * last  # x2, x4, x5
    values = left[:, :, :, None, None] * right[:, None]
    x1, x2, x3, x4, x5 = _coordinates(axis, 5)
    return x1, x2, x3, x4, x5, torch.zeros_like(x1), values.reshape(-1, 1)
