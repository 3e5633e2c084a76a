"""What is decomposed: a target network and streams of its data, and how ranks share a batch."""

from dataclasses import dataclass

from torch import nn

from spd.config.run import Config
from spd.data import BatchStream
from spd.errors import ConfigError

__all__ = ["Task", "per_rank_batch_sizes"]


@dataclass(frozen=True)
class Task:
    """A target and its data.

    Args:
        target: the trained network.
        train: batches to decompose it on.
        eval: batches to measure it on, others than those.
        output_attr: of what the target returns; None = itself.
    """

    target: nn.Module
    train: BatchStream
    eval: BatchStream
    output_attr: str | None = None


def per_rank_batch_sizes(config: Config, world_size: int = 1) -> tuple[int, int]:
    """Examples of one microbatch on one rank.

    Args:
        config: the settings.
        world_size: ranks.

    Returns:
        In training and in an evaluation, where there are no microbatches.

    Raises:
        ConfigError: ranks and microbatches that do not share a batch evenly.
    """
    shares = world_size * config.gradient_accumulation_steps
    evaluated = config.eval_batch_size or config.batch_size
    for name, size, parts in (("batch_size", config.batch_size, shares), ("eval_batch_size", evaluated, world_size)):
        if size % parts:
            raise ConfigError(
                f"ranks and microbatches share a batch evenly; {name} is {size}, to be shared by {parts}. Choose a "
                "multiple."
            )
    return config.batch_size // shares, evaluated // world_size
