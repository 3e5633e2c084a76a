"""The note's optimizations in whole forward passes and training steps of the original, on a stream of samples.

Each variant goes through the same stream, a sample a call, and begins it anew where it is given fresh inputs. All
samples are let take two propagation steps, which most take anyway, so that pairs cost alike, and of the thousand nodes
20 are inputs in place of 200, so that a call takes a fifth of a second and many fit into a budget: a query costs what
it costs in the original, and all parts of a step are about a tenth as many. That favours the cache, whose thousand
entries then hold more samples. At the gate a cache is cold; what its hits are worth later is the subject of other
claims.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from claimbench.case import Case, Tolerance, Workload
from claimbench.cases.neurograph.problem import FULL, SMALL, pictures, settings_of
from claimbench.record import Params
from neurograph.reference.original import OPTIMIZATIONS, OriginalEngine, OriginalTrainContext, RadiationCaches
from neurograph.reference.original.radiation import get_radiation_neighbors

__all__ = ["CASES"]

TWO_STEPS = 3
"""The loop stops before it would make a third step."""


class _Stream:
    """A variant: the original with some optimizations, and where it stands in the stream."""

    def __init__(self, params: Params, optimizations: Collection[str], train: bool) -> None:
        self._settings = settings_of(int(params["nodes"]), int(params["inputs"]), TWO_STEPS)
        self._optimizations, self._train = optimizations, train
        self._given: Any = None
        self._at = 0
        self._context: OriginalTrainContext | None = None

    def __call__(self, given: Any) -> dict[str, Any]:
        if given is not self._given or self._context is None:
            self._given, self._at = given, 0
            self._context = OriginalTrainContext(self._settings, self._optimizations)
        images, labels = pictures()
        place = (given["first"] + self._at) % len(labels)
        self._at += 1
        if not self._train:
            self._context.engine.forward(*self._context.adapter(images[place]))
            return self._left(self._context, 0.0)
        loss = self._context.train_step(images[place], labels[place])
        if self._context.accumulator.stored > 100_000:  # the original's lists grow without end; the bench's do not
            self._context.accumulator.phase.clear()
            self._context.accumulator.mag.clear()
        return self._left(self._context, loss)

    def _left(self, context: OriginalTrainContext, loss: float) -> dict[str, Any]:
        table, accumulator = context.engine.table, context.accumulator
        gathered = [grads[-1] for grads in accumulator.phase.values()]
        return {
            "loss": torch.tensor(loss), "phase": table.phase.clone(), "mag": table.mag.clone(),
            "strength": table.strength.clone(), "gradients": torch.stack(gathered) if gathered else torch.zeros(1),
        }  # fmt: skip


def _setup(params: Params) -> Workload:
    train = params["what"] == "training step"
    after = OPTIMIZATIONS if train else ("cache",)
    return Workload(
        inputs=lambda seed: {"first": 31 * seed},
        variants={"before": _Stream(params, (), train), "after": _Stream(params, after, train)},
        tolerance=Tolerance(relative=1e-5, absolute=1e-6, reason="vectorised credit sums float32 in another order"),
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
