"""The note's optimization #3, counted: hits, what they are worth, bytes, eviction.

A stream is run once without any cache, and each query is written down with its exact answer. Caches of other quanta and
policies are then played the same queries, and each of their hits is held against the exact answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from claimbench.case import Case, Counted
from claimbench.cases.neurograph.problem import FULL, SMALL, not_timed, pictures, settings_of, slopes
from claimbench.record import Params
from neurograph.reference.original import Audit, OriginalEngine, OriginalTrainContext, RadiationCaches
from neurograph.reference.original.radiation import _compute_phase_signature, get_radiation_neighbors

__all__ = ["CASES"]

SAMPLES = 8
ORIGINAL = (RadiationCaches, get_radiation_neighbors, OriginalEngine)

Query = tuple[str, Tensor, list[str]]


@dataclass
class _Streamed:
    """A training stream: its queries with their answers, and how many each sample made."""

    queries: list[Query] = field(default_factory=list)
    by_sample: list[int] = field(default_factory=list)


def _run(context: OriginalTrainContext, samples: int, after: Callable[[int], None] = lambda _: None) -> None:
    images, labels = pictures()
    for place in range(samples):
        context.train_step(images[place], labels[place])
        after(place + 1)


@cache
def _exact(nodes: int) -> _Streamed:
    """The stream without a cache."""
    context = OriginalTrainContext(settings_of(nodes))
    found = _Streamed()
    context.engine.on_query = lambda node, ctx, answer: found.queries.append((node, ctx, answer))
    _run(context, SAMPLES, lambda _: found.by_sample.append(context.engine.counts.queries))
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


def _stream(params: Params) -> Iterable[Counted]:
    nodes = int(params["nodes"])
    exact = _exact(nodes)
    count = sum(exact.by_sample) / len(exact.by_sample)
    words = f"radiation queries a sample over {len(exact.by_sample)} samples: {', '.join(map(str, exact.by_sample))}"
    yield Counted("queries", count, "before", "a sample", words)

    caches = RadiationCaches(audit=Audit())
    context = OriginalTrainContext(settings_of(nodes), {"cache"}, caches=caches)
    sizes: dict[int, tuple[int, int]] = {}

    def look(samples: int) -> None:
        sizes[samples] = (sum(caches.estimated_bytes.values()), caches.held_bytes)

    _run(context, SAMPLES, look)
    audit = caches.audit
    assert audit is not None
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
    for samples, (estimate, held) in sizes.items():
        if samples in (1, 3, SAMPLES):
            words = f"8 bytes a list element after {samples} samples; as Python counts them {held / 2**20:.2f} MiB"
            yield Counted(f"bytes after {samples}", estimate / 2**20, "after", "MiB", words)
    total, cached = sum(context.context_bytes.values()), sizes[1][0]
    words = f"cache {cached / 2**20:.2f} MiB after one sample, over {total / 2**20:.2f} MiB of tables and context"
    yield Counted("growth", 100 * cached / total, "after", "%", words)
    for name, size in (("low", 2.0), ("high", 5.0)):
        yield Counted(f"growth by the note, {name}", 100 * size / (16 + 25), "after", "%", f"{size:g} MB over 16 + 25")


def _signature(params: Params) -> Iterable[Counted]:
    queries = _exact(int(params["nodes"])).queries
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
        table, gathered = context.engine.table, context.accumulator.phase
        found.append(
            {"phase": table.phase.clone(), "strength": table.strength.clone()}
            | {node: grads[-1] for node, grads in gathered.items()}
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
