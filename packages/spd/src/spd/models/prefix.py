"""What a target computes before its first masked site, remembered from its own pass and given out again.

Every pass over a batch begins alike: up to the first site that is masked, it repeats the target's own. Here each
operation of the target's pass that lies outside its sites is recorded with its result, in one list for each stretch
between two sites; a masked pass is given the results in their order instead of computing them. It goes on by itself
from the first masked site, or from where it does something else than was recorded, or where a result has been changed
in place since.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Recorder", "Replayer", "Stretches", "versions_of"]


def versions_of(result: Any) -> tuple[int, ...] | None:
    """How often each tensor was changed in place.

    Args:
        result: a tensor, or several; anything else is passed over.

    Returns:
        The counts; None where they are not kept, in inference mode.
    """
    parts = result if isinstance(result, tuple | list) else (result,)
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return None if any(t.is_inference() for t in tensors) else tuple(t._version for t in tensors)


@dataclass(frozen=True)
class _Call:
    func: Callable[..., Any]
    result: Any
    versions: tuple[int, ...] | None

    def still_holds(self, func: Callable[..., Any]) -> bool:
        return self.versions is not None and self.func == func and versions_of(self.result) == self.versions


Stretches = list[list[_Call]]
"""Operations between two sites, site by site."""


class Recorder(TorchFunctionMode):
    """Within the context, operations are recorded.

    Attributes:
        stretches: what was recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stretches: Stretches = [[]]
        self._within_site = False

    def enter_site(self) -> None:
        """What follows belongs to a site."""
        self._within_site = True

    def leave_site(self, moved: bool) -> None:
        """A new stretch begins.

        Args:
            moved: whether anything was masked so far.
        """
        self._within_site = False
        self.stretches.append([])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Does the operation, and remembers it."""
        result = func(*args, **(kwargs or {}))
        if not self._within_site:
            self.stretches[-1].append(_Call(func, result, versions_of(result)))
        return result


class Replayer(TorchFunctionMode):
    """Within the context, operations that were recorded are not done again.

    Args:
        stretches: what was recorded.

    >>> import torch
    >>> recorder = Recorder()
    >>> with recorder:
    ...     first = torch.ones(2) + 1
    >>> with Replayer(recorder.stretches):
    ...     again = torch.ones(2) + 1
    >>> again is first
    True
    """

    def __init__(self, stretches: Stretches) -> None:
        super().__init__()
        self._stretches = stretches
        self._stretch, self._next = 0, 0
        self._live = False
        self._within_site = False

    def enter_site(self) -> None:
        """What follows belongs to a site, and is done."""
        self._within_site = True

    def leave_site(self, moved: bool) -> None:
        """The next stretch begins.

        Args:
            moved: whether anything was masked so far: nothing is as it was recorded any more.
        """
        self._within_site = False
        self._live = self._live or moved
        self._stretch, self._next = self._stretch + 1, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Gives what was recorded, or does the operation."""
        if not (self._live or self._within_site):
            calls = self._stretches[self._stretch] if self._stretch < len(self._stretches) else []
            if self._next < len(calls) and calls[self._next].still_holds(func):
                self._next += 1
                return calls[self._next - 1].result
            self._live = True
        return func(*args, **(kwargs or {}))
