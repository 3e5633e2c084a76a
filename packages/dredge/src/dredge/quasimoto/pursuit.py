"""Greedy pursuit: packets are found one by one, where what is left is most like one, and then moved together.

Matching pursuit (Mallat & Zhang, *Matching pursuits with time-frequency dictionaries*, IEEE Trans. Signal Processing
41, 1993) picks from a dictionary of windows × frequencies; here the dictionary is scanned by Fourier transforms of the
windowed remainder. Greedy choices alone are poor fits. So each new packet is first moved by itself, and every few
packets all of them are moved together, with the amplitudes eliminated (variable projection, Golub & Pereyra 1973).
"""

import copy
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dredge.errors import ModelError
from dredge.quasimoto.dictionary import Dictionary, one_packet
from dredge.quasimoto.levenberg_marquardt import RIDGE, Geometry, Refined, refine, solve_amplitudes
from dredge.quasimoto.packets import WavePackets

__all__ = ["initialise", "packets_from", "polish", "pursue"]

_FREE = 2.0
"""Ranges outside of the samples that a polished packet may lie: training may have put it there."""


def _found(
    x: Float[np.ndarray, "N d"], y: Float[np.ndarray, "N o"], *, atoms: int, tol: float, refine_every: int,
    refine_steps: int, final_steps: int, keep: int, gain: float, ridge: float, margin: float, block: int | None,
    deadline: float | None, clock: Callable[[], float],
) -> Refined:  # fmt: skip
    dictionary = Dictionary.over(x)
    bounds = dictionary.bounds(margin)
    geometry: Geometry | None = None
    before: Geometry | None = None
    residual = y - y.mean(0)
    loss = power = paid = float((residual**2).mean())
    late = False
    while loss > tol and not late and (geometry is None or len(geometry) < atoms):
        starts = dictionary.best(residual, keep)
        tries = [
            refine(
                starts[[i]],
                x,
                residual,
                bounds=bounds,
                steps=12,
                stall=1e-3,
                ridge=ridge,
                deadline=deadline,
                clock=clock,
            )
            for i in range(len(starts))
        ]
        best = min(tries, key=lambda tried: tried.losses[-1]).geometry
        geometry = best if geometry is None else geometry + best
        residual = solve_amplitudes(geometry, x, y, ridge)[1]
        loss = float((residual**2).mean())
        if len(geometry) % refine_every == 0:
            moved = refine(
                geometry,
                x,
                y,
                bounds=bounds,
                steps=refine_steps,
                tol=tol,
                ridge=ridge,
                block=block,
                deadline=deadline,
                clock=clock,
            )
            geometry, residual, loss = moved.geometry, np.ascontiguousarray(moved.residual.T), moved.losses[-1]
            if before is not None and paid - loss < gain * power:
                geometry = before
                break
            before, paid = geometry, loss
        late = deadline is not None and clock() >= deadline
    if geometry is None:
        middle = 0.5 * (x.min(0) + x.max(0))
        geometry = one_packet(middle, np.maximum(0.5 * np.ptp(x, axis=0), 1e-300), np.zeros(x.shape[1]))
        final_steps = 0
    return refine(
        geometry, x, y, bounds=bounds, steps=final_steps, tol=tol, stall=1e-3, ridge=ridge, block=block,
        deadline=deadline, clock=clock,
    )  # fmt: skip


def pursue(
    coords: Float[Tensor, "N d"] | Float[np.ndarray, "N d"],
    values: Float[Tensor, "N o"] | Float[np.ndarray, "N o"],
    *,
    atoms: int,
    tol: float = 0.0,
    refine_every: int = 4,
    refine_steps: int = 25,
    final_steps: int = 200,
    keep: int = 4,
    gain: float = 0.0,
    ridge: float = RIDGE,
    margin: float = 0.5,
    block: int | None = None,
    deadline: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> WavePackets:
    """Finds packets for samples, one by one, without a random number: the same samples give the same packets.

    Args:
        coords: points, in any order, evenly spaced or not.
        values: at these points.
        atoms: packets at most.
        tol: stop at this mean squared error.
        refine_every: all packets are moved together after so many new ones.
        refine_steps: of Levenberg–Marquardt then, at most.
        final_steps: at the end, at most; each is a pass over all points.
        keep: atoms of the dictionary that are moved by themselves before the best is taken.
        gain: stop when the last `refine_every` packets explain less of the variance than this share; they are left
            away.
        ridge: relative weight against large amplitudes; 1e-5 keeps them readable and costs little.
        margin: how far centres may lie outside of the samples, in ranges.
        block: packets that are moved together; None = all. For more than 30 packets, about 16 is faster.
        deadline: of the clock: then the packets found so far are returned. A result that it cuts short depends on the
            machine.
        clock: in seconds.

    Returns:
        The packets in float64, with at most `atoms` of them and at least one.

    Raises:
        ModelError: no packet is allowed, fewer than 4 points, shapes that do not go together, numbers that are not
            finite, or points that do not differ on an axis.

    >>> x = np.linspace(-4, 4, 200)[:, None]
    >>> model = pursue(x, np.exp(-((x - 1) ** 2)) * np.cos(5 * x), atoms=1)
    >>> packet = model.to_table()[0]
    >>> round(packet.centre[0], 3), round(packet.width[0], 3), round(packet.frequency[0], 3)
    (1.0, 0.707, 5.0)
    """
    x, y = _checked(coords, values)
    counts = {
        "atoms": atoms, "refine_every": refine_every, "refine_steps": refine_steps, "final_steps": final_steps,
        "keep": keep,
    }  # fmt: skip
    for name, count in counts.items():
        if count < 1:
            raise ModelError(f"{name} is at least 1; got {count}. Give more.")
    # A power of two changes no digit, and squares of values of any size then stay in range.
    unit = math.ldexp(1.0, math.frexp(float(np.abs(y).max()))[1] - 1)
    found = _found(
        x, y / unit, atoms=atoms, tol=tol / unit / unit, refine_every=refine_every, refine_steps=refine_steps,
        final_steps=final_steps, keep=keep, gain=gain, ridge=ridge, margin=margin, block=block, deadline=deadline,
        clock=clock,
    )  # fmt: skip
    return packets_from(found.geometry, found.amplitudes * unit)


def packets_from(geometry: Geometry, amplitudes: Float[np.ndarray, "columns o"]) -> WavePackets:
    """A model of given packets.

    Args:
        geometry: where they are.
        amplitudes: of the cosines, the sines and the constant.

    Returns:
        The model, in float64.
    """
    model = WavePackets(geometry.centre.shape[1], len(geometry), amplitudes.shape[1]).double()
    with torch.no_grad():
        model.centre.copy_(torch.from_numpy(geometry.centre))
        model.log_width.copy_(torch.from_numpy(geometry.log_width))
        model.frequency.copy_(torch.from_numpy(geometry.frequency))
        model.head.weight.copy_(torch.from_numpy(amplitudes[:-1].T))
        model.head.bias.copy_(torch.from_numpy(amplitudes[-1]))
    return model


def initialise(
    model: WavePackets,
    coords: Float[Tensor, "N d"] | Float[np.ndarray, "N d"],
    values: Float[Tensor, "N o"] | Float[np.ndarray, "N o"],
    *,
    seed: int = 0,
) -> WavePackets:
    """Starts packets from samples, in one pass: for models that are then trained by gradients.

    Centres are drawn where the energy is and moved half-way to its mean, widths are 1.4 standard deviations of the
    energy, frequencies are drawn from the power spectrum, and amplitudes are the least-squares solution on at most
    4,096 of the samples. A start without data (centres anywhere) fits hundreds of times worse.

    Args:
        model: changed in place; its chirps and drifts stay as they are.
        coords: points.
        values: at these points.
        seed: of what is drawn.

    Returns:
        The model.

    Raises:
        ModelError: sizes that do not fit, or samples as of `pursue`.
    """
    x, y = _checked(coords, values, model)
    random = np.random.default_rng(seed)
    dictionary = Dictionary.over(x)
    power = ((y - y.mean(0)) ** 2).sum(1)
    share = power / power.sum() if power.sum() > 0 else np.full(len(power), 1 / len(power))
    mean = share @ x
    spread = np.sqrt(share @ (x - mean) ** 2) + 1e-3 * np.ptp(x, axis=0)
    centre = 0.5 * (x[random.choice(len(x), model.n, p=share)] + mean)
    log_width = np.log(1.4 * spread)[None].repeat(model.n, 0)
    geometry = dictionary.bounds().clip(Geometry(centre, log_width, dictionary.drawn(y - y.mean(0), model.n, random)))
    if not model.anisotropic:
        one = geometry.log_width.mean(1, keepdims=True).repeat(model.dim, 1)
        geometry = Geometry(geometry.centre, one, geometry.frequency)
    few = np.sort(random.permutation(len(x))[: 1 << 12])
    amplitudes = solve_amplitudes(geometry, x[few], y[few])[0]
    start = packets_from(geometry, amplitudes)
    with torch.no_grad():
        model.centre.copy_(start.centre)
        model.frequency.copy_(start.frequency)
        model.log_width.copy_(start.log_width[:, : model.log_width.shape[1]])
        # A window of integral 1 is lower than one of height 1 by this factor.
        log_height = start.log_width.sum(1).repeat(2) + 0.5 * model.dim * math.log(2 * math.pi)
        model.head.weight.copy_(start.head.weight * (log_height.exp() if model.envelope == "density" else 1.0))
        model.head.bias.copy_(start.head.bias)
    return model


def polish(
    model: WavePackets,
    coords: Float[Tensor, "N d"] | Float[np.ndarray, "N d"],
    values: Float[Tensor, "N o"] | Float[np.ndarray, "N o"],
    *,
    steps: int,
    tol: float = 0.0,
    block: int | None = None,
    deadline: float | None = None,
) -> WavePackets:
    """Ends a training by Levenberg–Marquardt steps, which gain most where gradients gain least.

    Args:
        model: changed in place, and only for the better; without chirps, drifts, densities or isotropic widths.
        coords: points.
        values: at these points.
        steps: at most; each is a pass over all points.
        tol: stop at this mean squared error.
        block: packets that are moved together; None = all.
        deadline: of `time.monotonic`, after which no step is begun.

    Returns:
        The model.

    Raises:
        ModelError: packets of another kind, or samples as of `pursue`.
    """
    x, y = _checked(coords, values, model)
    if model.chirp is not None or model.velocity is not None or model.envelope != "peak" or not model.anisotropic:
        raise ModelError(
            "polishing is for packets without chirp and drift, with peak envelopes and a width for each axis; got "
            f"{model.config}. Train these by fit alone."
        )
    bounds = Dictionary.over(x).bounds(_FREE)
    start = Geometry(*(p.detach().cpu().double().numpy() for p in (model.centre, model.log_width, model.frequency)))
    found = refine(start, x, y, bounds=bounds, steps=steps, tol=tol, stall=0.0, block=block, deadline=deadline)
    points, exact = torch.from_numpy(x).to(model.centre), torch.from_numpy(y)

    def error() -> float:
        with torch.no_grad():
            return float((model(points).double().cpu() - exact).square().mean())

    before, kept = error(), copy.deepcopy(model.state_dict())
    model.load_state_dict(packets_from(found.geometry, found.amplitudes).state_dict())
    # In single precision the better packets may be the worse ones.
    if not error() < before:
        model.load_state_dict(kept)
    return model


def _checked(
    coords: Float[Tensor, "N d"] | Float[np.ndarray, "N d"],
    values: Float[Tensor, "N o"] | Float[np.ndarray, "N o"],
    model: WavePackets | None = None,
) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, "N o"]]:
    x, y = (
        (a.detach().cpu().double().numpy() if isinstance(a, Tensor) else np.asarray(a, np.float64))
        for a in (coords, values)
    )
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ModelError(
            f"points and values are rows, as many of one as of the other; got the shapes {x.shape} and {y.shape}. "
            "Reshape them."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ModelError("points and values are finite numbers; got NaN or infinity. Leave these samples out.")
    if len(x) < 4:
        raise ModelError(f"a packet needs at least 4 samples; got {len(x)}. Give more.")
    if model is not None and (x.shape[1], y.shape[1]) != (model.dim, model.out):
        raise ModelError(
            f"samples have {model.dim} coordinates and {model.out} values each, as the model; got {x.shape[1]} and "
            f"{y.shape[1]}. Make a model of these sizes."
        )
    return x, y
