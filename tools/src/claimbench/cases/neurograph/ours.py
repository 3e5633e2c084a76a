"""Ours: training against the original's engine, and the exact cache on workloads that revisit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from claimbench import statistics
from claimbench.case import Case, Counted, Workload
from claimbench.cases.neurograph.problem import FULL, not_timed, pictures, settings_of
from claimbench.record import Params
from neurograph.config import load_config
from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, build_static_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.core.radiation import RadiationCache, get_cache_stats, radiate
from neurograph.core.spreading import Spreading
from neurograph.model import Model
from neurograph.reference.original import OriginalTrainContext
from neurograph.train.trainer import Trainer

__all__ = ["CASES"]

BATCH, DIM, TOP_K, QUERIES = 64, 5, 6, 330


def _seconds(call: Callable[[], object], calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - began) / calls


# --- training ---------------------------------------------------------------------------------------------------------


def _training(params: Params) -> Iterable[Counted]:
    """Both take turns, a sample of the original and some batches of ours, by the clock of the processor."""
    rounds = int(params["rounds"])
    images, labels = pictures()
    context, at = OriginalTrainContext(settings_of(FULL)), iter(range(len(labels)))

    def original() -> None:
        place = next(at)
        context.train_step(images[place], labels[place])

    config = load_config("note")
    trainer = Trainer(Model.build(config, seed=0), config.train)
    samples = torch.rand(BATCH, config.graph.inputs, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(BATCH) % trainer.model.n_classes

    def ours() -> None:
        trainer.step(samples, targets)

    ours()
    taken: dict[str, list[float]] = {"before": [], "best": []}
    for _ in range(rounds):
        taken["best"].append(_seconds(ours, 8) / BATCH)
        taken["before"].append(_seconds(original, 1))
        taken["best"][-1] = (taken["best"][-1] + _seconds(ours, 8) / BATCH) / 2
    found = statistics.bootstrap([[np.log(taken["before"]) - np.log(taken["best"])]])
    low, high = np.exp(statistics.interval(found.draws[:, 0]))
    words = f"{rounds} rounds of one sample of the original and 16 batches of {BATCH} of ours, one thread"
    for name, values in taken.items():
        yield Counted("samples a second", 1 / float(np.mean(values)), name, "/s", words)
    yield Counted("times", float(np.exp(found.estimate[0])), "best", "", words, (float(low), float(high)))


# --- the exact cache --------------------------------------------------------------------------------------------------


def _network() -> tuple[Topology, HighResolutionLookupTables, NodeStore]:
    inputs = FULL // 5
    topology = Topology.from_frame(build_static_graph(inputs, FULL - inputs - 10, 10))
    tables = HighResolutionLookupTables()
    return topology, tables, NodeStore.random(topology, DIM, tables, seed=0)


def _revisits(params: Params) -> Iterable[Counted]:
    """Samples come back a number of times, in another order each, and every hit is worked out again."""
    samples, visits = int(params["samples"]), int(params["visits"])
    topology, tables, store = _network()
    generator = torch.Generator().manual_seed(0)
    contexts = torch.randint(tables.phase_bins, (samples, 1, QUERIES, DIM), generator=generator)
    sources = torch.randperm(topology.n_nodes, generator=generator)[:QUERIES]
    cache = RadiationCache(audit=True)
    for _ in range(visits):
        for place in torch.randperm(samples, generator=generator).tolist():
            radiate(contexts[place], sources, store, topology, TOP_K, cache=cache)
    stats = get_cache_stats(cache)
    pattern = stats["levels"]["pattern"]
    words = f"{samples} samples of {QUERIES} queries, {visits} visits each"
    yield Counted("hit_rate", 100 * pattern["hit_rate"], "best", "%", words)
    yield Counted("wrong_hits", stats["wrong"], "best", "hits", f"of {stats['audited']} hits, all of them audited")
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
    """The same batch again and again, without a cache and with the exact one, which is warm after the first pass."""
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
        "forward pass with radiation on samples that come back, without and with the exact cache",
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
