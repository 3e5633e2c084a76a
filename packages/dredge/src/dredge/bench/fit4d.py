"""The published target on 20³ points, the same moved, and the same made odd: one setting for all three.

The published target is even and sits at the origin, as the published model does. A figure of it alone says little.
"""

from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dredge.bench.fit1d import AtTimeZero, FitRow, Scaled, measured, pursued
from dredge.quasimoto.baselines import Siren
from dredge.quasimoto.data import generate_4d_data
from dredge.quasimoto.ensembles import QuasimotoEnsemble4D
from dredge.quasimoto.fitting import fit
from dredge.quasimoto.packets import WavePackets
from dredge.quasimoto.pursuit import initialise, polish

__all__ = ["ATOMS", "TARGETS", "run", "samples"]

ATOMS = 10
"""Packets: 111 parameters."""
_POLISH = 50
TARGETS = {"published": {}, "shifted": {"shift": (1.5, -1.0, 0.5)}, "odd": {"odd": True}}
"""Targets, as arguments of `generate_4d_data`."""

Samples = tuple[Float[Tensor, "points 3"], Float[Tensor, "points 1"]]


def samples(target: str, grid_size: int = 20) -> Samples:
    """A target's samples.

    Args:
        target: one of `TARGETS`.
        grid_size: points of an axis.

    Returns:
        Points and values.
    """
    x, y, z, _, values = generate_4d_data(grid_size, **TARGETS[target])  # type: ignore[arg-type]
    return torch.stack([x, y, z], dim=1), values


def trained(
    coords: Float[Tensor, "points 3"], values: Float[Tensor, "points 1"], seed: int, epochs: int
) -> tuple[nn.Module, int]:
    """The default setting: a start from the samples, Adam, and Levenberg–Marquardt for the last sixth of the passes.

    Args:
        coords: points.
        values: at these points.
        seed: of the start.
        epochs: passes over the samples, all together.

    Returns:
        The model and its passes.
    """
    last = min(_POLISH, epochs // 6)
    model = initialise(WavePackets(3, ATOMS), coords, values, seed=seed)
    fit(model, coords, values, epochs=epochs - last, lr=1e-2, device="cpu")
    return polish(model, coords, values, steps=last), epochs


def run(
    *, seeds: int = 5, epochs: int = 300, grid_size: int = 20, targets: tuple[str, ...] = tuple(TARGETS),
    baselines: bool = True,
) -> Iterator[FitRow]:  # fmt: skip
    """Fits each target.

    Args:
        seeds: starts of each model that has one.
        epochs: passes over all samples.
        grid_size: points of an axis.
        targets: of `TARGETS`.
        baselines: whether the published ensemble (at its learning rate and at ten times it) and a sine network are
            fitted, too.

    Yields:
        A row a fit, as it ends.
    """
    for target in targets:
        x, y = samples(target, grid_size)
        yield measured(target, f"packets({ATOMS}), pursuit", x, y, None, partial(pursued, x, y, ATOMS))
        for seed in range(seeds):
            name = f"packets({ATOMS}), start from data"
            yield measured(target, name, x, y, seed, partial(trained, x, y, seed, epochs))
        if baselines:
            for seed in range(seeds):
                for lr in (1e-3, 1e-2):
                    name = f"published ensemble(8), lr {lr:g}"
                    yield measured(target, name, x, y, seed, partial(_published, x, y, seed, epochs, lr))
            yield measured(target, "SIREN 64 × 64, lr 1e-3", x, y, 0, partial(_sines, x, y, epochs))


def _published(
    coords: Float[Tensor, "points 3"], values: Float[Tensor, "points 1"], seed: int, epochs: int, lr: float
) -> tuple[nn.Module, int]:
    torch.manual_seed(seed)
    model = AtTimeZero(QuasimotoEnsemble4D())
    fit(model, coords, values, epochs=epochs, lr=lr, schedule="constant", device="cpu")
    return model, epochs


def _sines(coords: Float[Tensor, "points 3"], values: Float[Tensor, "points 1"], epochs: int) -> tuple[nn.Module, int]:
    model = Scaled(Siren(3, hidden=64, layers=2), 5.0)
    fit(model, coords, values, epochs=epochs, lr=1e-3, schedule="constant", device="cpu")
    return model, epochs
