"""The parts of a step that the note names one by one, small enough for their own cost to be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from claimbench.case import Case, Counted, Tolerance, Workload
from claimbench.cases.spd.counting import saved_bytes
from claimbench.cases.spd.problem import (
    OFF,
    TaskName,
    config_of,
    default_device,
    inputs_of,
    start,
    target_of,
)
from claimbench.record import Params
from spd.config.perf import PerfConfig
from spd.kernels.ci_mlp import scalar_mlp
from spd.models.component_model import ComponentModel, OutputWithCache
from spd.models.components import LinearComponents, MLPCiFn
from spd.models.masks import stochastic_mask_infos
from spd.reference import original
from spd.sampling import SourceSampler
from spd.training import build_model

__all__ = ["CASES"]

ROUNDING = Tolerance(relative=2e-4, absolute=2e-5, reason="float32 products in another order")


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(2025 + seed)
    return torch.randn(shape, generator=generator).to(default_device())


# --- hooks ------------------------------------------------------------------------------------------------------------


def _models(task: TaskName) -> dict[str, ComponentModel]:
    config = config_of(task)

    def of(kind: type[ComponentModel]) -> ComponentModel:
        generator = torch.Generator().manual_seed(config.seed)
        return kind(target_of(task), config.module_info, config.ci, generator=generator)

    return {
        "before": build_model(target_of(task), config),
        "after": of(original.HookStateModel),
        "inline": build_model(target_of(task), config_of(task, PerfConfig(site_backend="inline"))),
    }


def _hooks(params: Params) -> Workload:
    task = cast(TaskName, params["task"])
    models = _models(task)

    def inputs(seed: int) -> dict[str, Any]:
        return {"x": inputs_of(task, seed)["batches"][0][: int(params["rows"])]}

    def variant(model: ComponentModel) -> Callable[[dict[str, Any]], Tensor]:
        run = model(inputs(0)["x"], cache_type="input")
        assert isinstance(run, OutputWithCache)
        with torch.no_grad():
            ci = model.calc_causal_importances(run.cache)
            deltas = model.calc_weight_deltas()
        infos = stochastic_mask_infos(ci.lower_leaky, SourceSampler(0, default_device()), "continuous", deltas)
        return lambda given: cast(Tensor, model(given["x"], mask_infos=infos))

    return Workload(inputs=inputs, variants={name: variant(m) for name, m in models.items()}, tolerance=ROUNDING)


def _registrations(params: Params) -> Iterable[Counted]:
    """How often hooks are registered in a step."""
    task = cast(TaskName, params["task"])
    inputs, count = inputs_of(task, 0), 0
    register = nn.Module.register_forward_hook

    def counting(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return register(self, *args, **kwargs)

    kinds: dict[str, dict[str, Any]] = {
        "before": {"perf": OFF},
        "after": {"kind": original.HookStateModel},
        "inline": {"perf": PerfConfig(site_backend="inline")},
    }
    for name, how in kinds.items():
        started = start(inputs, task, **how)
        nn.Module.register_forward_hook = counting  # type: ignore[method-assign]
        try:
            count = 0
            started.step()
        finally:
            nn.Module.register_forward_hook = register  # type: ignore[method-assign]
        yield Counted("registrations", count, name, detail="in one step")


# --- differences of weights -------------------------------------------------------------------------------------------


def _deltas(params: Params) -> Workload:
    task = cast(TaskName, params["task"])
    config = config_of(task)
    generator = torch.Generator().manual_seed(config.seed)
    cached = original.CachedWeightsModel(target_of(task), config.module_info, config.ci, generator=generator)
    before = build_model(target_of(task), config)
    ours = build_model(target_of(task), config_of(task, PerfConfig(cache_target_weights=True)))
    return Workload(
        inputs=lambda seed: {"seed": seed},
        variants={
            "before": lambda _: original.weight_deltas_anew(before),
            "after": lambda _: cached.calc_weight_deltas(),
            "best": lambda _: ours.calc_weight_deltas(),
        },
    )


# --- an unmasked product ----------------------------------------------------------------------------------------------

SITES: dict[str, tuple[int, int, int, int]] = {
    "tms_5-2": (5, 2, 20, 4096),
    "resid_mlp1": (1000, 50, 100, 2048),
    "lm": (128, 512, 256, 512),
    "few": (1000, 50, 100, 64),
}
"""d_in, d_out, C and positions; with few positions the product of V and U costs more than it saves."""


def _fused(params: Params) -> Workload:
    d_in, d_out, c, rows = SITES[str(params["site"])]

    def components() -> LinearComponents:
        return LinearComponents(d_in, d_out, c, generator=torch.Generator().manual_seed(0)).to(default_device())

    def trained(made: LinearComponents, forward: Callable[[LinearComponents, Tensor], Tensor]) -> Any:
        def call(given: dict[str, Any]) -> dict[str, Tensor]:
            out = forward(made, given["x"])
            gradients = torch.autograd.grad(out, [made.V, made.U], given["upstream"])
            return {"out": out, "V": gradients[0], "U": gradients[1]}

        return call

    def ours(made: LinearComponents, x: Tensor) -> Tensor:
        return made.unmasked(x) if made.fused_is_cheaper(x) else made(x)

    return Workload(
        inputs=lambda seed: {"x": _drawn(rows, d_in, seed=seed), "upstream": _drawn(rows, d_out, seed=seed + 1)},
        variants={
            "before": trained(components(), lambda made, x: made(x)),
            "after": trained(components(), original.fused_forward),
            "best": trained(components(), ours),
        },
        tolerance=Tolerance(relative=1e-3, absolute=2e-2, reason="sums of thousands of float32 products of size 1"),
    )


def _rule(params: Params) -> Iterable[Counted]:
    d_in, d_out, c, rows = SITES[str(params["site"])]
    made = LinearComponents(d_in, d_out, c)
    words = f"d_in d_out (C + N) = {d_in * d_out * (c + rows)}, N C (d_in + d_out) = {rows * c * (d_in + d_out)}"
    yield Counted("rule", float(made.fused_is_cheaper(torch.empty(rows, d_in))), "after", detail=words)


# --- loops over sites -------------------------------------------------------------------------------------------------


def _lists(params: Params) -> Workload:
    names = [f"layers.{index}" for index in range(int(params["sites"]))]
    fns = [MLPCiFn(2, (2,), generator=torch.Generator().manual_seed(index)) for index in range(len(names))]
    by_name = dict(zip(names, fns, strict=True))

    def by_dict(given: dict[str, Any]) -> Any:
        return original.importances_by_name(by_name, given["acts"])

    def by_list(given: dict[str, Any]) -> Any:
        return original.importances_in_order(names, fns, list(given["acts"].values()))

    return Workload(
        inputs=lambda seed: {"acts": {name: _drawn(1, 2, seed=seed + i).cpu() for i, name in enumerate(names)}},
        variants={"before": by_dict, "after": by_list},
    )


# --- Δ of one site ----------------------------------------------------------------------------------------------------

DELTA_SITES: dict[str, tuple[int, int, int, int]] = {
    "tms_5-2": SITES["tms_5-2"], "resid_mlp1": SITES["resid_mlp1"], "lm": (128, 128, 256, 512),
}  # fmt: skip


def _folding(params: Params) -> Workload:
    """A masked pass through one site: the layer's own product, which a hook finds done, and then what Δ costs."""
    d_in, d_out, c, rows = DELTA_SITES[str(params["site"])]

    def made() -> tuple[LinearComponents, Tensor]:
        generator = torch.Generator().manual_seed(0)
        components = LinearComponents(d_in, d_out, c, generator=generator).to(default_device())
        return components, _drawn(d_out, d_in, seed=5) / d_in**0.5

    def trained(masked: Callable[[LinearComponents, Tensor, dict[str, Any], Tensor], Tensor]) -> Any:
        components, weight = made()

        def call(given: dict[str, Any]) -> dict[str, Tensor]:
            out = masked(components, weight, given, given["x"] @ weight.T)
            gradients = torch.autograd.grad(out, [components.V, components.U], given["upstream"])
            return {"out": out, "V": gradients[0], "U": gradients[1]}

        return call

    def materialised(components: LinearComponents, weight: Tensor, given: dict[str, Any], _frozen: Tensor) -> Tensor:
        return components(given["x"], given["m"], (weight - components.weight, given["d"]))

    def folded(components: LinearComponents, _weight: Tensor, given: dict[str, Any], frozen: Tensor) -> Tensor:
        return components.folded(components.get_inner_acts(given["x"]), given["m"], given["d"], frozen)

    def inputs(seed: int) -> dict[str, Any]:
        m, d = _drawn(rows, c, seed=seed + 2).sigmoid(), _drawn(rows, seed=seed + 3).sigmoid()
        return {
            "x": _drawn(rows, d_in, seed=seed), "upstream": _drawn(rows, d_out, seed=seed + 1), "m": m, "d": d,
        }  # fmt: skip

    return Workload(
        inputs=inputs,
        variants={"before": trained(materialised), "best": trained(folded)},
        tolerance=Tolerance(relative=1e-3, absolute=2e-2, reason="sums of thousands of float32 products of size 1"),
    )


# --- the scalar network of each component -----------------------------------------------------------------------------


def _kernel_inputs(params: Params, seed: int) -> dict[str, Any]:
    rows, c, h = int(params["rows"]), int(params["C"]), int(params["H"])
    return {
        "h": _drawn(rows, c, seed=seed), "w1": _drawn(c, 1, h, seed=1), "b1": _drawn(c, h, seed=2),
        "w2": _drawn(c, h, 1, seed=3) / 4, "b2": _drawn(c, 1, seed=4), "upstream": _drawn(rows, c, seed=seed + 5),
    }  # fmt: skip


NAMES = ("h", "w1", "b1", "w2", "b2")


def _scalar(leaves: Sequence[Tensor], kernel: Any) -> Tensor:
    h, w1, b1, w2, b2 = leaves
    return scalar_mlp(h, w1, b1, w2, b2, kernel)


def _kernel(params: Params) -> Workload:
    def variant(kernel: Any) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
        def call(given: dict[str, Any]) -> dict[str, Tensor]:
            leaves = [given[name].detach().requires_grad_() for name in NAMES]
            z = _scalar(leaves, kernel)
            found = torch.autograd.grad(z, leaves, given["upstream"])
            # A row's gradients are of size 1, those of weights are sums over thousands of rows.
            scaled = [g / g.abs().max() for g in found]
            return {"z": z, **dict(zip(NAMES, scaled, strict=True))}

        return call

    return Workload(
        inputs=lambda seed: _kernel_inputs(params, seed),
        variants={"before": variant("einsum"), "broadcast": variant("broadcast"), "best": variant("recompute")},
        tolerance=ROUNDING,
    )


def _kernel_memory(params: Params) -> Iterable[Counted]:
    given = _kernel_inputs(params, 0)
    kernels: dict[str, Any] = {"before": "einsum", "broadcast": "broadcast", "best": "recompute"}
    for name, kernel in kernels.items():
        leaves = [given[part].detach().requires_grad_() for part in NAMES]
        found = saved_bytes(partial(_scalar, leaves, kernel))
        yield Counted("saved", found / 2**20, name, "MiB", "storages kept for the backward pass, h and weights too")


CASES = (
    Case(
        "spd.hooks",
        "a masked pass through TMS 5-2",
        "torch",
        _hooks,
        grid=({"task": "tms_5-2", "rows": 1}, {"task": "tms_5-2", "rows": 4096}),
        variants=("before", "after", "inline"),
        values=_registrations,
        values_grid=({"task": "tms_5-2"},),
        original=(ComponentModel,),
        budget=0.8,
    ),
    Case(
        "spd.deltas",
        "the differences between target weights and components",
        "torch",
        _deltas,
        grid=({"task": "tms_5-2"}, {"task": "lm"}),
        variants=("before", "after", "best"),
        original=(original.weight_deltas_anew,),
        budget=0.8,
    ),
    Case(
        "spd.fused",
        "an unmasked pass through one site, forward and backward",
        "torch",
        _fused,
        grid=tuple({"site": name} for name in SITES),
        variants=("before", "after", "best"),
        values=_rule,
        original=(LinearComponents,),
        budget=1.6,
    ),
    Case(
        "spd.lists",
        "tiny functions of 24 sites by name and in order",
        "torch",
        _lists,
        grid=({"sites": 24},),
        variants=("before", "after"),
        original=(original.importances_by_name,),
        budget=0.6,
        precision=0.003,
    ),
    Case(
        "spd.folding",
        "a masked pass through one site, forward and backward, with Δ as a matrix and folded",
        "torch",
        _folding,
        grid=tuple({"site": name} for name in DELTA_SITES),
        variants=("before", "best"),
        original=(LinearComponents,),
        budget=1.6,
        precision=0.01,
    ),
    Case(
        "spd.ci_kernel",
        "the scalar network of each component, forward and backward",
        "torch",
        _kernel,
        grid=({"rows": 4096, "C": 200, "H": 16},),
        quick_grid=({"rows": 512, "C": 200, "H": 16},),
        variants=("before", "broadcast", "best"),
        values=_kernel_memory,
        original=(scalar_mlp,),
        budget=3.0,
        precision=0.01,
        processes=3,
    ),
)
