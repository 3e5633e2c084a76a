"""The note's optimization #3, counted: hits, what they are worth, bytes, eviction.

A stream is run at the original's size without any cache, with the note's cache (which loses what was used least
recently, as the note says), and with all three optimizations, by turns and on the same samples. Queries, hits and bytes
are counted, and forward passes and steps are clocked. Each query without a cache is written down with its answer;
caches of other quanta and policies are then played the same queries, and each hit is held against the exact answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from claimbench.case import Case, Counted
from claimbench.cases.neurograph.problem import FULL, SMALL, interval_of, not_timed, pictures, settings_of, slopes
from claimbench.record import Params
from neurograph.reference.original import (
    OPTIMIZATIONS,
    Audit,
    OriginalEngine,
    OriginalTrainContext,
    RadiationCaches,
)
from neurograph.reference.original.radiation import (
    _compute_phase_signature,
    exact_neighbors,
    get_radiation_neighbors,
)

__all__ = ["CASES"]

SAMPLES, WARM = 8, 2
ORIGINAL = (RadiationCaches, get_radiation_neighbors, OriginalEngine)

Query = tuple[str, Tensor, list[str]]
Interval = tuple[float, float]


@dataclass
class _Stream:
    """A training stream of one variant, sample by sample.

    Attributes:
        context: What trains.
        queries: Each with its answer.
        hits: Those of them that level 1 answered.
        by_sample: How many each sample made.
        forward: Processor's seconds of each forward pass.
        step: And of the training step that it belongs to.
        sizes: Bytes of the caches after each sample, by the note's count and as Python counts them.
    """

    context: OriginalTrainContext
    queries: list[Query] = field(default_factory=list)
    hits: list[Query] = field(default_factory=list)
    by_sample: list[int] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        engine, seen = self.context.engine, 0
        plain = engine.forward

        def noted(node: str, ctx: Tensor, answer: list[str]) -> None:
            nonlocal seen
            self.queries.append((node, ctx, answer))
            if engine.caches is not None and engine.caches.hits["pattern"] > seen:
                seen += 1
                self.hits.append((node, ctx, answer))

        def clocked(phase: Tensor, mag: Tensor) -> dict[str, Tensor]:
            began = time.process_time()
            found = plain(phase, mag)
            self.forward.append(time.process_time() - began)
            return found

        engine.on_query, engine.forward = noted, clocked  # type: ignore[method-assign]

    def take(self, picture: Tensor, label: int) -> None:
        began = time.process_time()
        self.context.train_step(picture, label)
        self.step.append(time.process_time() - began)
        self.by_sample.append(self.context.engine.counts.queries)
        caches = self.context.engine.caches
        if caches is not None:
            self.sizes.append((sum(caches.estimated_bytes.values()), caches.held_bytes))

    def audit(self) -> Audit:
        """Each hit against the exact answer: parameters never move in the original, so it may be asked for later."""
        engine, audit = self.context.engine, Audit()
        for node, ctx, served in self.hits:
            audit.look(
                served, exact_neighbors(node, ctx, engine.store, engine.frame, engine.tables, engine.settings.top_k)
            )
        return audit


@cache
def _streams(nodes: int) -> dict[str, _Stream]:
    """The same samples without a cache, with the cache alone, and with all three optimizations, by turns."""
    chosen = {"before": (), "cache": ("cache",), "all": OPTIMIZATIONS}
    found = {
        name: _Stream(
            OriginalTrainContext(settings_of(nodes), names, jit="compiled", caches=RadiationCaches(policy="lru"))
        )
        for name, names in chosen.items()
    }
    images, labels = pictures()
    for place in range(SAMPLES):
        for stream in found.values():
            stream.take(images[place], labels[place])
    return found


def _played(queries: list[Query], caches: RadiationCaches) -> Audit:
    """Level 1 alone, with a stream's queries."""
    audit = Audit()
    for node, ctx, exact in queries:
        key = (node, _compute_phase_signature(ctx, caches.quantum), len(exact))
        served = caches._get(key)
        if served is None:
            caches._put(key, exact)
        else:
            audit.look(served, exact)
    return audit


# --- the stream as published ------------------------------------------------------------------------------------------


def _saved(before: Sequence[float], after: Sequence[float], streams: tuple[_Stream, _Stream]) -> tuple[float, Interval]:
    """Per cent less time a query, with its interval over samples; the first two, which warm the caches, do not count.

    A wrong hit changes what is active after it, and with that whether a sample takes a third step: so times are taken a
    query.
    """
    queries = [np.array(stream.by_sample) for stream in streams]
    logs = np.log(np.array(before) / queries[0]) - np.log(np.array(after) / queries[1])
    mean, (low, high) = interval_of(logs[WARM:])
    saved = [100 * (1 - math.exp(-value)) for value in (mean, low, high)]
    return saved[0], (saved[1], saved[2])


def _stream(params: Params) -> Iterable[Counted]:
    found = _streams(int(params["nodes"]))
    exact, cached, full = found["before"], found["cache"], found["all"]
    count = sum(exact.by_sample) / SAMPLES
    words = f"radiation queries a sample over {SAMPLES} samples: {', '.join(map(str, exact.by_sample))}"
    yield Counted("queries", count, "before", "a sample", words)
    words = f"a radiation query, {SAMPLES - WARM} samples after {WARM} that warm the caches, one process"
    value, ends = _saved(exact.forward, cached.forward, (exact, cached))
    yield Counted("less forward time", value, "after", "%", words, ends)
    value, ends = _saved(exact.step, full.step, (exact, full))
    yield Counted("less step time", value, "after", "%", words, ends)

    caches, audit = cached.context.engine.caches, cached.audit()
    assert caches is not None
    asked = caches.hits["pattern"] + caches.misses["pattern"]
    yield Counted("hit_rate", 100 * caches.hit_rate("pattern"), "after", "%", f"level 1, {asked} queries")
    yield Counted(
        "overall_hit_rate", 100 * caches.hit_rate(), "after", "%", "the three levels pooled, as the note does"
    )
    if audit.hits:  # no hit, nothing to be wrong: then nothing is said
        words = f"{audit.wrong} of {audit.hits} audited hits gave another set; mean overlap {audit.mean_overlap:.2f}"
        yield Counted("wrong_hits", audit.wrong, "after", "hits", words)
    yield Counted("audited_hits", audit.hits, "after", "hits", "hits of level 1, each compared with the exact answer")
    yield Counted("entries", caches.entries["pattern"], "after", "", "of level 1 at the end")
    for samples, (estimate, held) in enumerate(cached.sizes, start=1):
        if samples in (1, 3, SAMPLES):
            words = f"8 bytes a list element after {samples} samples; as Python counts them {held / 2**20:.2f} MiB"
            yield Counted(f"bytes after {samples}", estimate / 2**20, "after", "MiB", words)
    total, held_first = sum(cached.context.context_bytes.values()), cached.sizes[0][0]
    words = f"cache {held_first / 2**20:.2f} MiB after one sample, over {total / 2**20:.2f} MiB of tables and context"
    yield Counted("growth", 100 * held_first / total, "after", "%", words)
    for name, size in (("low", 2.0), ("high", 5.0)):
        yield Counted(f"growth by the note, {name}", 100 * size / (16 + 25), "after", "%", f"{size:g} MB over 16 + 25")


def _signature(params: Params) -> Iterable[Counted]:
    queries = _streams(int(params["nodes"]))["before"].queries
    base: float | None = None
    for quantum in (1, 2, 4, 8, 16, 32):
        caches = RadiationCaches(quantum=quantum)
        audit = _played(queries, caches)
        rate = 100 * caches.hit_rate("pattern")
        words = f"q = {quantum}: {audit.hits} hits of {len(queries)} queries, {audit.wrong} of them wrong"
        yield Counted("hit_rate", rate, f"q{quantum}", "%", words)
        if audit.hits:
            yield Counted("wrong_share", 100 * audit.wrong / audit.hits, f"q{quantum}", "%", words)
        base = rate if base is None else base
        if quantum == 4:
            yield Counted("gain", rate - base, "after", "points", f"hits at q = 4 less hits at q = 1; {words}")
    for policy in ("fifo", "lru"):
        caches = RadiationCaches(policy=policy)  # type: ignore[arg-type]
        _played(queries, caches)
        yield Counted("hit_rate", 100 * caches.hit_rate("pattern"), policy, "%", f"q = 4, {policy}")


# --- eviction ---------------------------------------------------------------------------------------------------------


def _eviction(params: Params) -> Iterable[Counted]:
    answer = ["n1"] * 6
    for variant, policy in (("as_coded", "fifo"), ("after", "lru")):
        caches = RadiationCaches(policy=policy)  # type: ignore[arg-type]
        largest = dropped = 0
        for number in range(int(params["entries"])):
            before = caches.evicted
            caches._put((f"n{number}", 0, 6), answer)
            largest, dropped = max(largest, caches.entries["pattern"]), max(dropped, caches.evicted - before)
        yield Counted("largest", largest, variant, "entries", "most that level 1 held")
        yield Counted("dropped", 100 * dropped / caches.capacity, variant, "%", "of the entries, at once")

        caches = RadiationCaches(policy=policy)  # type: ignore[arg-type]
        for number in range(caches.capacity):
            caches._put((f"n{number}", 0, 6), answer)
        caches._get(("n0", 0, 6))
        caches._put(("new", 0, 6), answer)
        kept = caches._get(("n0", 0, 6)) is not None
        yield Counted("refreshed", float(kept), variant, "", "whether the oldest entry survives when it was just used")


# --- complexity -------------------------------------------------------------------------------------------------------


def _complexity(params: Params) -> Iterable[Counted]:
    searches: dict[int, Callable[[], Any]] = {}
    served: dict[int, Callable[[], Any]] = {}
    for nodes in (2000, 4000, 8000):
        engine = OriginalEngine(settings_of(nodes))
        node, ctx = f"n{nodes // 2}", torch.tensor([3, 14, 15, 9, 26])
        rest = (engine.store, engine.frame, engine.tables, 6)
        searches[nodes] = partial(get_radiation_neighbors, node, ctx, *rest, None)
        served[nodes] = partial(get_radiation_neighbors, node, ctx, *rest, RadiationCaches())
    words = "log time on log N over 2000 to 8000 nodes"
    for name, calls in (("before", searches), ("after", served)):
        slope, ends = slopes(calls)
        yield Counted("slope", slope, name, "", words, ends)


# --- whether anything changes -----------------------------------------------------------------------------------------

LEVELS = {"cache, levels 2 and 3": ("static", "candidates"), "cache, all levels": ("pattern", "static", "candidates")}


def _left(context: OriginalTrainContext, samples: int) -> list[dict[str, Tensor]]:
    """Activations and gradients that each sample leaves."""
    images, labels = pictures()
    found = []
    for place in range(samples):
        context.train_step(images[place], labels[place])
        table, gathered = context.engine.table, context.accumulator
        found.append(
            {"phase": table.phase.clone(), "mag": table.mag.clone(), "strength": table.strength.clone()}
            | {f"{node} phase": grads[-1] for node, grads in gathered.phase.items()}
            | {f"{node} mag": grads[-1] for node, grads in gathered.mag.items()}
        )
    return found


def _differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() != other.keys() or any(
        not torch.allclose(one[name].float(), other[name].float(), rtol=1e-5, atol=1e-6) for name in one
    )


def _identical(params: Params) -> Iterable[Counted]:
    settings, samples, few = settings_of(int(params["nodes"])), int(params["samples"]), 3
    plain = _left(OriginalTrainContext(settings), samples)
    contexts = {
        "credit": (OriginalTrainContext(settings, {"credit"}), few),
        "jit, as coded": (OriginalTrainContext(settings, {"jit"}), few),
        "jit, compiled": (OriginalTrainContext(settings, {"jit"}, jit="compiled"), few),
    }
    for name, levels in LEVELS.items():
        caches = RadiationCaches(levels=levels)  # type: ignore[arg-type]
        contexts[name] = OriginalTrainContext(settings, {"cache"}, caches=caches), samples
    for name, (context, count) in contexts.items():
        found = sum(map(_differ, _left(context, count), plain[:count]))
        words = f"of {count} samples at {settings.n_nodes} nodes: activations and gradients against none switched on"
        yield Counted("differing", found, name, "samples", words)


CASES = (
    Case(
        "neurograph.radiation",
        "the note's cache on a training stream: hits, audits, bytes",
        "torch",
        not_timed,
        values=_stream,
        values_grid=({"nodes": FULL},),
        quick_values=({"nodes": SMALL},),
        original=ORIGINAL,
        budget=30.0,
    ),
    Case(
        "neurograph.signature",
        "hits and wrong hits against the quantum of the signature",
        "torch",
        not_timed,
        values=_signature,
        values_grid=({"nodes": FULL},),
        quick_values=({"nodes": SMALL},),
        original=ORIGINAL,
        budget=5.0,
    ),
    Case(
        "neurograph.eviction",
        "bound, share and order of eviction",
        "torch",
        not_timed,
        values=_eviction,
        values_grid=({"entries": 5000},),
        original=ORIGINAL,
        budget=1.0,
    ),
    Case(
        "neurograph.radiation_complexity",
        "how the time of a query grows with the number of nodes",
        "torch",
        not_timed,
        values=_complexity,
        values_grid=({"nodes": "2000 to 8000"},),
        quick_values=(),
        original=ORIGINAL,
        budget=5.0,
    ),
    Case(
        "neurograph.identical",
        "samples whose results change when an optimization is switched on",
        "torch",
        not_timed,
        values=_identical,
        values_grid=({"nodes": 60, "samples": 24},),
        original=ORIGINAL,
        budget=20.0,
    ),
)
