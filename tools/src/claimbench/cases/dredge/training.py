"""Training as published: clipping, mixed precision and cleared gradients."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from claimbench.case import Case, Counted, Lossy, Tolerance, Workload
from claimbench.cases.dredge.problem import default_device, not_timed
from claimbench.record import Params
from claimbench.runtimes.torch_memory import peak_bytes
from claimbench.turns import in_turns, seconds, share_saved
from dredge.quasimoto.baselines import Siren
from dredge.quasimoto.data import generate_data
from dredge.quasimoto.ensembles import QuasimotoEnsemble
from dredge.quasimoto.training import train_model
from dredge.reference.original import InterferenceAfter, train_as_coded, zero_to_none, zero_to_zeros

__all__ = ["CASES", "chirp", "plain_loop", "sines", "train_with_autocast"]

Loop = Callable[..., list[float]]

SEEDS, STEPS = 8, 60
CLEARINGS = 30
ON_GPU = torch.cuda.is_available()
WIDE = 65_536 if ON_GPU else 2_048
"""Points of the wide network: enough of them to fill the device."""


def plain_loop(model: nn.Module, inputs: tuple[Tensor, ...], target: Tensor, epochs: int) -> list[float]:
    """The published loop from before clipping and mixed precision were added to it.

    Args:
        model: The model.
        inputs: What it is called with.
        target: Values.
        epochs: Steps.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.MSELoss()
    losses = []
    for _ in range(epochs):
        zero_to_none(optimizer)
        loss = criterion(model(*inputs), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_with_autocast(model: nn.Module, inputs: tuple[Tensor, ...], target: Tensor, epochs: int) -> list[float]:
    """The loop as the note describes it: the forward pass and the loss under autocast, the loss scaled.

    Args:
        model: The model.
        inputs: What it is called with.
        target: Values.
        epochs: Steps.
    """
    device = target.device.type
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.MSELoss()
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    losses = []
    for _ in range(epochs):
        zero_to_none(optimizer)
        with torch.autocast(device, dtype=torch.float16 if device == "cuda" else torch.bfloat16):
            loss = criterion(model(*inputs), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


# --- models -----------------------------------------------------------------------------------------------------------


def chirp(every: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """The published chirp: places, times and a column of values.

    Args:
        every: Only every so manieth point.
    """
    x, t, y = (part[::every].to(default_device()) for part in generate_data())
    return x.flatten(), t.flatten(), y


def sines(hidden: int, layers: int, seed: int = 0) -> nn.Module:
    """A network of sines of one coordinate.

    Args:
        hidden: Width.
        layers: Of that width.
        seed: Of its start.
    """
    return Siren(1, hidden=hidden, layers=layers, seed=seed).to(default_device())


def _ensemble(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return QuasimotoEnsemble().to(default_device())


def _basis(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return InterferenceAfter(1, 8, 1).to(default_device())


def _task(name: str) -> tuple[nn.Module, tuple[Tensor, ...], Tensor]:
    """A model, its inputs and values."""
    if name == "ensemble":
        x, t, y = chirp()
        return _ensemble(), (x, t), y
    if name == "basis":
        x, t, y = chirp(10)
        return _basis(), (x, t), y
    x = torch.linspace(-1, 1, WIDE, device=default_device())[:, None]
    return sines(256, 3), (x,), torch.sin(50 * x**2) * torch.exp(-10 * x**2)


def _trainings(
    name: str, epochs: int, loops: dict[str, Loop], lossy: dict[str, Lossy], tolerance: Tolerance | None = None
) -> Workload:
    """A workload whose call trains a model for some steps, each time from the same start."""
    start, inputs, target = _task(name)
    state = copy.deepcopy(start.state_dict())

    def variant(loop: Loop) -> Callable[[Any], Any]:
        model = copy.deepcopy(start)

        def call(_given: Any) -> Any:
            model.load_state_dict(state)
            losses = loop(model, inputs, target, epochs)
            return {"losses": np.array(losses), "state": {key: v.detach() for key, v in model.state_dict().items()}}

        return call

    return Workload(
        inputs=lambda seed: {"seed": seed},
        variants={key: variant(loop) for key, loop in loops.items()},
        tolerance=tolerance or Tolerance(),
        lossy=lossy,
        units=epochs,
    )


# --- clipping ---------------------------------------------------------------------------------------------------------


def _spoil(model: nn.Module, step: int, factor: float) -> None:
    """From now on, every gradient of one step is multiplied."""
    for parameter in model.parameters():
        counted = count()

        def change(gradient: Tensor, counted: Any = counted) -> Tensor:
            if next(counted) != step:
                return gradient
            # Zero stays zero: 0 · ∞ would be NaN before any clipping.
            return torch.where(gradient == 0, gradient, gradient * factor)

        parameter.register_hook(change)


def _infinite(_params: Params) -> Iterable[Counted]:
    x, t, y = (part.cpu() for part in chirp(5))

    def ours(model: nn.Module) -> list[float]:
        return train_model("basis", model, x[:, None], t[:, None], y, epochs=8, verbose=False, grad_clip=1.0)[1]

    ways: dict[str, Callable[[nn.Module], list[float]]] = {
        "before": lambda model: train_as_coded(model, (x, t), y, 8),
        "after": lambda model: train_as_coded(model, (x, t), y, 8, grad_clip=1.0),
        "best": ours,
    }
    for name, way in ways.items():
        model = _basis().cpu()
        _spoil(model, 3, float("inf"))
        numbers = np.concatenate([way(model), *(p.detach().numpy().ravel() for p in model.parameters())])
        count = int((~np.isfinite(numbers)).sum())
        words = f"of {len(numbers)} losses and parameters, after 8 steps whose fourth had infinite gradients"
        yield Counted("not_finite", count, name, "", words)


def _stability(params: Params) -> Iterable[Counted]:
    """A deep network, with and without clipping, over starts."""
    x, _, y = chirp(4)
    x = x[:, None] / 10
    over: dict[str, list[float]] = {"before": [], "after": []}
    ends: dict[str, list[float]] = {"before": [], "after": []}
    for seed in range(SEEDS):
        for name, clip in (("before", None), ("after", 1.0)):
            model = sines(32, 4, seed)
            if params["gradients"] == "burst":
                _spoil(model, STEPS // 4, 1e4)
            losses = np.array(train_as_coded(model, (x,), y, STEPS, grad_clip=clip))
            over[name].append(float(np.exp(np.log(losses).mean())))
            ends[name].append(losses[-1])
    share, interval = share_saved(np.array(over["before"]), np.array(over["after"]))
    words = (
        f"geometric mean over {STEPS} steps; {SEEDS} starts of a network of sines, 4 layers of 32; medians at the end "
    )
    words += ", ".join(f"{name} {np.median(values):.3g}" for name, values in ends.items())
    yield Counted("less_loss", share, "after", "%", words, interval)


def _unused(_params: Params) -> Workload:
    return _trainings("basis", 10, {"before": plain_loop, "after": train_as_coded}, {})


# --- mixed precision --------------------------------------------------------------------------------------------------

SHORT = Lossy(
    lambda found, exact: float(np.abs(found["losses"] / exact["losses"] - 1).max()), 0.05,
    "largest relative error of a loss of the first steps",
)  # fmt: skip
SCALED = Tolerance(relative=1e-4, absolute=1e-6, reason="float32: products on a GPU may be summed in another order")


def _precise(params: Params) -> Workload:
    loops: dict[str, Loop] = {
        "before": train_as_coded, "after": train_with_autocast, "as_coded": partial(train_as_coded, use_amp=True),
    }  # fmt: skip
    return _trainings(str(params["model"]), 2, loops, {"after": SHORT}, SCALED)


def _precise_memory(params: Params) -> Iterable[Counted]:
    loops: dict[str, Loop] = {"before": train_as_coded, "after": train_with_autocast}
    loops["as_coded"] = partial(train_as_coded, use_amp=True)
    for name, loop in loops.items():
        model, inputs, target = _task(str(params["model"]))

        def step(loop: Loop = loop, model: nn.Module = model, given: Any = (inputs, target)) -> None:
            loop(model, *given, 1)
            model.zero_grad()  # a GPU would take gradients that the next call finds there off its peak

        words = "of a first step, its gradients and Adam's state among it, beyond model and data"
        yield Counted("peak", peak_bytes(step) / 2**20, name, "MiB", words)


def _precise_accuracy(_params: Params) -> Iterable[Counted]:
    ends: dict[str, float] = {}
    for name, loop in (("before", train_as_coded), ("after", train_with_autocast)):
        model, inputs, target = _task("ensemble")
        loop(model, inputs, target, 100)
        with torch.no_grad():  # judged in float32 in either case
            ends[name] = float((model(*inputs) - target).square().mean())
    words = f"of the published ensemble after 100 steps, {ends['before']:.5g} before, {ends['after']:.5g} after"
    yield Counted("loss_off", 100 * (ends["after"] / ends["before"] - 1), "after", "%", words)


def _on_cpu(_params: Params) -> Workload:
    return _trainings("basis", 10, {"before": train_as_coded, "as_coded": partial(train_as_coded, use_amp=True)}, {})


# --- cleared gradients ------------------------------------------------------------------------------------------------


def _clearing(_params: Params) -> Iterable[Counted]:
    model = _ensemble()
    optimizer = torch.optim.Adam(model.parameters())
    parameters = list(model.parameters())
    gradients = [torch.ones_like(p) for p in parameters]

    def taken(clear: Callable[[torch.optim.Optimizer], None]) -> Callable[[], float]:
        def turn() -> float:
            found = []
            for _ in range(CLEARINGS):
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient.clone()  # nothing else holds it: to let it go is part of clearing
                found.append(seconds(partial(clear, optimizer), time.process_time))
            return float(np.median(found))  # a neighbour on the core makes single ones many times as long

        return turn

    olds: dict[str, Callable[[torch.optim.Optimizer], None]] = {
        "from_zeros": zero_to_zeros,
        "from_default": lambda some: some.zero_grad(),
    }
    for name, old in olds.items():
        found = in_turns({"before": taken(old), "after": taken(zero_to_none)}, 120)
        words = f"gradients of {len(parameters)} parameters; medians a clearing " + ", ".join(
            f"{which} {1e6 * np.median(values):.3g} µs" for which, values in found.items()
        )
        share, ends = share_saved(found["before"], found["after"])
        yield Counted(name, share, "after", "%", words, ends)
    for name, way in (("before", zero_to_zeros), ("after", zero_to_none)):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        way(optimizer)
        left = sum(p.grad is not None for p in parameters)
        yield Counted("not_none", left, name, "gradients", f"of {len(parameters)}, after clearing")


_MODELS: tuple[Params, ...] = ({"model": "ensemble"}, {"model": "sines"})

CASES = (
    Case(
        "dredge.clip_nan",
        "an infinite gradient in a training with clipping",
        "torch",
        not_timed,
        values=_infinite,
        values_grid=({"clip": 1.0},),
        original=(train_as_coded,),
    ),
    Case(
        "dredge.clip_stability",
        "a deep network with clipping and without, as it is and with one gradient of ten thousand times",
        "torch",
        not_timed,
        values=_stability,
        values_grid=({"gradients": "own"}, {"gradients": "burst"}),
        original=(train_as_coded,),
    ),
    Case(
        "dredge.clip",
        "ten steps of training, with clipping there and not used",
        "torch",
        _unused,
        grid=({"model": "basis"},),
        variants=("before", "after"),
        original=(plain_loop,),
        budget=2.5,
        processes=4,
    ),
    Case(
        "dredge.amp",
        "a step of training in float32, under autocast, and as coded",
        "torch",
        _precise,
        grid=_MODELS,
        variants=("before", "after", "as_coded"),
        original=(train_as_coded,),
        budget=4.0,
        precision=0.01,
        processes=3,
    ),
    Case(
        "dredge.amp_memory",
        "peak memory of a step of training",
        "torch",
        not_timed,
        values=_precise_memory,
        values_grid=_MODELS,
        original=(train_as_coded,),
    ),
    Case(
        "dredge.amp_accuracy",
        "the loss that a training under autocast comes to",
        "torch",
        not_timed,
        values=_precise_accuracy,
        values_grid=({"model": "ensemble"},),
        original=(train_as_coded,),
    ),
    Case(
        "dredge.amp_cpu",
        "ten steps of training on a CPU, with mixed precision asked for and not",
        "torch",
        _on_cpu,
        # With a GPU in sight the coded loop makes its scaler whatever the model is on.
        grid=() if ON_GPU else ({"model": "basis"},),
        variants=("before", "as_coded"),
        original=(train_as_coded,),
        budget=2.5,
        processes=4,
    ),
    Case(
        "dredge.zero_grad",
        "clearing of gradients, alone",
        "torch",
        not_timed,
        values=_clearing,
        values_grid=({"model": "ensemble"},),
        original=(zero_to_zeros,),
    ),
)
