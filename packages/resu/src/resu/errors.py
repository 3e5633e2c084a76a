"""Every error that this package raises on purpose.

::

    ResuError
    ├── MaskError          (ValueError)    shapes, sparsities and counts of masks
    ├── PhaseError         (RuntimeError)  an operation that the present phase does not allow
    ├── OptimizerError     (ValueError)    optimizers that cannot keep a weight frozen, or do not hold it
    ├── ConfigError        (ValueError)    settings that cannot be run
    ├── KernelError        (RuntimeError)  a back end that is absent, or cannot do what is asked
    ├── CalibrationError   (ValueError)    data for activation-aware pruning
    ├── CheckpointError    (ValueError)    files that cannot be trusted
    └── MissingExtraError  (ImportError)   an optional dependency is not installed

A message says the rule, the value that came, and what to do about it.
"""

__all__ = [
    "CalibrationError",
    "CheckpointError",
    "ConfigError",
    "KernelError",
    "MaskError",
    "MissingExtraError",
    "OptimizerError",
    "PhaseError",
    "ResuError",
]


class ResuError(Exception):
    """Root of the tree: catch this to catch everything the package raises on purpose."""


class MaskError(ResuError, ValueError):
    """A mask, a sparsity or a count that does not fit the weight."""


class PhaseError(ResuError, RuntimeError):
    """An operation that the present phase does not allow."""


class OptimizerError(ResuError, ValueError):
    """An optimizer that cannot keep a weight frozen, or that does not hold the weight at all."""


class ConfigError(ResuError, ValueError):
    """Settings that contradict each other or the model."""


class KernelError(ResuError, RuntimeError):
    """A back end that is absent, or that cannot do what is asked."""


class CalibrationError(ResuError, ValueError):
    """Calibration data that is missing or does not fit."""


class CheckpointError(ResuError, ValueError):
    """A file that is truncated, foreign, too new or of another mask."""


class MissingExtraError(ResuError, ImportError):
    """An optional dependency that is not installed; the message names the extra."""
