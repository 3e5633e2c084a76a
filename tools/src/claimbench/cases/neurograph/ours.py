"""Ours: training against the original's engine and against the oracle, and the exact cache where samples come back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch

from claimbench.case import Case, Counted, Workload
from claimbench.cases.neurograph.problem import FULL, interval_of, not_timed, pictures, settings_of
from claimbench.record import Params
from neurograph.config import load_config
from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, build_static_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.core.radiation import RadiationCache, get_cache_stats, radiate
from neurograph.core.spreading import Spreading
from neurograph.model import Model
from neurograph.reference.oracle_credit import credit_by_node
from neurograph.reference.original import OriginalTrainContext
from neurograph.train.credit import LocalCredit
from neurograph.train.trainer import Trainer

__all__ = ["CASES"]

BATCH, FEW, DIM, TOP_K, QUERIES = 64, 4, 5, 6, 330


def _seconds(call: Callable[[], object], calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - began) / calls


# --- training ---------------------------------------------------------------------------------------------------------


def _shipped(credit: Literal["exact", "contrastive"] = "exact") -> tuple[Trainer, Callable[[], object]]:
    """The shipped settings of the note's size, and a training step of theirs on one batch."""
    config = load_config("note")
    trainer = Trainer(Model.build(config, seed=0), config.train.model_copy(update={"credit": credit}))
    samples = torch.rand(BATCH, config.graph.inputs, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(BATCH) % trainer.model.n_classes

    def ours() -> object:
        return trainer.step(samples, targets)

    return trainer, ours


def _turns(
    rounds: int, ours: Callable[[], object], theirs: Callable[[], object], who: str, variant: str
) -> Iterable[Counted]:
    """One sample of another way, and some batches of ours on both sides of it, by the clock of the processor."""
    ours()
    taken: dict[str, list[float]] = {variant: [], "best": []}
    for _ in range(rounds):
        early = _seconds(ours, 8) / BATCH
        taken[variant].append(_seconds(theirs, 1))
        taken["best"].append((early + _seconds(ours, 8) / BATCH) / 2)
    mean, (low, high) = interval_of(np.log(taken[variant]) - np.log(taken["best"]))
    words = f"{rounds} rounds of one sample of {who} and 16 batches of {BATCH} of ours, one thread"
    for name, values in taken.items():
        yield Counted("samples a second", 1 / float(np.mean(values)), name, "/s", words)
    yield Counted("times", math.exp(mean), "best", "", words, (math.exp(low), math.exp(high)))


def _training(params: Params) -> Iterable[Counted]:
    images, labels = pictures()
    context, at = OriginalTrainContext(settings_of(FULL)), iter(range(len(labels)))

    def original() -> None:
        place = next(at)
        context.train_step(images[place], labels[place])

    yield from _turns(int(params["rounds"]), _shipped()[1], original, "the original", "before")


def _against_oracle(params: Params) -> Iterable[Counted]:
    """The oracle has the local rules alone, so both find contrastive credit; ours moves the integers besides."""
    trainer, ours = _shipped("contrastive")
    model, config, rule = trainer.model, trainer.config, LocalCredit("contrastive")
    store = model.store.clone()  # the oracle's: ours goes on training its own
    groups = [(group.rows.tolist(), group.codes.double().numpy()) for group in rule.groups(model)]
    samples = torch.rand(FEW, len(model.topology.inputs), generator=torch.Generator().manual_seed(1))
    targets = torch.arange(FEW) % model.n_classes

    def oracle(count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        x, y = samples[:count].double().numpy(), targets[:count].tolist()
        return credit_by_node(
            model.topology, store, x, y, groups, rule="contrastive", scale=model.scale,
            label_smoothing=config.label_smoothing,
        )  # fmt: skip

    found = rule(model, samples, targets, config)
    pairs = zip((found.phase, found.mag), oracle(FEW), strict=True)
    off = max(float(np.abs(own.double().numpy() - true).max() / np.abs(true).max()) for own, true in pairs)
    words = f"largest difference of a gradient over the largest gradient, batch of {FEW}, float32 against float64"
    yield Counted("gradients off", off, "best", "", words)
    yield from _turns(int(params["rounds"]), ours, oracle, "the oracle", "oracle")


# --- the exact cache --------------------------------------------------------------------------------------------------


def _network() -> tuple[Topology, HighResolutionLookupTables, NodeStore]:
    inputs = FULL // 5
    topology = Topology.from_frame(build_static_graph(inputs, FULL - inputs - 10, 10))
    tables = HighResolutionLookupTables()
    return topology, tables, NodeStore.random(topology, DIM, tables, seed=0)


def _revisits(params: Params) -> Iterable[Counted]:
    """Samples come back a number of times, in another order each; every answer is held against one without a cache."""
    samples, visits = int(params["samples"]), int(params["visits"])
    topology, tables, store = _network()
    generator = torch.Generator().manual_seed(0)
    contexts = torch.randint(tables.phase_bins, (samples, 1, QUERIES, DIM), generator=generator)
    sources = torch.randperm(topology.n_nodes, generator=generator)[:QUERIES]
    plain = [radiate(context, sources, store, topology, TOP_K) for context in contexts]  # parameters stand still
    cache, wrong = RadiationCache(), 0
    for _ in range(visits):
        for place in torch.randperm(samples, generator=generator).tolist():
            found = radiate(contexts[place], sources, store, topology, TOP_K, cache=cache)
            same = torch.equal(found.index, plain[place].index) and torch.equal(found.score, plain[place].score)
            wrong += not same
    stats = get_cache_stats(cache)
    pattern = stats["levels"]["pattern"]
    words = f"{samples} samples of {QUERIES} queries, {visits} visits each"
    yield Counted("hit_rate", 100 * pattern["hit_rate"], "best", "%", words)
    yield Counted(
        "wrong_hits", wrong, "best", "hits", f"of {pattern['hits']} hits, each against a search without a cache"
    )
    yield Counted("entries", pattern["entries"], "best", "", words)
    held = (
        f"of all three levels, {pattern['entries']} whole tables of {pattern['bytes'] / pattern['entries']:.0f} bytes"
    )
    yield Counted("bytes", stats["bytes"] / 2**20, "best", "MiB", held)

    single = RadiationCache()
    for place in list(range(min(samples, 50))) * 2:
        radiate(contexts[place], sources, store, topology, TOP_K, cache=single)
        steps = torch.zeros_like(store.phase)
        steps[place % topology.n_nodes] = 1
        store.move_(steps, torch.zeros_like(store.mag))
    rate = get_cache_stats(single)["levels"]["pattern"]["hit_rate"]
    yield Counted("hit_rate in training", 100 * rate, "best", "%", "parameters move between any two visits")


# --- forward passes ---------------------------------------------------------------------------------------------------


def _forward(params: Params) -> Workload:
    """One batch again and again, without a cache and with the exact one: after the first pass every answer is a hit."""
    topology, tables, store = _network()

    def inputs(seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        return {"x": torch.rand(int(params["batch"]), len(topology.inputs), generator=generator)}

    def variant(cache: RadiationCache | None) -> Callable[[Any], Any]:
        engine = ForwardEngine(topology, tables, radiation=Spreading(topology, tables, top_k=TOP_K, cache=cache))

        def call(given: Any) -> Any:
            with torch.no_grad():
                return engine(given["x"], store).readout

        return call

    return Workload(inputs=inputs, variants={"before": variant(None), "best": variant(RadiationCache())})


CASES = (
    Case(
        "neurograph.training_ours",
        "training samples a second at 1000 nodes, the original's engine and ours",
        "torch",
        not_timed,
        values=_training,
        values_grid=({"rounds": 6},),
        quick_values=({"rounds": 2},),
        original=(OriginalTrainContext,),
        budget=10.0,
    ),
    Case(
        "neurograph.training_oracle",
        "training samples a second at 1000 nodes, the oracle and ours",
        "torch",
        not_timed,
        values=_against_oracle,
        values_grid=({"rounds": 4},),
        quick_values=({"rounds": 2},),
        original=(credit_by_node,),
        budget=8.0,
    ),
    Case(
        "neurograph.revisits",
        "the exact cache where samples come back",
        "torch",
        not_timed,
        values=_revisits,
        values_grid=({"samples": 1000, "visits": 4},),
        quick_values=({"samples": 20, "visits": 4},),
        original=(radiate,),
        budget=10.0,
    ),
    Case(
        "neurograph.forward_ours",
        "forward pass with radiation on a batch that comes back, without and with the exact cache",
        "torch",
        _forward,
        grid=({"batch": 1}, {"batch": 16}),
        quick_grid=({"batch": 1},),
        variants=("before", "best"),
        original=(Spreading,),
        budget=4.0,
        processes=3,
    ),
)
