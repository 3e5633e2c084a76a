"""Which components are still in use: those that were important for some example not too long ago."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spd.errors import ConfigError

__all__ = ["AlivenessTracker"]


class AlivenessTracker:
    """Counts, for each component, the batches since its importance was above a threshold at any position.

    A component is alive while fewer than ⌊n_examples_until_dead / examples_per_batch⌋ batches (at least one) have gone
    by without it. Nothing is read from the device while batches are watched.

    Args:
        module_to_c: components by site.
        n_examples_until_dead: examples without it after which a component is dead.
        threshold: an importance strictly above it counts.
        examples_per_batch: examples between two calls of `watch`, over all microbatches and all ranks. The original
            took the microbatch of one rank for it, so that components died too late.
        reduce: takes the minimum over ranks, since a component that one rank needs is alive; None on one process.

    Raises:
        ConfigError: counts below 1.

    >>> tracker = AlivenessTracker({"a": 2}, n_examples_until_dead=8, threshold=0.0, examples_per_batch=4)
    >>> for _ in range(2):
    ...     tracker.watch({"a": torch.tensor([[0.0, 0.3]])})
    >>> tracker.n_alive()["a"].item()
    1
    """

    def __init__(
        self,
        module_to_c: Mapping[str, int],
        n_examples_until_dead: int,
        threshold: float | int,
        examples_per_batch: int,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if min(n_examples_until_dead, examples_per_batch) < 1:
            raise ConfigError(
                f"examples are counted from 1; got n_examples_until_dead = {n_examples_until_dead} and "
                f"{examples_per_batch} examples a batch. Raise them."
            )
        self.module_to_c, self.threshold, self.reduce = dict(module_to_c), float(threshold), reduce
        self.batches_until_dead = max(1, n_examples_until_dead // examples_per_batch)
        self._since = torch.zeros(sum(self.module_to_c.values()), dtype=torch.int64)

    def watch(self, importances: Mapping[str, Float[Tensor, "... _"]]) -> None:
        """Takes in the importances of a batch.

        Args:
            importances: g by site, on any device, which the counts move to.

        Raises:
            ConfigError: sites other than those that are tracked.
        """
        if set(importances) != set(self.module_to_c):
            raise ConfigError(
                f"importances of all tracked sites are watched, {', '.join(self.module_to_c)}; got "
                f"{', '.join(importances)}. Give each of them."
            )
        with torch.no_grad():
            active = torch.cat([
                (importances[name] > self.threshold).flatten(0, -2).any(0) for name in self.module_to_c
            ])  # fmt: skip
            self._since = (self._since.to(active.device) + 1).masked_fill_(active, 0)

    def since(self) -> dict[str, Int64[Tensor, " _"]]:
        """Batches since each component was important, by site; the minimum over ranks."""
        counts = self._since if self.reduce is None else self.reduce(self._since.clone())
        return dict(zip(self.module_to_c, counts.split(list(self.module_to_c.values())), strict=True))

    def n_alive(self) -> dict[str, Int64[Tensor, ""]]:
        """Components that are alive, by site; the numbers stay on the device until somebody reads them."""
        return {name: (since < self.batches_until_dead).sum() for name, since in self.since().items()}

    def state_dict(self) -> dict[str, Int64[Tensor, " _"]]:
        """The counts, for a checkpoint."""
        return {"since": self._since}

    def load_state_dict(self, state: Mapping[str, Int64[Tensor, " _"]]) -> None:
        """Goes on from saved counts.

        Args:
            state: from `state_dict`.

        Raises:
            ConfigError: counts of another number of components.
        """
        if state["since"].shape != self._since.shape:
            raise ConfigError(
                f"counts are one for each component, {self._since.numel()}; the saved ones are "
                f"{state['since'].numel()}. Resume with the settings that they were saved with."
            )
        self._since = state["since"].clone()
