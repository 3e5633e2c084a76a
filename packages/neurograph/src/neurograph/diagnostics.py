"""Whether a network learns: how gradients flow, which nodes they miss, and whether indices move as far as they should.

*Update effectiveness* is the way that indices went over the way that their updates asked for,

    Σ |Δindex| / Σ |update|,   an update being lr · g / (width of a bin), or what the optimizer makes of it,

with changes of phases measured around the circle. With residual carry it tends to 1 for updates that keep their sign,
and stays below it where updates cancel before they make a whole step. (The original divided by the constant 0.01 in
place of a bin's width, so that its figure, 825 % in one document, carried an arbitrary unit.) The cosine between all
net changes and all net updates says whether the indices went the way they were asked to.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, cast

import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from neurograph.config import TrainConfig
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.errors import DataError
from neurograph.model import Model
from neurograph.optim import DiscreteAdam, DiscreteOptimizer, DiscreteSGD
from neurograph.train.credit import Credit, exact_credit

__all__ = [
    "Alert",
    "Diagnosis",
    "Effectiveness",
    "Flow",
    "Limits",
    "UpdateMonitor",
    "alerts",
    "bottlenecks",
    "circular_change",
    "diagnose",
    "flow_class",
]

Flow = Literal["vanishing", "exploding", "uniform", "sparse", "normal"]


@dataclass(frozen=True)
class Limits:
    """Where alerts begin.

    Args:
        explode: a mean gradient norm above this.
        vanish: a mean gradient norm below this; also the limit of a bottleneck.
        stagnation: a mean change of the loss below this.
        spike: a loss this many times the one before.
        memory: megabytes of the process.
    """

    explode: float = 10.0
    vanish: float = 1e-6
    stagnation: float = 1e-8
    spike: float = 2.0
    memory: float = 1000.0


@dataclass(frozen=True)
class Alert:
    """Something to look at.

    Args:
        kind: exploding, vanishing, stagnation, spike or memory.
        value: what was measured.
        limit: what it passed.
    """

    kind: Literal["exploding", "vanishing", "stagnation", "spike", "memory"]
    value: float
    limit: float

    def __str__(self) -> str:
        """The alert as a sentence."""
        said = {
            "exploding": "gradients are large: mean norm {v:.3g} above {l:g}; lower the learning rates",
            "vanishing": "gradients vanish: mean norm {v:.3g} below {l:g}; look at the levels in the table",
            "stagnation": "the loss stands still: it changes by {v:.3g} a step, below {l:g}; raise the learning rates",
            "spike": "the loss jumped to {v:.3g} times the one before, above {l:g}; lower the learning rates",
            "memory": "the process has taken {v:.0f} MB, above {l:.0f}; use smaller batches",
        }
        return said[self.kind].format(v=self.value, l=self.limit)


def flow_class(norms: Float[Tensor, " n"], limits: Limits | None = None) -> Flow:
    """One word for how gradients are spread over nodes.

    Mean below 1e-6: vanishing; above 10: exploding; else by their coefficient of variation: below 0.3 uniform, above 1
    sparse, between them normal.

    Args:
        norms: of each node's gradient.
        limits: of vanishing and exploding.

    Returns:
        The word.

    Raises:
        DataError: no nodes.

    >>> flow_class(torch.ones(5)), flow_class(torch.tensor([0.0, 0.0, 0.0, 4.0]))
    ('uniform', 'sparse')
    """
    if not len(norms):
        raise DataError("gradients of at least one node are needed; got none. Give the norms of some nodes.")
    limits = limits or Limits()
    mean = float(norms.mean())
    if mean < limits.vanish:
        return "vanishing"
    if mean > limits.explode:
        return "exploding"
    variation = float(norms.std(unbiased=False)) / mean
    if variation < 0.3:
        return "uniform"
    return "sparse" if variation > 1 else "normal"


def bottlenecks(
    phase_norms: Float[Tensor, " n"], mag_norms: Float[Tensor, " n"], limit: float = 1e-6
) -> Int[Tensor, " m"]:
    """Nodes that no gradient reaches: both norms are below a limit.

    Args:
        phase_norms: norm of each node's phase gradient.
        mag_norms: of its magnitude gradient.
        limit: below which a norm counts as none.

    Returns:
        Their rows.
    """
    return ((phase_norms < limit) & (mag_norms < limit)).nonzero().squeeze(1)


def circular_change(
    before: Shaped[Tensor, "*shape"], after: Shaped[Tensor, "*shape"], bins: int, wraps: bool = True
) -> Int[Tensor, "*shape"]:
    """Signed steps from one index to another, the short way round.

    Args:
        before: indices.
        after: indices.
        bins: of the circle.
        wraps: whether it is one; else plain differences.

    Returns:
        Steps from −bins/2 to bins/2 − 1.

    >>> circular_change(torch.tensor([510, 2]), torch.tensor([1, 511]), 512).tolist()
    [3, -3]
    """
    steps = after.long() - before.long()
    return (steps + bins // 2).remainder(bins) - bins // 2 if wraps else steps


@dataclass(frozen=True)
class Effectiveness:
    """How far indices went against how far they were asked to go.

    Args:
        phase: of phases; None = no update asked for anything.
        mag: of magnitudes.
        phase_cosine: between net changes and net updates of phases.
        mag_cosine: of magnitudes.
        steps: that were watched.
    """

    phase: float | None
    mag: float | None
    phase_cosine: float | None
    mag_cosine: float | None
    steps: int


@dataclass
class UpdateMonitor:
    """Adds up changes and updates over steps.

    Args:
        tables: for the bins.

    >>> monitor = UpdateMonitor(HighResolutionLookupTables(8, 8))
    >>> none, one = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.long)
    >>> monitor.record((none, none), (one, none), (torch.full((1, 1), 0.6), torch.zeros(1, 1)))
    >>> monitor.record((one, none), (one, none), (torch.full((1, 1), 0.4), torch.zeros(1, 1)))
    >>> round(monitor.effectiveness().phase, 6), monitor.effectiveness().mag
    (1.0, None)
    """

    tables: HighResolutionLookupTables
    steps: int = field(default=0, init=False)
    _way: list[float] = field(default_factory=lambda: [0.0, 0.0], init=False, repr=False)
    _asked: list[float] = field(default_factory=lambda: [0.0, 0.0], init=False, repr=False)
    _net: list[Tensor] = field(default_factory=list, init=False, repr=False)
    _wanted: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def record(
        self,
        before: tuple[Shaped[Tensor, "N D"], Shaped[Tensor, "N D"]],
        after: tuple[Shaped[Tensor, "N D"], Shaped[Tensor, "N D"]],
        updates: tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]],
    ) -> None:
        """One step.

        Args:
            before: phases and magnitudes.
            after: the same after the step.
            updates: what was asked for, in steps of an index, with its sign.
        """
        t = self.tables
        circles = ((t.phase_bins, True), (t.mag_bins, t.wraps_magnitude))
        changes = [
            circular_change(old, new, bins, wraps).double()
            for old, new, (bins, wraps) in zip(before, after, circles, strict=True)
        ]
        wanted = [update.double() for update in updates]
        if not self.steps:
            self._net = [torch.zeros_like(change) for change in changes]
            self._wanted = [torch.zeros_like(update) for update in wanted]
        for part in range(2):
            self._way[part] += float(changes[part].abs().sum())
            self._asked[part] += float(wanted[part].abs().sum())
            self._net[part] += changes[part]
            self._wanted[part] += wanted[part]
        self.steps += 1

    def effectiveness(self) -> Effectiveness:
        """What came of it so far.

        Returns:
            The figures.
        """
        ratios = [way / asked if asked else None for way, asked in zip(self._way, self._asked, strict=True)]
        cosines = [_cosine(net, wanted) for net, wanted in zip(self._net, self._wanted, strict=True)] or [None, None]
        return Effectiveness(ratios[0], ratios[1], cosines[0], cosines[1], self.steps)


def _cosine(a: Tensor, b: Tensor) -> float | None:
    norms = float(torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))
    return float((a * b).sum()) / norms if norms else None


def alerts(
    norms: Float[Tensor, " n"], losses: Sequence[float], limits: Limits | None = None, memory: float | None = None
) -> list[Alert]:
    """What passes its limit.

    Args:
        norms: of gradients, by node.
        losses: the last ones, in order.
        limits: where alerts begin.
        memory: megabytes; None = the greatest that this process has taken (not known on Windows, and no alert there).

    Returns:
        The alerts, none where all is well.

    >>> [alert.kind for alert in alerts(torch.ones(3), [1.0, 2.5], memory=1.0)]
    ['spike']
    """
    limits = limits or Limits()
    found = []
    mean = float(norms.mean())
    if mean > limits.explode:
        found.append(Alert("exploding", mean, limits.explode))
    if mean < limits.vanish:
        found.append(Alert("vanishing", mean, limits.vanish))
    if len(losses) > 1:
        changes = [abs(after - before) for before, after in pairwise(losses)]
        if sum(changes) / len(changes) < limits.stagnation:
            found.append(Alert("stagnation", sum(changes) / len(changes), limits.stagnation))
        rise = max((after / before for before, after in pairwise(losses) if before > 0), default=0.0)
        if rise > limits.spike:
            found.append(Alert("spike", rise, limits.spike))
    taken = _megabytes() if memory is None else memory
    if taken > limits.memory:
        found.append(Alert("memory", taken, limits.memory))
    return found


def _megabytes() -> float:
    if sys.platform == "win32":
        return 0.0  # not measured there
    import resource

    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


@dataclass(frozen=True)
class Diagnosis:
    """What a look at a network found.

    Attributes:
        levels: one record a level.
        flow: of all trained nodes.
        bottlenecks: identifiers of nodes that no gradient reaches.
        alerts: what passes its limit.
        effectiveness: of the steps that were tried on a copy.
        losses: before each of those steps.
    """

    levels: list[dict[str, Any]]
    flow: Flow
    bottlenecks: tuple[str, ...]
    alerts: list[Alert]
    effectiveness: Effectiveness
    losses: list[float]

    def to_frame(self) -> pd.DataFrame:
        """One row a level: nodes, gradient norms, flow, bottlenecks, and how large, silent and saturated states are."""
        return pd.DataFrame(self.levels)


def diagnose(
    model: Model,
    x: Float[Tensor, "S I"],
    y: Int[Tensor, " S"],
    config: TrainConfig | None = None,
    *,
    credit: Credit = exact_credit,
    steps: int = 20,
    limits: Limits | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Looks at gradients and states of all samples, then tries some steps on a copy of the integers.

    Norms are per radian and per unit of x, as the original's; the optimizer's own gradients are per step of an index.

    Args:
        model: the network; it is left as it is.
        x: samples in [0, 1].
        y: labels.
        config: batch size and optimizer of the steps; the learning rates stay constant.
        credit: whose gradients are looked at.
        steps: that are tried.
        limits: where alerts begin.
        seed: of the steps' batches.

    Returns:
        The diagnosis.

    >>> from neurograph.config import Config
    >>> model = Model.build(Config.model_validate({"graph": {"widths": [4, 8, 2], "cardinality": 4}}), seed=0)
    >>> found = diagnose(model, torch.rand(16, 4), torch.arange(16) % 2, TrainConfig(batch_size=8), steps=4)
    >>> list(found.to_frame()["nodes"]), found.effectiveness.steps
    ([4, 8, 2], 4)
    """
    config, limits = config or TrainConfig(), limits or Limits()
    x, y = x.to(model.codes), y.to(model.codes.device)
    gradients = credit(model, x, y, config)
    phase = torch.linalg.vector_norm(gradients.phase, dim=1) / model.tables.phase_step
    mag = torch.linalg.vector_norm(gradients.mag, dim=1) / model.tables.mag_step
    both = torch.hypot(phase, mag)
    with torch.no_grad():
        state = model.state(x)
    amplitude = torch.hypot(state.planar[:, :, 0], state.planar[:, :, 1])
    stuck = bottlenecks(phase, mag, limits.vanish)
    records = []
    for number, rows in enumerate(model.topology.levels):
        seen = amplitude[rows]
        records.append(
            {
                "level": number,
                "nodes": len(rows),
                "phase_gradient": float(phase[rows].mean()),
                "mag_gradient": float(mag[rows].mean()),
                "flow": flow_class(both[rows], limits),
                "bottlenecks": int(torch.isin(rows, stuck).sum()),
                "amplitude": float(seen.mean()),
                "silent": float((seen == 0).double().mean()),
                "saturated": float((seen > 0.99).double().mean()),
            }
        )
    effectiveness, losses = _tried(model, x, y, config, credit, steps, seed)
    return Diagnosis(
        records,
        flow_class(both, limits),
        tuple(model.topology.ids[row] for row in stuck.tolist()),
        alerts(both, losses, limits),
        effectiveness,
        losses,
    )


def _tried(
    model: Model, x: Tensor, y: Tensor, config: TrainConfig, credit: Credit, steps: int, seed: int
) -> tuple[Effectiveness, list[float]]:
    store = model.store.clone()
    copy = Model(model.topology, store, model.tables, model.engine, model.codes, model.scale)
    settings = config.optimizer
    optimizer: DiscreteOptimizer = (
        DiscreteSGD(store, settings.lr_phase, settings.lr_mag)
        if settings.kind == "sgd"
        else DiscreteAdam(store, settings.lr_phase, settings.lr_mag, betas=settings.betas)
    )
    generator = torch.Generator().manual_seed(seed)
    monitor, losses = UpdateMonitor(model.tables), []
    for _ in range(steps):
        chosen = torch.randint(len(x), (min(config.batch_size, len(x)),), generator=generator).to(x.device)
        loss, phase, mag = credit(copy, x[chosen], y[chosen], config)
        losses.append(float(loss))
        before = (store.phase.clone(), store.mag.clone())
        carried = [residual.clone() for residual in optimizer.residual]
        optimizer.step(phase, mag)
        after = (store.phase, store.mag)
        monitor.record(before, after, _updates(optimizer, carried, before, after, (phase, mag)))
    return monitor.effectiveness(), losses


def _updates(
    optimizer: DiscreteOptimizer,
    carried: list[Tensor],
    before: tuple[Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    gradients: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """What was asked for: −lr g of plain descent; of Adam, the steps taken and what more is carried now than before."""
    store, tables = optimizer.store, optimizer.store.tables
    masks = (store.train_phase[:, None], store.train_mag[:, None])
    if isinstance(optimizer, DiscreteSGD):
        found = [
            -optimizer.rate * lr * gradient * mask
            for lr, gradient, mask in zip(optimizer.lr, gradients, masks, strict=True)
        ]
    else:
        circles = ((tables.phase_bins, True), (tables.mag_bins, tables.wraps_magnitude))
        found = [
            circular_change(old, new, bins, wraps) + now - then
            for old, new, (bins, wraps), now, then in zip(
                before, after, circles, optimizer.residual, carried, strict=True
            )
        ]
    return cast("tuple[Tensor, Tensor]", tuple(found))
