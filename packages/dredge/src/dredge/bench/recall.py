"""Whether search finds the sentence that a query was made of, how long it takes, and how its constants were chosen.

The sentences are cut in two halves, always in the same way. The constants of `dredge.insights.fusion` were fitted on
the development half; what is reported is about the other one.
"""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import Float64

from dredge.bench.corpus import QUERY_KINDS, recombined, sentences
from dredge.errors import QueryError
from dredge.insights.records import Hit
from dredge.insights.search import Mode, Searcher
from dredge.insights.store import Store

__all__ = ["Half", "LatencyRow", "RecallRow", "Weights", "fit_weights", "half_of", "measure_latency", "measure_recall"]

Half = Literal["development", "reported"]

_HALVES: Final = 20240601  # seed of the cut
_CANDIDATES: Final = 100
_RANK: Final = 60  # of reciprocal-rank fusion, as published
_BATCH: Final = 1000


@dataclass(frozen=True)
class RecallRow:
    """How often the right sentence was found.

    Args:
        mode: of the search; `reciprocal ranks` = text and vector, fused by Σ 1 / (60 + rank) (Cormack, Clarke and
            Buettcher, *Reciprocal Rank Fusion*, 2009), for comparison.
        kind: how the queries were made, of `dredge.bench.corpus.QUERY_KINDS`.
        seed: of the queries.
        queries: how many.
        at_1: share of the queries whose sentence was the first hit.
        at_10: share of the queries whose sentence was among the first ten.
    """

    mode: str
    kind: str
    seed: int
    queries: int
    at_1: float
    at_10: float


@dataclass(frozen=True)
class LatencyRow:
    """Milliseconds a search of ten hits, queries of all kinds together.

    Args:
        mode: of the search.
        rows: in the store.
        queries: how many.
        wall_p50: half of the searches took no longer.
        wall_p95: 95 % of them.
        cpu_p50: the same of the time of the processor, which neighbours on the machine do not lengthen as much.
        cpu_p95: 95 % of them.
        bytes_per_row: memory of the vectors and ids.
    """

    mode: Mode
    rows: int
    queries: int
    wall_p50: float
    wall_p95: float
    cpu_p50: float
    cpu_p95: float
    bytes_per_row: float


@dataclass(frozen=True)
class Weights:
    """Weights of a candidate's numbers in the log-odds that the query was made of it.

    Args:
        cosine: of the cosine.
        share: of the share of the query's words that it has.
        rank: of that share times its relative full-text score.
        loss: mean −log P of the right candidate.
        queries: that were fitted.
    """

    cosine: float
    share: float
    rank: float
    loss: float
    queries: int


def half_of(texts: Sequence[str], half: Half) -> list[str]:
    """One half of the texts, chosen at random, always the same.

    Args:
        texts: all.
        half: which.

    Returns:
        Its texts.

    >>> sorted(half_of("abcde", "development") + half_of("abcde", "reported"))
    ['a', 'b', 'c', 'd', 'e']
    """
    shuffled = list(texts)
    Random(_HALVES).shuffle(shuffled)
    middle = len(shuffled) // 2
    return shuffled[:middle] if half == "development" else shuffled[middle:]


def measure_recall(
    *, seeds: Sequence[int] = (0, 1, 2), queries: int = 400, kinds: Sequence[str] = tuple(QUERY_KINDS),
    texts: Sequence[str] | None = None, store: Store | None = None,
) -> list[RecallRow]:  # fmt: skip
    """Searches for stored sentences by what is left of them.

    Args:
        seeds: of the queries; the spread over them is the uncertainty.
        queries: of each kind and seed.
        kinds: how they are made.
        texts: to search among; None = the reported half of the standard library's sentences.
        store: an empty one to use, of any database; None = an SQLite file that is removed afterwards.

    Returns:
        A row for each seed, kind and mode.

    Raises:
        QueryError: an unknown kind, no query, or more of them than texts.
    """
    texts = half_of(sentences(), "reported") if texts is None else texts
    _check(texts, kinds, queries)
    rows = []
    with _filled(store, texts) as filled:
        searcher = Searcher(filled)
        for seed in seeds:
            for kind in kinds:
                ranks: dict[str, list[int | float]] = {}
                for sentence, query in _queries(texts, kind, queries, seed):
                    for mode, found in _found(searcher, query).items():
                        ranks.setdefault(mode, []).append(found.index(sentence) if sentence in found else math.inf)
                for mode, places in ranks.items():
                    at_1, at_10 = (float(np.mean(np.array(places) < most)) for most in (1, 10))
                    rows.append(RecallRow(mode, kind, seed, queries, at_1, at_10))
    return rows


def measure_latency(*, rows: int = 100_000, queries: int = 40, seed: int = 0) -> list[LatencyRow]:
    """Times searches of a large store, filled with sentences and halves of sentences put together.

    Args:
        rows: of the store.
        queries: of each kind.
        seed: of rows and queries.

    Returns:
        One row a mode.

    Raises:
        QueryError: no row or no query.
    """
    if rows < 1 or not 1 <= queries <= rows:
        raise QueryError(f"rows are 1 or more, queries 1 to as many; got {rows} and {queries}. Change them.")
    texts = recombined(sentences(), rows, seed)
    made = [query for kind in QUERY_KINDS for _, query in _queries(texts, kind, queries, seed)]
    Random(seed).shuffle(made)
    results = []
    with _filled(None, texts) as store:
        searcher = Searcher(store)
        bytes_per_row = searcher.index().nbytes / rows
        searcher.search(made[0])  # takes the sample of words
        for mode in get_args(Mode):
            wall, cpu = [], []
            for query in made:
                start, busy = time.perf_counter(), time.thread_time()
                searcher.search(query, mode=mode)
                cpu.append(1e3 * (time.thread_time() - busy))
                wall.append(1e3 * (time.perf_counter() - start))
            (w50, w95), (c50, c95) = (np.quantile(times, [0.5, 0.95]).tolist() for times in (wall, cpu))
            results.append(LatencyRow(mode, rows, len(made), w50, w95, c50, c95, bytes_per_row))
    return results


def fit_weights(*, seed: int = 1, queries: int = 600, texts: Sequence[str] | None = None) -> Weights:
    """Fits the conditional logit from which the constants of `Fusion` were taken.

    For candidates d of a query, with the numbers x(d) = (cosine, share, share · relative)::

        P(d) = exp(w · x(d)) / Σ_{d'} exp(w · x(d'))

    and w maximises Σ log P(the sentence that the query was made of), by Newton's method, with −10⁻⁴ |w|² a query added.

    Args:
        seed: of the queries.
        queries: of each kind.
        texts: to search among; None = the development half of the standard library's sentences.

    Returns:
        The weights.

    Raises:
        QueryError: no query, or more of them than texts.
    """
    texts = half_of(sentences(), "development") if texts is None else texts
    _check(texts, list(QUERY_KINDS), queries)
    tables: list[list[tuple[float, float, float]]] = []
    with _filled(None, texts) as store:
        searcher = Searcher(store)
        for kind in QUERY_KINDS:
            for sentence, query in _queries(texts, kind, queries, seed):
                candidates, read = searcher.candidates(query, _CANDIDATES)
                # The right one first; of texts that are too long to be read, no share of words is known.
                candidates = sorted(
                    (one for one in candidates if one.id in read), key=lambda one: read[one.id].text != sentence
                )
                if candidates and read[candidates[0].id].text == sentence:
                    tables.append([(one.cosine or 0.0, one.share, one.share * one.relative) for one in candidates])
    most = max(map(len, tables))
    numbers = np.zeros((len(tables), most, 3))
    absent = np.zeros((len(tables), most))
    for row, table in enumerate(tables):
        numbers[row, : len(table)] = table
        absent[row, len(table) :] = -np.inf
    weights, loss = _conditional_logit(numbers, absent)
    cosine, share, rank = weights.tolist()
    return Weights(cosine, share, rank, loss, len(tables))


def _conditional_logit(
    numbers: Float64[np.ndarray, "queries candidates 3"], absent: Float64[np.ndarray, "queries candidates"]
) -> tuple[Float64[np.ndarray, "3"], float]:
    """Weights that make the first candidate of each query likeliest, and the mean loss with the penalty."""

    def chances(weights: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "queries candidates"]:
        scores = numbers @ weights + absent
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def loss(weights: Float64[np.ndarray, "3"]) -> float:
        return float(1e-4 * weights @ weights - np.log(chances(weights)[:, 0] + 1e-300).mean())

    weights = np.zeros(3)
    while True:
        p = chances(weights)
        mean = np.einsum("qc,qcf->qf", p, numbers)
        spread = numbers - mean[:, None]
        gradient = 2e-4 * weights + (mean - numbers[:, 0]).mean(axis=0)
        curvature = 2e-4 * np.eye(3) + np.einsum("qc,qcf,qcg->fg", p, spread, spread) / len(numbers)
        step = np.linalg.solve(curvature, gradient)
        # Far from the optimum a whole step goes too far.
        while loss(weights - step) > loss(weights) - 1e-12 and np.abs(step).max() > 1e-6:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= 1e-6:
            return weights, loss(weights)


def _check(texts: Sequence[str], kinds: Sequence[str], queries: int) -> None:
    if not QUERY_KINDS.keys() >= set(kinds) or not 1 <= queries <= len(texts):
        raise QueryError(
            f"queries are of the kinds {', '.join(QUERY_KINDS)} and number 1 to {len(texts)}; got "
            f"{', '.join(kinds)} and {queries}. Change them."
        )


def _found(searcher: Searcher, query: str) -> dict[str, list[str]]:
    hits: dict[Mode, list[Hit]] = {mode: searcher.search(query, limit=50, mode=mode) for mode in get_args(Mode)}
    found = {str(mode): [hit.insight.text for hit in some] for mode, some in hits.items()}
    fused: dict[str, float] = {}
    for mode in ("text", "vector"):
        for rank, text in enumerate(found[mode], start=1):
            fused[text] = fused.get(text, 0.0) + 1 / (_RANK + rank)
    return found | {"reciprocal ranks": sorted(fused, key=lambda text: -fused[text])}


def _queries(texts: Sequence[str], kind: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    random = Random(f"{seed}/{kind}")
    for sentence in random.sample(texts, count):
        yield sentence, QUERY_KINDS[kind](sentence, random)


@contextmanager
def _filled(store: Store | None, texts: Sequence[str]) -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="dredge-recall-") as folder:
        filled = store or Store.open(Path(folder) / "insights.db")
        try:
            for start in range(0, len(texts), _BATCH):
                filled.put_many(texts[start : start + _BATCH])
            yield filled
        finally:
            if store is None:
                filled.close()
