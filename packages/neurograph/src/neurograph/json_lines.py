"""Files to which rows are added one at a time: one JSON object a line, each on the disk before the next is begun.

A process that is killed while it writes leaves its last line without an end; that line is dropped when the file
is read.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurograph.errors import CheckpointError

__all__ = ["append_line", "read_lines"]


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a row.

    Args:
        path: the file, made where it is missing, with its folder.
        row: JSON values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path, *keys: str) -> list[dict[str, Any]]:
    """Reads all rows, and takes off a last line without an end.

    Args:
        path: the file; one that is missing has no rows.
        keys: that every row has.

    Returns:
        Rows.

    Raises:
        CheckpointError: a line that is no JSON object with these keys.
    """
    if not path.exists():
        return []
    whole, newline, cut = path.read_bytes().rpartition(b"\n")
    try:
        rows = [_row(line, keys) for line in whole.split(b"\n")] if whole else []
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"each line of this file is a JSON object with {', '.join(keys) or 'any keys'}; one of {path} is not: "
            f"{error!r}. Move the file away."
        ) from error
    if cut:
        with path.open("r+b") as file:
            file.truncate(len(whole) + len(newline))
    return rows


def _row(line: bytes, keys: Sequence[str]) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise TypeError(f"{type(row).__name__} is no object")
    missing = [key for key in keys if key not in row]
    if missing:
        raise KeyError(*missing)
    return row
