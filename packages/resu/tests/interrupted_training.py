"""A training with every kind of randomness; run as a script, it hangs at a step so that it can be killed there."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from resu.config import CycleConfig
from resu.optim.masked import MaskedAdamW
from resu.training.cycle import RESUTrainer

SHORT: dict[str, Any] = {
    "num_cycles": 3, "steps_per_cycle": 12, "train_fraction": 1 / 3, "stabilize_fraction": 1 / 6, "resu_fraction": 0.5,
    "pruning": "magnitude", "checkpoint_steps": 5,
}  # fmt: skip


def build(
    checkpoint: Path | None = None,
    hang_at: int | None = None,
    make_optimizer: Callable[[Any], Any] | None = None,
    config: CycleConfig | None = None,
    own_generator: bool = False,
) -> tuple[RESUTrainer, DataLoader[Any]]:
    """A trainer and a shuffling loader, the same at every call."""
    np.random.seed(4)
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Dropout(0.2), nn.Linear(24, 4))
    x = torch.randn(72, 12)
    data = TensorDataset(x, (x[:, :4] ** 2).argmax(1))
    generator = torch.Generator().manual_seed(6) if own_generator else None
    loader = DataLoader(data, batch_size=10, shuffle=True, generator=generator)

    def loss(net: nn.Module, batch: list[Tensor]) -> Tensor:
        if trainer.cycle.step == hang_at:
            time.sleep(600)
        noise = 1 + 0.2 * float(np.random.rand())  # not Python's numbers: the shape checker of the tests draws some
        return nn.functional.cross_entropy(net(batch[0] * noise), batch[1])

    made = make_optimizer(model.parameters()) if make_optimizer else MaskedAdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(made, 40)
    settings = CycleConfig(**SHORT) if config is None else config
    trainer = RESUTrainer(model, settings, made, loss, scheduler=scheduler, checkpoint=checkpoint)
    return trainer, loader


if __name__ == "__main__":
    trainer, loader = build(Path(sys.argv[1]), int(sys.argv[2]))
    trainer.train(loader)
