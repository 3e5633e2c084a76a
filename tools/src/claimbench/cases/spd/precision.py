"""Products in 16 bits: what they save, and what they do to the losses."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch

from claimbench.case import Case, Counted, Lossy, Workload
from claimbench.cases.spd.problem import (
    OFF,
    Build,
    config_of,
    default_device,
    inputs_of,
    not_timed,
    start,
    step_workload,
    target_of,
)
from claimbench.record import Params
from spd.config.perf import PerfConfig
from spd.metrics.recon import unmasked_recon_loss
from spd.metrics.target_run import TargetRun
from spd.step_losses import StepLosses
from spd.training import build_model

__all__ = ["CASES"]

BOUND = 0.02
"""Relative error of a loss that is still the same work: the divergence of a language model within 2 %."""

HALVES = ("bf16", "fp16") if torch.cuda.is_available() else ("bf16",)


def _error(result: Any, reference: Any) -> float:
    """Largest relative error of the losses of a step; leaves are ten times their logarithms."""
    names = [name for name in reference if name.startswith("loss ")]
    return float(max(abs(np.expm1((result[name] - reference[name]) / 10)) for name in names))


def _halves(_params: Params) -> Workload:
    builds: dict[str, Build] = {"before": partial(start, task="recon_lm", perf=OFF)}
    for name in HALVES:
        builds[name] = partial(start, task="recon_lm", perf=PerfConfig(amp=name))  # type: ignore[arg-type]
    lossy = Lossy(_error, BOUND, "largest relative error of a loss at the first step")
    return step_workload("recon_lm", builds, lossy=dict.fromkeys(HALVES, lossy))


def _stability(_params: Params) -> Iterable[Counted]:
    inputs = inputs_of("recon_lm", 0)
    exact, halved = (start(inputs, "recon_lm", perf).first for perf in (OFF, PerfConfig(amp="bf16")))
    for name, label in (("StochasticReconSubsetLoss", "divergence"), ("FaithfulnessLoss", "faithfulness")):
        error = 100 * abs(float(torch.expm1((halved[f"loss {name}"] - exact[f"loss {name}"]) / 10)))
        yield Counted(label, error, "after", "%", "error of the loss, bf16 with what the note keeps in float32")
    yield Counted("toy", _toy_error(), "after", "%", "error of a good TMS decomposition's squared error, all in bf16")


def _toy_error() -> float:
    """The squared error of components that almost add up to the weights, in bfloat16 against float32."""
    model = build_model(target_of("tms_5-2"), config_of("tms_5-2"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, components in model.components.items():
            left, size, right = torch.linalg.svd(model.target_weight(name).T, full_matrices=False)
            rank = len(size)
            components.V.zero_()[:, :rank] = left * size
            components.U.zero_()[:rank] = right
            noise = torch.randn(components.U.shape, generator=generator).to(default_device())
            components.U.add_(1e-3 * noise)
        run = TargetRun.of(model, inputs_of("tms_5-2", 0)["batches"][0], "mse")
        exact = float(unmasked_recon_loss(run))
        with torch.autocast(default_device().type, dtype=torch.bfloat16):
            halved = float(unmasked_recon_loss(run))
    return 100 * abs(halved / exact - 1)


CASES = (
    Case(
        "spd.amp",
        "a step of a small transformer with products in 16 bits",
        "torch",
        _halves,
        grid=({"task": "recon_lm"},),
        variants=("before", *HALVES),
        original=(StepLosses,),
        budget=2.5,
        precision=0.01,
        processes=3,
    ),
    Case(
        "spd.stability",
        "errors of losses in 16 bits",
        "torch",
        not_timed,
        values=_stability,
        values_grid=({"amp": "bf16"},),
        original=(StepLosses,),
    ),
)
