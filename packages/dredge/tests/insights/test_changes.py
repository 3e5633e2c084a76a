import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from dredge.errors import QueryError
from dredge.insights import vector_changes
from dredge.insights.ids import insight_id
from dredge.insights.store import Store
from dredge.insights.vectors import quantised

SIGNAL = "ab" * 32


# --- changes ----------------------------------------------------------------------------------------------------------


def follow(store: Store, index: dict[str, bytes], position: int, limit: int = 3) -> int:
    while True:
        changes = store.changes(position, limit)
        assert not {identifier for identifier, *_ in changes.upserts} & set(changes.deleted)
        index.update({identifier: codes for identifier, codes, _ in changes.upserts})
        for identifier in changes.deleted:
            index.pop(identifier, None)
        if changes.position == position:
            return position
        position = changes.position


def test_changes_tell_the_vectors_of_all_that_is_there(store: Store, letters: Any) -> None:
    index: dict[str, bytes] = {}
    stored = store.put_many([f"text {number}" for number in range(8)])
    position = follow(store, index, 0)
    store.delete(stored[2].insight.id)
    store.delete(stored[3].insight.id)
    store.put("text 3")
    store.put("text 4")
    store.put_signal(SIGNAL, "a signal", {})
    follow(store, index, position)
    fresh: dict[str, bytes] = {}
    follow(store, fresh, 0, 100)
    page = store.page(limit=20).items
    vectors = letters().encode([insight.text for insight in page])
    wanted = {insight.id: codes.tobytes() for insight, codes in zip(page, quantised(vectors)[0], strict=True)}
    assert index == fresh == wanted
    assert len(wanted) == 8
    identifier, codes, scale = store.changes(0, 1).upserts[0]
    exact = letters().encode([store.get(identifier).text])[0]
    np.testing.assert_allclose(np.frombuffer(codes, np.int8) * scale, exact, atol=scale / 2 * 1.001)


def test_a_counted_repeat_is_no_change(store: Store) -> None:
    store.put("a")
    position = store.changes(0).position
    store.put("a")
    store.put_many(["a", "a"])
    assert store.changes(position).position == position


def test_one_that_was_deleted_twice_is_told_twice(store: Store) -> None:
    identifier = store.put("a").insight.id
    store.delete(identifier)
    first = store.changes(0)
    assert first.deleted == [identifier]
    store.put("a")
    assert [found for found, *_ in store.changes(first.position).upserts] == [identifier]
    store.delete(identifier)
    assert store.changes(first.position).deleted == [identifier]


def test_a_limit_of_none_is_refused(store: Store) -> None:
    store.put("a")
    for limit in (0, -1):
        # It would say that nothing has happened.
        with pytest.raises(QueryError, match=f"got limit {limit}"):
            store.changes(0, limit)


def test_a_reader_misses_nothing_of_many_writers(database_url: str, opened: Any) -> None:
    with opened(database_url) as one, opened(database_url) as two:
        running = True
        index: dict[str, bytes] = {}

        def write(store: Store, name: str) -> None:
            for turn in range(12):
                store.put_many([f"{name} {turn} {number}" for number in range(turn % 4 + 1)])
                kept = store.put(f"{name} gone {turn}")
                store.delete(kept.insight.id)

        def read() -> None:
            position = 0
            while running:
                position = follow(one, index, position, 2)
            follow(one, index, position, 2)

        reader = threading.Thread(target=read)
        writers = [threading.Thread(target=write, args=args) for args in ((one, "a"), (two, "b"), (two, "c"))]
        for thread in (reader, *writers):
            thread.start()
        for thread in writers:
            thread.join(30)
        running = False
        reader.join(30)
        there = one.page(limit=200).items
        assert len(there) == 3 * 12 // 4 * (1 + 2 + 3 + 4)
        assert set(index) == {insight.id for insight in there}


def test_what_one_store_keeps_another_finds_at_once(database_url: str, opened: Any) -> None:
    with opened(database_url) as one, opened(database_url) as two:
        identifier = one.put("shared wave").insight.id
        assert two.get(identifier).text == "shared wave"
        assert [found for found, _ in two.lexical("wave", 1)] == [identifier]
        assert two.put("shared wave").insight.seen == 2
        two.delete(identifier)
        assert one.find(identifier) is None


# --- encoding anew ----------------------------------------------------------------------------------------------------


def test_another_encoder_encodes_all_anew(store: Store, letters: Any) -> None:
    store.put_many([f"text {number}" for number in range(7)])
    store.put_signal(SIGNAL, "a signal", {"x": 1})
    before = store.page(limit=20).items
    position = store.changes(0).position
    told: list[tuple[int, int]] = []
    other = letters("letters-v2")
    assert store.reindex(other, batch=3, progress=lambda done, total: told.append((done, total))) == 8
    assert told == [(3, 8), (6, 8), (8, 8)]
    assert store.encoder is other
    assert len(store.changes(position).upserts) == 8
    after = store.page(limit=20).items
    assert {insight.encoder for insight in after} == {"letters-v2"}
    assert [(insight.id, insight.text, insight.seen, insight.signal) for insight in after] == [
        (insight.id, insight.text, insight.seen, insight.signal) for insight in before
    ]
    assert store.reindex(other) == 0


def test_one_that_was_interrupted_goes_on_where_it_stopped(store: Store, letters: Any) -> None:
    class Interrupted(letters):
        def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 26"]:
            if len(self.calls) >= 4:
                raise KeyboardInterrupt
            return super().encode(texts)

    store.put_many([f"text {number}" for number in range(6)])
    with pytest.raises(KeyboardInterrupt):
        store.reindex(Interrupted("letters-v2"), batch=2)
    other = letters("letters-v2")
    assert store.stats().stale == 2
    assert store.reindex(other, batch=2) == 2
    assert other.calls == ["text 4", "text 5"]


def test_a_batch_of_none_is_refused_and_changes_no_encoder(store: Store, letters: Any) -> None:
    store.put("a")
    before = store.encoder
    with pytest.raises(QueryError, match="a batch is 1 insight or more; got 0"):
        store.reindex(letters("letters-v2"), batch=0)
    assert store.encoder is before


def test_long_texts_are_encoded_a_few_at_once(
    store: Store, letters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    class Told(letters):
        def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 26"]:
            together.append(list(texts))
            return super().encode(texts)

    together: list[list[str]] = []
    monkeypatch.setattr(vector_changes, "_CHARACTERS", 12)
    store.put_many(["five1", "five2", "five3", "x" * 50, "five4"])
    assert store.reindex(Told("letters-v2"), batch=10) == 5
    assert together == [["five1", "five2"], ["five3"], ["x" * 50], ["five4"]]


def test_what_is_deleted_between_two_looks_ends_nothing(
    store: Store, letters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_many(["a", "b", "c"])
    look = vector_changes._stale

    def deleted_meanwhile(*arguments: Any) -> Any:
        rows, last = look(*arguments)
        return ([], last) if [row.text for row in rows] == ["a"] else (rows, last)

    monkeypatch.setattr(vector_changes, "_stale", deleted_meanwhile)
    other = letters("letters-v2")
    told: list[int] = []

    def progress(done: int, total: int) -> None:
        told.append(done)
        if len(told) == 4:  # all but "a", which then is deleted indeed
            store.delete(insight_id("a"))

    assert store.reindex(other, batch=1, progress=progress) == 2
    assert other.calls == ["b", "c"]


def test_vectors_of_another_encoder_are_passed_over(database_url: str, letters: Any) -> None:
    with Store.open(database_url, encoder=letters("old")) as old:
        old.put_many(["a", "b", "c"])
    with Store.open(database_url, encoder=letters("new")) as store:
        new = store.put("d").insight.id
        store.put("a")
        assert store.stats().stale == 3
        index: dict[str, bytes] = {}
        position = follow(store, index, 0, 2)
        assert list(index) == [new]
        assert store.reindex(store.encoder) == 3
        follow(store, index, position)
        assert len(index) == 4


def test_what_another_process_puts_meanwhile_is_encoded_too(database_url: str, letters: Any, opened: Any) -> None:
    with opened(database_url, "old") as old, opened(database_url, "old") as store:
        old.put_many(["a", "b", "c"])

        def meanwhile(done: int, total: int) -> None:
            if done == 2:
                old.put("d")
                old.delete(insight_id("c"))
            if done == 3:
                old.put("e")

        assert store.reindex(letters("new"), batch=2, progress=meanwhile) == 4
        assert store.stats().stale == 0
        assert sorted(insight.text for insight in store.page(limit=9).items) == ["a", "b", "d", "e"]


def test_a_signal_that_changes_while_it_is_encoded_keeps_the_newer_vector(
    database_url: str, letters: Any, opened: Any
) -> None:
    class Slow(letters):
        def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 26"]:
            vectors = super().encode(texts)
            if not self.calls[1:]:
                new.put_signal(SIGNAL, "the later text", {})
            return vectors

    with opened(database_url, "old") as store, opened(database_url, "new") as new:
        store.put_signal(SIGNAL, "an earlier text", {})
        assert store.reindex(Slow("new")) == 0
        ((_, codes, _),) = store.changes(0).upserts
        assert codes == quantised(letters().encode(["the later text"]))[0].tobytes()
