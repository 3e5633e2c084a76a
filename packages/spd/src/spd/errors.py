"""Every error that this package raises on purpose.

::

    SPDError
    ├── ConfigError        (ValueError)    settings that cannot be run
    ├── TargetError        (ValueError)    a target model that cannot be decomposed as asked
    ├── SamplingError      (ValueError)    random draws that were injected and do not fit
    ├── DivergenceError    (RuntimeError)  a loss that is not finite
    ├── DataError          (ValueError)    data that is missing or does not fit
    ├── CheckpointError    (ValueError)    files that cannot be trusted, or belong to another run
    ├── RankError          (RuntimeError)  another process of the run ended or hung, or could not be reached
    └── MissingExtraError  (ImportError)   an optional dependency is not installed

A message says the rule, the value that came, and what to do about it.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergenceError",
    "MissingExtraError",
    "RankError",
    "SPDError",
    "SamplingError",
    "TargetError",
]


class SPDError(Exception):
    """Root of the tree: catch this to catch everything the package raises on purpose."""


class ConfigError(SPDError, ValueError):
    """Settings that contradict each other, or that do not exist."""


class TargetError(SPDError, ValueError):
    """A target model with a layer, or a pattern of layers, that cannot be decomposed as asked."""


class SamplingError(SPDError, ValueError):
    """Injected random numbers that do not fit what asked for them."""


class DivergenceError(SPDError, RuntimeError):
    """A loss that is not finite; the message names the term."""


class DataError(SPDError, ValueError):
    """Data that is missing or does not fit the model."""


class CheckpointError(SPDError, ValueError):
    """A file that is truncated, foreign, too new or of another configuration."""


class RankError(SPDError, RuntimeError):
    """Another process of the run ended or hung, or could not be reached."""


class MissingExtraError(SPDError, ImportError):
    """An optional dependency that is not installed; the message names the extra."""
