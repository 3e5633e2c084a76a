"""Lifting a sampled signal: an id of its samples, a short list of wave packets, and a text that can be searched.

Samples may come in any order and unevenly spaced. What is done with odd ones:

- NaN and infinities, masked entries, fewer than 4 samples, more than the limit, lists of unequal length, more than 5
  axes, an axis on which all samples agree, and numbers beyond ±1e40 are refused (SignalError);
- samples are put in the order of their coordinates before anything else, so that their order changes nothing, the id
  included;
- several samples at one place are all kept; the fit goes through their mean there, and their number is in the document;
- a constant signal is lifted to no packet and a text that says so.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from dredge.config import LimitSettings
from dredge.errors import SignalError, needed
from dredge.insights.ids import check_text

if TYPE_CHECKING:
    from dredge.quasimoto.packets import Packet, WavePackets

__all__ = ["TITLE_CHARACTERS", "LiftedSignal", "check_title", "lift_signal", "samples_of", "signal_id"]

Numbers = Sequence[float] | Sequence[int] | Sequence[Sequence[float]] | Sequence[Any] | np.ndarray

TITLE_CHARACTERS = 200
"""Of a signal's title, at most."""
_FEWEST = 4
_MOST_AXES = 5
_LARGEST, _FINEST = 1e40, 1e-40
"""Of a number, and of an axis's range: the energy of a packet on five axes has seven factors, and must be a float64."""
_DRAWN_SAMPLES = 2_000
_DRAWN_LINE = 512
_DRAWN_IMAGE = 64
_NAMED = 6
_PACKETS = 12
_EXPLAINED = 0.9999
"""Packets are added until they explain this share of the variance."""
_GAIN = 2e-3
"""A packet that explains less than this share more is left away, and so are those after it."""


@dataclass(frozen=True)
class LiftedSignal:
    """What a signal was lifted to.

    Args:
        id: SHA-256 of its samples.
        text: its title and its packets in words.
        packets: as `Packet.as_json` says, the strongest first.
        residual: root of the mean squared difference between samples and packets.
        document: JSON values to keep and to draw: title, dim, points, repeated, range, samples, fit, packets, constant,
            residual.
    """

    id: str
    text: str
    packets: list[dict[str, Any]]
    residual: float
    document: dict[str, Any]

    def model(self) -> "WavePackets":
        """The packets as a function that can be evaluated anywhere, rebuilt from the document.

        Returns:
            In float64.
        """
        return packets_of(self.document)


def samples_of(
    coords: Numbers, values: Numbers, *, most: int | None = None
) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, "N"]]:
    """Checks samples and puts them in order.

    Args:
        coords: a number, or a list of one for each axis, for every sample.
        values: a number for every sample.
        most: samples at most; None = any number.

    Returns:
        Coordinates and values in float64, by coordinates and then by values.

    Raises:
        SignalError: samples that cannot be fitted.

    >>> samples_of([2, 0, 1, 3], [5.0, 3.0, 4.0, 6.0])[1].tolist()
    [3.0, 4.0, 5.0, 6.0]
    """
    x, y = _numbers(coords, "coordinates"), _numbers(values, "values")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2 or y.ndim != 1:
        raise SignalError(
            f"samples are rows of coordinates, with one value each; got the shapes {x.shape} and {y.shape}. Lift the "
            "channels of a signal one by one."
        )
    if len(x) != len(y):
        raise SignalError(f"there is a value for each coordinate; got {len(x)} coordinates and {len(y)} values.")
    if most is not None and len(y) > most:
        raise SignalError(
            f"a signal has at most {most:,} samples; got {len(y):,}. Keep one of every {-(-len(y) // most)}."
        )
    if len(y) < _FEWEST:
        raise SignalError(f"a signal has at least {_FEWEST} samples; got {len(y)}. Give more.")
    if not 1 <= x.shape[1] <= _MOST_AXES:
        raise SignalError(f"samples have 1 to {_MOST_AXES} coordinates; got {x.shape[1]}. Take fewer axes.")
    for name, array in (("coordinate", x), ("value", y)):
        bad = ~np.isfinite(array.reshape(len(y), -1)).all(1)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise SignalError(
                f"every {name} is a finite number; {int(bad.sum())} are not, the first at {first}. Leave them out."
            )
    largest = float(max(np.abs(x).max(), np.abs(y).max()))
    if largest > _LARGEST:
        raise SignalError(f"numbers lie within ±1e40; the largest is {largest:g}. Use other units.")
    extent = np.ptp(x, axis=0)
    axis = int(np.argmin(extent))
    if extent[axis] == 0:
        raise SignalError(
            f"coordinates differ on every axis; on axis {axis} all are {x[0, axis]:g}. Leave that axis out."
        )
    if extent[axis] < _FINEST:
        raise SignalError(f"an axis is at least 1e-40 long; axis {axis} is {extent[axis]:g}. Use other units.")
    order = np.lexsort((y, *x.T[::-1]))
    return x[order], y[order]


def signal_id(coords: Numbers, values: Numbers) -> str:
    """The SHA-256 of a signal's samples, whatever their order.

    Args:
        coords: of the samples.
        values: of the samples.

    Returns:
        In lower-case hexadecimal: of the number of axes and of the rows of coordinates and value, in order, as
        little-endian float64; −0 counts as 0.

    Raises:
        SignalError: samples that cannot be fitted.

    >>> signal_id([0, 1, 2, 3], [0.0, 1.0, 0.0, 1.0]) == signal_id([[3], [2], [1], [0]], [1.0, -0.0, 1.0, 0.0])
    True
    """
    return _id(*samples_of(coords, values))


def check_title(title: str) -> None:
    """Refuses a title that no signal can have.

    Args:
        title: any text; "" = none.

    Raises:
        SignalError: it is too long.
        InsightError: nothing in it can be seen, or UTF-8 cannot encode it.

    >>> check_title("a chirp")
    """
    if len(title) > TITLE_CHARACTERS:
        raise SignalError(f"a title has at most {TITLE_CHARACTERS} characters; got {len(title)}. Shorten it.")
    if title:
        check_text(title)


def lift_signal(
    coords: Numbers,
    values: Numbers,
    *,
    title: str = "",
    max_packets: int | None = None,
    seconds: float | int | None = None,
    limits: LimitSettings | None = None,
) -> LiftedSignal:
    """Lifts a signal: finds the few packets that explain it, and says them in words.

    Args:
        coords: of the samples; in units of the signal's own, which widths and frequencies are then in.
        values: of the samples.
        title: for the text.
        max_packets: at most; fewer where fewer explain it; None = 12.
        seconds: for the search, after which the packets found so far are kept; None, or more than the limits say = what
            they say.
        limits: points and seconds at most.

    Returns:
        The lifted signal. The same samples give the same packets, unless time ran out.

    Raises:
        SignalError: samples that cannot be fitted, no packet allowed, or a title that is too long.
        InsightError: a title that cannot be kept.
        MissingExtraError: torch or scipy is not installed.
    """
    limits = limits or LimitSettings()
    check_title(title)
    x, y = samples_of(coords, values, most=limits.signal_points)
    max_packets = _PACKETS if max_packets is None else max_packets
    if not 1 <= max_packets <= 64:
        raise SignalError(f"a signal is lifted to 1 to 64 packets; got {max_packets}. Change max_packets.")
    if seconds is not None and not seconds > 0:
        raise SignalError(f"a search takes more than 0 seconds; got {seconds}. Give it some.")
    allowed = min(seconds or limits.fit_seconds, limits.fit_seconds)
    for module in ("torch", "scipy.linalg"):
        needed(module, "inr", "lifting a signal")
    deviation = _rms(y - y.mean())
    constant = deviation <= 1e-12 * max(1e-300, float(np.abs(y).max()))
    if constant:
        table: list[Packet] = []
        level, found, drawn = float(y.mean()), np.full_like(y, y.mean()), _grid(x)
        curve, parts = np.full(len(drawn), level), np.zeros((0, len(drawn)))
    else:
        table, level, found, drawn, curve, parts = _fitted(x, y, max_packets, time.monotonic() + allowed)
    residual = _rms(found - y)
    explained = 1.0 if constant else max(0.0, 1 - (residual / deviation) ** 2)
    packets = [packet.as_json() for packet in table]
    thin = np.unique(np.linspace(0, len(y) - 1, min(len(y), _DRAWN_SAMPLES)).astype(int))
    places = len(np.unique(x, axis=0))
    document: dict[str, Any] = {
        "title": title,
        "dim": x.shape[1],
        "points": len(y),
        "repeated": len(y) - places,
        "range": [[float(low), float(high)] for low, high in zip(x.min(0), x.max(0), strict=True)],
        "samples": {"coords": _listed(x[thin]), "values": y[thin].tolist(), "thinned": len(thin) < len(y)},
        "fit": {"coords": _listed(drawn), "values": curve.tolist(), "shape": _shape(x), "packets": parts.tolist()},
        "packets": packets,
        "constant": level,
        "residual": {
            "rms": residual,
            "largest": float(np.abs(found - y).max()),
            "explained": explained,
            "values": (y - found)[thin].tolist(),
        },
    }
    text = _in_words(title, x, y, table, explained, residual)
    return LiftedSignal(_id(x, y), text, packets, residual, document)


def packets_of(document: Mapping[str, Any]) -> "WavePackets":
    """The model whose packets a document keeps.

    Args:
        document: of a lifted signal.

    Returns:
        In float64; of a constant signal, one packet of amplitude 0.
    """
    from dredge.quasimoto.levenberg_marquardt import Geometry
    from dredge.quasimoto.pursuit import packets_from

    d, packets = document["dim"], document["packets"]
    nothing = {"centre": [0.0] * d, "width": [1.0] * d, "frequency": [0.0] * d, "amplitude": 0.0, "phase": 0.0}
    rows = packets or [nothing]
    arrays = {name: np.array([row[name] for row in rows], float) for name in nothing}
    amplitudes = np.concatenate(
        [
            arrays["amplitude"] * np.cos(arrays["phase"]),
            -arrays["amplitude"] * np.sin(arrays["phase"]),
            [document["constant"]],
        ]
    )
    return packets_from(Geometry(arrays["centre"], np.log(arrays["width"]), arrays["frequency"]), amplitudes[:, None])


def _fitted(
    x: Float[np.ndarray, "N d"], y: Float[np.ndarray, "N"], most: int, deadline: float
) -> tuple[
    "list[Packet]", float, Float[np.ndarray, "N"], Float[np.ndarray, "m d"], Float[np.ndarray, "m"],
    Float[np.ndarray, "p m"],
]:  # fmt: skip
    """Packets of samples, the constant, their sum at the samples and on a grid, and each packet on the grid."""
    import torch

    from dredge.quasimoto.pursuit import pursue

    # All is scaled to order 1, so that the search meets no extremes; the packets are scaled back.
    middle, half = 0.5 * (x.min(0) + x.max(0)), 0.5 * np.ptp(x, axis=0)
    level, height = float(y.mean()), _rms(y - y.mean())
    scaled, wave = (x - middle) / half, (y - level)[:, None] / height
    model = pursue(
        scaled,
        wave,
        atoms=most,
        tol=1 - _EXPLAINED,
        refine_every=1,
        gain=_GAIN,
        ridge=1e-5,
        margin=0.0,
        deadline=deadline,
    )
    grid = _grid(x)
    with torch.no_grad():
        model.centre.mul_(torch.from_numpy(half)).add_(torch.from_numpy(middle))
        model.log_width.add_(torch.from_numpy(np.log(half)))
        model.frequency.div_(torch.from_numpy(half))
        model.head.weight.mul_(height)
        model.head.bias.mul_(height).add_(level)
        table = model.to_table()
        at_samples = model(torch.from_numpy(x))[:, 0].numpy()
        on_grid = model(torch.from_numpy(grid))[:, 0].numpy()
        waves = (model.quadratures(torch.from_numpy(grid)) * model.head.weight[0]).numpy()
    each = waves[:, : model.n] + waves[:, model.n :]
    parts = each.T[[packet.index for packet in table]] if x.shape[1] == 1 else np.zeros((0, len(grid)))
    return table, float(model.head.bias.detach()[0]), at_samples, grid, on_grid, parts


def _numbers(given: Numbers, what: str) -> Float[np.ndarray, "..."]:
    try:
        array = np.asanyarray(given)
        # Integers beyond 64 bits come as objects, and so does text among them.
        kinds = {type(value) for value in array.flat} if array.dtype.kind == "O" else {array.dtype.type}
        other = sorted(kind.__name__ for kind in kinds if not issubclass(kind, Real) or issubclass(kind, bool))
        if other:
            raise TypeError(f"some are of the type {other[0]}")
        return np.asarray(np.ma.filled(array.astype(np.float64), np.nan))
    except (TypeError, ValueError, OverflowError) as error:
        raise SignalError(f"{what} are numbers, in rows of equal length; {error}. Correct them.") from error


def _rms(values: Float[np.ndarray, "N"]) -> float:
    """Root of the mean square, also of numbers whose squares leave the range of float64."""
    # A power of two: ordinary numbers come out as they would without it, to the last bit.
    exponent = int(np.frexp(np.abs(values).max())[1])
    return float(np.ldexp(np.sqrt(np.mean(np.ldexp(values, -exponent) ** 2)), exponent))


def _id(x: Float[np.ndarray, "N d"], y: Float[np.ndarray, "N"]) -> str:
    rows = np.ascontiguousarray(np.column_stack([x, y]) + 0.0, dtype="<f8")
    return hashlib.sha256(x.shape[1].to_bytes(8, "little") + rows.tobytes()).hexdigest()


def _shape(x: Float[np.ndarray, "N d"]) -> list[int]:
    return {1: [_DRAWN_LINE], 2: [_DRAWN_IMAGE, _DRAWN_IMAGE]}.get(x.shape[1], [])


def _grid(x: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "m d"]:
    """Points to draw at: a line, an image's pixels row by row, or nothing on more axes."""
    shape = _shape(x)
    if not shape:
        return np.zeros((0, x.shape[1]))
    axes = [np.linspace(low, high, n) for low, high, n in zip(x.min(0), x.max(0), shape, strict=True)]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)


def _listed(x: Float[np.ndarray, "N d"]) -> list[Any]:
    return x[:, 0].tolist() if x.shape[1] == 1 else x.tolist()


def _in_words(
    title: str, x: Float[np.ndarray, "N d"], y: Float[np.ndarray, "N"], table: "list[Packet]", explained: float,
    residual: float,
) -> str:  # fmt: skip
    over = " × ".join(f"{low:.4g} to {high:.4g}" for low, high in zip(x.min(0), x.max(0), strict=True))
    head = f"{title.strip()}: " if title.strip() else ""
    if not table:
        return f"{head}{len(y)} samples over {over}, constant at {y.mean():.4g}"
    said = [
        f"at {_said(p.centre)} width {_said(p.width)} frequency {_said(p.cycles)} amplitude {p.amplitude:.3g}"
        for p in table[:_NAMED]
    ]
    more = f"; and {len(table) - _NAMED} weaker" if len(table) > _NAMED else ""
    packets = "1 packet explains" if len(table) == 1 else f"{len(table)} packets explain"
    return (
        f"{head}{packets} {100 * explained:.4g} % of {len(y)} samples over {over} (rms error {residual:.2g}): "
        f"{'; '.join(said)}{more}. Frequencies in cycles per unit."
    )


def _said(numbers: tuple[float, ...]) -> str:
    found = [f"{number:.3g}" for number in numbers]
    return found[0] if len(found) == 1 else f"({', '.join(found)})"
