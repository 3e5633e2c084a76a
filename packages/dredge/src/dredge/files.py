"""Files that are whole or absent.

A file is written beside its final name, flushed to the disk and renamed, so that a process killed at any moment leaves
the old one or the new one.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file whole or not at all; its folder is made where it is missing.

    Args:
        path: the file, replaced where it exists.
        write: writes the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
