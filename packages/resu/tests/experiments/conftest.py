"""A task of the digits' shape that takes no time: 240 noisy prototypes."""

import pytest
import torch

from resu.experiments.data import Part, TaskData


def _part(start: int, stop: int) -> Part:
    generator = torch.Generator().manual_seed(7)
    prototypes = torch.rand(10, 64, generator=generator)
    targets = torch.randint(10, (240,), generator=generator)
    inputs = prototypes[targets] + 0.6 * torch.randn(240, 64, generator=generator)
    return Part(inputs[start:stop], targets[start:stop], torch.arange(start, stop))


@pytest.fixture(scope="session")
def small_task() -> TaskData:
    """Named "digits", so that the digits' network fits it; 120 examples to learn from, 40 to tune, 80 to test."""
    parts = {"train": _part(0, 120), "validation": _part(120, 160), "both": _part(0, 160), "test": _part(160, 240)}
    return TaskData(name="digits", classes=10, source={"data": "prototypes", "version": "1", "sha256": "0"}, **parts)
