"""Gradual magnitude pruning: dense at the start, smaller and smaller by a cubic curve."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from resu.baselines.method import Clock, Method
from resu.schedules import cubic_over_steps

__all__ = ["GMP", "GMPConfig"]


class GMPConfig(Clock):
    """Settings of `GMP`.

    Args:
        interval: steps between two prunings.
        end: share of the training at which the sparsity is reached.
        begin: share of the training at which pruning begins.
    """

    name: Literal["gmp"] = "gmp"
    interval: PositiveInt = 25
    begin: Annotated[float, Field(ge=0, lt=1)] = 0.0


class GMP(Method[GMPConfig]):
    """Gradual magnitude pruning (Zhu & Gupta, *To prune, or not to prune*, 2017, arXiv:1710.01878).

    s(t) = s (1 − (1 − (t − t₀) / (t₁ − t₀))³), the smallest |w| of each layer are pruned; t₀ and t₁ are `begin` and
    `end`. Pruned weights stay pruned.
    """

    def _start(self) -> None:
        self._begin = int(self.config.begin * self.steps)
        self._end = max(int(self.config.end * self.steps), self._begin + 1)

    def after_step(self, step: int) -> None:
        """Prunes, every `interval` steps and at the end of the curve."""
        if not self._begin < step <= self._end or (step % self.config.interval and step != self._end):
            return
        sparsity = cubic_over_steps(step, self._begin, self._end, 0.0, self.sparsifier.target)
        self.sparsifier.prune("magnitude", sparsity)
