"""Lift a text or a signal into a stable id, a compact representation and a searchable record.

`dredge.server` serves, `dredge.insights` keeps and finds texts, `dredge.signals` lifts signals, and `dredge.quasimoto`
holds waves, wave packets and how they are fitted. Importing any of these loads no more than it needs.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
