"""Data parallel: every rank holds all parameters, and sees its own part of each batch.

Gradients are averaged over the ranks while the backward pass still runs (Li et al., *PyTorch Distributed: Experiences
on Accelerating Data Parallel Training*, 2020, arXiv:2006.15704). With batches of one size, that is the gradient of the
mean over all data. Each rank draws masks and routing of its own. Sources of an adversary that are shared over a batch
are shared over all ranks: they begin as rank 0 drew them, and move by the mean of all ranks' gradients.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn

from spd.config import losses as c
from spd.config.run import Config
from spd.distributed.ranks import Distributed
from spd.errors import ConfigError
from spd.models.component_model import ComponentModel

__all__ = ["Shareable", "check_can_be_shared", "share"]

_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
    else "broadcast_buffers"
)
"""The name changed: torch 2.15 warns of the former one, and older versions have no other."""


@runtime_checkable
class Shareable(Protocol):
    """What is shared among ranks: a trainer, as `spd.training.Trainer` is.

    Attributes:
        model: the decomposed network.
        config: how.
        optimizer: of the components and the causal-importance functions.
        own_losses: all losses of a microbatch, with the settings `world_size` and `reduce`.
        losses: what is called for them.
    """

    model: ComponentModel
    config: Config
    losses: Callable[..., Any]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """See above."""

    @property
    def own_losses(self) -> nn.Module:
        """See above."""


def share(trainer: Shareable, distributed: Distributed) -> None:
    """Makes a trainer one of several that train the same parameters, each on data of its own.

    Parameters and buffers become those of rank 0. Does nothing for the only process.

    Args:
        trainer: between two steps, with a sampler of its rank's own, see `Distributed.sampler`; at the same step on all
            ranks.
        distributed: this process.

    Raises:
        ConfigError: settings that only one process can run.
        RankError: another rank ended or hung.
    """
    if distributed.world_size == 1:
        return
    check_can_be_shared(trainer)
    join(trainer, distributed)
    device = distributed.device
    unsynchronised: dict[str, Any] = {_SYNC_BUFFERS: False}  # they do not change
    trainer.losses = nn.parallel.DistributedDataParallel(
        trainer.own_losses,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=_leaves_some_unused(trainer.config.loss_metrics),
        gradient_as_bucket_view=True,
        **unsynchronised,
    )


def check_can_be_shared(trainer: Shareable) -> None:
    """Refuses what only one process can run.

    Args:
        trainer: to be shared.

    Raises:
        ConfigError: a step that is recorded or compiled as a whole, or losses that were replaced already.
    """
    if trainer.config.perf.cuda_graph:
        raise ConfigError(
            "a CUDA graph is recorded of one process alone; perf.cuda_graph is on with several. Switch it off."
        )
    if trainer.config.perf.compile_step:
        raise ConfigError(
            "a step that is compiled as a whole does not stop for other processes; perf.compile_step is on with "
            "several. Switch it off, and compile its parts."
        )
    if trainer.losses is not trainer.own_losses:
        raise ConfigError(
            f"a trainer is shared once, and by its own losses; a {type(trainer.losses).__name__} stands in for them. "
            "Share it before anything else wraps them."
        )


def join(trainer: Shareable, distributed: Distributed) -> None:
    """Tells a trainer's losses of the other ranks."""
    losses: Any = trainer.own_losses
    losses.world_size, losses.reduce = distributed.world_size, distributed.mean
    losses.broadcast = distributed.broadcast
    own = cast(Any, trainer)
    own._retries = False  # a second try of one rank would leave the others waiting
    own.alive.reduce = distributed.min


def _leaves_some_unused(losses: Sequence[c.LossConfig]) -> bool:
    """Whether a parameter gets no gradient: looking for it costs a walk through the graph at each step."""
    counted = [loss for loss in losses if loss.coeff]
    by_components = [
        loss for loss in counted if not isinstance(loss, c.ImportanceMinimalityLoss | c.StochasticHiddenActsReconLoss)
    ]
    by_importances = [loss for loss in counted if not isinstance(loss, c.FaithfulnessLoss | c.UnmaskedReconLoss)]
    return not by_components or not by_importances
