"""Run by itself, from any directory, against the installed wheel: a few steps of decomposing a small network."""

import torch
from torch import nn

from spd.config.losses import FaithfulnessLoss, ImportanceMinimalityLoss, StochasticReconLoss
from spd.config.models import MLPConfig, ModulePattern
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.data import SparseFeatures, batches
from spd.experiments.registry import load_config
from spd.experiments.tasks import build_task
from spd.models.component_model import ComponentModel
from spd.sampling import SourceSampler
from spd.training import Trainer

torch.set_num_threads(1)
torch.manual_seed(0)
target = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 5))
config = Config(
    module_info=tuple(ModulePattern(module_pattern=name, C=8) for name in ("0", "2")),
    ci=MLPConfig(hidden_dims=(8,)),
    output_loss_type="mse",
    loss_metrics=(
        FaithfulnessLoss(coeff=1.0), ImportanceMinimalityLoss(coeff=1e-3, pnorm=1.0), StochasticReconLoss(coeff=1.0)
    ),
    lr_schedule=LrSchedule(start_val=1e-2),
    steps=50,
    batch_size=64,
)  # fmt: skip
trainer = Trainer(ComponentModel(target, config.module_info, config.ci), config, SourceSampler(0))
stream = batches(SparseFeatures(5, 64, 0.3), "cpu")
first, *_, last = (trainer.step(stream) for _ in range(config.steps))
if not last.losses["FaithfulnessLoss"] < first.losses["FaithfulnessLoss"]:
    raise SystemExit("components did not come nearer to the weights")

# What is shipped beside the code is in the wheel too.
shipped = build_task(load_config("tms_5-2", ["batch_size=64"]))
if tuple(shipped.target.linear1.weight.shape) != (2, 5):
    raise SystemExit("the shipped target is not the one of five features in two dimensions")
print("spd: decomposes")
