"""Every error that this package raises on purpose.

::

    NeuroGraphError
    ├── ConfigError        (ValueError)    settings that cannot be run
    ├── GraphError         (ValueError)    a frame that is no graph of this kind
    ├── TableError         (ValueError)    tables too small, or indices that they do not have
    ├── DataError          (ValueError)    samples or labels that are missing or do not fit
    ├── DivergenceError    (RuntimeError)  a loss that is not finite
    ├── CheckpointError    (ValueError)    files that cannot be trusted, or belong to another network
    └── MissingExtraError  (ImportError)   an optional dependency is not installed

A message says the rule, the value that came, and what to do about it.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergenceError",
    "GraphError",
    "MissingExtraError",
    "NeuroGraphError",
    "TableError",
]


class NeuroGraphError(Exception):
    """Root of the tree: catch this to catch everything the package raises on purpose."""


class ConfigError(NeuroGraphError, ValueError):
    """Settings that contradict each other, or that do not exist."""


class GraphError(NeuroGraphError, ValueError):
    """A frame with a cycle, an unknown node, a missing column or without inputs or outputs."""


class TableError(NeuroGraphError, ValueError):
    """Tables with fewer than two bins, or indices that are not theirs."""


class DataError(NeuroGraphError, ValueError):
    """Samples or labels that are missing, not numbers, or do not fit the network."""


class DivergenceError(NeuroGraphError, RuntimeError):
    """A loss that is not finite."""


class CheckpointError(NeuroGraphError, ValueError):
    """A file that is truncated, foreign, too new or of another network."""


class MissingExtraError(NeuroGraphError, ImportError):
    """An optional dependency that is not installed; the message names the extra."""
