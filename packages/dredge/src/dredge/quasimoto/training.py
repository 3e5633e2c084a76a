"""The published training loops: full batches, Adam at 10⁻³, mean squared error.

Three things that were announced are really done: `use_amp` computes under autocast, `grad_clip` leaves out a step whose
gradient is not finite (clipping alone turns an infinite gradient into NaN), and a model is called by its signature, not
by trying. `dredge.quasimoto.fitting.fit` is the loop to use for anything but a comparison with published figures.
"""

import inspect
import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dredge.errors import DivergenceError, ModelError

__all__ = ["LEARNING_RATE", "train_model", "train_model_4d", "train_model_6d"]

_log = logging.getLogger(__name__)

LEARNING_RATE = 1e-3
"""Of Adam."""


def _takes_times(model: nn.Module) -> bool:
    """Whether a model must be given times beside coordinates."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    required = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    return len(required) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _autocast(device: torch.device, use_amp: bool) -> AbstractContextManager[Any]:
    if not use_amp:
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.float16 if device.type == "cuda" else torch.bfloat16)


def _train(
    name: str, model: nn.Module, inputs: Sequence[Tensor], target: Tensor, epochs: int, every: int,
    *, verbose: bool, use_amp: bool, grad_clip: float | int | None,
) -> tuple[float, list[float]]:  # fmt: skip
    if epochs < 1:
        raise ModelError(f"training takes at least one epoch; got {epochs}. Take more.")
    if grad_clip is not None and not grad_clip > 0:
        raise ModelError(f"grad_clip is a positive norm, or None for none; got {grad_clip}. Change it.")
    device = target.device
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    scaler = torch.amp.GradScaler(device.type, enabled=use_amp and device.type == "cuda")
    losses: list[float] = []
    skipped = 0
    for epoch in range(epochs):
        optimizer.zero_grad(set_to_none=True)
        with _autocast(device, use_amp):
            found = model(*inputs)
        if found.shape != target.shape:
            raise ModelError(
                f"a model's outputs have the shape of the values, {tuple(target.shape)}; got {tuple(found.shape)}. "
                "Broadcasting would compare each with all. Reshape one of them."
            )
        loss = nn.functional.mse_loss(found.to(target.dtype), target)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergenceError(
                f"a loss is finite; that of {name} in epoch {epoch + 1} is {value}. Train it anew with grad_clip, "
                "which leaves out steps whose gradient is not finite, or scale the samples."
            )
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if grad_clip is None or bool(nn.utils.clip_grad_norm_(model.parameters(), grad_clip).isfinite()):
            scaler.step(optimizer)
        else:
            skipped += 1
        scaler.update()
        losses.append(value)
        if verbose and (epoch + 1) % every == 0:
            _log.info("%s: epoch %d of %d, loss %.6g", name, epoch + 1, epochs, value)
    if skipped:
        _log.warning("%s: %d of %d steps had a gradient that is not finite and were left out", name, skipped, epochs)
    return losses[-1], losses


def train_model(
    model_name: str,
    model: nn.Module,
    x: Float[Tensor, "N dim"],
    t: Float[Tensor, "N 1"],
    y: Float[Tensor, "N out"],
    epochs: int = 2000,
    verbose: bool = True,
    use_amp: bool = False,
    grad_clip: float | int | None = None,
) -> tuple[float, list[float]]:
    """Trains a model of places, or of places and times.

    Args:
        model_name: for the log.
        model: called with (x, t), the times flat and the places too where they have one coordinate, if it asks for
            times; with x as it is, if it does not.
        x: places.
        t: times.
        y: values.
        epochs: steps, each over all samples.
        verbose: log every 500th loss.
        use_amp: compute the model under autocast: bfloat16 on a CPU, float16 with a scaled loss on a GPU.
        grad_clip: largest norm of the gradient; None = any. A step whose gradient is not finite is left out.

    Returns:
        The last loss, from before the last step as published, and all losses.

    Raises:
        ModelError: outputs of another shape than the values, no epochs, or a norm that is not positive.
        DivergenceError: a loss that is not finite.

    >>> from dredge.quasimoto.data import generate_data
    >>> from dredge.quasimoto.ensembles import QuasimotoEnsemble
    >>> last, losses = train_model("ensemble", QuasimotoEnsemble(2), *generate_data(), epochs=3, verbose=False)
    >>> len(losses), last == losses[-1]
    (3, True)
    """
    inputs = (x.squeeze(-1), t.squeeze(-1)) if _takes_times(model) else (x,)
    return _train(model_name, model, inputs, y, epochs, 500, verbose=verbose, use_amp=use_amp, grad_clip=grad_clip)


def train_model_4d(
    name: str,
    model: nn.Module,
    x: Float[Tensor, " N"],
    y_coord: Float[Tensor, " N"],
    z: Float[Tensor, " N"],
    t: Float[Tensor, " N"],
    signal: Float[Tensor, "N 1"],
    epochs: int = 1000,
    verbose: bool = True,
    grad_clip: float | int | None = None,
) -> tuple[float, list[float]]:
    """Trains a model of three dimensions and time.

    Args:
        name: for the log.
        model: called with (x, y, z, t).
        x: first coordinates.
        y_coord: second coordinates.
        z: third coordinates.
        t: times.
        signal: values.
        epochs: steps, each over all samples.
        verbose: log every 200th loss.
        grad_clip: as for `train_model`.

    Returns:
        The last loss and all losses.

    Raises:
        ModelError: as for `train_model`.
        DivergenceError: a loss that is not finite.
    """
    inputs = (x, y_coord, z, t)
    return _train(name, model, inputs, signal, epochs, 200, verbose=verbose, use_amp=False, grad_clip=grad_clip)


def train_model_6d(
    name: str,
    model: nn.Module,
    x1: Float[Tensor, " N"],
    x2: Float[Tensor, " N"],
    x3: Float[Tensor, " N"],
    x4: Float[Tensor, " N"],
    x5: Float[Tensor, " N"],
    t: Float[Tensor, " N"],
    signal: Float[Tensor, "N 1"],
    epochs: int = 500,
    verbose: bool = True,
    grad_clip: float | int | None = None,
) -> tuple[float, list[float]]:
    """Trains a model of five dimensions and time.

    Args:
        name: for the log.
        model: called with (x₁, …, x₅, t).
        x1: first coordinates.
        x2: second coordinates.
        x3: third coordinates.
        x4: fourth coordinates.
        x5: fifth coordinates.
        t: times.
        signal: values.
        epochs: steps, each over all samples.
        verbose: log every 100th loss.
        grad_clip: as for `train_model`.

    Returns:
        The last loss and all losses.

    Raises:
        ModelError: as for `train_model`.
        DivergenceError: a loss that is not finite.
    """
    inputs = (x1, x2, x3, x4, x5, t)
    return _train(name, model, inputs, signal, epochs, 100, verbose=verbose, use_amp=False, grad_clip=grad_clip)
