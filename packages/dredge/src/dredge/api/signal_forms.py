"""Samples from a form: pasted columns of numbers, or a file."""

import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float
from werkzeug.datastructures import FileStorage
from werkzeug.utils import secure_filename

from dredge.errors import SignalError

__all__ = ["ACCEPTED", "pasted_samples", "uploaded_samples"]

ACCEPTED = (".csv", ".npy", ".wav")
"""Suffixes of files that may be sent."""

Samples = tuple[Float[np.ndarray, "N d"], Float[np.ndarray, "N"]]
_COLUMNS = 6
_BEGINNINGS = tuple("0123456789+-.,")
"""Of a number, and of what was meant as one; no name of a column begins so."""


def pasted_samples(text: str, most: int | None = None) -> Samples:
    r"""Reads columns of numbers, the value last, as a spreadsheet or a logger gives them.

    Args:
        text: lines of numbers, parted by semicolons, tabs, commas or blanks; one line of names may stand above. A
            single column has the coordinates 0, 1, 2, ….
        most: samples at most; None = any number.

    Returns:
        Coordinates in rows, and values.

    Raises:
        SignalError: too many lines, or one that is none of numbers, or of another length than the first.

    >>> coords, values = pasted_samples("t, u\n0, 1.5\n0.1, 2")
    >>> coords.tolist(), values.tolist()
    ([[0.0], [0.1]], [1.5, 2.0])
    """
    lines = [(index, line.strip()) for index, line in enumerate(text.splitlines(), 1) if line.strip()]
    if lines and not any(cell.strip()[:1] in _BEGINNINGS for cell in _cells(lines[0][1])):
        lines = lines[1:]
    if most is not None and len(lines) > most:
        raise SignalError(
            f"a signal has at most {most:,} samples; got {len(lines):,}. Keep one of every {-(-len(lines) // most)}."
        )
    rows: list[list[float]] = []
    for index, line in lines:
        cells = _cells(line)
        row = [found for cell in cells if (found := _number(cell)) is not None]
        if len(row) < len(cells):
            raise SignalError(
                f"a line has numbers with a decimal point, and between them a comma, a tab or a blank; line {index} is "
                f"{line[:60]!r}. Correct it."
            )
        if len(row) > _COLUMNS or (rows and len(row) != len(rows[0])):
            wanted = f"as many as the first, {len(rows[0])}" if rows else f"at most {_COLUMNS}"
            raise SignalError(f"a line has {wanted} numbers, the value last; line {index} has {len(row)}. Correct it.")
        rows.append(row)
    if not rows:
        raise SignalError("a signal has lines of numbers; got none. Paste a coordinate and a value on each line.")
    table = np.array(rows)
    if table.shape[1] == 1:
        return np.arange(len(table), dtype=float)[:, None], table[:, 0]
    return table[:, :-1], table[:, -1]


def uploaded_samples(file: FileStorage) -> Samples:
    """Reads a file that was sent.

    Args:
        file: whose name ends in one of `ACCEPTED`.

    Returns:
        Coordinates in rows, and values.

    Raises:
        SignalError: a file of another kind, or a damaged one.
        MissingExtraError: sound, where scipy is not installed.
    """
    from dredge.quasimoto.signal_files import read_signal

    name = secure_filename(file.filename or "") or "the file"
    suffix = Path(name).suffix.lower()
    if suffix not in ACCEPTED:
        raise SignalError(f"a signal's file ends in {', '.join(ACCEPTED)}; got {name!r}. Convert it.")
    with tempfile.TemporaryDirectory(prefix="dredge-signal-") as folder:
        path = Path(folder) / f"signal{suffix}"
        file.save(path)
        try:
            return read_signal(path)
        except SignalError as error:
            # The sender knows the file by another name, and nothing of this machine's folders.
            raise SignalError(str(error).replace(str(path), f"the file {name}")) from error


def _cells(line: str) -> list[str]:
    return line.split(next((sign for sign in (";", "\t", ",") if sign in line), None))


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
