"""The loop in which every target is trained."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spd.config.schedules import LrSchedule, learning_rate

__all__ = ["fit", "round_to_half"]

_EVERY = 100


def fit(
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int], Float[Tensor, ""]],
    steps: int,
    *,
    schedule: LrSchedule | None = None,
    clip: float | None = None,
    done: Callable[[int], bool] = lambda taken: False,
    progress: Callable[[int, float], None] | None = None,
) -> int:
    """Takes steps down a loss.

    Args:
        optimizer: of the network's parameters.
        loss_of: the loss of a step, from 0.
        steps: how many at most.
        schedule: of the learning rate; None = as the optimizer has it.
        clip: largest norm of the gradient; None = no limit.
        done: asked after each step, with the number of steps taken, whether that is enough.
        progress: called at every hundredth step with the step and the loss.

    Returns:
        Steps taken.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(steps):
        if schedule is not None:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, step, steps)
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        if progress is not None and step % _EVERY == 0:
            progress(step, loss.item())
        if done(step + 1):
            return step + 1
    return steps


def round_to_half(model: nn.Module) -> None:
    """Rounds all parameters to numbers that float16 has, in place: a file then holds them in half the bytes.

    Args:
        model: the network, which stays in its own type.
    """
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.half())
