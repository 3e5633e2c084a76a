"""Ids of texts, found anew each time and remembered for the last 1024 texts.

A text comes to a server as a new string object, whose hash is not known yet: no object is looked up twice here.
"""

from __future__ import annotations

import hashlib
import json
import time
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from typing import Any

import numpy as np

from claimbench.case import Case, Counted, Workload
from claimbench.cases.dredge.problem import Requests, not_timed
from claimbench.errors import CaseError
from claimbench.record import Params
from claimbench.turns import in_turns, interval_of, ratio_of
from dredge.reference.original import hash_after, hash_before

__all__ = ["CASES", "filled"]

ENTRIES = 1024
ROUNDS = 30
TURN_BYTES, MOST = 4_000_000, 2_000
"""Texts of one turn take at most so many bytes, and are at most so many."""
HOT, COLD, REQUESTS = 16, 1200, 25
"""Texts that come back, texts that have left the cache when they come again, and requests in one call."""


def filled(size: int, number: int) -> str:
    """A text of a size; other numbers make other texts.

    Args:
        size: Bytes, 16 or more.
        number: Which.
    """
    words = "a note that is lifted again and again "
    return (f"{number:015d} " + words * (size // len(words) + 1))[:size]


def _fresh(text: str, count: int) -> list[str]:
    """Equal strings whose hashes are not known yet."""
    data = text.encode()
    return [data.decode() for _ in range(count)]


def _timed(function: Callable[[str], str], make: Callable[[], list[str]]) -> Callable[[], float]:
    def turn() -> float:
        texts = make()
        began = time.process_time()
        for text in texts:
            function(text)
        return (time.process_time() - began) / len(texts)

    return turn


def _micro(params: Params) -> Iterable[Counted]:
    size = int(params["bytes"])
    count = max(3, min(MOST, TURN_BYTES // size))
    one, at = filled(size, 0), 0
    hash_after.cache_clear()
    for text in [one, *(filled(size, 10_000_000 + number) for number in range(3))]:
        if not hash_before(text) == hash_after(text) == hash_after(text) == hashlib.sha256(text.encode()).hexdigest():
            raise CaseError(f"an id is the SHA-256 of its text; that of {size} bytes is another; mend the reference")

    def new() -> list[str]:
        nonlocal at
        at += count
        return [filled(size, at + number) for number in range(count)]

    def hit() -> list[str]:
        hash_after(one)  # it was put out by those that were new
        return _fresh(one, count)

    if size <= 100_000:  # a full cache of longer texts would hold a gigabyte, and a miss costs nearly the same
        for number in range(ENTRIES):
            hash_after(filled(size, 20_000_000 + number))
    found = in_turns(
        {
            "before": _timed(hash_before, lambda: _fresh(one, count)),
            "hit": _timed(hash_after, hit),
            "miss": _timed(hash_after, new),
        },
        ROUNDS,
    )
    hash_after.cache_clear()
    plain, hits, misses = found["before"], found["hit"], found["miss"]
    words = (
        f"{1e6 * np.median(plain):.3g} µs of the processor without, {1e6 * np.median(hits):.3g} a hit by a new equal "
        f"object, {1e6 * np.median(misses):.3g} a miss; medians of {ROUNDS} rounds of {count}"
    )
    gain, ends = ratio_of(plain, hits)
    yield Counted("gain", gain, "after", "", words, ends)
    share, ends = interval_of(100 * (misses - plain) / (misses - hits))
    yield Counted("break_even", share, "after", "%", words, ends)


def _held(params: Params) -> Iterable[Counted]:
    """Bytes that 1024 remembered ids hold, the texts among them: nobody else has a reference to one any more."""
    size = int(params["bytes"])
    hash_after.cache_clear()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(ENTRIES):
            hash_after(filled(size, number))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        hash_after.cache_clear()
    yield Counted("held", (after - before) / 1000, "after", "kB", f"{ENTRIES} texts of {size} bytes, ids and entries")


# --- whole requests ---------------------------------------------------------------------------------------------------


def _application(identify: Callable[[str], str]) -> Callable[..., Any]:
    """The original's route."""
    from flask import Flask, jsonify, request

    app = Flask("original")

    @app.post("/lift")
    def lift() -> Any:
        data = request.get_json()
        if not data or "insight_text" not in data:
            return jsonify({"error": "insight_text is required"}), 400
        text = data["insight_text"]
        return jsonify({"id": identify(text), "text": text, "lifted": True, "message": "Insight processed"})

    return app


def _stream(size: int, repeats: int, seed: int) -> list[bytes]:
    """Bodies of requests, a share of them of texts that come back; each other text comes last when it comes again."""

    def body(number: int) -> bytes:
        return json.dumps({"insight_text": filled(size, number)}).encode()

    hot = [body(number) for number in range(HOT)]
    if repeats == 100:
        return hot * 8
    cold = [body(HOT + number) for number in range(COLD)]
    again = round(repeats / (100 - repeats) * COLD)
    order = np.random.default_rng(seed).permutation(np.arange(COLD + again) < again)
    hots, colds = cycle(hot), iter(cold)
    return [next(hots) if known else next(colds) for known in order]


def _right_answer(body: bytes) -> bytes:
    text = json.loads(body)["insight_text"]
    return json.dumps({"id": hashlib.sha256(text.encode()).hexdigest(), "text": text}).encode()


def _is_right(body: bytes, answer: bytes) -> bool:
    found, right = json.loads(answer), json.loads(_right_answer(body))
    return bool(found["id"] == right["id"] and found["text"] == right["text"])


def _request(params: Params) -> Workload:
    size, repeats = int(params["bytes"]), int(params["repeats"])
    bodies = _stream(size, repeats, 0)

    def variant(identify: Callable[[str], str]) -> Callable[[Any], Any]:
        ask, coming = Requests(_application(identify)), cycle(bodies)

        def call(_inputs: Any) -> Any:
            return [(body, ask("POST", "/lift", body)) for body in islice(coming, REQUESTS)]

        return call

    hash_after.cache_clear()
    for body in dict.fromkeys(bodies):
        hash_after(json.loads(body)["insight_text"])
    return Workload(
        inputs=lambda seed: {"seed": seed},
        variants={"before": variant(hash_before), "after": variant(hash_after)},
        # Each call goes on in the stream: what is compared is whether its answers are right.
        oracle=lambda _inputs: [(body, _right_answer(body)) for body in bodies[:REQUESTS]],
        compare=lambda pairs: {"right": np.array([_is_right(*pair) for pair in pairs])},
        units=REQUESTS,
    )


_REQUESTS: tuple[Params, ...] = tuple(
    {"bytes": size, "repeats": repeats} for size in (39, 100_000) for repeats in (0, 35, 70, 100)
)

CASES = (
    Case(
        "dredge.hash",
        "the id of a text, found anew and remembered, by new equal objects",
        "torch",
        not_timed,
        values=_micro,
        values_grid=tuple({"bytes": size} for size in (20, 39, 100, 1_000, 10_000, 100_000, 1_000_000)),
        original=(hash_before,),
    ),
    Case(
        "dredge.hash_memory",
        "bytes that remembered ids hold",
        "torch",
        not_timed,
        values=_held,
        values_grid=({"bytes": 45}, {"bytes": 100_000}),
        original=(hash_before,),
    ),
    Case(
        "dredge.hash_request",
        "a whole request of the original's service",
        "torch",
        _request,
        grid=_REQUESTS,
        quick_grid=(_REQUESTS[3],),
        variants=("before", "after"),
        original=(hash_before,),
        budget=5.6,
        slow_grid=_REQUESTS[4:],
    ),
)
