import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float32

from dredge.errors import StoreError
from dredge.insights.encoders import Encoder, HashedNgramEncoder
from dredge.insights.ids import insight_id
from dredge.insights.vectors import VectorIndex, cosines, quantised
from dredge.reference.oracle_search import rounded

DIM = 8


class Small:
    version = "small-v1"
    dim = DIM

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 8"]:
        raise AssertionError(texts)


@dataclass
class Changes:
    position: int
    upserts: list[tuple[str, bytes, float]]
    deleted: list[str]


@dataclass
class Log:
    """A store of vectors alone, which tells what happened: of each id the last thing, at its own position."""

    encoder: Encoder = field(default_factory=Small)
    last: dict[str, tuple[int, Float32[np.ndarray, " dim"] | None]] = field(default_factory=dict)
    position: int = 0

    def put(self, name: str, vector: Float32[np.ndarray, " dim"] | None) -> None:
        self.position += 1
        self.last.pop(name, None)
        self.last[name] = (self.position, vector)

    def changes(self, after: int, limit: int = 10_000) -> Changes:
        some = [(name, *what) for name, what in self.last.items() if what[0] > after][:limit]
        upserts, deleted = [], []
        for name, _, vector in some:
            if vector is None:
                deleted.append(insight_id(name))
            else:
                codes, scale = quantised(vector[None])
                upserts.append((insight_id(name), codes[0].tobytes(), float(scale[0])))
        return Changes(some[-1][1] if some else after, upserts, deleted)


def unit(seed: int, dim: int = DIM) -> Float32[np.ndarray, " dim"]:
    vector = np.random.default_rng(seed).normal(size=dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@given(st.lists(st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4), min_size=1, max_size=5))
def test_rounding_is_that_of_the_formula(rows: list[list[float]]) -> None:
    vectors = np.array(rows, np.float32)
    codes, scale = quantised(vectors)
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int)).max(initial=0) <= 127
    for vector, code, step in zip(vectors, codes, scale, strict=True):
        _, expected_step = rounded(vector.astype(np.float64))
        assert step == pytest.approx(expected_step, rel=1e-6, abs=1e-44)
        if expected_step > 1e-36:
            assert np.abs(vector - step * code.astype(np.float64)).max() <= 0.5001 * step


def test_a_row_of_zeros_stays_one() -> None:
    codes, scale = quantised(np.zeros((1, 4), np.float32))
    assert (codes.tolist(), scale.tolist()) == ([[0, 0, 0, 0]], [0.0])
    assert quantised(np.zeros((0, 4), np.float32))[0].shape == (0, 4)


def test_rounding_of_texts_moves_cosines_little() -> None:
    encoder = HashedNgramEncoder()
    texts = [f"note {number * 7919 % 101} of {number} waves" + " and more" * (number % 5) for number in range(200)]
    vectors = encoder.encode(texts)
    log = Log(encoder)
    for text, vector in zip(texts, vectors, strict=True):
        log.put(text, vector)
    index = VectorIndex(encoder)
    index.update(log)
    for vector in vectors[::10]:
        found = dict(index.nearest(vector, 200))
        errors = [
            abs(found[insight_id(text)] - float(other @ vector)) for text, other in zip(texts, vectors, strict=True)
        ]
        # Half of the margin with which duplicates are looked for.
        assert max(errors) < 0.005


def test_the_nearest_are_those_of_all_products() -> None:
    log = Log()
    vectors = {f"v{number}": unit(number) for number in range(3000)}
    for name, vector in vectors.items():
        log.put(name, vector)
    index = VectorIndex(log.encoder)
    assert index.update(log, limit=700) == 3000
    assert len(index) == 3000
    query = unit(-1 % 2**32)
    exact = {insight_id(name): float(vector.astype(np.float64) @ query) for name, vector in vectors.items()}
    found = index.nearest(query, 20)
    assert [id for id, _ in found[:5]] == sorted(exact, key=lambda id: -exact[id])[:5]
    assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)
    for id, cosine in found:
        assert cosine == pytest.approx(exact[id], abs=0.01)
    some = [insight_id("v7"), insight_id("nothing")]
    assert index.cosines_of(some, query) == {some[0]: pytest.approx(exact[some[0]], abs=0.01)}
    assert index.cosines_of([], query) == {}


def test_fewer_rows_than_asked_for() -> None:
    log = Log()
    index = VectorIndex(log.encoder)
    index.update(log)
    assert index.nearest(unit(0), 5) == []
    log.put("a", unit(1))
    index.update(log)
    assert [id for id, _ in index.nearest(unit(0), 5)] == [insight_id("a")]


def test_equal_cosines_are_ordered_by_id() -> None:
    log = Log()
    for number in range(6):
        log.put(f"same {number}", unit(1))
    index = VectorIndex(log.encoder)
    index.update(log)
    ids = [id for id, _ in index.nearest(unit(1), 6)]
    assert ids == sorted(ids)


@given(st.lists(st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 99))), max_size=80))
def test_an_index_follows_whatever_happens(steps: list[tuple[int, int | None]]) -> None:
    log = Log()
    index = VectorIndex(log.encoder)
    for number, (name, seed) in enumerate(steps):
        log.put(f"n{name}", None if seed is None else unit(seed))
        if number % 7 == 0:
            index.update(log, limit=3)
    index.update(log, limit=3)
    alive = {insight_id(name): vector for name, (_, vector) in log.last.items() if vector is not None}
    assert len(index) == len(alive)
    found = dict(index.nearest(unit(5), 100))
    assert found.keys() == alive.keys()
    for id, vector in alive.items():
        assert found[id] == pytest.approx(float(vector @ unit(5)), abs=0.01)


def test_what_is_gone_is_taken_out() -> None:
    log = Log()
    for number in range(4000):
        log.put(f"v{number}", unit(number))
    index = VectorIndex(log.encoder)
    index.update(log)
    before = index.snapshot()
    full = index.nbytes
    for number in range(3000):
        log.put(f"v{number}", None)
    index.update(log)
    assert len(index) == 1000
    assert index.nbytes < full / 1.5
    assert len(index.snapshot().codes) == 1000
    assert {id for id, _ in index.nearest(unit(0), 4000)} == {insight_id(f"v{number}") for number in range(3000, 4000)}
    # A search that began before still has what it began with.
    assert before.alive.all()
    assert len(cosines(before, unit(3))) == 4000


def test_bytes_a_row() -> None:
    encoder = HashedNgramEncoder()
    log = Log(encoder)
    for number in range(2048):
        log.put(f"v{number}", unit(number, 512))
    index = VectorIndex(encoder)
    index.update(log)
    assert index.nbytes == 2048 * (512 + 4 + 1 + 32)


def test_vectors_of_another_length_are_refused() -> None:
    log = Log()
    log.put("a", unit(1, 4))
    index = VectorIndex(log.encoder)
    with pytest.raises(StoreError, match="small-v1 have 8 numbers"):
        index.update(log)
    log.put("a", unit(1))
    index.update(log)
    assert len(index) == 1


def test_changes_of_another_encoder_are_left_alone() -> None:
    log = Log()
    index = VectorIndex(log.encoder)
    log.put("a", unit(1))

    class Other(Small):
        version = "other-v1"

    log.encoder = Other()
    assert index.update(log) == 0
    assert len(index) == 0


def test_threads_search_while_others_update() -> None:
    log = Log()
    for number in range(1500):
        log.put(f"v{number}", unit(number))
    index = VectorIndex(log.encoder)
    index.update(log)
    stop = threading.Event()
    wrong: list[str] = []

    def search() -> None:
        while not stop.is_set():
            found = index.nearest(unit(3), 1)[0]
            if found[0] != insight_id("v3") or found[1] < 0.98:
                wrong.append(found[0])

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(60):
            for number in range(20):
                # Vectors change, come and go; v3 changes to itself.
                log.put(f"v{1000 + (turn * 20 + number) % 500}", None if turn % 3 == 0 else unit(5000 + number))
            log.put("v3", unit(3))
            index.update(log)
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert wrong == []
