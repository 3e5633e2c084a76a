"""Rows of experiments in a file of JSON lines: one for each thing that was measured, so that a run can go on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurograph.errors import CheckpointError
from neurograph.json_lines import append_line, read_lines

__all__ = ["Rows"]


class Rows:
    """Rows by key, in memory and, where there is a path, in a file.

    Args:
        path: the file; None = memory alone.

    Raises:
        CheckpointError: a file of something else.

    >>> rows = Rows()
    >>> rows.add({"name": "kNN", "seed": 1}, {"accuracy": 0.5})
    >>> rows.find({"seed": 1, "name": "kNN"}), rows.find({"name": "kNN", "seed": 2})
    ({'accuracy': 0.5}, None)
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        lines = [] if self.path is None else read_lines(self.path, "key", "row")
        self._rows: dict[str, dict[str, Any]] = {}
        for line in lines:
            if not isinstance(line["key"], dict) or not isinstance(line["row"], dict):
                raise CheckpointError(
                    f"key and row of each line are JSON objects; in {self.path} there is {line}. Move the file away."
                )
            self._rows[_name(line["key"])] = line["row"]

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was measured.

        Args:
            key: JSON values that name it.

        Returns:
            The row; None = not yet.
        """
        return self._rows.get(_name(key))

    def add(self, key: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        """Keeps what was measured.

        Args:
            key: names it.
            row: JSON values.
        """
        self._rows[_name(key)] = dict(row)
        if self.path is not None:
            append_line(self.path, {"key": key, "row": row})


def _name(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
