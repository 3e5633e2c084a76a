"""Closures of an optimizer's step, for hooks that need its gradients before the step itself."""

from typing import Any

import torch

__all__ = ["with_known_loss"]


def with_known_loss(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Evaluates a step's closure now, since it makes the gradients, and hands on one that only tells the loss.

    Args:
        args: positional arguments of `step`, with the optimizer first, as a hook gets them.
        kwargs: its other arguments.

    Returns:
        Both, with a closure in place of the one that was evaluated, if there was one.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        return args, kwargs
    with torch.enable_grad():
        loss = closure()
    if len(args) > 1:
        return (args[0], lambda: loss, *args[2:]), kwargs
    return args, {**kwargs, "closure": lambda: loss}
