"""Draws signals as SVG: samples, the fitted curve, each packet, the residual; for two coordinates, maps.

A drawing has classes and presentation attributes only, no style: the pages' policy allows none, and colours follow the
reader's light or dark scheme. Text does not scale with a screen, so that each drawing is made for a width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from dredge.api.signal_documents import PacketRow, SignalDocument

__all__ = [
    "draw_fit_map", "draw_packets", "draw_residual", "draw_residual_map", "draw_sample_map", "draw_samples", "number",
    "rounded", "ticks",
]  # fmt: skip

_HEIGHT, _ROW = 280, 52
_ABOVE, _BELOW, _RIGHT = 10, 40, 14
_DIGIT = 7.7
"""Width of a character of a tick's label, at most."""
_LEVELS = 16
"""Of a map's colours, on each side of the constant."""


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers to write at an axis.

    Args:
        low: where the axis begins.
        high: where it ends.
        count: about how many.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten.

    >>> ticks(-0.1, 1.05, 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.6)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Where numbers are so large that their differences are lost in rounding, the ends alone are told.
    if last <= first or step < 1e-11 * max(abs(low), abs(high)):
        return [low, high]
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def number(value: float, digits: int = 4) -> str:
    """A number as people write it.

    Args:
        value: finite.
        digits: significant ones, at most.

    Returns:
        Its text, with a minus sign and no needless zeros.

    >>> number(-0.04215), number(12345.6), number(3.2e-9), number(-0.0)
    ('−0.04215', '12350', '3.2e−9', '0')
    """
    rounded = float(f"{value:.{digits}g}") + 0.0
    text = f"{rounded:.15g}" if 1e-3 <= abs(rounded) < 1e7 or not rounded else f"{rounded:.{digits - 1}e}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def rounded(value: float, fine: float) -> float:
    """A number without digits that mean nothing.

    Args:
        value: finite.
        fine: what still counts; the number is rounded to the next smaller power of ten.

    Returns:
        The number.

    >>> rounded(0.123456, 0.02), rounded(-1.4e-7, 0.001), rounded(1234.0, 30.0)
    (0.12, 0.0, 1230.0)
    """
    decimals = -math.floor(math.log10(min(max(fine, 1e-300), 1e300)))
    return round(value, decimals) + 0.0


def draw_samples(document: SignalDocument, width: int) -> Markup:
    """Samples as dots, and the sum of the packets as a line over them.

    Args:
        document: of one coordinate.
        width: in units of the drawing, as many as pixels where it is not scaled.

    Returns:
        An SVG element.
    """
    x, y = document.sampled()[:, 0], np.array(document.samples.values)
    grid, curve = document.drawn()[:, 0], np.array(document.fit.values)
    frame = _framed(x, (y, curve), width, _HEIGHT, "coordinate", "value")
    clip, inside = frame.clip("line")
    inside += (
        f'<path class="dots" d="{_dots(frame, x, y)}"/>'
        f'<path class="fit" clip-path="url(#{clip})" d="{_line(frame, grid, curve)}"/>'
    )
    return frame.drawn("Samples and the fitted curve", inside, data=True)


def draw_packets(document: SignalDocument, width: int) -> Markup:
    """Each packet as a curve of its own, one below the other.

    Packets whose peak is below a tenth of the strongest are drawn ten times larger, or a hundred times, and say so.

    Args:
        document: of one coordinate.
        width: as of `draw_samples`.

    Returns:
        An SVG element.
    """
    grid = document.drawn()[:, 0]
    curves = np.array(document.fit.packets)
    peaks = np.abs(curves).max(1)
    most = float(peaks.max()) or 1.0
    x = _over(grid, 34, width - 44)
    height = _ABOVE + _ROW * len(curves) + _BELOW
    rows = []
    for index, (curve, peak) in enumerate(zip(curves, peaks, strict=True)):
        middle = _ABOVE + _ROW * (index + 0.5)
        times = 10.0 ** min(9, math.floor(math.log10(most) - math.log10(peak) + 1e-9)) if peak > 0 else 1.0
        row = _Frame(width, height, x, _Axis(-most, most, middle + 0.45 * _ROW, middle - 0.45 * _ROW))
        larger = f'<text class="times" x="{width - 38}" y="{middle + 4:g}">×{times:g}</text>' if times > 1 else ""
        rows.append(
            f'<g class="packet" data-packet="{index}"><path class="zero" d="M{x.start:g} {middle:g}H{x.end:g}"/>'
            f'<text class="which" x="24" y="{middle + 4:g}">{index + 1}</text>'
            f'<path class="wave" d="{_line(row, grid, curve * times)}"/>{larger}</g>'
        )
    frame = _Frame(width, height, x, _Axis(0.0, 1.0, float(height - _BELOW), float(_ABOVE)), "coordinate")
    return frame.drawn("Each packet by itself", "".join(rows))


def draw_residual(document: SignalDocument, width: int) -> Markup:
    """What the packets leave of each sample, and a band of the root of its mean square.

    Args:
        document: of one coordinate.
        width: as of `draw_samples`.

    Returns:
        An SVG element.
    """
    x, left, rms = document.sampled()[:, 0], np.array(document.residual.values), document.residual.rms
    frame = _framed(x, (left, np.array([-rms, rms])), width, 170, "coordinate", "residual")
    top, bottom, zero = (frame.y.place(level) for level in (rms, -rms, 0.0))
    inside = (
        f'<rect class="band" x="{frame.x.start:g}" y="{top:.1f}" width="{frame.x.length:g}" '
        f'height="{bottom - top:.1f}"/><path class="zero" d="M{frame.x.start:g} {zero:.1f}H{frame.x.end:g}"/>'
        f'<path class="dots left" d="{_dots(frame, x, left)}"/>'
    )
    return frame.drawn("What the packets leave", inside)


def draw_fit_map(document: SignalDocument, width: int) -> Markup:
    """The sum of the packets over two coordinates, and an ellipse of one width around each packet's centre.

    Args:
        document: of two coordinates.
        width: as of `draw_samples`.

    Returns:
        An SVG element.
    """
    sides = (document.fit.shape[0], document.fit.shape[1])
    most = _most(document)
    levels = _levels(np.array(document.fit.values).reshape(sides) - document.constant, most)
    frame = _mapped(document, width, _told(document.constant, most))
    wide, high = frame.x.length / sides[0], -frame.y.length / sides[1]
    cells: dict[int, list[str]] = {}
    for column in range(sides[0]):
        # A run of equal cells is one rectangle.
        starts = np.flatnonzero(np.diff(levels[column], prepend=levels[column, 0] - 1))
        for start, end in zip(starts, [*starts[1:], sides[1]], strict=True):
            if level := int(levels[column, start]):
                x, y = frame.x.start + wide * column, frame.y.start - high * end
                cells.setdefault(level, []).append(
                    f"M{x:.1f} {y:.1f}h{wide + 0.1:.1f}v{high * (end - start) + 0.1:.1f}h{-wide - 0.1:.1f}z"
                )
    filled = "".join(_filled(level, "".join(paths)) for level, paths in sorted(cells.items()))
    ellipses = "".join(_ellipse(frame, index, row) for index, row in enumerate(document.packets))
    clip, inside = frame.clip("map")
    inside += f'{filled}<g clip-path="url(#{clip})">{ellipses}</g>{_legend(frame, document.constant, most)}'
    return frame.drawn("The fitted surface and its packets", inside)


def draw_sample_map(document: SignalDocument, width: int) -> Markup:
    """Samples over two coordinates, each as a dot whose colour tells its value.

    Args:
        document: of two coordinates.
        width: as of `draw_samples`.

    Returns:
        An SVG element.
    """
    values = np.array(document.samples.values) - document.constant
    return _dotted(document, width, "Samples", values, document.constant, _most(document))


def draw_residual_map(document: SignalDocument, width: int) -> Markup:
    """What the packets leave of each sample over two coordinates, on a scale of its own.

    Args:
        document: of two coordinates.
        width: as of `draw_samples`.

    Returns:
        An SVG element.
    """
    values = np.array(document.residual.values)
    return _dotted(document, width, "What the packets leave", values, 0.0, float(np.abs(values).max()) or 1.0)


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    @property
    def length(self) -> float:
        return self.end - self.start

    def at(self, values: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
        return self.start + (values - self.low) / (self.high - self.low) * self.length

    def place(self, value: float) -> float:
        return float(self.at(np.array([value]))[0])


@dataclass(frozen=True)
class _Frame:
    width: int
    height: int
    x: _Axis
    y: _Axis
    x_label: str = ""
    y_label: str = ""

    def clip(self, name: str) -> tuple[str, str]:
        """The id of what cuts a drawing off at its axes, and the element."""
        own = f"{name}-{self.width}"
        return own, (
            f'<clipPath id="{own}"><rect x="{self.x.start:g}" y="{self.y.end:g}" width="{self.x.length:g}" '
            f'height="{-self.y.length:g}"/></clipPath>'
        )

    def drawn(self, title: str, inside: str, *, data: bool = False) -> Markup:
        """The whole drawing: axes, what is inside them, and for a script the scales."""
        across = [
            f'<path class="grid" d="M{place:.1f} {self.y.start:g}V{self.y.end:g}"/>'
            f'<text class="tick x" x="{place:.1f}" y="{self.y.start + 16:g}">{label}</text>'
            for place, label in _labelled(self.x, max(2, int(self.x.length / 90)))
        ]
        up = [] if not self.y_label else [
            f'<path class="grid" d="M{self.x.start:g} {place:.1f}H{self.x.end:g}"/>'
            f'<text class="tick y" x="{self.x.start - 6:g}" y="{place + 4:.1f}">{label}</text>'
            for place, label in _labelled(self.y, max(2, int(-self.y.length / 45)))
        ]  # fmt: skip
        middle = (self.x.start + self.x.end) / 2, (self.y.start + self.y.end) / 2
        names = f'<text class="name" x="{middle[0]:g}" y="{self.height - 6}">{self.x_label}</text>' + (
            f'<text class="name" transform="translate(12 {middle[1]:g}) rotate(-90)">{self.y_label}</text>'
            if self.y_label else ""
        )  # fmt: skip
        scales = "".join(
            f' data-{name}="{axis.low!r} {axis.high!r} {axis.start:g} {axis.end:g}"'
            for name, axis in (("x", self.x), ("y", self.y)) if data
        )  # fmt: skip
        return Markup(
            f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" role="img"{scales}><title>{title}</title>'
            f"{''.join(across)}{''.join(up)}{inside}"
            f'<path class="axis" d="M{self.x.start:g} {self.y.end:g}V{self.y.start:g}H{self.x.end:g}"/>{names}</svg>'
        )  # all of it is numbers and the words above


def _framed(
    x: Float[np.ndarray, "N"], ys: Sequence[Float[np.ndarray, "..."]], width: int, height: int, x_label: str,
    y_label: str,
) -> _Frame:  # fmt: skip
    up = _over(np.concatenate(ys), height - _BELOW, _ABOVE, spare=0.06)
    return _Frame(width, height, _over(x, _margin(up), width - _RIGHT), up, x_label, y_label)


def _mapped(document: SignalDocument, width: int, legend: Sequence[str]) -> _Frame:
    x, y = np.vstack([document.sampled(), document.drawn()]).T
    height = round(0.8 * width)
    up = _over(y, height - _BELOW, _ABOVE)
    room = 30 + _DIGIT * max(map(len, legend))
    return _Frame(width, height, _over(x, _margin(up), width - room), up, "coordinate 1", "coordinate 2")


def _over(numbers: Float[np.ndarray, "N"], start: float | int, end: float | int, *, spare: float = 0.0) -> _Axis:
    low, high = float(numbers.min()), float(numbers.max())
    # One number alone, or as good as one, is drawn in the middle.
    if high - low <= max(1e-14 * max(abs(low), abs(high)), 1e-200):
        low, high = low - 0.5 * max(abs(low), 1.0), high + 0.5 * max(abs(high), 1.0)
    room = spare * (high - low)
    return _Axis(low - room, high + room, float(start), float(end))


def _margin(up: _Axis) -> float:
    """Room for the labels of the axis on the left, and its name."""
    longest = max(len(label) for _, label in _labelled(up, max(2, int(abs(up.length) / 45))))
    return 28.0 + _DIGIT * longest


def _labelled(axis: _Axis, count: int) -> list[tuple[float, str]]:
    found = ticks(axis.low, axis.high, count)
    digits = next(
        (digits for digits in range(1, 16) if all(abs(float(f"{tick:.{digits}g}") - tick) <= 1e-9 * abs(tick)
                                                  for tick in found)), 15,
    )  # fmt: skip
    # Ends that are no round numbers are cut to what tells them apart.
    digits = digits if digits < 13 else 6
    return [(axis.place(tick), number(tick, digits)) for tick in found]


def _dots(frame: _Frame, x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> str:
    # Lines of no length, whose round ends are dots: a tenth of the size of as many circles.
    return "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(frame.x.at(x), frame.y.at(y), strict=True))


def _line(frame: _Frame, x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(frame.x.at(x), frame.y.at(y), strict=True))


def _most(document: SignalDocument) -> float:
    """Height of a map's strongest colour above the constant."""
    values = np.array([*document.samples.values, *document.fit.values]) - document.constant
    return float(np.abs(values).max()) or 1.0


def _levels(values: Float[np.ndarray, "..."], most: float) -> Int[np.ndarray, "..."]:
    return np.clip(np.round(values / most * _LEVELS), -_LEVELS, _LEVELS).astype(int)


def _filled(level: int, path: str) -> str:
    return f'<path class="{"up" if level > 0 else "down"}" fill-opacity="{abs(level) / _LEVELS:.3f}" d="{path}"/>'


def _dotted(
    document: SignalDocument, width: int, title: str, values: Float[np.ndarray, "N"], zero: float, most: float
) -> Markup:
    frame, levels = _mapped(document, width, _told(zero, most)), _levels(values, most)
    x, y = document.sampled().T
    dots = ""
    for level in np.unique(levels):
        sign, opacity = ("rise" if level > 0 else "fall", abs(level) / _LEVELS) if level else ("flat", 0.2)
        here = levels == level
        dots += f'<path class="{sign}" stroke-opacity="{opacity:.3f}" d="{_dots(frame, x[here], y[here])}"/>'
    return frame.drawn(title, dots + _legend(frame, zero, most))


def _legend(frame: _Frame, zero: float, most: float) -> str:
    """A bar of the colours, and the numbers at its ends and its middle."""
    left, step = frame.x.end + 12, -frame.y.length / (2 * _LEVELS)
    middle = frame.y.end + step * _LEVELS
    bar = "".join(
        _filled(level, f"M{left:g} {middle - step * (level if level > 0 else level + 1):.1f}h10v{step:.1f}h-10z")
        for level in range(-_LEVELS, _LEVELS + 1) if level
    )  # fmt: skip
    numbers = "".join(
        f'<text class="legend" x="{left + 15:g}" y="{place:.1f}">{text}</text>'
        for place, text in zip((frame.y.end + 10, middle + 4, frame.y.start), _told(zero, most), strict=True)
    )
    return bar + numbers


def _told(zero: float, most: float) -> list[str]:
    """What stands at a bar of colours, with two digits of the strongest."""
    return [number(rounded(value, most / 10), 7) for value in (zero + most, zero, zero - most)]


def _ellipse(frame: _Frame, index: int, row: PacketRow) -> str:
    axes = list(zip((frame.x, frame.y), row.centre, row.width, strict=True))
    x, y = (axis.place(centre) for axis, centre, _ in axes)
    across, up = (abs(width / (axis.high - axis.low) * axis.length) for axis, _, width in axes)
    return (
        f'<g class="packet" data-packet="{index}"><ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{across:.1f}" ry="{up:.1f}"/>'
        f'<text class="which" x="{x:.1f}" y="{y + 4:.1f}">{index + 1}</text></g>'
    )
