"""Cycles in Lightning's `Trainer`: one callback, for `lightning` and for `pytorch_lightning`.

::

    trainer = Trainer(max_steps=1500, callbacks=[RESUCallback(CycleConfig(target_sparsity=0.9))])
    trainer.fit(module, loader)

The module configures its optimizer as ever, which is attached to the masks; or let it return a `MaskedAdamW`. Masks and
position travel in Lightning's own checkpoints.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from resu.config import CycleConfig
from resu.errors import ConfigError, MissingExtraError
from resu.integrations.driver import CycleDriver
from resu.training.stats import CycleStats

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError:
            Callback = object

__all__ = ["RESUCallback"]


class RESUCallback(Callback):
    """Drives the phases at each optimizer step of a Lightning `Trainer`.

    The two names are two sets of classes with the same hooks: with both installed, one callback serves either trainer.

    Args:
        config: the settings; None takes the defaults.
        options: as for `resu.integrations.driver.CycleDriver`: fit, pruner, stabilizer, calibration, include, exclude.

    Raises:
        MissingExtraError: neither lightning nor pytorch_lightning is installed.
    """

    def __init__(self, config: CycleConfig | None = None, **options: Any) -> None:
        if Callback is object:
            raise MissingExtraError(
                "the callback for Lightning needs lightning or pytorch_lightning; neither is installed. Run "
                "pip install './packages/resu[lightning]'."
            )
        super().__init__()
        self.driver = CycleDriver(config, **options)
        self._steps_seen = 0

    @property
    def history(self) -> list[CycleStats]:
        """The cycles that are over."""
        return self.driver.history

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Puts masks on the module, or finds its place again after a resumption."""
        if len(trainer.optimizers) != 1:
            raise ConfigError(
                f"a cycle goes by the steps of one optimizer; the module has {len(trainer.optimizers)}. Drive "
                "resu.training.cycle.RESUCycle from the module's own training_step."
            )
        self._steps_seen = trainer.global_step
        self.driver.begin(pl_module, trainer.optimizers[0], trainer.estimated_stepping_batches)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Moves the clock, where this batch was the last one before a step."""
        if trainer.global_step > self._steps_seen:
            self._steps_seen = trainer.global_step
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            self.driver.advance(loss.detach() if isinstance(loss, Tensor) else None)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Ends what is on."""
        self.driver.end()

    def state_dict(self) -> dict[str, Any]:
        """Masks and position, for Lightning's checkpoint."""
        return self.driver.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes them up when the training begins.

        Args:
            state_dict: from `state_dict`.
        """
        self.driver.load_state_dict(state_dict)
