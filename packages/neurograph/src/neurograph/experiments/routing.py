"""A task on which finding nodes by content beats fixed edges: facts that are shown once.

A fact is a pair of a key, random bits, and a value, one of several classes. Facts arrive a few at a time, and each is
shown once: what is not learnt by then is gone. Afterwards keys are asked for, with some bits flipped; the answer is the
value. Both networks get the bits and their complements as amplitudes.

*Radiation.* A query node listens to all inputs; its phases are the context. Each fact takes the next free memory node:
its phases become the conjugate of the query's, so that the key resonates with it, and its magnitudes become high and
low by the signs of the value's code. Asked, the query node radiates to the one memory node that resonates most, and the
output listens to all memory nodes; those that nobody spoke to are silent. Nothing is trained by gradients.

*Static edges.* Layers with as many integers or more, trained by exact gradients on each lot of facts while it is
there: several steps, each with new flips of bits, which is the noise of the questions. Depth, learning rate and steps
for each lot were chosen from 12 settings on seeds 0 and 1, and so was radiation's writing; see `tune_routing`.

Two more networks of static edges see each fact once. *Bundled*: an output node for each class listens to the query,
and its indices are the sum of the conjugates of its class's keys, as in hyperdimensional computing; the sums are kept
exactly until all facts were shown, and only then become indices. *Written*: radiation's own network, the same integers,
with an edge from the query to each memory node: all memory nodes speak at once, and nothing can be told.

What this comparison does *not* say is that static edges cannot hold the facts. Shown them again and again (*replayed*)
they do, and as well as radiation. What radiation brings is a place to write to, by address, in one step, without harm
to what was written before. Gradients did not find such addresses by themselves.

The networks stand in `neurograph.experiments.routing_networks`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product

import pandas as pd

from neurograph.errors import ConfigError
from neurograph.experiments.routing_networks import (
    Facts,
    MemorySettings,
    RoutingTask,
    StaticSettings,
    bundled_network,
    draw_facts,
    memory_network,
    static_network,
)
from neurograph.model import Model

__all__ = ["RoutingResult", "run_routing", "tune_routing"]


@dataclass(frozen=True)
class RoutingResult:
    """Shares of right answers.

    Args:
        rows: one for each way and seed: way, seed, accuracy, integers.
    """

    rows: tuple[dict[str, str | int | float], ...]

    def to_frame(self) -> pd.DataFrame:
        """One row for each way: mean and standard deviation of accuracy, seeds, integers."""
        groups = pd.DataFrame(self.rows).groupby("way", sort=False)
        found = groups["accuracy"].agg(mean="mean", spread="std", seeds="count")
        return found.assign(integers=groups["integers"].first()).reset_index()

    @property
    def margin(self) -> float:
        """Points by which radiation leads the best static edges where facts are shown once."""
        mean = self.to_frame().set_index("way")["mean"]
        return 100 * float(mean["radiation"] - mean[["static", "static, bundled", "static, written"]].max())


def _right(model: Model, facts: Facts) -> float:
    return float((model.predict(facts.questions) == facts.answers).double().mean())


def _row(way: str, seed: int, model: Model, facts: Facts) -> dict[str, str | int | float]:
    return {"way": way, "seed": seed, "accuracy": _right(model, facts), "integers": model.store.n_trainable}


def run_routing(
    seeds: Sequence[int] = (100, 101, 102), task: RoutingTask | None = None, *, replays: int = 30
) -> RoutingResult:
    """Both networks on fresh facts, with the settings that were tuned on others.

    Args:
        seeds: of facts and networks.
        task: the task; None = the one that was tuned for.
        replays: passes of `static, replayed`, of eight steps a lot; 0 = leave it out.

    Returns:
        Shares of right answers.

    Raises:
        ConfigError: no seeds.
    """
    if not seeds:
        raise ConfigError("facts are drawn from one seed at least; got none. Give seeds.")
    task = task or RoutingTask()
    rows = []
    for seed in seeds:
        facts = draw_facts(task, seed)
        memory = memory_network(task, facts, seed)
        rows.append(_row("radiation", seed, memory, facts))
        integers = memory.store.n_trainable
        rows.append(_row("static", seed, static_network(task, facts, seed, integers), facts))
        rows.append(_row("static, bundled", seed, bundled_network(task, facts, seed, integers), facts))
        edges = memory_network(task, facts, seed, radiation=False)
        rows.append(_row("static, written", seed, edges, facts))
        if replays:
            often = replace(StaticSettings(), lr=4.0, steps=8)
            model = static_network(task, facts, seed, integers, often, passes=replays)
            rows.append(_row("static, replayed", seed, model, facts))
    return RoutingResult(tuple(rows))


def tune_routing(seeds: Sequence[int] = (0, 1), task: RoutingTask | None = None) -> pd.DataFrame:
    """Twelve settings of each network on seeds of their own: how the defaults were found. Takes minutes.

    Args:
        seeds: none of those of `run_routing`.
        task: the task.

    Returns:
        One row for each setting, best first within each way.

    Raises:
        ConfigError: no seeds.
    """
    if not seeds:
        raise ConfigError("a choice is made on one seed at least; got none. Give seeds.")
    task = task or RoutingTask()
    drawn = {seed: draw_facts(task, seed) for seed in seeds}
    integers = memory_network(task, drawn[seeds[0]], seeds[0]).store.n_trainable
    tried = []
    for loudness, contrast in product((-1.0, 0.0, 1.0), (0.25, 0.5, 0.75, 1.0)):
        one = MemorySettings(loudness=loudness, contrast=contrast)
        right = [_right(memory_network(task, facts, seed, one), facts) for seed, facts in drawn.items()]
        tried.append({"way": "radiation", "accuracy": sum(right) / len(right), "settings": asdict(one)})
    for depth, lr, steps in product((2, 3), (0.5, 1.0, 4.0), (32, 96)):
        other = StaticSettings(depth=depth, lr=lr, steps=steps)
        right = [_right(static_network(task, facts, seed, integers, other), facts) for seed, facts in drawn.items()]
        tried.append({"way": "static", "accuracy": sum(right) / len(right), "settings": asdict(other)})
    return pd.DataFrame(tried).sort_values(["way", "accuracy"], ascending=[True, False], ignore_index=True)
