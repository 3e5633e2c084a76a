"""Whether a network learns: how gradients flow, which nodes they miss, and whether indices move as far as they should.

See `neurograph.effectiveness` for the last.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from neurograph.config import TrainConfig
from neurograph.core.node_store import NodeStore
from neurograph.data import check_samples
from neurograph.effectiveness import Effectiveness, UpdateMonitor
from neurograph.errors import DataError
from neurograph.model import Model
from neurograph.optim import DiscreteAdam, DiscreteOptimizer, DiscreteSGD
from neurograph.train.credit import Credit, exact_credit

__all__ = [
    "Alert",
    "Diagnosis",
    "Flow",
    "Limits",
    "alerts",
    "bottlenecks",
    "diagnose",
    "flow_class",
]

Flow = Literal["vanishing", "exploding", "uniform", "sparse", "normal"]

_BATCH = 256


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
        DataError: no nodes, or a norm that is not a number.

    >>> flow_class(torch.ones(5)), flow_class(torch.tensor([0.0, 0.0, 0.0, 4.0]))
    ('uniform', 'sparse')
    """
    limits, mean = limits or Limits(), _mean(norms)
    if mean < limits.vanish:
        return "vanishing"
    if mean > limits.explode:
        return "exploding"
    variation = float(norms.double().std(unbiased=False)) / mean
    if variation < 0.3:
        return "uniform"
    return "sparse" if variation > 1 else "normal"


def _mean(norms: Tensor) -> float:
    if not len(norms):
        raise DataError("gradients of at least one node are needed; got none. Give the norms of some nodes.")
    mean = float(norms.double().mean())
    if mean != mean:
        raise DataError("norms of gradients are numbers; got nan. Look for samples that are no numbers.")
    return mean


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


def alerts(
    norms: Float[Tensor, " n"], losses: Sequence[float], limits: Limits | None = None, memory: float | None = None
) -> list[Alert]:
    """What passes its limit.

    Args:
        norms: of gradients, by node.
        losses: the last ones, in order; one that is not finite counts as a spike.
        limits: where alerts begin.
        memory: megabytes; None = the greatest that this process has taken (not known on Windows, and no alert there).

    Returns:
        The alerts, none where all is well.

    Raises:
        DataError: no nodes, or a norm that is not a number.

    >>> [alert.kind for alert in alerts(torch.ones(3), [1.0, 2.5], memory=1.0)]
    ['spike']
    """
    limits, mean = limits or Limits(), _mean(norms)
    found = []
    if mean > limits.explode:
        found.append(Alert("exploding", mean, limits.explode))
    if mean < limits.vanish:
        found.append(Alert("vanishing", mean, limits.vanish))
    if not all(map(math.isfinite, losses)):
        found.append(Alert("spike", math.inf, limits.spike))
    elif len(losses) > 1:
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

    A norm is that of the mean gradient over all samples, per radian and per unit of x, as the original's; the
    optimizer's own gradients are per step of an index.

    Args:
        model: the network; it is left as it is.
        x: samples in [0, 1].
        y: labels.
        config: batch size and optimizer of the steps; the learning rates stay constant, and nothing is accumulated.
        credit: whose gradients are looked at.
        steps: that are tried.
        limits: where alerts begin.
        seed: of the steps' batches.

    Returns:
        The diagnosis.

    Raises:
        DataError: samples or labels that do not fit the network.

    >>> from neurograph.config import Config
    >>> model = Model.build(Config.model_validate({"graph": {"widths": [4, 8, 2], "cardinality": 4}}), seed=0)
    >>> found = diagnose(model, torch.rand(16, 4), torch.arange(16) % 2, TrainConfig(batch_size=8), steps=4)
    >>> list(found.to_frame()["nodes"]), found.effectiveness.steps
    ([4, 8, 2], 4)
    """
    config, limits = config or TrainConfig(), limits or Limits()
    check_samples(x, y, n_features=len(model.topology.inputs), n_classes=model.n_classes)
    x, y = x.to(model.codes), y.to(model.codes.device)
    phase, mag = _norms(model, x, y, config, credit)
    both = torch.hypot(phase, mag)
    amplitude, silent, saturated = _amplitudes(model, x)
    stuck = bottlenecks(phase, mag, limits.vanish)
    records = [
        {
            "level": number,
            "nodes": len(rows),
            "phase_gradient": float(phase[rows].mean()),
            "mag_gradient": float(mag[rows].mean()),
            "flow": flow_class(both[rows], limits),
            "bottlenecks": int(torch.isin(rows, stuck).sum()),
            "amplitude": float(amplitude[rows].mean()),
            "silent": float(silent[rows].mean()),
            "saturated": float(saturated[rows].mean()),
        }
        for number, rows in enumerate(model.topology.levels)
    ]
    effectiveness, losses = _tried(model, x, y, config, credit, steps, seed)
    return Diagnosis(
        records,
        flow_class(both, limits),
        tuple(model.topology.ids[row] for row in stuck.tolist()),
        alerts(both, losses, limits),
        effectiveness,
        losses,
    )


def _norms(model: Model, x: Tensor, y: Tensor, config: TrainConfig, credit: Credit) -> tuple[Tensor, Tensor]:
    """Norm of each node's mean gradient over all samples, in batches: a credit rule takes the mean over its batch."""
    totals = [torch.zeros_like(indices, dtype=torch.float64) for indices in (model.store.phase, model.store.mag)]
    for some, labels in zip(x.split(_BATCH), y.split(_BATCH), strict=True):
        gradients = credit(model, some, labels, config)
        for total, gradient in zip(totals, (gradients.phase, gradients.mag), strict=True):
            total.add_(gradient, alpha=len(some) / len(x))
    steps = (model.tables.phase_step, model.tables.mag_step)
    phase, mag = (torch.linalg.vector_norm(total, dim=1) / step for total, step in zip(totals, steps, strict=True))
    return phase, mag


def _amplitudes(model: Model, x: Tensor) -> Tensor:
    """Of each node, over samples and phasors: mean amplitude, share of zeros, and share above 0.99."""
    total = torch.zeros(3, model.topology.n_nodes, dtype=torch.float64, device=x.device)
    for some in x.split(_BATCH):
        with torch.no_grad():
            planar = model.state(some).planar
        seen = torch.hypot(planar[:, :, 0], planar[:, :, 1]).double()
        for row, value in enumerate((seen, (seen == 0).double(), (seen > 0.99).double())):
            total[row] += value.mean(2).sum(1)
    return total / len(x)


class _Watched(NodeStore):
    """Indices that remember how far they were last told to move, which at the end of a grid is further than they go."""

    told: tuple[Tensor, Tensor]

    def move_(self, phase_steps: Shaped[Tensor, "N D"], mag_steps: Shaped[Tensor, "N D"]) -> None:
        """See `NodeStore.move_`."""
        self.told = (phase_steps, mag_steps)
        super().move_(phase_steps, mag_steps)


def _tried(
    model: Model, x: Tensor, y: Tensor, config: TrainConfig, credit: Credit, steps: int, seed: int
) -> tuple[Effectiveness, list[float]]:
    own = model.store.clone()
    store = _Watched(own.phase, own.mag, own.tables, own.train_phase, own.train_mag, own.ids)
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
        # An update is what was moved, and what more is carried now than before: exact for every optimizer.
        asked = [told + now - then for told, now, then in zip(store.told, optimizer.residual, carried, strict=True)]
        monitor.record(before, (store.phase, store.mag), (asked[0], asked[1]))
    return monitor.effectiveness(), losses
