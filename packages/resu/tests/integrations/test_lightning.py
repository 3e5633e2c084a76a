"""The callback in Lightning's `Trainer`, under both of its names."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resu.config import CycleConfig
from resu.errors import ConfigError
from resu.optim.masked import MaskedAdamW

pytestmark = [pytest.mark.needs_extra("lightning"), pytest.mark.filterwarnings("default")]

CONFIG = CycleConfig.preset("quick", num_cycles=2, target_sparsity=0.5)
STEPS = 24
NAMES = ["lightning.pytorch", "pytorch_lightning"]


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESU_BACKEND", "eager")


def module_of(pl: Any, make_optimizer: Any, watch: list[float] | None = None) -> Any:
    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if watch is not None:
                watch.append(float((self.net[0].weight != 0).float().mean()))
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return make_optimizer(self.parameters())

    return Module()


def trainer_of(pl: Any, folder: Path, callback: Any, **options: Any) -> Any:
    return pl.Trainer(
        **(
            {"max_steps": STEPS, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
            | {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
            | options
        ),
        callbacks=[callback],
    )


def data() -> Any:
    x = torch.randn(48, 8, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=6)


@pytest.mark.parametrize("make_optimizer", [lambda p: torch.optim.Adam(p, lr=1e-2), lambda p: MaskedAdamW(p, lr=1e-2)])
@pytest.mark.parametrize("name", NAMES)
def test_a_trainer_of_either_name_drives_the_phases(name: str, make_optimizer: Any, tmp_path: Path) -> None:
    from resu.integrations.lightning import RESUCallback

    pl, callback, watch = importlib.import_module(name), RESUCallback(CONFIG), []
    module = module_of(pl, make_optimizer, watch)
    trainer_of(pl, tmp_path, callback, accumulate_grad_batches=2).fit(module, data())
    cycle = callback.driver.cycle
    assert cycle is not None
    assert (cycle.step, cycle.done, len(callback.history)) == (STEPS, True, 2)
    assert [round(stats.sparsity, 6) for stats in callback.history] == [0.5, 0.5]
    assert all(stats.resurrected > 0 for stats in callback.history)
    assert all(0 < loss < 3 for stats in callback.history for loss in stats.losses.values())
    density = (module.net[0].weight != 0).float().mean()
    assert max(watch) > density + 0.3  # θ has left zero in between


def test_masks_travel_in_lightning_s_checkpoints(tmp_path: Path) -> None:
    from resu.integrations.lightning import RESUCallback

    pl = importlib.import_module(NAMES[0])
    make = lambda p: torch.optim.AdamW(p, lr=1e-2)  # noqa: E731
    ends = []
    for stop in (None, 8):  # at the end of an epoch, in the first RESU phase
        callback = RESUCallback(CONFIG)
        module = module_of(pl, make)
        trainer = trainer_of(pl, tmp_path, callback)
        if stop is None:
            trainer.fit(module, data())
        else:

            class Saver(pl.Callback):  # type: ignore[misc, name-defined]
                def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
                    if trainer.global_step == stop:  # noqa: B023
                        trainer.save_checkpoint(tmp_path / "middle.ckpt")

            first = trainer_of(pl, tmp_path, callback)
            first.callbacks.append(Saver())
            first.fit(module, data())
            callback = RESUCallback(CONFIG)
            module = module_of(pl, make)
            trainer = trainer_of(pl, tmp_path, callback)
            trainer.fit(module, data(), ckpt_path=tmp_path / "middle.ckpt")
        ends.append((module.net[0].weight.detach().clone(), callback.history))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_several_optimizers_are_refused(tmp_path: Path) -> None:
    from resu.integrations.lightning import RESUCallback

    pl = importlib.import_module(NAMES[0])
    module = module_of(pl, lambda p: [torch.optim.Adam(list(p), lr=1e-2)] * 2)
    module.automatic_optimization = False
    with pytest.raises(ConfigError, match="steps of one optimizer; the module has 2"):
        trainer_of(pl, tmp_path, RESUCallback(CONFIG)).fit(module, data())
