"""The published chirp: packets by pursuit beside the published ensemble and a sine network."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dredge.quasimoto.baselines import Siren
from dredge.quasimoto.data import generate_data
from dredge.quasimoto.ensembles import QuasimotoEnsemble
from dredge.quasimoto.fitting import fit
from dredge.quasimoto.pursuit import pursue
from dredge.quasimoto.training import train_model

__all__ = ["AtTimeZero", "FitRow", "Scaled", "measured", "mse", "pursued", "run"]


@dataclass(frozen=True)
class FitRow:
    """One fit.

    Args:
        target: what was fitted.
        model: and how.
        parameters: that were fitted, of real numbers.
        seed: of the start; None = it uses none.
        passes: over all samples; None = of a pursuit, which is to be read by its time.
        mse: mean squared error over all samples.
        zero: that of predicting zero, against which it is to be read.
        cpu_seconds: of this process.
    """

    target: str
    model: str
    parameters: int
    seed: int | None
    passes: int | None
    mse: float
    zero: float
    cpu_seconds: float


def mse(model: nn.Module, coords: Float[Tensor, "points dim"], values: Float[Tensor, "points out"]) -> float:
    """The mean squared error of a model at some points, in float64.

    Args:
        model: to measure.
        coords: points.
        values: at these points.

    Returns:
        The error.
    """
    with torch.no_grad():
        found = [model(part.to(next(model.parameters()))).double().cpu() for part in coords.split(1 << 14)]
    return float((torch.cat(found) - values.double().cpu()).square().mean())


def measured(
    target: str, name: str, coords: Float[Tensor, "points dim"], values: Float[Tensor, "points out"], seed: int | None,
    make: Callable[[], tuple[nn.Module, int | None]],
) -> FitRow:  # fmt: skip
    """Makes and fits a model, and says what came of it.

    Args:
        target: its name.
        name: the model's.
        coords: points.
        values: at these points.
        seed: of the start.
        make: returns the fitted model and its passes over the samples.

    Returns:
        A row.
    """
    began = time.process_time()
    model, passes = make()
    spent = time.process_time() - began
    numbers = sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())
    zero = float(values.double().square().mean())
    return FitRow(target, name, numbers, seed, passes, mse(model, coords, values), zero, spent)


def pursued(
    coords: Float[Tensor, "points dim"], values: Float[Tensor, "points out"], atoms: int
) -> tuple[nn.Module, int | None]:
    """Packets by pursuit, for `measured`.

    Args:
        coords: points.
        values: at these points.
        atoms: packets.

    Returns:
        The model, and None.
    """
    return pursue(coords, values, atoms=atoms), None


class AtTimeZero(nn.Module):
    """A published model as a function of rows of coordinates, at time 0.

    Args:
        model: takes each coordinate and a time.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, coords: Float[Tensor, "points dim"]) -> Float[Tensor, "points out"]:
        """The model's values.

        Args:
            coords: where.

        Returns:
            Values.
        """
        columns = coords.unbind(1)
        return self.model(*columns, torch.zeros_like(columns[0]))


class Scaled(nn.Module):
    """A model of coordinates in [−1, 1] as one of wider coordinates.

    Args:
        model: to call.
        scale: of the coordinates.
    """

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, coords: Float[Tensor, "points dim"]) -> Float[Tensor, "points out"]:
        """The model's values.

        Args:
            coords: where.

        Returns:
            Values.
        """
        return self.model(coords / self.scale)


def run(*, atoms: tuple[int, ...] = (12, 16, 24), epochs: int = 2000, baselines: bool = True) -> Iterator[FitRow]:
    """Fits the chirp.

    Args:
        atoms: packets; 24 have 121 parameters.
        epochs: of the baselines.
        baselines: whether they are fitted, too.

    Yields:
        A row a fit, as it ends.
    """
    x, t, y = generate_data()

    for n in atoms:
        yield measured("chirp", f"packets({n}), pursuit", x, y, None, partial(pursued, x, y, n))
    if baselines:

        def published() -> tuple[nn.Module, int | None]:
            torch.manual_seed(0)
            model = QuasimotoEnsemble()
            train_model("ensemble", model, x, t, y, epochs=epochs, verbose=False)
            return AtTimeZero(model), epochs

        def sines() -> tuple[nn.Module, int | None]:
            model = Scaled(Siren(1, hidden=64, layers=2), 10.0)
            fit(model, x, y, epochs=epochs, lr=1e-3, schedule="constant", device="cpu")
            return model, epochs

        yield measured("chirp", "published ensemble(16), lr 1e-3", x, y, 0, published)
        yield measured("chirp", "SIREN 64 × 64, lr 1e-3", x, y, 0, sines)
