"""Random numbers that are drawn before they are used, so that what uses them can be compiled or recorded as a whole.

A compiler cannot look into a random generator of one's own. The first run of a function therefore goes through a
`RecordingSampler`, which draws as ever and remembers what was asked for: a `DrawPlan`. Later runs draw the same from
the same generator in advance, in the same order, and hand the tensors in through a `DrawnSampler`. All numbers of a
run are the same as without it.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from spd.perf.compiling import CompileMode, compiled
from spd.sampling import SourceSampler

__all__ = ["DrawPlan", "DrawnSampler", "PlannedCall", "RecordingSampler"]


@dataclass(frozen=True)
class DrawPlan:
    """What was asked of a sampler, in order.

    Args:
        wanted: for each draw its shape, and one above the largest integer; None for U(0, 1).
    """

    wanted: list[tuple[tuple[int, ...], int | None]] = field(default_factory=list)

    def draw(self, sampler: SourceSampler) -> tuple[Shaped[Tensor, "..."], ...]:
        """Draws all of it.

        Args:
            sampler: from where.

        Returns:
            The tensors, in order.
        """
        return tuple(
            sampler.uniform(shape) if high is None else sampler.integers(high, shape) for shape, high in self.wanted
        )


class RecordingSampler(SourceSampler):
    """Draws from another sampler and remembers what was asked for.

    Args:
        sampler: the other one.

    Attributes:
        plan: what was asked for so far.

    >>> import torch
    >>> a, b = SourceSampler(1), SourceSampler(1)
    >>> recorder = RecordingSampler(a)
    >>> x, n = recorder.uniform((2,)), recorder.ranks(3, (2,))
    >>> drawn = DrawnSampler(recorder.plan.draw(b))
    >>> torch.equal(drawn.uniform((2,)), x), torch.equal(drawn.ranks(3, (2,)), n)
    (True, True)
    """

    def __init__(self, sampler: SourceSampler) -> None:
        self._sampler, self.device, self.generator = sampler, sampler.device, sampler.generator
        self.plan = DrawPlan()

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """U(0, 1) from the other sampler.

        Args:
            shape: how many.

        Returns:
            Its numbers.
        """
        self.plan.wanted.append((tuple(shape), None))
        return self._sampler.uniform(shape)

    def integers(self, high: int, shape: Sequence[int]) -> Int64[Tensor, "..."]:
        """Integers from the other sampler.

        Args:
            high: one above the largest.
            shape: how many.

        Returns:
            Its numbers.
        """
        self.plan.wanted.append((tuple(shape), high))
        return self._sampler.integers(high, shape)


class DrawnSampler(SourceSampler):
    """Gives out what was drawn by a plan, in its order. It can be made within a compiled function.

    Args:
        draws: from `DrawPlan.draw`.
    """

    def __init__(self, draws: tuple[Shaped[Tensor, "..."], ...]) -> None:
        self._draws, self._used = draws, 0

    def _following(self) -> Tensor:
        self._used += 1
        return self._draws[self._used - 1]

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """The next numbers.

        Args:
            shape: as in the plan.

        Returns:
            The numbers.
        """
        return self._following()

    def integers(self, high: int, shape: Sequence[int]) -> Int64[Tensor, "..."]:
        """The next numbers.

        Args:
            high: as in the plan.
            shape: as in the plan.

        Returns:
            The numbers.
        """
        return self._following()


class PlannedCall:
    """A function of a sampler and other things, compiled as a whole.

    The first call of a kind runs as ever, and what it draws becomes the plan of the kind; from the second on it runs
    compiled, with its numbers drawn beforehand.

    Args:
        function: takes a sampler, and then its other arguments.
        mode: of the compiler.
    """

    def __init__(self, function: Callable[..., Any], mode: CompileMode = "default") -> None:
        self._function = function
        self._plans: dict[Hashable, DrawPlan] = {}

        def from_draws(draws: tuple[Tensor, ...], *args: Any) -> Any:
            return function(DrawnSampler(draws), *args)

        self._compiled = compiled(from_draws, mode)

    def __call__(self, kind: Hashable, sampler: SourceSampler, *args: Any) -> Any:
        """Calls the function.

        Args:
            kind: calls of a kind draw the same shapes in the same order.
            sampler: draws.
            *args: the function's, after the sampler.

        Returns:
            What it returns.
        """
        plan = self._plans.get(kind)
        if plan is not None:
            return self._compiled(plan.draw(sampler), *args)
        recorder = RecordingSampler(sampler)
        result = self._function(recorder, *args)
        self._plans[kind] = recorder.plan
        return result
