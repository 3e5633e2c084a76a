"""Where in the data a training stands, so that a resumed one sees the batches that the killed one would have seen."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from resu.checkpoint import random_states, set_random_states
from resu.errors import CheckpointError, ConfigError

__all__ = ["LoaderPosition"]


class LoaderPosition:
    """Draws batches from a loader, epoch after epoch, and can find its place again.

    An epoch's order follows from the random states at its beginning. These are kept, so that a resumed training puts
    them back, draws as many batches as were used, and then takes up the states of the moment of the checkpoint.

    >>> position, loader = LoaderPosition(), [10, 20]
    >>> [position.next_batch(loader) for _ in range(3)], position.epoch
    ([10, 20, 10], 1)
    """

    def __init__(self) -> None:
        self.epoch = self.batch = 0
        self._began_with: Mapping[str, Any] | None = None
        self._loader: Iterable[Any] | None = None
        self._iterator: Iterator[Any] = iter(())
        self._resuming: Mapping[str, Any] | None = None

    def next_batch(self, loader: Iterable[Any]) -> Any:
        """The next batch; a new epoch begins where one ends, and where another loader comes.

        Args:
            loader: gives the batches of an epoch each time it is iterated over.

        Returns:
            A batch.

        Raises:
            ConfigError: an iterator, which can be read only once, or a loader without batches.
            CheckpointError: a loader with fewer batches than the resumed epoch had already used.
        """
        if hasattr(loader, "__next__"):
            raise ConfigError(
                f"a loader gives its batches anew each epoch; a {type(loader).__name__} gives them once. Pass a list "
                "or a torch.utils.data.DataLoader."
            )
        if self._resuming is not None:
            self._find_place(loader, self._resuming)
        elif loader is not self._loader:
            self._begin(loader)
        for _ in range(2):
            for batch in self._iterator:
                self.batch += 1
                return batch
            self.epoch += 1
            self._begin(loader)
        raise ConfigError("a loader gives at least one batch an epoch; this one gives none. Check data and batch size.")

    def _begin(self, loader: Iterable[Any]) -> None:
        self._began_with = random_states(*_generators(loader))
        self._loader, self._iterator, self.batch = loader, iter(loader), 0

    def _find_place(self, loader: Iterable[Any], now: Mapping[str, Any]) -> None:
        generators = _generators(loader)
        if self._began_with is not None:
            set_random_states(self._began_with, *generators)
            self._iterator = iter(loader)
            for used in range(self.batch):
                if next(self._iterator, self) is self:
                    raise CheckpointError(
                        f"a training goes on with the data that it had; it had used {self.batch} batches of this epoch "
                        f"and the loader has {used}. Use the same data and batch size."
                    )
            set_random_states(now, *generators)
            self._loader = loader
        else:
            set_random_states(now, *generators)
            self._begin(loader)
        self._resuming = None

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches used, and the random states at the epoch's beginning and now."""
        generators = () if self._loader is None else _generators(self._loader)
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "began_with": self._began_with,
            "now": random_states(*generators) if self._loader is not None else random_states(None, None),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes a place up again; the loader is repositioned when the next batch is drawn.

        Args:
            state: from `state_dict`.
        """
        self.epoch, self.batch = state["epoch"], state["batch"]
        self._began_with, self._resuming = state["began_with"], state["now"]
        self._loader, self._iterator = None, iter(())


def _generators(loader: Iterable[Any]) -> tuple[torch.Generator | None, torch.Generator | None]:
    """The loader's own generators; without them the order follows the global one."""
    sampler = getattr(loader, "sampler", None)
    return getattr(loader, "generator", None), getattr(sampler, "generator", None)
