"""What all cases share: the networks, the settings as published, and trainers that have taken one step.

A trainer's first step is what the gate compares; its later steps are what is timed. All draws of a first step are made
for a whole batch, whatever rows are then left out, so that switches can be compared with the same randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from claimbench.case import Lossy, Tolerance, Workload
from claimbench.cases.spd.language import PlainGPT
from claimbench.errors import CaseError
from claimbench.record import Params
from spd.config.perf import PerfConfig
from spd.config.run import Config
from spd.data import SparseFeatures
from spd.experiments.resid_mlp.model import ResidMLP
from spd.experiments.tms.model import TMSModel
from spd.models.component_model import ComponentModel
from spd.sampling import SourceSampler
from spd.training import Trainer, build_model

__all__ = [
    "GATED", "OFF", "Build", "Prepared", "Started", "TaskName", "adversary", "config_of", "default_device", "inputs_of",
    "not_timed", "start", "step_workload", "target_of",
]  # fmt: skip

TaskName = Literal["tms_5-2", "tms_40-10", "resid_mlp1", "lm", "lm_mlp", "pgd_lm", "recon_lm"]

SEED = 2025
BATCHES = 8
VOCABULARY = 256

OFF = PerfConfig()

GATED = Tolerance(
    absolute=1e-4,
    reason="float32 sums in another order: gradients over their largest entry, ten times the logarithms of losses",
)

_STOCHASTIC = {"classname": "StochasticReconLoss", "coeff": 1.0}
_LAYERWISE = {"classname": "StochasticReconLayerwiseLoss", "coeff": 1.0}
_MLP = {"ci_fn_type": "mlp", "hidden_dims": [16]}


def _toy(patterns: Sequence[str], c: int, batch: int, coeff: float, p: float) -> dict[str, Any]:
    minimality = {"classname": "ImportanceMinimalityLoss", "coeff": coeff, "pnorm": p}
    return {
        "module_info": [{"module_pattern": pattern, "C": c} for pattern in patterns], "ci": _MLP, "batch_size": batch,
        "output_loss_type": "mse", "loss_metrics": [minimality, _STOCHASTIC, _LAYERWISE],
    }  # fmt: skip


def _language(c: int, batch: int, losses: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "module_info": [{"module_pattern": "h.*_proj", "C": c}, {"module_pattern": "h.*.c_fc", "C": c}],
        "ci": {"ci_fn_type": "shared_mlp", "hidden_dims": [c]}, "batch_size": batch, "output_loss_type": "kl",
        "loss_metrics": [{"classname": "ImportanceMinimalityLoss", "coeff": 2e-3, "pnorm": 2.0}, *losses],
    }  # fmt: skip


_SUBSET = {"classname": "StochasticReconSubsetLoss", "coeff": 0.5}
_FAITH = {"classname": "FaithfulnessLoss", "coeff": 1e5}


def adversary(steps: int, step_size: float) -> dict[str, Any]:
    """Settings of the loss with an adversary.

    Args:
        steps: Of ascent.
        step_size: Of each.
    """
    return {"classname": "PGDReconSubsetLoss", "coeff": 0.5, "step_size": step_size, "n_steps": steps}


_LM = _language(256, 1, [_SUBSET, adversary(4, 0.5), _FAITH])

SETTINGS: dict[TaskName, dict[str, Any]] = {
    "tms_5-2": _toy(("linear1", "linear2"), 20, 4096, 3e-3, 1.0),
    "tms_40-10": _toy(("linear1", "linear2"), 200, 4096, 1e-4, 2.0),
    "resid_mlp1": _toy(("layers.*.mlp_*",), 100, 2048, 1e-5, 2.0),
    "lm": _LM,
    "lm_mlp": _LM | {"ci": _MLP},
    "pgd_lm": _language(32, 4, [adversary(20, 0.1)]),
    "recon_lm": _language(64, 4, [_SUBSET, _FAITH]),
}
"""The three toy decompositions as published; a transformer of two blocks, 12 sites of width 128, on 512 tokens with
4 steps of the adversary, its importances from one network a site or from a small one for each component; and two
smaller ones for what would take too long on it: one block with the note's 20 steps of the adversary, three blocks
without one.

Of the original's measurements on a small transformer its sizes are known, not its form: see `spd.counts`."""

_GPT: dict[TaskName, tuple[int, int, int, int]] = {
    "lm": (512, 128, 2, 4), "lm_mlp": (512, 128, 2, 4), "pgd_lm": (32, 64, 1, 4), "recon_lm": (128, 64, 3, 4),
}  # fmt: skip
"""Positions, width, blocks and heads."""


def default_device() -> torch.device:
    """The GPU where this worker may see one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def config_of(task: TaskName, perf: PerfConfig = OFF, **changes: Any) -> Config:
    """Settings of a task.

    Args:
        task: Which.
        perf: The switches.
        **changes: Other settings.
    """
    common = {"n_mask_samples": 1, "steps": 10_000, "lr_schedule": {"start_val": 1e-3}, "perf": perf}
    return Config.model_validate(common | SETTINGS[task] | changes)


def target_of(task: TaskName) -> nn.Module:
    """A target of the published sizes. Its weights are drawn: what a step costs does not depend on them.

    Args:
        task: Which.
    """
    generator = torch.Generator().manual_seed(SEED)
    target: nn.Module
    match task:
        case "tms_5-2":
            target = TMSModel(5, 2, generator=generator)
        case "tms_40-10":
            target = TMSModel(40, 10, zero_bias=True, generator=generator)
        case "resid_mlp1":
            target = ResidMLP(100, 1000, 50, 1, generator=generator)
        case _:
            target = PlainGPT(VOCABULARY, *_GPT[task], generator)
    return target.to(default_device())


def inputs_of(task: TaskName, seed: int) -> dict[str, Any]:
    """The seed, and some batches.

    Args:
        task: Which.
        seed: Seed.
    """
    generator = torch.Generator().manual_seed(SEED + seed)
    match task:
        case "tms_5-2":
            stream = SparseFeatures(5, 4096, 0.05, seed=seed)
        case "tms_40-10":
            stream = SparseFeatures(40, 4096, 0.05, seed=seed)
        case "resid_mlp1":
            stream = SparseFeatures(100, 2048, 0.01, value_range=(-1.0, 1.0), seed=seed)
        case _:
            shape = (SETTINGS[task]["batch_size"], _GPT[task][0])
            drawn = [torch.randint(VOCABULARY, shape, generator=generator) for _ in range(BATCHES)]
            return {"seed": seed, "batches": [batch.to(default_device()) for batch in drawn]}
    return {"seed": seed, "batches": [stream.batch(index).to(default_device()) for index in range(BATCHES)]}


class _WholeBatch(SourceSampler):
    """Draws for all rows of a batch; where only rows that are not all zero are asked for, gives out theirs."""

    def __init__(self, seed: int, batch: Tensor) -> None:
        super().__init__(seed, default_device())
        self._kept = batch.any(-1) if batch.is_floating_point() else None

    def uniform(self, shape: Sequence[int]) -> Tensor:
        first, *rest = shape
        if self._kept is not None and first == int(self._kept.sum()):
            return super().uniform((len(self._kept), *rest))[self._kept]
        return super().uniform(shape)


@dataclass
class Started:
    """A trainer that has taken its first step.

    Attributes:
        trainer: The trainer.
        batches: What it goes on with.
        first: Losses and gradients of the first step, in the form in which they are compared.
    """

    trainer: Trainer
    batches: Iterator[Tensor]
    first: dict[str, Any]

    def step(self) -> None:
        """One more step."""
        self.trainer.step(self.batches)


Build = Callable[[dict[str, Any]], Started]


class Prepared:
    """Something built from inputs once, and again for inputs of another seed: what is timed is its use.

    Args:
        build: Makes it from inputs with their `seed`.
    """

    def __init__(self, build: Build) -> None:
        self._build, self._seed = build, -1
        self._built: Started | None = None

    def __call__(self, inputs: dict[str, Any]) -> Started:
        """What was built from inputs of this seed."""
        if self._built is None or inputs["seed"] != self._seed:
            self._built, self._seed = self._build(inputs), inputs["seed"]
        return self._built


def start(
    inputs: Mapping[str, Any],
    task: TaskName,
    perf: PerfConfig = OFF,
    *,
    kind: type[ComponentModel] = ComponentModel,
    prepare: Callable[[Trainer], None] = lambda _trainer: None,
    own_draws: bool = True,
    **changes: Any,
) -> Started:
    """Builds a trainer and takes its first step.

    Args:
        inputs: Of the task.
        task: Which.
        perf: The switches.
        kind: Class of the decomposed network.
        prepare: Changes the trainer before its first step.
        own_draws: Whether later steps draw only what they need; not where changing the sampler would compile anew.
        **changes: Other settings.
    """
    config = config_of(task, perf, **changes)
    if kind is ComponentModel:
        model = build_model(target_of(task), config)
    else:
        generator = torch.Generator().manual_seed(config.seed)
        model = kind(target_of(task), config.module_info, config.ci, perf=perf, generator=generator)
    first, seed = inputs["batches"][0], int(inputs["seed"])
    sampler = _WholeBatch(seed, first) if own_draws else SourceSampler(seed, default_device())
    trainer = Trainer(model, config, sampler)
    prepare(trainer)
    result = trainer.step(iter([first]))
    compared = {f"loss {name}": 10 * value.detach().double().abs().log() for name, value in result.losses.items()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            gradient = parameter.grad.detach().double()
            largest = gradient.abs().max().clamp(min=1e-30)
            name = name.replace("_orig_mod.", "")
            compared |= {f"gradient of {name}": gradient / largest, f"its size, {name}": largest.log()}
    if own_draws:
        fresh = SourceSampler(seed + 1, default_device())
        trainer.sampler = trainer.own_losses.sampler = fresh
    return Started(trainer, cycle(inputs["batches"]), compared)


def step_workload(
    task: TaskName,
    builds: Mapping[str, Build],
    *,
    tolerances: Mapping[str, Tolerance] | None = None,
    lossy: Mapping[str, Lossy] | None = None,
) -> Workload:
    """A workload whose call is one step of training.

    Args:
        task: Which.
        builds: By variant.
        tolerances: Of single variants.
        lossy: Variants that trade quality.
    """

    def variant(build: Build) -> Callable[[dict[str, Any]], Started]:
        prepared = Prepared(build)

        def call(inputs: dict[str, Any]) -> Started:
            started = prepared(inputs)
            started.step()
            return started

        return call

    return Workload(
        inputs=lambda seed: inputs_of(task, seed),
        variants={name: variant(build) for name, build in builds.items()},
        tolerance=GATED,
        tolerances=tolerances or {},
        lossy=lossy or {},
        compare=lambda started: cast(Started, started).first,
    )


def not_timed(params: Params) -> Workload:
    """The setup of a case that counts and checks only."""
    raise CaseError(f"this case is counted or checked, not timed; got {params}")
