"""Densification: sparsity that falls from cycle to cycle, with pauses in which the model is somebody else's.

A model trained sparse grows denser step by step, and between two cycles reinforcement learning, an evaluation or a
checkpoint gets its turn. A cycle begins at the sparsity of the one before and commits to its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import nn

from resu.config import CycleConfig
from resu.errors import ConfigError
from resu.schedules import densify_linear, densify_stepped

__all__ = ["DensificationPlan", "Pause", "PauseCallback", "PauseReason"]

PauseCallback = Callable[[nn.Module, int], None]
"""Gets the model and the number of the cycle that has just been committed."""


class PauseReason(StrEnum):
    """What a pause is for."""

    RL = "rl"
    EVAL = "eval"
    CHECKPOINT = "checkpoint"
    CUSTOM = "custom"


@dataclass(frozen=True)
class Pause:
    """A break after a cycle.

    Args:
        after_cycle: the cycle, from 0.
        reason: what the break is for.
        steps: how many steps are suggested to whoever trains meanwhile.
        callback: called with the model and the cycle; None leaves it to the caller of the trainer.
        metadata: anything the caller wants to find again.
    """

    after_cycle: int
    reason: PauseReason = PauseReason.RL
    steps: int = 0
    callback: PauseCallback | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class DensificationPlan:
    """The sparsities of all cycles, and the pauses between them.

    Args:
        sparsities: what each cycle commits to, none above the one before.
        pauses: breaks, one a cycle at most.

    Raises:
        ConfigError: sparsities that rise or lie outside [0, 1); pauses after cycles that are not there, or two after
            one.

    >>> plan = DensificationPlan.stepped((0.7, 0.5, 0.3))
    >>> [pause.after_cycle for pause in plan.pauses]
    [0, 1]
    >>> plan.configure(CycleConfig.preset("densification")).num_cycles
    3
    """

    def __init__(self, sparsities: Sequence[float], pauses: Sequence[Pause] = ()) -> None:
        self.sparsities = densify_stepped(sparsities)
        self.pauses = tuple(sorted(pauses, key=lambda pause: pause.after_cycle))
        self._callbacks: dict[int, list[PauseCallback]] = {}
        for pause in self.pauses:
            self._check_cycle(pause.after_cycle, "a pause")
            if pause.steps < 0:
                raise ConfigError(f"a pause suggests 0 steps or more; {pause.steps} was given. Leave it out for none.")
        cycles = [pause.after_cycle for pause in self.pauses]
        if len(set(cycles)) < len(cycles):
            raise ConfigError(
                f"a cycle is followed by one pause at most; the pauses come after cycles {cycles}. Register what else "
                "is to be done with on_cycle."
            )

    @classmethod
    def linear(
        cls,
        start: float,
        end: float,
        cycles: int,
        pause_every: int = 1,
        *,
        reason: PauseReason = PauseReason.RL,
        steps: int = 0,
        callback: PauseCallback | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> "DensificationPlan":
        """Sparsities in a straight line, with a pause after every so many cycles but the last.

        Args:
            start: sparsity of the first cycle.
            end: sparsity of the last one.
            cycles: how many.
            pause_every: cycles between pauses; 0 for none.
            reason: what the pauses are for.
            steps: how many steps each suggests.
            callback: what each calls.
            metadata: what each carries.

        Returns:
            The plan.

        Raises:
            ConfigError: sparsities that rise or lie outside [0, 1); no cycles.

        >>> [round(s, 3) for s in DensificationPlan.linear(0.7, 0.0, 5).sparsities]
        [0.7, 0.525, 0.35, 0.175, 0.0]
        """
        sparsities = densify_linear(start, cycles, end)
        return cls(sparsities, _every(pause_every, cycles, reason, steps, callback, metadata))

    @classmethod
    def stepped(
        cls,
        sparsities: Sequence[float] = (0.7, 0.5, 0.3, 0.1, 0.0),
        pause_every: int = 1,
        *,
        reason: PauseReason = PauseReason.RL,
        steps: int = 0,
        callback: PauseCallback | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> "DensificationPlan":
        """Sparsities from a list, with a pause after every so many cycles but the last.

        Args:
            sparsities: one a cycle.
            pause_every: cycles between pauses; 0 for none.
            reason: what the pauses are for.
            steps: how many steps each suggests.
            callback: what each calls.
            metadata: what each carries.

        Returns:
            The plan.

        Raises:
            ConfigError: sparsities that rise or lie outside [0, 1); an empty list.
        """
        return cls(sparsities, _every(pause_every, len(sparsities), reason, steps, callback, metadata))

    def pause_after(self, cycle: int) -> Pause | None:
        """The pause that follows a cycle, if one does.

        Args:
            cycle: from 0.

        Returns:
            The pause, or None.
        """
        return next((pause for pause in self.pauses if pause.after_cycle == cycle), None)

    def on_cycle(self, cycle: int, callback: PauseCallback) -> None:
        """Registers something further to be done after a cycle, whether a pause follows it or not.

        Args:
            cycle: from 0.
            callback: called with the model and the cycle, after the pause's own, in the order of registration.

        Raises:
            ConfigError: no such cycle.
        """
        self._check_cycle(cycle, "a callback")
        self._callbacks.setdefault(cycle, []).append(callback)

    def run_callbacks(self, model: nn.Module, cycle: int) -> int:
        """Calls everything that belongs after a cycle.

        Args:
            model: the model.
            cycle: the cycle that has just been committed.

        Returns:
            How many were called.
        """
        pause = self.pause_after(cycle)
        callbacks = [pause.callback] if pause is not None and pause.callback is not None else []
        callbacks += self._callbacks.get(cycle, [])
        for callback in callbacks:
            callback(model, cycle)
        return len(callbacks)

    def configure(self, config: CycleConfig) -> CycleConfig:
        """The settings of a training that follows this plan.

        Args:
            config: everything else.

        Returns:
            The same settings with the plan's cycles and sparsities.
        """
        changes = {
            "sparsity_schedule": "custom",
            "sparsities": self.sparsities,
            "num_cycles": len(self.sparsities),
        }
        return CycleConfig(**(config.model_dump() | changes))

    def _check_cycle(self, cycle: int, what: str) -> None:
        if not 0 <= cycle < len(self.sparsities):
            raise ConfigError(
                f"{what} comes after one of the cycles 0 to {len(self.sparsities) - 1}; cycle {cycle} is none. "
                "Choose one of those."
            )


def _every(
    pause_every: int,
    cycles: int,
    reason: PauseReason,
    steps: int,
    callback: PauseCallback | None,
    metadata: Mapping[str, Any] | None,
) -> list[Pause]:
    if pause_every < 0:
        raise ConfigError(f"pauses come every 1 cycle or more, or never with 0; pause_every is {pause_every}.")
    if not pause_every:
        return []
    after = range(pause_every - 1, cycles - 1, pause_every)
    return [Pause(cycle, reason, steps, callback, dict(metadata or {})) for cycle in after]
