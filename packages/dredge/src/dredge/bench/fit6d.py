"""The published target on 8⁵ points: 64 packets, and beside them the models that they must be read against."""

import time
from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dredge.bench.fit1d import AtTimeZero, FitRow, Scaled, measured
from dredge.quasimoto.baselines import Siren
from dredge.quasimoto.data import generate_6d_data
from dredge.quasimoto.ensembles import QuasimotoEnsemble6D
from dredge.quasimoto.fitting import fit
from dredge.quasimoto.packets import WavePackets
from dredge.quasimoto.pursuit import initialise

__all__ = ["PACKETS", "run"]

PACKETS = 64
"""1,089 parameters."""
_BATCH = 2048
_LR = 2e-2


def run(
    *, seconds: float | int = 30, seeds: int = 1, grid_size: int = 8, packets: int = PACKETS, baselines: bool = True
) -> Iterator[FitRow]:
    """Fits the target.

    Args:
        seconds: of processor time, for each model, its start included.
        seeds: starts of the packets.
        grid_size: points of an axis.
        packets: how many.
        baselines: whether a sine network of 1,281 parameters and the published ensemble of 127 are fitted, too. The
            target's factor cos(x₂ x₄) is no wave, so that packets have no advantage by their form.

    Yields:
        A row a fit, as it ends.
    """
    *columns, _, y = generate_6d_data(grid_size)
    x = torch.stack(columns, dim=1)
    for seed in range(seeds):
        name = f"packets({packets}), start from data"
        yield measured("6D", name, x, y, seed, partial(_packets, x, y, packets, seed, seconds))
    if baselines:
        yield measured("6D", "SIREN 32 × 32", x, y, 0, partial(_sines, x, y, seconds))
        yield measured("6D", "published ensemble(6), lr 1e-2", x, y, 0, partial(_published, x, y, seconds))


def _packets(
    coords: Float[Tensor, "points 5"], values: Float[Tensor, "points 1"], packets: int, seed: int, seconds: float | int
) -> tuple[nn.Module, int]:
    began = time.process_time()
    model = initialise(WavePackets(5, packets), coords, values, seed=seed)
    left = max(0.01 * seconds, seconds - (time.process_time() - began))
    done = fit(model, coords, values, seconds=left, clock="cpu", device="cpu", batch_size=_BATCH, lr=_LR, seed=seed)
    return model, len(done.history)


def _sines(
    coords: Float[Tensor, "points 5"], values: Float[Tensor, "points 1"], seconds: float | int
) -> tuple[nn.Module, int]:
    model = Scaled(Siren(5, hidden=32, layers=2, w0=5.0), 3.0)
    done = fit(model, coords, values, seconds=seconds, batch_size=_BATCH, lr=5e-3, clock="cpu", device="cpu")
    return model, len(done.history)


def _published(
    coords: Float[Tensor, "points 5"], values: Float[Tensor, "points 1"], seconds: float | int
) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    model = AtTimeZero(QuasimotoEnsemble6D())
    done = fit(model, coords, values, seconds=seconds, lr=1e-2, schedule="constant", clock="cpu", device="cpu")
    return model, len(done.history)
