"""Reading signals: NumPy arrays, tables of comma-separated values, sound, and pictures.

====================  =======================================  ===============================
file                  coordinates                              values
====================  =======================================  ===============================
.npy, one axis        0, 1, 2, …                               the numbers
.npy, ≤ 6 columns     all columns but the last                 the last column
.npy, otherwise       indices along each axis                  the numbers
.csv, one column      0, 1, 2, …                               the column
.csv, ≤ 6 columns     all columns but the last                 the last column
.wav                  seconds                                  −1 to 1; channels are averaged
.png, .jpg, .jpeg     row and column, −1 to 1                  brightness, 0 to 1
====================  =======================================  ===============================

A table may have one row of names above its numbers.
"""

import csv
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dredge.errors import MissingExtraError, SignalError, needed

__all__ = ["SUFFIXES", "read_signal"]

SUFFIXES = (".npy", ".csv", ".wav", ".png", ".jpg", ".jpeg")
"""Of files that can be read."""

Samples = tuple[Float[np.ndarray, "N d"], Float[np.ndarray, "N"]]
_COLUMNS = 6
_BEGINNINGS = tuple("0123456789+-.")
"""Of a number, and of what was meant as one; no name of a column begins so."""
_PIXELS = 1 << 22


def read_signal(path: str | Path, *, most: int | None = None) -> Samples:
    """Reads a signal's samples.

    Args:
        path: the file; its suffix says how it is read.
        most: pixels of a picture, to which one that has more is made smaller; None = as it is.

    Returns:
        Coordinates in rows, and values. They are not checked yet: `dredge.signals.samples_of` does.

    Raises:
        SignalError: a file that is missing, damaged, empty, or of another kind.
        MissingExtraError: sound or pictures without the extra `inr`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise SignalError(f"a signal's file ends in {', '.join(SUFFIXES)}; got {path.name!r}. Convert it.")
    if not path.is_file():
        raise SignalError(f"a signal's file is there; {path} is not. Check the name.")
    if most is not None and most < 4:
        raise SignalError(f"a picture keeps at least 4 pixels; got {most}. Keep more.")
    kind, reader = _READERS.get(suffix, ("a picture", partial(_picture, most=most)))
    try:
        return reader(path)
    except (SignalError, MissingExtraError):
        raise
    except Exception as error:
        # On damaged files the libraries raise whatever their code meets first, UnboundLocalError included.
        reason = str(error).rstrip(".") or type(error).__name__
        raise SignalError(
            f"{path} is {kind} by its name; it cannot be read as one: {reason}. Write it anew."
        ) from error


def _columns(rows: Float[np.ndarray, "N columns"]) -> Samples:
    if rows.shape[1] == 1:
        return np.arange(len(rows), dtype=float)[:, None], rows[:, 0]
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, -1])


def _array(path: Path) -> Samples:
    found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iufb":
        raise ValueError("it holds no real numbers")
    array = found.astype(np.float64)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"its shape is {array.shape}")
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] <= _COLUMNS and len(array) > array.shape[1]):
        return _columns(array.reshape(len(array), -1))
    # An axis of one index says nothing.
    array = array.reshape([size for size in array.shape if size > 1] or [1])
    places = np.stack([axis.ravel() for axis in np.indices(array.shape, dtype=float)], axis=1)
    return places, array.ravel()


def _table(path: Path) -> Samples:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(map(str.strip, row))]
    if lines and not any(cell.strip()[:1] in _BEGINNINGS for cell in lines[0][1]):
        lines = lines[1:]
    if not lines:
        raise ValueError("it has no row of numbers")
    width = len(lines[0][1])
    if width > _COLUMNS:
        raise SignalError(
            f"a table has at most {_COLUMNS} columns, the value last; {path} has {width}. Leave some out."
        )
    for number, row in lines:
        if len(row) != width or not _all_numbers(row):
            raise SignalError(
                f"every row of {path} has {width} numbers; line {number} is {','.join(row)[:60]!r}. Correct it."
            )
    return _columns(np.array([[float(cell) for cell in row] for _, row in lines]))


def _all_numbers(row: list[str]) -> bool:
    try:
        return all(float(cell) is not None for cell in row)
    except ValueError:
        return False


def _sound(path: Path) -> Samples:
    wavfile = needed("scipy.io.wavfile", "inr", "reading sound")
    with warnings.catch_warnings():
        # Chunks that are no samples (names, cover pictures) are passed over; a file cut short is not.
        warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
        warnings.filterwarnings("ignore", "Chunk", wavfile.WavFileWarning)
        rate, found = wavfile.read(path)
    samples = np.asarray(found, dtype=np.float64)
    if found.dtype.kind == "u":
        samples = (samples - 128) / 128
    elif found.dtype.kind == "i":
        samples = samples / -float(np.iinfo(found.dtype).min)
    if samples.size == 0 or rate <= 0:
        raise ValueError(f"it has {samples.size} numbers at {rate} a second")
    mono = samples if samples.ndim == 1 else samples.mean(1)
    return np.arange(len(mono))[:, None] / float(rate), mono


def _picture(path: Path, most: int | None) -> Samples:
    pillow = needed("PIL.Image", "inr", "reading pictures")
    with pillow.open(path, formats=("PNG", "JPEG")) as picture:
        if most is None and picture.width * picture.height > _PIXELS:
            raise SignalError(
                f"a picture has at most {_PIXELS:,} pixels; {path} has {picture.width} × {picture.height}. Make it "
                "smaller."
            )
        grey = picture.convert("F") if picture.mode.startswith(("I", "F")) else picture.convert("L")
        depth = 65535.0 if picture.mode.startswith("I") else 255.0
        if most is not None and grey.width * grey.height > most:
            ratio = math.sqrt(most / (grey.width * grey.height))
            grey = grey.resize([max(2, int(side * ratio)) for side in grey.size], pillow.Resampling.BOX)
        pixels = np.asarray(grey, dtype=np.float64) / depth
    if min(pixels.shape) < 2:
        raise ValueError(f"it has {pixels.shape[1]} × {pixels.shape[0]} pixels")
    axes = [np.linspace(-1, 1, side) for side in pixels.shape]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1), pixels.ravel()


_READERS: dict[str, tuple[str, Callable[[Path], Samples]]] = {
    ".npy": ("a NumPy array", _array),
    ".csv": ("a table of comma-separated values", _table),
    ".wav": ("sound", _sound),
}
"""By suffix: what a file is called, and what reads it; the others are pictures."""
