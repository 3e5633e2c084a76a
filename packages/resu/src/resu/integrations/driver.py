"""What all callbacks have in common: a cycle over somebody else's model and optimizer."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from resu.config import CycleConfig
from resu.errors import ConfigError
from resu.optim.masked import MaskedAdamW, MaskedSGD
from resu.optim.stock import Attachment
from resu.sparsifier import Sparsifier
from resu.training.clock import RESUCycle, heed_masks
from resu.training.prune import Calibration, Pruner, Stabilizer
from resu.training.stats import CycleStats

__all__ = ["CycleDriver"]

_log = logging.getLogger(__name__)


class CycleDriver:
    """Puts masks on a model when its training begins, and moves the clock of the phases at each optimizer step.

    Args:
        config: the settings; None takes the defaults.
        fit: make the cycles as long as the training's number of steps asks for; otherwise `config` says how many steps
            there are, and the training should have as many.
        pruner: gives the masks of PRUNE; None prunes by `config.pruning`.
        stabilizer: called after each PRUNE; may give better masks.
        calibration: gives what `config.pruning = "wanda"` needs.
        include: globs over names of parameters that get a mask although no rule chooses them.
        exclude: globs over names of parameters that get none.

    Attributes:
        cycle: the clock, from the beginning of the training on.
        sparsifier: the masks, likewise.

    >>> from torch.optim import SGD
    >>> model = nn.Linear(4, 4)
    >>> optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> driver = CycleDriver(CycleConfig.preset("quick"))
    >>> driver.begin(model, optimizer, total_steps=100)
    >>> driver.cycle.config.total_steps, driver.sparsifier.sparsity
    (100, 0.5)
    """

    def __init__(
        self,
        config: CycleConfig | None = None,
        *,
        fit: bool = True,
        pruner: Pruner | None = None,
        stabilizer: Stabilizer | None = None,
        calibration: Calibration | None = None,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
    ) -> None:
        self.config = CycleConfig() if config is None else config
        self.fit, self.include, self.exclude = fit, tuple(include), tuple(exclude)
        self.pruner, self.stabilizer, self.calibration = pruner, stabilizer, calibration
        self.cycle: RESUCycle | None = None
        self.sparsifier: Sparsifier | None = None
        self._pending: Mapping[str, Any] | None = None

    @property
    def history(self) -> list[CycleStats]:
        """The cycles that are over."""
        return [] if self.cycle is None else list(self.cycle.history)

    def begin(self, model: nn.Module, optimizer: Any, total_steps: int | float | None = None) -> None:
        """Begins, or goes on from a state that has been loaded.

        Args:
            model: the model, its own parameters, not a wrapper's.
            optimizer: what the loop steps; wrappers of accelerate and Lightning are looked through.
            total_steps: optimizer steps of the training; None or infinity where nobody knows.

        Raises:
            ConfigError: no number of steps where the cycles are to fit one.
            OptimizerError: an optimizer that cannot keep weights frozen.
        """
        config = self.config
        if self.fit:
            if total_steps is None or not math.isfinite(total_steps) or total_steps <= 0:
                raise ConfigError(
                    f"cycles that fit a training need its number of steps; it is {total_steps}. Give the training a "
                    "number of steps or epochs, or pass fit=False and the lengths in the settings."
                )
            config = config.for_steps(int(total_steps))
        self._leave()
        masked = heed_masks(model, _unwrapped(optimizer))
        self.sparsifier = Sparsifier(
            model,
            config.target_sparsity,
            distribution=config.distribution,
            include=self.include,
            exclude=self.exclude,
            optimizer=masked,
            seed=config.seed,
        )
        self.cycle = RESUCycle(
            self.sparsifier,
            config,
            masked,
            pruner=self.pruner,
            stabilizer=self.stabilizer,
            calibration=self.calibration,
        )
        if self._pending is not None:
            self._resume(masked, self._pending)
        self.cycle.start()

    def advance(self, loss: Float[Tensor, ""] | float | None = None) -> CycleStats | None:
        """To be called after each optimizer step.

        Args:
            loss: of that step.

        Returns:
            What became of a cycle, where one has ended.
        """
        stats = None if self.cycle is None else self.cycle.advance(loss)
        if stats is not None:
            _log.info("cycle %d: sparsity %.4f, %d came back", stats.cycle, stats.sparsity, stats.resurrected)
        return stats

    def end(self) -> None:
        """Ends: θ of a RESU phase that is still on competes now, masks stay on the weights."""
        if self.cycle is not None:
            if not self.cycle.done:
                _log.warning(
                    "the training ended at step %d of the cycles' %d", self.cycle.step, self.cycle.config.total_steps
                )
            self.cycle.finish()
            self.cycle.close()

    def _leave(self) -> None:
        """An earlier training's masks and hooks go, whatever they were on."""
        if self.cycle is not None and self.sparsifier is not None:
            self.cycle.close()
            if isinstance(self.cycle.optimizer, Attachment):
                self.cycle.optimizer.detach()
            self.sparsifier.detach()

    # --- keeping ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Masks and position; weights and moments are kept by the loop."""
        if self.cycle is None or self.sparsifier is None:
            return {}
        return {"sparsifier": self.sparsifier.state_dict(), "cycle": self.cycle.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes a state up when the training begins.

        Args:
            state: from `state_dict`.
        """
        self._pending = state or None

    def _resume(self, masked: MaskedAdamW | MaskedSGD | Attachment, state: Mapping[str, Any]) -> None:
        if isinstance(masked, MaskedAdamW) and masked.layout == "signbit":
            # Its moments were loaded before there were masks to ride on their signs.
            masked.load_state_dict(masked.state_dict())
        if self.sparsifier is not None and self.cycle is not None:
            self.sparsifier.load_state_dict(state["sparsifier"])
            self.cycle.load_state_dict(state["cycle"])
        self._pending = None


def _unwrapped(optimizer: Any) -> Any:
    """The optimizer inside accelerate's and Lightning's wrappers."""
    while not isinstance(optimizer, Attachment) and isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    return optimizer
