"""The two ends between which sparse training happens: no sparsity, and a random mask that never changes."""

from typing import Literal

from resu.baselines.method import Method, MethodConfig, sparse_start

__all__ = ["Dense", "DenseConfig", "Static", "StaticConfig"]


class DenseConfig(MethodConfig):
    """Dense training; it has no settings."""

    name: Literal["dense"] = "dense"


class Dense(Method[DenseConfig]):
    """Everything trains: the reference, whatever sparsity is asked for."""


class StaticConfig(MethodConfig):
    """A random mask; it has no settings."""

    name: Literal["static"] = "static"


class Static(Method[StaticConfig]):
    """A random mask, drawn once with the sparsifier's layer densities, and trained as it is."""

    def _start(self) -> None:
        sparse_start(self.sparsifier)
