"""Facts, questions about them, and the networks that are asked: one that radiates, and its rivals of static edges."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from neurograph.config import TrainConfig
from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.core.spreading import Spreading
from neurograph.encodings import hadamard_codes, hadamard_matrix
from neurograph.errors import ConfigError
from neurograph.model import Model
from neurograph.optim import DiscreteAdam
from neurograph.train.credit import exact_credit

__all__ = [
    "Facts", "MemorySettings", "RoutingTask", "StaticSettings", "bundled_network", "draw_facts", "memory_graph",
    "memory_network", "static_network",
]  # fmt: skip

_P, _M = 512, 1024


@dataclass(frozen=True)
class RoutingTask:
    """The task.

    Args:
        facts: how many.
        bits: of a key.
        classes: of values.
        flip: chance that a bit of a question is wrong.
        lot: facts that are shown together.
        questions: about each fact.

    Raises:
        ConfigError: counts below one, fewer than two classes, or a chance outside [0, 1].
    """

    facts: int = 256
    bits: int = 32
    classes: int = 10
    flip: int | float = 0.03
    lot: int = 64
    questions: int = 4

    def __post_init__(self) -> None:
        if min(self.facts, self.bits, self.lot, self.questions) < 1 or self.classes < 2 or not 0 <= self.flip <= 1:
            raise ConfigError(
                "a task has facts, bits, lots and questions, two classes or more, and flips a share of bits from 0 to "
                f"1; got {self}. Correct it."
            )


class Facts(NamedTuple):
    """Facts and questions; inputs are bits, then their complements.

    Args:
        keys: of the facts.
        values: of the facts.
        questions: keys with flipped bits.
        answers: their values.
    """

    keys: Float[Tensor, "F I"]
    values: Int64[Tensor, " F"]
    questions: Float[Tensor, "Q I"]
    answers: Int64[Tensor, " Q"]


@dataclass(frozen=True)
class MemorySettings:
    """How facts are written.

    Args:
        dim: D, the order of a Hadamard matrix, above the number of classes.
        contrast: how far high and low magnitudes lie from the middle, in quarters of the grid.
        loudness: the query node's magnitude above the middle, in quarters of the grid.
    """

    dim: int = 16
    contrast: int | float = 1.0
    loudness: int | float = -1.0


@dataclass(frozen=True)
class StaticSettings:
    """How layers are trained.

    Args:
        dim: D.
        depth: hidden layers, of one width; as wide as needed for as many integers as the rival has.
        cardinality: nodes that a node listens to.
        lr: learning rate of phases, in steps; that of magnitudes is one and a half times that.
        steps: on each lot, or for each lot and pass where facts are replayed.

    Raises:
        ConfigError: counts below one, or a learning rate that is not positive.
    """

    dim: int = 8
    depth: int = 3
    cardinality: int = 16
    lr: int | float = 0.5
    steps: int = 96

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.cardinality, self.steps) < 1 or not 0 < self.lr < math.inf:
            raise ConfigError(
                f"layers have phasors, a depth, sources, steps and a positive learning rate; got {self}. Correct it."
            )


def draw_facts(task: RoutingTask, seed: int) -> Facts:
    """Facts and questions about them.

    Args:
        task: how many, and how noisy.
        seed: of all draws.

    Returns:
        Both.
    """
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(2, (task.facts, task.bits), generator=generator).float()
    values = torch.randint(task.classes, (task.facts,), generator=generator)
    asked = _flipped(bits.repeat_interleave(task.questions, 0), task.flip, generator)
    return Facts(_inputs(bits), values, _inputs(asked), values.repeat_interleave(task.questions))


def _inputs(bits: Tensor) -> Tensor:
    return torch.cat([bits, 1 - bits], dim=1)


def _flipped(bits: Tensor, flip: float, generator: torch.Generator) -> Tensor:
    return (bits - (torch.rand(bits.shape, generator=generator) < flip).float()).abs()


# --- radiation --------------------------------------------------------------------------------------------------------


def memory_graph(task: RoutingTask, *, radiation: bool = True) -> pd.DataFrame:
    """Inputs, a query node that listens to all of them, memory nodes, and an output that listens to all of those.

    Args:
        task: how many.
        radiation: memory nodes listen to nobody but a node that is always silent, or else to the query.

    Returns:
        A frame.
    """
    inputs = [f"bit{j}" for j in range(2 * task.bits)]
    memory = [f"fact{j}" for j in range(task.facts)]
    listens: dict[str, list[str]] = {name: [] for name in inputs}
    # A node's level is its longest way from a node without sources: the silent pair puts memory behind the query.
    listens |= {"silent": [], "hush": ["silent"], "query": inputs}
    listens |= {name: ["hush" if radiation else "query"] for name in memory} | {"answer": memory}
    names = list(listens)
    return pd.DataFrame(
        {
            "node_id": names,
            "input_connections": [list(sources) for sources in listens.values()],
            "is_input": [name in set(inputs) for name in names],
            "is_output": [name == "answer" for name in names],
        }
    )


def memory_network(
    task: RoutingTask, facts: Facts, seed: int, settings: MemorySettings | None = None, *, radiation: bool = True
) -> Model:
    """A network into which facts were written, each as it was shown.

    Args:
        task: the task.
        facts: what is written.
        seed: of the inputs' phases.
        settings: how it is written; None = as tuned.
        radiation: whether the query radiates, or speaks to all memory nodes by edges.

    Returns:
        The network.

    Raises:
        ConfigError: D is not above the number of classes, or no order of a Hadamard matrix.
    """
    s = settings or MemorySettings()
    if s.dim <= task.classes:
        raise ConfigError(
            f"D balanced codes leave D − 1 for classes; got D = {s.dim} for {task.classes} classes. Take 16."
        )
    topology, tables = Topology.from_frame(memory_graph(task, radiation=radiation)), HighResolutionLookupTables(_P, _M)
    store, rows = NodeStore.random(topology, s.dim, tables, seed), topology.index
    query, first = rows["query"], rows["fact0"]
    phase, mag = store.phase.clone(), torch.full_like(store.mag, _M // 2)
    phase[task.bits : 2 * task.bits] = (phase[: task.bits] + _P // 2) % _P  # a complement is the opposite phasor
    phase[rows["answer"]] = 0
    mag[query] += int(s.loudness * _M / 4)
    store.set_(phase, mag)
    speaks, hears = (torch.zeros(topology.n_nodes, dtype=torch.bool) for _ in range(2))
    speaks[query], hears[first : first + task.facts] = True, True
    spreading = Spreading(topology, tables, top_k=1, gain=1.0, sources=speaks, candidates=hears) if radiation else None
    engine = ForwardEngine(topology, tables, radiation=spreading)
    square = hadamard_matrix(s.dim)
    # With ones in the first row all others are balanced: what all magnitudes have in common does not count.
    codes = (square * square[0])[1 : task.classes + 1]
    for lot in torch.arange(task.facts).split(task.lot):
        # What is written depends on the query alone, whose state no memory node changes.
        context = engine(facts.keys[lot], store).phase[query]
        phase, mag = store.phase.clone(), store.mag.clone()
        phase[first + lot] = ((-context) % _P).to(phase.dtype)
        mag[first + lot] = (_M // 2 + codes[facts.values[lot]] * int(s.contrast * _M / 4)).to(mag.dtype)
        store.set_(phase, mag)
    return Model(topology, store, tables, engine, codes)


# --- static edges -----------------------------------------------------------------------------------------------------


def static_network(
    task: RoutingTask,
    facts: Facts,
    seed: int,
    integers: int,
    settings: StaticSettings | None = None,
    *,
    passes: int = 1,
) -> Model:
    """Layers trained on facts, lot by lot.

    Args:
        task: the task.
        facts: what is learnt.
        seed: of graph, indices and flips.
        integers: at least as many are trained.
        settings: how; None = as tuned.
        passes: how often all facts are shown; above one in new lots each time, and with a cosine schedule.

    Returns:
        The network.

    Raises:
        ConfigError: facts that are never shown.
    """
    if passes < 1:
        raise ConfigError(f"facts are shown once or more; got {passes} passes. Give 1.")
    s = settings or StaticSettings()
    generator = torch.Generator().manual_seed(seed)
    n_inputs, n_outputs = facts.keys.shape[1], task.classes
    width = math.ceil((integers / s.dim - n_inputs - 2 * n_outputs) / (2 * s.depth))
    widths = [n_inputs, *[width] * s.depth, n_outputs]
    topology = Topology.from_frame(layered_graph(widths, cardinality=s.cardinality, seed=seed))
    tables = HighResolutionLookupTables(_P, _M)
    store = NodeStore.random(topology, s.dim, tables, seed)
    codes = hadamard_codes(task.classes, n_outputs * s.dim)
    model = Model(topology, store, tables, ForwardEngine(topology, tables), codes)
    adam, config = DiscreteAdam(store, s.lr, 1.5 * s.lr), TrainConfig()
    bits = facts.keys[:, : task.bits]
    lots = math.ceil(task.facts / task.lot)
    for number in range(passes):
        order = torch.arange(task.facts) if passes == 1 else torch.randperm(task.facts, generator=generator)
        for place, lot in enumerate(order.split(task.lot)):
            adam.rate = 1.0 if passes == 1 else (1 + math.cos(math.pi * (number + place / lots) / passes)) / 2
            for _ in range(s.steps):
                x = _inputs(_flipped(bits[lot], task.flip, generator))
                _, phase, mag = exact_credit(model, x, facts.values[lot], config)
                adam.step(phase, mag)
    return model


def bundled_network(task: RoutingTask, facts: Facts, seed: int, integers: int) -> Model:
    """An output node for each class, whose indices are the sum of its keys' conjugates.

    Reference: T. Plate, *Holographic Reduced Representations*, IEEE Transactions on Neural Networks 6, 1995.

    Args:
        task: the task.
        facts: what is learnt.
        seed: of the inputs' phases.
        integers: D is the least with as many.

    Returns:
        The network.
    """
    inputs, classes = facts.keys.shape[1], task.classes
    dim = math.ceil(integers / (inputs + 2 + 2 * classes))
    names = [f"bit{j}" for j in range(inputs)] + ["query"] + [f"class{c}" for c in range(classes)]
    frame = pd.DataFrame(
        {
            "node_id": names,
            "input_connections": [[] for _ in range(inputs)] + [names[:inputs]] + [["query"] for _ in range(classes)],
            "is_input": [row < inputs for row in range(len(names))],
            "is_output": [row > inputs for row in range(len(names))],
        }
    )
    topology, tables = Topology.from_frame(frame), HighResolutionLookupTables(_P, _M)
    store = NodeStore.random(topology, dim, tables, seed)
    phase, mag = store.phase.clone(), torch.full_like(store.mag, _M // 2)
    phase[task.bits : inputs] = (phase[: task.bits] + _P // 2) % _P
    mag[inputs] = 3 * _M // 4  # loud: what counts of the query is its phases
    store.set_(phase, mag)
    engine = ForwardEngine(topology, tables)
    angle = engine(facts.keys, store).phase[inputs] * tables.phase_step
    total = torch.zeros(classes, dim, dtype=torch.complex64)
    total.index_add_(0, facts.values, torch.polar(torch.ones_like(angle), -angle))
    phase[inputs + 1 :] = (total.angle() / tables.phase_step).round().remainder(_P).to(phase.dtype)
    # The magnitude exp(sin x) nearest to the amplitude, in units of their median.
    x = (total.abs() / total.abs().median()).log().clamp(-1, 1).asin()
    mag[inputs + 1 :] = ((x + math.pi) / tables.mag_step).round().clamp(0, _M - 1).to(mag.dtype)
    store.set_(phase, mag)
    return Model(topology, store, tables, engine, torch.eye(classes).repeat_interleave(dim, dim=1))
