"""Pictures of which a network sees half of the pixels, and is judged by the other half.

Fitting all pixels says little: a table of as many numbers as pixels would be perfect. Here a model has at most 7,300
numbers for 8,192 training pixels, and must beat interpolation of these, which needs no training. Its setting is chosen
on other pictures than those reported, by pixels held back from their training half. Needs the extra `bench`
(scikit-image, whose pictures come with it).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from dredge.errors import ModelError, needed
from dredge.quasimoto.baselines import Siren, Wire
from dredge.quasimoto.fitting import fit
from dredge.quasimoto.interpolation import interpolate

__all__ = ["CHOSEN", "GRID", "REPORTED", "TUNED", "ChoiceRow", "HeldOutRow", "choose", "picture", "psnr", "run"]

REPORTED = ("camera", "coins", "moon", "astronaut")
"""Pictures whose figures are reported."""
TUNED = ("coffee", "chelsea")
"""Pictures on which the setting is chosen."""
GRID: dict[str, tuple[float, ...]] = {"w0": (8.0, 10.0, 12.0), "weight_decay": (0.1, 0.5), "lr": (2.5e-3, 5e-3, 1e-2)}
"""Settings that `choose` tries."""
CHOSEN: dict[str, float] = {"w0": 10.0, "weight_decay": 0.1, "lr": 5e-3}
"""What it chose: w0 and weight_decay in 10 s each, then lr in 20 s each."""
_HIDDEN, _LAYERS = 58, 3
_BATCH, _EMA = 1024, 0.995
_NAIVE_WIDTH = 48
_SIDE = 128
_VALIDATION = 0.2

Pixels = tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 1"]]
Predictor = Callable[[Float[np.ndarray, "M 2"]], Float[np.ndarray, "M 1"]]


@dataclass(frozen=True)
class HeldOutRow:
    """One model on one picture.

    Args:
        picture: its name.
        method: how the unseen pixels were found.
        parameters: real numbers that were fitted; None for interpolation, which keeps the samples.
        psnr: of unseen pixels, in dB; 10 log₁₀ 1 / MSE.
        cpu_seconds: of this process.
    """

    picture: str
    method: str
    parameters: int | None
    psnr: float
    cpu_seconds: float


@dataclass(frozen=True)
class ChoiceRow:
    """One setting, judged by pixels held back from the training half of other pictures.

    Args:
        setting: names and values.
        psnr: mean over pictures, in dB.
    """

    setting: dict[str, float]
    psnr: float


def picture(name: str, side: int = _SIDE) -> Float[np.ndarray, "side side"]:
    """A picture of scikit-image: grey, its middle square, made smaller.

    Args:
        name: in `skimage.data`.
        side: pixels.

    Returns:
        Brightness, 0 to 1.

    Raises:
        ModelError: no such picture.
        MissingExtraError: scikit-image is not installed.
    """
    data = needed("skimage.data", "bench", "pictures to measure with")
    if name not in (*REPORTED, *TUNED):
        raise ModelError(f"a picture is one of {', '.join((*REPORTED, *TUNED))}; got {name!r}. Use one of them.")
    found = np.asarray(getattr(data, name)(), dtype=np.float64) / 255
    if found.ndim == 3:
        found = found[..., :3] @ np.array([0.2125, 0.7154, 0.0721])
    size = min(found.shape)
    top, left = ((length - size) // 2 for length in found.shape)
    square = found[top : top + size, left : left + size]
    resize = needed("skimage.transform", "bench", "pictures to measure with").resize
    return resize(square, (side, side), anti_aliasing=True)


def psnr(found: Float[np.ndarray, "M 1"], exact: Float[np.ndarray, "M 1"]) -> float:
    """10 log₁₀ 1 / MSE, of brightness between 0 and 1.

    Args:
        found: clipped to that range.
        exact: what it should be.

    Returns:
        In dB; infinite where nothing differs.
    """
    with np.errstate(divide="ignore"):
        return float(-10 * np.log10(np.mean((np.clip(found, 0, 1) - exact) ** 2)))


def run(
    *, seconds: float | int = 20, pictures: tuple[str, ...] = REPORTED, seed: int = 0, side: int = _SIDE,
    networks: bool = True, setting: Mapping[str, float] = CHOSEN,
) -> Iterator[HeldOutRow]:  # fmt: skip
    """Judges interpolation and networks.

    Args:
        seconds: of processor time, for each network.
        pictures: names.
        seed: of the halves, and of the networks' starts.
        side: pixels.
        networks: whether they are trained.
        setting: of ours.

    Yields:
        A row for each method and picture, as it ends.
    """
    for name in pictures:
        (coords, values), (unseen, exact) = _halves(picture(name, side), seed)
        for method in ("nearest", "linear", "cubic", "rbf"):
            began = time.process_time()
            found = interpolate(coords, values, unseen, method)
            yield HeldOutRow(name, method, None, psnr(found, exact), time.process_time() - began)
        ways: dict[str, Callable[[], tuple[nn.Module, Predictor]]] = {
            "SIREN as published (48 × 3, w0 30, lr 1e-3, full batch)": partial(
                _naive, Siren(2, hidden=_NAIVE_WIDTH, layers=3, seed=seed), coords, values, seconds
            ),
            "WIRE as published (40 × 2, w0 10, s0 10)": partial(
                _naive, Wire(2, hidden=40, layers=2, seed=seed), coords, values, seconds
            ),
            f"ours (SIREN {_HIDDEN} × {_LAYERS}, w0 {setting['w0']:g}, batches, cosine, EMA, decay)": partial(
                _ours, coords, values, setting, seconds, seed
            ),
        }
        for method, way in ways.items() if networks else ():
            began = time.process_time()
            model, predict = way()
            spent = time.process_time() - began
            numbers = sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())
            yield HeldOutRow(name, method, numbers, psnr(predict(unseen), exact), spent)


def choose(
    *, seconds: float | int = 20, pictures: tuple[str, ...] = TUNED, seed: int = 0, side: int = _SIDE,
    grid: Mapping[str, tuple[float, ...]] = GRID,
) -> Iterator[ChoiceRow]:  # fmt: skip
    """Tries settings, each on the training half of each picture, a fifth of which is held back to judge.

    Args:
        seconds: of processor time, for each training.
        pictures: names; none of those that are reported.
        seed: of halves and starts.
        side: pixels.
        grid: values of each setting.

    Yields:
        A row a setting; the one with the highest PSNR is to be taken.

    Raises:
        ModelError: a picture that is reported.
    """
    both = sorted(set(pictures) & set(REPORTED))
    if both:
        raise ModelError(f"a setting is chosen on other pictures than those reported; got {both[0]}. Leave it out.")
    for values_of in product(*grid.values()):
        setting = dict(zip(grid, values_of, strict=True))
        scores = []
        for name in pictures:
            (coords, values), _ = _halves(picture(name, side), seed)
            order = np.random.default_rng(seed + 1).permutation(len(values))
            held, rest = np.split(order, [round(_VALIDATION * len(order))])
            _, predict = _ours(coords[rest], values[rest], setting, seconds, seed)
            scores.append(psnr(predict(coords[held]), values[held]))
        yield ChoiceRow(setting, float(np.mean(scores)))


def _halves(image: Float[np.ndarray, "side side"], seed: int) -> tuple[Pixels, Pixels]:
    axis = np.linspace(-1, 1, len(image))
    coords = np.stack([grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij")], axis=1)
    values = image.reshape(-1, 1)
    seen, unseen = np.split(np.random.default_rng(seed).permutation(len(values)), [len(values) // 2])
    return (coords[seen], values[seen]), (coords[unseen], values[unseen])


def _trained(
    model: nn.Module, coords: Float[np.ndarray, "N 2"], values: Float[np.ndarray, "N 1"], options: Mapping[str, Any]
) -> tuple[nn.Module, Predictor]:
    mean, deviation = float(values.mean()), float(values.std())
    x, y = torch.from_numpy(coords).float(), torch.from_numpy((values - mean) / deviation).float()
    fit(model, x, y, clock="cpu", device="cpu", **options)

    def predict(at: Float[np.ndarray, "M 2"]) -> Float[np.ndarray, "M 1"]:
        with torch.no_grad():
            return model(torch.from_numpy(at).float()).double().numpy() * deviation + mean

    return model, predict


def _naive(
    model: nn.Module, coords: Float[np.ndarray, "N 2"], values: Float[np.ndarray, "N 1"], seconds: float | int
) -> tuple[nn.Module, Predictor]:
    return _trained(model, coords, values, {"seconds": seconds, "lr": 1e-3, "schedule": "constant"})


def _ours(
    coords: Float[np.ndarray, "N 2"], values: Float[np.ndarray, "N 1"], setting: Mapping[str, float],
    seconds: float | int, seed: int,
) -> tuple[nn.Module, Predictor]:  # fmt: skip
    model = Siren(2, hidden=_HIDDEN, layers=_LAYERS, w0=setting["w0"], seed=seed)
    options = {
        "seconds": seconds, "batch_size": _BATCH, "ema": _EMA, "seed": seed,
        "lr": setting["lr"], "weight_decay": setting["weight_decay"],
    }  # fmt: skip
    return _trained(model, coords, values, options)
