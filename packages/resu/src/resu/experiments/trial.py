"""One trial: a method trains a network, from a seed to a score."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from resu.baselines import Method, MethodConfig, build_method
from resu.experiments.data import Stage, TaskData
from resu.experiments.models import build_model, score
from resu.optim.masked import MaskedAdamW
from resu.sparsifier import Sparsifier

__all__ = ["Trial", "TrialSettings", "cosine"]


@dataclass(frozen=True)
class TrialSettings:
    """Settings of one trial.

    Args:
        config: the method's settings.
        sparsity: to end at.
        learning_rate: at the start; it falls to 0 along half a cosine.
        seed: of weights, masks and batches.
        steps: steps.
        batch: examples of a step.
        weight_decay: of AdamW.
        backend: of the optimizer.
    """

    config: MethodConfig
    sparsity: float
    learning_rate: float
    seed: int
    steps: int
    batch: int
    weight_decay: float = 0.01
    backend: str = "auto"


def cosine(learning_rate: float, step: int, steps: int) -> float:
    """η/2 (1 + cos(π t / T)) (Loshchilov & Hutter, *SGDR*, 2017, arXiv:1608.03983).

    >>> cosine(0.2, 50, 100)
    0.1
    """
    return learning_rate / 2 * (1 + math.cos(math.pi * step / steps))


class Trial:
    """A model, its optimizer and a method at work.

    Args:
        data: the task.
        stage: which parts to learn from and to score on.
        settings: the trial's settings.

    Attributes:
        model: the network.
        optimizer: its AdamW.
        sparsifier: its masks.
        method: the method.
    """

    def __init__(self, data: TaskData, stage: Stage, settings: TrialSettings) -> None:
        self.data, self.settings = data, settings
        self.learn, self.judge = data.parts(stage)
        self.model = build_model(data, settings.seed)
        self.optimizer = MaskedAdamW(
            self.model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay,
            backend=settings.backend,
        )  # fmt: skip
        self.sparsifier = Sparsifier(self.model, settings.sparsity, optimizer=self.optimizer, seed=settings.seed)
        self.method: Method[MethodConfig] = build_method(settings.config, self.sparsifier, steps=settings.steps)
        generator = torch.Generator().manual_seed(settings.seed)
        self._rows = torch.randint(len(self.learn), (settings.steps, settings.batch), generator=generator)

    def step(self, step: int) -> None:
        """One step.

        Args:
            step: from 0.
        """
        self.optimizer.param_groups[0]["lr"] = cosine(self.settings.learning_rate, step, self.settings.steps)
        self.method.before_step(step)
        rows = self._rows[step]
        logits = self.model(self.learn.inputs[rows])
        nn.functional.cross_entropy(logits, self.learn.targets[rows]).backward()  # type: ignore[no-untyped-call]
        if self.method.after_backward(step):
            self.optimizer.step()
        self.method.after_step(step)
        self.optimizer.zero_grad()

    def run(self) -> float:
        """All steps.

        Returns:
            The score at the end, see `resu.experiments.models.score`.
        """
        for step in range(self.settings.steps):
            self.step(step)
        return self.score()

    def score(self) -> float:
        """The score now."""
        return score(self.model, self.data, self.judge)
