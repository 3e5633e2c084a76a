"""How long back ends take, in turns, so that a machine that slows down slows all of them."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch

from neurograph.config import Config
from neurograph.core.engine import Backend
from neurograph.model import Model
from neurograph.train.trainer import Trainer

__all__ = ["time_backends"]


def time_backends(
    config: Config, *, blocks: int, steps: int, progress: Callable[[int], object] | None = None
) -> list[dict[str, Any]]:
    """Samples a second of training steps and of classification, medians over turns.

    Args:
        config: settings; the back end is varied.
        blocks: turns of each back end.
        steps: batches of a turn.
        progress: told of the turns that are done.

    Returns:
        One row a back end.
    """
    generator = torch.Generator().manual_seed(config.seed)
    x = torch.rand(config.train.batch_size, config.graph.inputs, generator=generator).to(config.device)
    y = torch.randint(config.graph.outputs, (len(x),), generator=generator).to(config.device)
    trainers = {}
    for backend in get_args(Backend):
        changed = config.model_copy(update={"model": config.model.model_copy(update={"backend": backend})})
        trainers[backend] = Trainer(Model.build(changed), changed.train, seed=changed.seed)
    turns: dict[str, list[tuple[float, float]]] = {backend: [] for backend in trainers}
    for trainer in trainers.values():
        trainer.step(x, y)
        trainer.model.predict(x)
    for block in range(blocks):
        for backend, trainer in trainers.items():
            training = _seconds(partial(trainer.step, x, y), steps, x.device)
            classifying = _seconds(partial(trainer.model.predict, x), steps, x.device)
            turns[backend].append((training, classifying))
        if progress is not None:
            progress(block + 1)
    samples = steps * len(x)
    return [
        {
            "back_end": backend,
            "trained_samples_per_s": round(samples / statistics.median(one for one, _ in times)),
            "classified_samples_per_s": round(samples / statistics.median(two for _, two in times)),
            "ms_per_training_step": 1e3 * statistics.median(one for one, _ in times) / steps,
        }
        for backend, times in turns.items()
    ]


def _seconds(work: Callable[[], object], steps: int, device: torch.device) -> float:
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        work()
    wait()
    return time.perf_counter() - start
