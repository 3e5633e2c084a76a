"""Every error that this package raises on purpose.

::

    DredgeError
    ├── ConfigError        (ValueError)    settings that cannot be used
    ├── InsightError       (ValueError)    a text that cannot be lifted
    ├── SignalError        (ValueError)    samples that cannot be fitted
    ├── QueryError         (ValueError)    a search that cannot be made
    ├── NotFoundError      (KeyError)      an id that no record has
    ├── StoreError         (RuntimeError)  a database that cannot be used, or is of another version
    ├── ArchiveError       (ValueError)    lines or files that are damaged or foreign
    ├── ModelError         (ValueError)    waves, packets or training that cannot be built or run
    ├── DivergenceError    (RuntimeError)  a fit whose loss is not finite
    ├── MissingExtraError  (ImportError)   an optional dependency is not installed
    └── RefusedError       (dredge.api)    a request that is refused; it never leaves the service

A message says the rule, the value that came, and what to do about it.
"""

import importlib
from types import ModuleType

__all__ = [
    "ArchiveError",
    "ConfigError",
    "DivergenceError",
    "DredgeError",
    "InsightError",
    "MissingExtraError",
    "ModelError",
    "NotFoundError",
    "QueryError",
    "SignalError",
    "StoreError",
    "needed",
]


class DredgeError(Exception):
    """Root of the tree: catch this to catch everything the package raises on purpose."""


class ConfigError(DredgeError, ValueError):
    """Settings that contradict each other, or that do not exist."""


class InsightError(DredgeError, ValueError):
    """A text that is blank, too long, or holds what UTF-8 cannot encode."""


class SignalError(DredgeError, ValueError):
    """Samples that are not numbers, too few, too many, or do not belong together."""


class QueryError(DredgeError, ValueError):
    """A search with an empty query, or with limits that do not exist."""


class NotFoundError(DredgeError, KeyError):
    """An id that no record has."""

    def __str__(self) -> str:
        # KeyError shows its argument in quotes.
        return str(self.args[0]) if self.args else ""


class StoreError(DredgeError, RuntimeError):
    """A database that cannot be opened, is locked for too long, or was written by another version."""


class ArchiveError(DredgeError, ValueError):
    """An export, or a file of packets, that is cut short, damaged or foreign."""


class ModelError(DredgeError, ValueError):
    """Waves, packets or training whose sizes or options do not go together."""


class DivergenceError(DredgeError, RuntimeError):
    """A fit whose loss is not finite."""


class MissingExtraError(DredgeError, ImportError):
    """An optional dependency that is not installed; the message names the extra."""


def needed(module: str, extra: str, what: str) -> ModuleType:
    """Imports an optional dependency.

    Args:
        module: its name.
        extra: the extra that installs it.
        what: what needs it, for the message.

    Returns:
        The module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{what} needs {module.partition('.')[0]}, which the extra {extra!r} installs. Add it: "
            f"pip install './packages/dredge[{extra}]'."
        ) from error
