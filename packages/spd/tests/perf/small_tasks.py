"""Three small decompositions that between them use every kind of site and loss; made anew at each call."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spd.config.losses import (
    CIMaskedReconLoss,
    FaithfulnessLoss,
    ImportanceMinimalityLoss,
    PersistentPGDReconLoss,
    PGDReconSubsetLoss,
    StochasticReconLayerwiseLoss,
    StochasticReconLoss,
    StochasticReconSubsetLoss,
    UnmaskedReconLoss,
)
from spd.config.models import MLPConfig, ModulePattern, SharedMLPConfig
from spd.config.perf import PerfConfig
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.sampling import SourceSampler
from spd.training import Trainer, build_model


class Tms(nn.Module):
    """The toy model of superposition with tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(5, 2, bias=False), nn.Linear(2, 5)
        self.linear2.weight.data = self.linear1.weight.data.T

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear2(self.linear1(x)))


class ResidMlp(nn.Module):
    """Two layers that add to a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8, bias=False)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"mlp_in": nn.Linear(8, 4, bias=False), "mlp_out": nn.Linear(4, 8, bias=False)})
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.embed(x)
        for layer in self.layers:
            residual = residual + layer["mlp_out"](torch.relu(layer["mlp_in"](residual)))
        return residual @ self.embed.weight


class Lm(nn.Module):
    """Tokens to logits; every position sees the mean of those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.mix, self.up, self.down = (
            nn.Embedding(11, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 9), nn.Linear(9, 6)
        )  # fmt: skip
        self.unembed = nn.Linear(6, 11, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens)
        seen = torch.arange(1, tokens.shape[1] + 1, device=tokens.device).unsqueeze(-1)
        x = x + self.mix(x.cumsum(1) / seen)
        return self.unembed(x + self.down(nn.functional.gelu(self.up(x))))


def _patterns(*names: str) -> tuple[ModulePattern, ...]:
    return tuple(ModulePattern(module_pattern=name, C=7) for name in names)


TASKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "tms": (Tms, {
        "module_info": _patterns("linear1", "linear2"), "tied_weights": (("linear1", "linear2"),),
        "ci": MLPConfig(hidden_dims=(4,)), "output_loss_type": "mse",
        "loss_metrics": (
            ImportanceMinimalityLoss(coeff=3e-3, pnorm=1.0), StochasticReconLoss(coeff=1.0),
            StochasticReconLayerwiseLoss(coeff=1.0),
        ),
    }),
    "resid_mlp": (ResidMlp, {
        "module_info": _patterns("layers.*.mlp_in", "layers.*.mlp_out"), "ci": SharedMLPConfig(hidden_dims=(5,)),
        "output_loss_type": "mse",
        "loss_metrics": (
            FaithfulnessLoss(coeff=1.0), ImportanceMinimalityLoss(coeff=1e-2, pnorm=2.0, beta=0.1),
            StochasticReconLoss(coeff=1.0), StochasticReconSubsetLoss(coeff=2.0), UnmaskedReconLoss(coeff=0.5),
            PGDReconSubsetLoss(coeff=2.0, step_size=1.0, n_steps=1),
            PersistentPGDReconLoss(coeff=0.5),
        ),
    }),
    "lm": (Lm, {
        "module_info": _patterns("wte", "mix", "up", "down"), "ci": MLPConfig(hidden_dims=(4,)),
        "output_loss_type": "kl", "grad_clip_norm_components": 0.5, "grad_clip_norm_ci_fns": 0.5,
        "loss_metrics": (
            FaithfulnessLoss(coeff=10.0),
            ImportanceMinimalityLoss(
                coeff=2e-3, pnorm=2.0, p_anneal_start_frac=0.0, p_anneal_final_p=0.5, p_anneal_end_frac=1.0
            ),
            StochasticReconSubsetLoss(coeff=0.5), PGDReconSubsetLoss(coeff=0.5, step_size=0.5, n_steps=3),
            CIMaskedReconLoss(coeff=0.1),
        ),
    }),
}  # fmt: skip


def config_of(task: str, perf: PerfConfig | None = None, **changes: Any) -> Config:
    """Settings of a small task."""
    common = {"lr_schedule": LrSchedule(start_val=1e-3), "steps": 400, "batch_size": 32}
    return Config(**(common | TASKS[task][1] | {"perf": perf or PerfConfig()} | changes))


def trainer_of(
    task: str, perf: PerfConfig | None = None, sampler: SourceSampler | None = None, **changes: Any
) -> Trainer:
    """A trainer of a small task, the same each time."""
    torch.manual_seed(5)
    config = config_of(task, perf, **changes)
    return Trainer(build_model(TASKS[task][0](), config), config, sampler or SourceSampler(3))


def batch_of(task: str, index: int = 0, rows: int = 32, *, zeros: bool = True) -> Tensor:
    """A batch of a small task; of the toy models' rows most are zeros where those are wanted."""
    generator = torch.Generator().manual_seed(index)
    if task == "lm":
        return torch.randint(11, (rows, 6), generator=generator)
    n = {"tms": 5, "resid_mlp": 6}[task]
    x = torch.rand(rows, n, generator=generator)
    return x * (torch.rand(rows, n, generator=generator) < 0.1) if zeros else x + 0.01
