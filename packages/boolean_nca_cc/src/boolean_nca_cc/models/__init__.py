"""Local rules: networks that read a circuit as a graph and write increments to its tables.

Needs the extra `models` (flax).
"""

from boolean_nca_cc.errors import MissingExtraError

try:
    import flax  # noqa: F401 - only whether it is there
except ImportError as error:
    raise MissingExtraError(
        "rules that mend circuits need flax, which is not installed. From the root of the repository: "
        "pip install './packages/boolean_nca_cc[models]'"
    ) from error
