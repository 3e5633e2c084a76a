"""What all methods have in common: three calls in a training loop, and a start.

::

    method = build_method(RigLConfig(), Sparsifier(model, 0.9, optimizer=optimizer), steps=1500)
    for step in range(1500):
        method.before_step(step)
        loss(model(x), y).backward()
        if method.after_backward(step):
            optimizer.step()
        method.after_step(step)
        optimizer.zero_grad()

A method states what may be trained and when masks change; weights are stepped by the optimizer. Several of them use a
step for something else than a weight step: `after_backward` then says so. `state_dict` has what a method remembers
beside weights, moments and masks.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from resu.core.mask import SparseMask
from resu.core.phases import SparseParameter
from resu.core.scores import magnitude
from resu.core.select import Candidate, Score, select_top
from resu.errors import CheckpointError, ConfigError
from resu.sparsifier import Sparsifier

__all__ = ["Clock", "Method", "MethodConfig", "Share", "set_masks", "sparse_start", "top_masks"]

Share = Annotated[float, Field(gt=0, le=1)]


class MethodConfig(BaseModel):
    """Settings of a method: frozen, and refused when they are built."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Clock(MethodConfig):
    """When a method changes its masks: every `interval` steps, until a share `end` of the training is over.

    Args:
        interval: ΔT, steps from one change to the next.
        end: T_end over all steps; after it the masks stay.

    Raises:
        pydantic.ValidationError: a value out of range or an unknown field.

    >>> clock = Clock(interval=50, end=0.75)
    >>> [step for step in range(300) if clock.due(step, 300)]
    [50, 100, 150, 200]
    """

    interval: PositiveInt = 50
    end: Share = 0.75

    def due(self, step: int, steps: int) -> bool:
        """Whether the masks change at a step of a training of so many steps."""
        return step > 0 and step % self.interval == 0 and step < self.end * steps

    def annealed(self, start: float, step: int, steps: int) -> float:
        """α/2 (1 + cos(π t / T_end)): from `start` to 0 along half a cosine (Evci et al. 2020, arXiv:1911.11134).

        >>> Clock(end=0.5).annealed(0.3, 25, 100)
        0.15
        """
        return start / 2 * (1 + math.cos(math.pi * min(step / (self.end * steps), 1.0)))


C = TypeVar("C", bound=MethodConfig)


class Method(Generic[C]):
    """A way to train sparsely.

    Args:
        sparsifier: holds the model's masks, all active so far; its target is the sparsity to end at, its optimizer the
            one that is stepped.
        steps: steps of the whole training.
        config: the method's settings.

    Raises:
        ConfigError: a training without steps.
    """

    def __init__(self, sparsifier: Sparsifier, steps: int, config: C) -> None:
        if steps < 1:
            raise ConfigError(f"a training has at least one step; got {steps}. Give the number of steps of the loop.")
        self.sparsifier, self.steps, self.config = sparsifier, steps, config
        self._start()

    def _start(self) -> None:
        """Brings masks and weights to where training begins."""

    def before_step(self, step: int) -> None:
        """Called before the forward pass.

        Args:
            step: from 0.
        """

    def after_backward(self, step: int) -> bool:
        """Called when gradients are there and the optimizer has not stepped yet.

        Args:
            step: from 0.

        Returns:
            Whether the optimizer is to take its step.
        """
        return True

    def after_step(self, step: int) -> None:
        """Called after the optimizer's step, or in its place; gradients are still there.

        Args:
            step: from 0.
        """

    def state_dict(self) -> dict[str, Any]:
        """What the method remembers between two steps that model, optimizer and sparsifier do not say."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up a state; those of model, optimizer and sparsifier have been loaded already.

        Args:
            state: from `state_dict`.

        Raises:
            CheckpointError: a state that lacks what this method remembers.
        """
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise CheckpointError(
                f"{type(self).__name__} goes on from a state of its own kind; this one has no {', '.join(missing)}. "
                "Load it into the method that it was saved from, or start anew."
            )


def sparse_start(sparsifier: Sparsifier, sparsity: float | None = None) -> None:
    """Random masks, and weights scaled by 1 / √density, so that a unit's input keeps its variance.

    A unit of a layer of density d sees d · fan-in inputs; scaling its weights makes the usual initialisation fit that
    number.

    Args:
        sparsifier: all active.
        sparsity: share of pruned weights over all layers; None = the sparsifier's target.
    """
    sparsifier.prune("random", sparsity=sparsity)
    for sparse in sparsifier.parameters.values():
        sparse.weight.mul_(1 / math.sqrt(max(sparse.mask.density, 1 / sparse.mask.numel)))


def top_masks(
    sparsifier: Sparsifier,
    counts: dict[str, int],
    score: Callable[[SparseParameter], Score] = magnitude,
    among: dict[str, SparseMask] | None = None,
) -> dict[str, SparseMask]:
    """Masks of so many largest scores of each layer; nothing is pruned yet.

    Args:
        sparsifier: holds the layers.
        counts: how many of each.
        score: what to compare by.
        among: where to look; None = everywhere.

    Returns:
        One mask a layer.
    """
    masks = {}
    for name, sparse in sparsifier.parameters.items():
        where = None if among is None else among[name]
        candidate = Candidate(score(sparse), sparse.mask.shape, sparse.mask.device, where)
        masks[name] = select_top([candidate], counts[name])[0]
    return masks


def set_masks(sparsifier: Sparsifier, masks: dict[str, SparseMask]) -> None:
    """Puts masks on the layers, one layer after the other.

    Args:
        sparsifier: holds the layers.
        masks: by name.
    """
    for name, mask in masks.items():
        sparsifier.set_masks({name: mask})
