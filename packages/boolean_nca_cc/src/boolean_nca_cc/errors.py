"""Every error that this package raises on purpose.

::

    BooleanNCAError
    ├── SpecError          (ValueError)   layer sizes, arity
    ├── WiringError        (ValueError)   wires that do not fit the layers
    ├── MaskError          (ValueError)   alive vectors and gate masks
    ├── TaskError          (ValueError)   truth tables and data of the wrong shape
    ├── LossError          (ValueError)   unknown loss or penalty
    ├── PatternError       (ValueError)   knockout patterns that cannot be drawn
    ├── ConfigError        (ValueError)   settings that cannot be run
    ├── CheckpointError    (ValueError)   files that cannot be trusted
    ├── ExportError        (ValueError)   circuits without a hard form, netlists that are none
    ├── AutomatonError     (ValueError)   grids, cells, pictures and damage that cannot be
    └── MissingExtraError  (ImportError)  an optional dependency is not installed

A message says the rule, the value that came, and what to do about it.
"""

__all__ = [
    "AutomatonError",
    "BooleanNCAError",
    "CheckpointError",
    "ConfigError",
    "ExportError",
    "LossError",
    "MaskError",
    "MissingExtraError",
    "PatternError",
    "SpecError",
    "TaskError",
    "WiringError",
]


class BooleanNCAError(Exception):
    """Root of the tree: catch this to catch everything the package raises on purpose."""


class SpecError(BooleanNCAError, ValueError):
    """Layer sizes or an arity that describe no circuit."""


class WiringError(BooleanNCAError, ValueError):
    """Wires that do not fit the layers they should connect."""


class MaskError(BooleanNCAError, ValueError):
    """An alive vector or a gate mask that does not fit the circuit."""


class TaskError(BooleanNCAError, ValueError):
    """A task that is unknown or undefined at this width, or data of the wrong shape."""


class LossError(BooleanNCAError, ValueError):
    """A loss or a penalty that does not exist."""


class PatternError(BooleanNCAError, ValueError):
    """A knockout pattern that cannot be drawn."""


class ConfigError(BooleanNCAError, ValueError):
    """Settings that contradict each other or the machine."""


class CheckpointError(BooleanNCAError, ValueError):
    """A checkpoint that is truncated, foreign, too new or of another circuit."""


class ExportError(BooleanNCAError, ValueError):
    """A circuit whose hard form is not what it says, or a netlist that cannot be read or written."""


class AutomatonError(BooleanNCAError, ValueError):
    """A grid too small, a cell's circuit that does not fit, a picture or a damage that the grid does not hold."""


class MissingExtraError(BooleanNCAError, ImportError):
    """An optional dependency that is not installed; the message names the extra."""
