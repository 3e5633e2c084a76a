"""The note's optimizations in whole forward passes and training steps of the original, on a stream of samples.

Each variant goes through the same stream, a sample a call, and begins it anew where it is given fresh inputs. All
samples are let take two propagation steps, which three in four take anyway, so that pairs cost alike, and of the
thousand nodes 20 are inputs in place of 200, so that a call takes a sixth of a second and many fit into a budget: a
query costs what it costs in the original, and all parts of a step are about a sixth as many. That favours the cache,
whose thousand entries hold more samples: on 40 samples it hits five times as often. So `neurograph.radiation` clocks
the same streams at the original's size beside it, by turns in one process, where seconds a call leave room for no more.

`after` is what the note says: lookups that are compiled, and a cache that loses what was used least recently. As it was
coded, lookups fell back and the cache lost what came first. At the gate a cache is cold; what its hits are worth later
is the subject of other claims.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch

from claimbench.case import Case, Tolerance, Workload
from claimbench.cases.neurograph.problem import FULL, SMALL, pictures, settings_of
from claimbench.record import Params
from neurograph.reference.original import OPTIMIZATIONS, OriginalEngine, OriginalTrainContext, RadiationCaches
from neurograph.reference.original.radiation import get_radiation_neighbors

__all__ = ["CASES"]

TWO_STEPS = 3
"""The loop stops before it would make a third step."""


class _Left(NamedTuple):
    """What a sample leaves behind."""

    context: OriginalTrainContext
    loss: float


class _Stream:
    """A variant: the original with some optimizations, and where it stands in the stream."""

    def __init__(self, params: Params, optimizations: Collection[str], train: bool) -> None:
        self._settings = settings_of(int(params["nodes"]), int(params["inputs"]), TWO_STEPS)
        self._optimizations, self._train = optimizations, train
        self._given: Any = None
        self._at = 0
        self._context: OriginalTrainContext | None = None

    def __call__(self, given: Any) -> _Left:
        if given is not self._given or self._context is None:
            self._given, self._at = given, 0
            caches = RadiationCaches(policy="lru")
            self._context = OriginalTrainContext(self._settings, self._optimizations, jit="compiled", caches=caches)
        images, labels = pictures()
        place = (given["first"] + self._at) % len(labels)
        self._at += 1
        if not self._train:
            self._context.engine.forward(*self._context.adapter(images[place]))
            return _Left(self._context, 0.0)
        loss = self._context.train_step(images[place], labels[place])
        if self._context.accumulator.stored > 100_000:  # the original's lists grow without end; the bench's do not
            self._context.accumulator.phase.clear()
            self._context.accumulator.mag.clear()
        return _Left(self._context, loss)


def _compared(left: _Left) -> dict[str, Any]:
    """Loss, activations, and the last gradients of each node that has some."""
    table, kept = left.context.engine.table, left.context.accumulator
    return {
        "loss": left.loss, "phase": table.phase, "mag": table.mag, "strength": table.strength, "active": table.active,
        "nodes": torch.tensor([int(node[1:]) for node in kept.phase]),
        "phase gradients": [grads[-1] for grads in kept.phase.values()],
        "mag gradients": [grads[-1] for grads in kept.mag.values()],
    }  # fmt: skip


def _setup(params: Params) -> Workload:
    train = params["what"] == "training step"
    after = OPTIMIZATIONS if train else ("cache",)
    return Workload(
        inputs=lambda seed: {"first": 31 * seed},
        variants={"before": _Stream(params, (), train), "after": _Stream(params, after, train)},
        tolerance=Tolerance(relative=1e-5, absolute=1e-6, reason="vectorised credit sums float32 in another order"),
        compare=_compared,
    )


def _case(name: str, what: str, title: str) -> Case:
    return Case(
        name,
        title,
        "torch",
        _setup,
        grid=({"what": what, "nodes": FULL, "inputs": 20},),
        quick_grid=({"what": what, "nodes": SMALL, "inputs": 20},),
        variants=("before", "after"),
        original=(OriginalEngine, OriginalTrainContext, RadiationCaches, get_radiation_neighbors),
        budget=8.0,
        processes=3,
    )


CASES = (
    _case("neurograph.forward", "forward pass", "forward pass of a stream, without a cache and with the note's three"),
    _case("neurograph.training", "training step", "training step of a stream, all three optimizations off and on"),
)
