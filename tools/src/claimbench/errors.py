"""Errors of claimbench.

ClaimbenchError
├── LedgerError      a claim, its band or an id that is not right
├── CaseError        a case, a variant or a grid that does not fit
├── RecordError      a record that cannot be read, compared or resumed
└── RunError         a run that cannot start
"""

__all__ = ["CaseError", "ClaimbenchError", "LedgerError", "RecordError", "RunError"]


class ClaimbenchError(Exception):
    """Base of all errors that claimbench raises on purpose; the command prints its text without a traceback."""


class LedgerError(ClaimbenchError, ValueError):
    """A claim, its band or an id that is not right."""


class CaseError(ClaimbenchError, ValueError):
    """A case, a variant or a grid that does not fit."""


class RecordError(ClaimbenchError, ValueError):
    """A record that cannot be read, compared or resumed."""


class RunError(ClaimbenchError, RuntimeError):
    """A run that cannot start."""
