"""Whole training steps of one linear layer: dense, ours in every phase, and the original's in RESU.

A call frees its gradient before it ends. Were it kept until the next call of the same variant, one variant would keep a
block that the allocator hands out again, and the others would fault in new pages each time: a quarter of a large step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from claimbench.case import Case, Tolerance, Work, Workload
from claimbench.cases.resu.problem import Prepared, batch, default_device, mask_of, weight_of
from claimbench.record import Params
from resu.core.phases import Phase
from resu.optim.masked import MaskedAdamW
from resu.reference import original_effective, original_layers
from resu.sparsifier import Sparsifier

__all__ = ["CASES"]

BATCH = 128
LR, BETAS, EPS, DECAY, SHADOW_BETA = 1e-3, (0.9, 0.999), 1e-8, 0.01, 0.98

ADAM: dict[str, Any] = {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": DECAY}

WHOLE = 1024
"""Size up to which the gate looks at all rows."""

THETA = "θ"

ROUNDING = Tolerance(absolute=2e-6, reason="float32 rounding of two updates of AdamW, against float64")


@cache
def _linear(compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The forward pass: the same for every variant, dense or masked."""

    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(x, weight)

    return torch.compile(forward, dynamic=False) if compiled else forward


@dataclass
class Trained:
    """A layer in the middle of training, and what it was before the step that is looked at.

    Attributes:
        parameter: What the optimizer steps: the weight, or the original's θ.
        step: One training step.
        phase: Ours; None is dense, and `THETA` the original's.
        moments: The optimizer's moments of the parameter.
        before: Values before the steps that are timed.
        counts: Steps that the active and the pruned set have had.
    """

    parameter: Tensor
    step: Callable[[], None]
    phase: Phase | str | None
    moments: Callable[[], tuple[Tensor, Tensor]]
    before: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.parameter.detach().clone()


class Stepped(NamedTuple):
    """What a step left behind; the oracle's own result has no layer."""

    trained: Trained | None
    inputs: dict[str, Any]


def _inputs(size: int, sparsity: float, seed: int) -> dict[str, Any]:
    return {"size": size, "sparsity": sparsity, **batch(size, BATCH, seed)}


def _backward(forward: Callable[[Tensor, Tensor], Tensor], weight: Tensor, inputs: dict[str, Any]) -> None:
    forward(inputs["x"], weight).backward(inputs["upstream"])


def _moments_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> tuple[Tensor, Tensor]:
    state = optimizer.state[parameter]
    return state["exp_avg"], state["exp_avg_sq"]


def _dense(inputs: dict[str, Any], compiled: bool) -> Trained:
    weight = nn.Parameter(weight_of(inputs["size"], inputs["seed"]))
    optimizer = torch.optim.AdamW([weight], fused=True, **ADAM)

    def step() -> None:
        _backward(_linear(compiled), weight, inputs)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    return Trained(
        weight, step, None, lambda: (optimizer.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg_sq"])
    )


def _ours(inputs: dict[str, Any], phase: Phase, compiled: bool) -> Trained:
    layer = nn.Linear(inputs["size"], inputs["size"], bias=False, device=default_device())
    layer.weight.data.copy_(weight_of(inputs["size"], inputs["seed"]))
    back_end = ("triton" if default_device().type == "cuda" else "compile") if compiled else "eager"
    optimizer = MaskedAdamW(layer.parameters(), layout="dense", backend=back_end, **ADAM)
    sparsifier = Sparsifier(layer, inputs["sparsity"], distribution="uniform", optimizer=optimizer)
    sparsifier.set_masks({"weight": mask_of(inputs["size"], inputs["sparsity"])})

    def step() -> None:
        _backward(_linear(compiled), layer.weight, inputs)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def moments() -> tuple[Tensor, Tensor]:
        found = optimizer.moments_rows(layer.weight, slice(None))
        assert found is not None
        assert found[1] is not None
        return found[0], found[1]

    step()
    if phase is Phase.RESU:
        sparsifier.enter_resu()
    elif phase is Phase.SHADOW:
        sparsifier.shadow(SHADOW_BETA)
    return Trained(layer.weight, step, phase, moments)


def _of_original(inputs: dict[str, Any]) -> Trained:
    """W frozen, M ⊙ W formed anew in each forward pass, and torch's AdamW on θ."""
    size = inputs["size"]
    layer = original_layers.OriginalRESULinear(
        size, size, bias=False, forward_form=original_effective.Forward.RECOMPUTE
    )
    layer.to(default_device())
    layer.weight.data.copy_(weight_of(size, inputs["seed"]))
    layer.mask = original_effective.SparseMask(mask_of(size, inputs["sparsity"]).mask)
    layer.enter_resu_mode(use_selective=False)
    theta = layer.resurrection.theta
    optimizer = torch.optim.AdamW([theta], fused=True, **ADAM)

    def step() -> None:
        layer(inputs["x"]).backward(inputs["upstream"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Trained(theta, step, THETA, partial(_moments_of, optimizer, theta))


# --- the gate ---------------------------------------------------------------------------------------------------------


class _Rows:
    """The rows that the gate works out in float64: all of a small weight, every 16th of a large one.

    Args:
        inputs: Of the workload.
    """

    def __init__(self, inputs: dict[str, Any]) -> None:
        size = inputs["size"]
        self._rows = slice(None, None, 1 if size <= WHOLE else 16)
        self._pruned = ~mask_of(size, inputs["sparsity"]).to_bool()
        self.active = ~self._pruned[self._rows]
        self.start = weight_of(size, inputs["seed"])[self._rows]
        self.gradient = inputs["upstream"][:, self._rows].double().T @ inputs["x"].double()

    def of(self, values: Tensor) -> Tensor:
        """Rows of a matrix, or of the matrix into whose pruned slots a vector belongs."""
        if values.dim() == 1:
            matrix = torch.zeros(self._pruned.shape, dtype=values.dtype, device=values.device)
            values = matrix.masked_scatter_(self._pruned, values)
        return values[self._rows]


def _adamw(w: Tensor, g: Tensor, steps: int) -> tuple[Tensor, ...]:
    """Weight and moments of AdamW from fresh moments, after some steps with the same gradient, in float64."""
    w, m, v = w.double(), torch.zeros_like(g), torch.zeros_like(g)
    for t in range(1, steps + 1):
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g * g
        w = w * (1 - LR * DECAY) - LR * (m / (1 - BETAS[0] ** t)) / ((v / (1 - BETAS[1] ** t)).sqrt() + EPS)
    return w, m, v


def _expected(trained: Trained, rows: _Rows) -> list[Tensor]:
    """Weight and moments after the step that is looked at: it is ours' and dense training's second, θ's first."""
    g, nothing = rows.gradient, torch.zeros_like(rows.gradient)
    if trained.phase is None:
        return list(_adamw(rows.start, g, steps=2))
    active = _adamw(rows.start, g, steps=1 if trained.phase is Phase.RESU else 2)
    pruned: tuple[Tensor, ...] = (nothing, nothing, nothing)
    if trained.phase is Phase.RESU:  # from 0, with moments and a count of steps of its own
        pruned = _adamw(nothing, g, steps=1)
    elif trained.phase is Phase.SHADOW:
        pruned = (nothing, (1 - SHADOW_BETA) * g, (1 - SHADOW_BETA) * g.abs())
    elif trained.phase == THETA:
        active, pruned = pruned, _adamw(rows.of(trained.before), g, steps=1)
    return [torch.where(rows.active, a, p) for a, p in zip(active, pruned, strict=True)]


def _deviations(stepped: Stepped) -> dict[str, float]:
    """How far a step is off: from its own phase's result in float64, and from keeping every bit that it must keep."""
    names = ("weight", "first moment", "second moment")
    if stepped.trained is None:
        return dict.fromkeys((*names, "frozen weights that moved"), 0.0)
    trained, inputs = stepped.trained, stepped.inputs
    rows = _Rows(inputs)
    found = (rows.of(values) for values in (trained.parameter.detach(), *trained.moments()))
    off = [
        float(((a.double() - b).abs() / b.abs().clamp(min=1.0)).max())
        for a, b in zip(found, _expected(trained, rows), strict=True)
    ]
    moved = 0.0
    if isinstance(trained.phase, Phase):
        kept = mask_of(inputs["size"], inputs["sparsity"]).to_bool() == (trained.phase is Phase.RESU)
        moved = float(((trained.parameter.detach() != trained.before) & kept).sum())
    return dict(zip(names, off, strict=True)) | {"frozen weights that moved": moved}


def _workload(size: int, sparsity: float, builds: dict[str, Callable[[dict[str, Any]], Trained]]) -> Workload:
    def variant(build: Callable[[dict[str, Any]], Trained]) -> Callable[[dict[str, Any]], Stepped]:
        prepared = Prepared(build)

        def call(inputs: dict[str, Any]) -> Stepped:
            trained = prepared(inputs)
            trained.step()
            return Stepped(trained, inputs)

        return call

    # Forward, gradient of the weight; the update reads and writes w, m and v, and reads the gradient.
    work = Work(bytes=7 * 4.0 * size**2, flops=2 * 2.0 * BATCH * size**2)
    return Workload(
        inputs=lambda seed: _inputs(size, sparsity, seed),
        variants={name: variant(build) for name, build in builds.items()},
        oracle=lambda inputs: Stepped(None, inputs),
        tolerance=ROUNDING,
        compare=_deviations,
        work={name: work for name in builds if name != "before"},
    )


# --- the cases --------------------------------------------------------------------------------------------------------


def _phases(params: Params) -> Workload:
    compiled = params["back_end"] == "compile"
    builds: dict[str, Callable[[dict[str, Any]], Trained]] = {"none": partial(_dense, compiled=compiled)}
    for name, phase in (("train", Phase.TRAIN), ("best", Phase.RESU), ("shadow", Phase.SHADOW)):
        builds[name] = partial(_ours, phase=phase, compiled=compiled)
    return _workload(int(params["size"]), float(params["sparsity"]), builds)


def _original(params: Params) -> Workload:
    builds: dict[str, Callable[[dict[str, Any]], Trained]] = {
        "none": partial(_dense, compiled=False),
        "before": _of_original,
    }
    return _workload(int(params["size"]), float(params["sparsity"]), builds)


def _passes(params: Params) -> Workload:
    """Forward and backward alone: a masked layer in TRAIN is a dense one that holds zeros."""
    size, sparsity = int(params["size"]), float(params["sparsity"])

    def build(inputs: dict[str, Any], masked: bool) -> nn.Parameter:
        weight = nn.Parameter(weight_of(size, inputs["seed"]))
        if masked:
            Sparsifier(nn.ParameterDict({"w": weight}), sparsity, include=["w"]).set_masks(
                {"w": mask_of(size, sparsity)}
            )
        return weight

    def variant(masked: bool) -> Callable[[dict[str, Any]], Tensor]:
        prepared = Prepared(partial(build, masked=masked))

        def call(inputs: dict[str, Any]) -> Tensor:
            weight = prepared(inputs)
            _backward(_linear(compiled=False), weight, inputs)
            gradient, weight.grad = weight.grad, None
            assert gradient is not None
            return gradient

        return call

    return Workload(
        inputs=lambda seed: _inputs(size, sparsity, seed),
        variants={"none": variant(masked=False), "train": variant(masked=True)},
        oracle=lambda inputs: inputs["upstream"].double().T @ inputs["x"].double(),
    )


SMALL: tuple[Params, ...] = ({"size": 1024, "sparsity": 0.5}, {"size": 1024, "sparsity": 0.9})


def _with(back_end: str, *points: Params) -> tuple[Params, ...]:
    return tuple(params | {"back_end": back_end} for params in points)


CASES = (
    Case(
        "resu.step",
        "training steps of a linear layer, batch 128: dense with fused AdamW, ours in TRAIN, RESU (best), SHADOW",
        "torch",
        _phases,
        # A large point takes as long as all small ones. The update reads and writes the same bytes at any sparsity.
        grid=(
            *_with("eager", SMALL[0], {"size": 4096, "sparsity": 0.5}),
            *_with("compile", *SMALL, {"size": 4096, "sparsity": 0.9}),
        ),
        variants=("none", "train", "best", "shadow"),
        control="none",
        original=(_dense, _linear),
        quick_grid=({"size": 1024, "sparsity": 0.5, "back_end": "eager"},),
        budget=20.0,
        precision=0.004,
        slow_grid=(
            *_with("eager", {"size": 4096, "sparsity": 0.5}),
            *_with("compile", {"size": 4096, "sparsity": 0.9}),
        ),
    ),
    Case(
        "resu.step_original",
        "the original's RESU step, eager, with AdamW on θ",
        "torch",
        _original,
        grid=(*SMALL, {"size": 4096, "sparsity": 0.5}),
        variants=("none", "before"),
        control="none",
        original=(
            original_layers.OriginalRESULinear,
            original_effective.EffectiveWeightFunction,
            original_effective.phi_scatter,
        ),
        quick_grid=SMALL[:1],
        budget=6.0,
        precision=0.01,
        slow_grid=({"size": 4096, "sparsity": 0.5},),
    ),
    Case(
        "resu.pass",
        "forward and backward of a layer in TRAIN beside a dense one",
        "torch",
        _passes,
        grid=({"size": 1024, "sparsity": 0.9}, {"size": 4096, "sparsity": 0.9}),
        variants=("none", "train"),
        control="none",
        original=(_linear,),
        quick_grid=({"size": 1024, "sparsity": 0.9},),
        budget=3.0,
        precision=0.004,
        slow_grid=({"size": 4096, "sparsity": 0.9},),
    ),
)
