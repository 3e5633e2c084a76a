"""Gradients of N samples or batches, collected before indices move.

What is applied is the mean of the collected gradients times a factor:

==========  ======  ==========================================================================
scaling     factor
==========  ======  ==========================================================================
mean        1       the step of one batch that is N times as large
sqrt        √N      the step grows as the noise of a mean shrinks: N noisy gradients add up so
linear      N       the sum: as far as N single steps would go
==========  ======  ==========================================================================

The original counted each step twice, once where it asked whether to apply and once where it applied, so that its
condition was never met, and its buffer was never emptied. Here one call adds, and the same call hands back what is due.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurograph.errors import CheckpointError, ConfigError

__all__ = ["Accumulated", "AdaptiveAccumulator", "GradientAccumulator", "Scaling"]

Scaling = Literal["mean", "sqrt", "linear"]
_NUMBERS = ("n", "scaling", "count", "total", "applied")
_FACTORS: dict[str, Callable[[int], float]] = {"mean": lambda n: 1.0, "sqrt": math.sqrt, "linear": float}


class Accumulated(NamedTuple):
    """What is due after N additions.

    Args:
        phase: gradients of phases: mean times factor.
        mag: of magnitudes.
        size: how many went into it; fewer than N at a ragged end.
    """

    phase: Float[Tensor, "N D"]
    mag: Float[Tensor, "N D"]
    size: int


@dataclass
class GradientAccumulator:
    """Collects gradients and hands back their scaled mean at exactly every N-th.

    Args:
        n: N.
        scaling: mean, sqrt or linear.

    Attributes:
        count: additions since the last hand-over.
        total: additions ever.
        applied: hand-overs ever.

    Raises:
        ConfigError: N < 1 or a scaling that does not exist.

    >>> accumulator = GradientAccumulator(4)
    >>> due = [accumulator.add(torch.ones(2, 1), torch.zeros(2, 1)) for _ in range(4)]
    >>> [one is not None for one in due], float(due[-1].phase[0])  # √4 times a mean of 1
    ([False, False, False, True], 2.0)
    """

    n: int = 8
    scaling: str = "sqrt"
    count: int = field(default=0, init=False)
    total: int = field(default=0, init=False)
    applied: int = field(default=0, init=False)
    _sums: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"at least one gradient is collected; got n = {self.n}. Give 1 for none held back.")
        if self.scaling not in _FACTORS:
            raise ConfigError(f"a scaling is one of {', '.join(_FACTORS)}; got {self.scaling!r}. Choose one of them.")

    def add(self, phase: Float[Tensor, "N D"], mag: Float[Tensor, "N D"]) -> Accumulated | None:
        """Adds the gradients of one sample or batch.

        Args:
            phase: of phases.
            mag: of magnitudes.

        Returns:
            What is due, if this was the N-th; else None.

        Raises:
            ConfigError: other shapes than those that were added before.
        """
        sums = self._room(phase, mag)
        sums[0].add_(phase)
        sums[1].add_(mag)
        return self._counted()

    def add_rows(self, rows: Int[Tensor, " n"], phase: Float[Tensor, "n D"], mag: Float[Tensor, "n D"]) -> None:
        """Adds gradients of some nodes to the sample that is being collected; :meth:`close` ends the sample.

        A node that comes more than once gets the sum.

        Args:
            rows: of the nodes.
            phase: of their phases.
            mag: of their magnitudes.

        Raises:
            ConfigError: no number of nodes is known yet; call :meth:`reserve` first.
        """
        if self._sums is None:
            raise ConfigError("rows are added to a table of all nodes; got none yet. Call reserve(n_nodes, dim) first.")
        self._sums[0].index_add_(0, rows, phase.to(self._sums[0]))
        self._sums[1].index_add_(0, rows, mag.to(self._sums[1]))

    def reserve(self, like: Float[Tensor, "N D"]) -> None:
        """Makes the table that :meth:`add_rows` adds to, if there is none.

        Args:
            like: a tensor of its shape, type and device.
        """
        self._room(like, like)

    def close(self) -> Accumulated | None:
        """Ends a sample that was added row by row.

        Returns:
            What is due, if it was the N-th; else None.

        Raises:
            ConfigError: no sample was begun.
        """
        if self._sums is None:
            raise ConfigError(
                "a sample is closed after its rows were added; got none. Call reserve and add_rows first."
            )
        return self._counted()

    def flush(self) -> Accumulated | None:
        """Hands back what is left at a ragged end: the mean over those that are there, times their number's factor.

        Returns:
            What was left; None = nothing.
        """
        if self._sums is None or self.count == 0:
            return None
        factor = _FACTORS[self.scaling](self.count) / self.count
        due = Accumulated(self._sums[0] * factor, self._sums[1] * factor, self.count)
        self._sums[0].zero_()
        self._sums[1].zero_()
        self.count = 0
        self.applied += 1
        return due

    @property
    def nbytes(self) -> int:
        """Bytes that are held; they do not grow with N."""
        return 0 if self._sums is None else sum(one.numel() * one.element_size() for one in self._sums)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, none where nothing is collected, and numbers.

        Returns:
            Copies.
        """
        held = self._sums if self.count or any(bool(one.any()) for one in self._sums or ()) else None
        sums = {} if held is None else {"phase": held[0].clone(), "mag": held[1].clone()}
        return sums, {name: getattr(self, name) for name in _NUMBERS}

    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Goes on from a saved state.

        Args:
            tensors: from `state_dict`.
            numbers: from `state_dict`.

        Raises:
            CheckpointError: numbers that are missing, or gradients that were collected and are not there.
        """
        missing = [name for name in _NUMBERS if name not in numbers]
        if missing:
            raise CheckpointError(
                f"an accumulator's numbers are {', '.join(_NUMBERS)}; the saved state lacks {', '.join(missing)}. Take "
                "another file."
            )
        if int(numbers["count"]) and not {"phase", "mag"} <= set(tensors):
            raise CheckpointError(
                f"{numbers['count']} gradients were collected; the saved state has no sums of them. Take another file."
            )
        self._sums = (tensors["phase"].clone(), tensors["mag"].clone()) if tensors else None
        for name in _NUMBERS:
            setattr(self, name, numbers[name])

    def _room(self, phase: Tensor, mag: Tensor) -> tuple[Tensor, Tensor]:
        if self._sums is None:
            self._sums = (torch.zeros_like(phase), torch.zeros_like(mag))
        for held, given in zip(self._sums, (phase, mag), strict=True):
            if held.shape != given.shape:
                raise ConfigError(
                    f"gradients that are collected have one shape; got {tuple(given.shape)} after {tuple(held.shape)}. "
                    "Use another accumulator for another network."
                )
        return self._sums

    def _counted(self) -> Accumulated | None:
        self.count += 1
        self.total += 1
        return self.flush() if self.count >= self.n else None


@dataclass
class AdaptiveAccumulator(GradientAccumulator):
    """An N between 4 and 16 that follows the size of the gradients.

    Every 20 additions the mean norm of the last 10 is compared with a threshold: below it N grows by one, so that small
    gradients are collected for longer; above it N falls by one. A change holds from the next addition on. Samples that
    are added row by row (`add_rows`, `close`) leave N as it is.

    Args:
        n: N at first.
        scaling: as before.
        low: least N.
        high: greatest N.
        every: additions between two looks.
        window: how many norms are averaged.
        threshold: of the mean norm.

    Raises:
        ConfigError: bounds that do not enclose n, or a window that is not within the additions between two looks.

    >>> accumulator = AdaptiveAccumulator(8)
    >>> for _ in range(40):
    ...     _ = accumulator.add(torch.zeros(2, 1), torch.zeros(2, 1))
    >>> accumulator.n
    10
    """

    low: int = 4
    high: int = 16
    every: int = 20
    window: int = 10
    threshold: float = 0.1
    norms: deque[float] = field(default_factory=deque, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.low <= self.n <= self.high:
            raise ConfigError(
                f"n lies between its bounds; got n = {self.n} and bounds {self.low} to {self.high}. Move one of them."
            )
        if not 1 <= self.window <= self.every:
            raise ConfigError(
                f"norms are averaged over 1 to {self.every} additions, as many as lie between two looks; got window = "
                f"{self.window}. Change it, or every."
            )

    def add(self, phase: Float[Tensor, "N D"], mag: Float[Tensor, "N D"]) -> Accumulated | None:
        """Adds gradients and, every so often, changes N.

        Args:
            phase: of phases.
            mag: of magnitudes.

        Returns:
            What is due; None = nothing yet.
        """
        # The norm is read back only where it will be looked at: a read waits for the device.
        place = self.total % self.every
        if place >= self.every - self.window:
            self.norms.append(float(torch.sqrt(phase.square().sum() + mag.square().sum())))
        due = super().add(phase, mag)
        if self.norms and self.total % self.every == 0:
            small = sum(self.norms) / len(self.norms) < self.threshold
            self.n = min(max(self.n + (1 if small else -1), self.low), self.high)
            self.norms.clear()
        return due

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and numbers, the norms among them.

        Returns:
            Copies.
        """
        tensors, numbers = super().state_dict()
        return tensors, numbers | {"norms": list(self.norms)}

    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Goes on from a saved state; see :meth:`GradientAccumulator.load_state_dict`.

        Args:
            tensors: from `state_dict`.
            numbers: from `state_dict`.
        """
        super().load_state_dict(tensors, numbers)
        self.norms = deque(numbers["norms"])
