"""Bytes: the note's tally, what the original's code really holds, and what ours holds in every phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import cast

import torch

from claimbench.case import Case, Counted, Workload
from claimbench.cases.resu.problem import default_device, weight_of
from claimbench.errors import CaseError
from claimbench.record import Params
from resu.experiments.memory import MIB, LiveStorages, live_bytes
from resu.experiments.phase_memory import PHASES, STEPPED, dense_bytes, phase_bytes
from resu.optim.masked import Layout
from resu.reference import original_effective, original_layers, original_training

__all__ = ["CASES"]

STEP_COUNT = 4
"""Bytes in which torch's optimizers count the steps of a parameter: no part of any published figure."""


def _not_timed(params: Params) -> Workload:
    raise CaseError(f"this case is counted, not timed; got {params}")


# --- the original -----------------------------------------------------------------------------------------------------


class _Trained:
    """A layer of the original after a step of dense training, pruned, with its optimizer."""

    def __init__(self, size: int, sparsity: float) -> None:
        weight = weight_of(size)
        self.layer = original_layers.OriginalRESULinear(size, size, bias=False).to(weight.device)
        self.layer.weight.data.copy_(weight)
        self.optimizer = torch.optim.AdamW(self.layer.parameters(), fused=True)
        self.x = torch.ones(1, size, device=weight.device)
        self.layer(self.x).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.dense = live_bytes(self.layer, self.optimizer)
        self.layer.prune_by_magnitude(sparsity)

    @property
    def weight_bytes(self) -> int:
        return live_bytes(self.layer.weight)

    @property
    def weight_state_bytes(self) -> int:
        """The optimizer's moments of W, and how many of them there are."""
        state = self.optimizer.state.get(self.layer.weight, {})
        return sum(live_bytes(value) for name, value in state.items() if name != "step")

    @property
    def theta_bytes(self) -> int:
        return live_bytes(self.layer.resurrection.theta)

    @property
    def theta_state_bytes(self) -> int:
        return live_bytes(self.layer.selective)

    def enter(self, clear_state: bool) -> tuple[int, int]:
        """Enters RESU and makes one pass; live bytes at rest after entry, and at the peak of both."""
        with LiveStorages(self.layer, self.optimizer, self.x) as live:
            live.exclude(self.x)
            original_training.enter_resu_phase([self.layer], self.optimizer, clear_state)
            steady = live.now
            self.layer(self.x).sum().backward()
            live.exclude(self.layer.resurrection.theta.grad)
        return steady, live.peak


def _counted(name: str, size: float, variant: str, unit: str = "MiB", detail: str = "") -> Counted:
    return Counted(name, size / MIB if unit == "MiB" else size, variant, unit, detail)


def _of_original(params: Params) -> Iterable[Counted]:
    size, sparsity = int(params["size"]), float(params["sparsity"])
    for variant, clear in (("before", False), ("after", True)):
        trained = _Trained(size, sparsity)
        weight, state_of_weight = trained.weight_bytes, trained.weight_state_bytes
        if variant == "before":
            yield _counted("tally", weight + state_of_weight, "none", detail="W and its optimizer state")
            yield _counted("live", trained.dense - STEP_COUNT, "none", detail="all storages of layer and optimizer")
        steady, peak = trained.enter(clear)
        kept, theta, states = trained.weight_state_bytes, trained.theta_bytes, trained.theta_state_bytes
        tally = weight + kept + theta + states
        dense = weight + state_of_weight
        yield _counted("tally", tally, variant, detail="W, its optimizer state, θ, and the state of θ")
        yield _counted("states", kept + states, variant, detail="optimizer state of W, and the state of θ")
        yield _counted("cleared", state_of_weight - kept, variant, detail="moments of W; the count of steps is 4 bytes")
        yield _counted("live", steady, variant, detail="every storage alive after entry")
        yield _counted("live_peak", peak, variant, detail="entry and one pass of one sample; gradients of θ left out")
        yield _counted("live_in_w", steady / weight, variant, "W")
        yield _counted("over_dense", 100 * (tally - dense) / dense, variant, "%", "tally over that of dense training")
        yield _counted("over_w", 100 * (tally - dense) / weight, variant, "%", "the same difference in shares of W")
        yield _counted("live_over_dense", 100 * (steady - trained.dense) / trained.dense, variant, "%", "live bytes")
        yield _counted("state_over_w", 100 * (kept + theta + states) / weight, variant, "%", "all but W itself, over W")
        yield _counted("tally_share", 100 * tally / dense, variant, "%", "tally over that of dense training")
        both = (kept > 0) * (theta > 0)
        yield _counted("double_states", float(both), variant, "layers", "layers with state of W and θ at once")
        del trained


# --- ours -------------------------------------------------------------------------------------------------------------


def _of_ours(params: Params) -> Iterator[Counted]:
    size, layout, device = int(params["size"]), cast(Layout, params["layout"]), default_device()
    weight = live_bytes(weight_of(size))
    if params["layout"] == "torch":
        found = dense_bytes(size, device=device)
        yield _counted("peak of steps", found.peak / weight, "none", "W", "torch's fused AdamW, dense")
        return
    compiled = params["back_end"] == "compile"
    phases = phase_bytes(
        size, float(params["sparsity"]), layout,
        backend=("triton" if device.type == "cuda" else "compile") if compiled else "eager",
        only=STEPPED if compiled else PHASES, device=device,
    )  # fmt: skip
    for name, found in phases.items():
        yield _counted(f"peak in {name}", found.peak / weight, "best", "W")
    for what, names in (("steps", STEPPED), ("transitions", [name for name in PHASES if name not in STEPPED])):
        among = [name for name in names if name in phases]
        if among:
            worst = max(among, key=lambda name: phases[name].peak)
            yield _counted(f"peak of {what}", phases[worst].peak / weight, "best", "W", f"in {worst}")
    yield _counted("steady", max(found.steady for found in phases.values()) / weight, "best", "W", "largest of all")


def _points(back_end: str, sizes: Iterable[int], sparsities: Iterable[float], *layouts: str) -> tuple[Params, ...]:
    return tuple(
        {"back_end": back_end, "layout": layout, "size": size, "sparsity": sparsity}
        for size, sparsity, layout in product(sizes, sparsities, layouts)
    )


DENSE: Params = {"back_end": "eager", "layout": "torch", "size": 1024, "sparsity": 0.0}

CASES = (
    Case(
        "resu.memory",
        "bytes of the original in RESU, with W's optimizer state kept and cleared",
        "torch",
        _not_timed,
        values=_of_original,
        values_grid=({"size": 4096, "sparsity": 0.5}, {"size": 4096, "sparsity": 0.9}),
        original=(
            original_layers.OriginalRESULinear,
            original_training.enter_resu_phase,
            original_effective.SparseMask,
        ),
    ),
    Case(
        "resu.phases",
        "bytes of ours in every phase and transition, in units of W",
        "torch",
        _not_timed,
        values=_of_ours,
        # Transitions take some seconds to follow and are the same in all layouts but for their moments.
        values_grid=(
            DENSE,
            *_points("eager", (1024,), (0.5,), "dense", "signbit", "compact"),
            *_points("eager", (1024,), (0.9,), "compact"),
            *_points("compile", (1024,), (0.5,), "dense", "signbit"),
            *_points("compile", (4096,), (0.9,), "dense", "signbit", "compact"),
            *_points("compile", (4096,), (0.5,), "compact"),
        ),
        quick_values=(DENSE, *_points("eager", (1024,), (0.5,), "compact")),
        original=(dense_bytes,),
    ),
)
