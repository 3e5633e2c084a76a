"""Lift a text or a signal into a stable id, a compact representation and a searchable record.

Not there yet: this module is empty on purpose.
"""

__all__: list[str] = []
