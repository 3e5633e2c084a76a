"""A graph network whose only trainable state is integer phase and magnitude indices.

Not there yet: this module is empty on purpose.
"""

__all__: list[str] = []
