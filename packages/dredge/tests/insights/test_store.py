import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import Float32
from sqlalchemy import text

from dredge.config import DatabaseSettings
from dredge.errors import InsightError, NotFoundError, QueryError, SignalError, StoreError
from dredge.insights.ids import insight_id
from dredge.insights.store import Store
from dredge.insights.vectors import quantised

SIGNAL = "ab" * 32


class LetterEncoder:
    """Counts letters; `calls` tells what was encoded."""

    dim = 26

    def __init__(self, version: str = "letters-v1") -> None:
        self.version = version
        self.calls: list[str] = []

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 26"]:
        self.calls += texts
        counts = np.array([[1 + text.lower().count(chr(97 + letter)) for letter in range(26)] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def encoder() -> LetterEncoder:
    return LetterEncoder()


@pytest.fixture
def store(database_url: str, encoder: LetterEncoder) -> Iterator[Store]:
    # Waiting for the disk is tested where it matters.
    with Store.open(DatabaseSettings(url=database_url, synchronous="NORMAL"), encoder=encoder) as store:
        yield store


def opened(url: str, version: str = "letters-v1") -> Store:
    return Store.open(DatabaseSettings(url=url, synchronous="NORMAL"), encoder=LetterEncoder(version))


def ids(found: Sequence[tuple[str, float]]) -> list[str]:
    return [identifier for identifier, _ in found]


# --- putting ----------------------------------------------------------------------------------------------------------


def test_a_text_is_kept_as_received(store: Store) -> None:
    before = datetime.now(UTC)
    stored = store.put("  Gravity w\u00e4ves\r\n\u2028\U0001f30a ")
    assert stored.created
    insight = store.get(stored.insight.id)
    assert insight == stored.insight
    assert insight.id == insight_id(insight.text)
    assert insight.text == "  Gravity w\u00e4ves\r\n\u2028\U0001f30a "
    assert (insight.kind, insight.seen, insight.encoder, insight.signal) == ("text", 1, "letters-v1", None)
    # The clock of the store has microseconds, and that of datetime may be ahead by a part of one.
    assert before.replace(microsecond=0) <= insight.created == insight.last_seen <= datetime.now(UTC)
    assert insight.created.utcoffset() == UTC.utcoffset(None)


def test_a_repeat_is_counted_and_not_encoded(store: Store, encoder: LetterEncoder) -> None:
    first = store.put("again").insight
    second = store.put("again")
    assert not second.created
    assert (second.insight.seen, second.insight.created) == (2, first.created)
    assert second.insight.last_seen >= first.last_seen
    assert store.get(first.id) == second.insight
    assert encoder.calls == ["again"]
    assert store.count() == 1


def test_many_tell_what_became_of_each_in_its_turn(store: Store, encoder: LetterEncoder) -> None:
    store.put("old")
    stored = store.put_many(["new", "old", "new", "newer"])
    assert [(item.insight.text, item.created, item.insight.seen) for item in stored] == [
        ("new", True, 1), ("old", False, 2), ("new", False, 2), ("newer", True, 1),
    ]  # fmt: skip
    assert store.get(insight_id("new")) == stored[2].insight
    assert store.get(insight_id("old")) == stored[1].insight
    assert encoder.calls == ["old", "new", "newer"]
    assert store.put_many([]) == []


def test_of_many_with_a_bad_one_none_is_kept(store: Store) -> None:
    for bad in ("", " \n", "a\0b", "\ud800"):
        with pytest.raises(InsightError, match="text 2 of 3: "):
            store.put_many(["good", bad, "better"])
        with pytest.raises(InsightError, match=r"^a text "):
            store.put(bad)
    assert store.count() == 0


def test_a_text_of_a_megabyte_is_kept_and_found(store: Store) -> None:
    long = " ".join(f"w{number}" for number in range(150_000))[:1_000_000] + " zebra"
    stored = store.put_many([long, "short zebra", "other"])
    assert store.get(stored[0].insight.id).text == long
    assert set(ids(store.lexical("w7", 10))) == {stored[0].insight.id}


def test_an_encoder_that_is_faulty_stores_nothing(database_url: str) -> None:
    class Faulty(LetterEncoder):
        def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 26"]:
            return super().encode(texts) * np.float32("nan")

    with Store.open(database_url, encoder=Faulty()) as store:
        with pytest.raises(StoreError, match="one finite vector of 26 numbers a text; letters-v1 gave"):
            store.put("a")
        assert store.count() == 0


def test_the_encoder_runs_before_the_write_begins(database_url: str) -> None:
    class Curious(LetterEncoder):
        def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 26"]:
            if "nested" not in texts:
                store.put("nested")  # would wait for ever if a write were under way
            return super().encode(texts)

    with Store.open(DatabaseSettings(url=database_url, busy_timeout_ms=500), encoder=Curious()) as store:
        store.put("one")
        store.put_many(["two", "three"])
        store.put_signal(SIGNAL, "four", {})
        assert store.get(insight_id("nested")).seen == 3


def test_a_text_deleted_while_it_is_put_again_is_put(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import dredge.insights.putting as module

    store.put("there")
    was_there = module.is_there

    def deleted_after(direct: Any, identifier: str) -> bool:
        found = was_there(direct, identifier)
        if found:
            store.delete(identifier)
        return found

    monkeypatch.setattr(module, "is_there", deleted_after)
    stored = store.put("there")
    assert (stored.created, stored.insight.seen) == (True, 1)
    assert store.get(insight_id("there")).text == "there"


def test_threads_that_put_the_same_count_each_once(store: Store) -> None:
    def work(number: int) -> None:
        for turn in range(5):
            store.put(f"shared {turn}")
            store.put_many([f"own {number} {turn}", f"shared {turn}"])

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert store.count() == 5 + 4 * 5
    assert [store.get(insight_id(f"shared {turn}")).seen for turn in range(5)] == [8] * 5


# --- signals ----------------------------------------------------------------------------------------------------------


def test_a_signal_is_kept_with_its_document_exactly(store: Store) -> None:
    document = {"z": [0.1, 1e-320, -0.0, 3], "a": {"\u00fc\0": None, "\u2028": True}, "n": 12345678901234567890}
    stored = store.put_signal(SIGNAL, "a chirp", document)
    assert stored.created
    found = store.get(SIGNAL)
    assert found == stored.insight
    assert (found.kind, found.text) == ("signal", "a chirp")
    assert found.signal == document
    assert list(found.signal) == ["z", "a", "n"]
    assert str(found.signal["z"]) == "[0.1, 1e-320, -0.0, 3]"


def test_a_signal_put_again_holds_what_was_found_last(store: Store) -> None:
    first = store.put_signal(SIGNAL, "one packet", {"packets": [1]}).insight
    position = store.changes(0).position
    same = store.put_signal(SIGNAL, "one packet", {"packets": [1]})
    assert (same.created, same.insight.seen) == (False, 2)
    assert store.changes(position).upserts == []
    again = store.put_signal(SIGNAL, "two waves", {"packets": [1, 2]})
    assert (again.created, again.insight.seen, again.insight.created) == (False, 3, first.created)
    assert store.get(SIGNAL).signal == {"packets": [1, 2]}
    assert ids(store.lexical("waves", 5)) == [SIGNAL]
    assert store.lexical("packet", 5) == []
    assert store.by_fingerprint("TWO waves") == [SIGNAL]
    ((identifier, codes, _),) = store.changes(position).upserts
    assert identifier == SIGNAL
    assert codes == quantised(LetterEncoder().encode(["two waves"]))[0].tobytes()


def test_a_document_that_is_not_json_is_refused(store: Store) -> None:
    for value in (float("nan"), {1, 2}, b"x", "\ud800", 10**5000):
        with pytest.raises(SignalError, match="what JSON has"):
            store.put_signal(SIGNAL, "text", {"a": value})
    assert store.count() == 0


def test_a_signals_id_is_a_hash(store: Store) -> None:
    for identifier in ("", "ab", "AB" * 32, "zz" * 32, "ab" * 33):
        with pytest.raises(SignalError, match="64 lower-case"):
            store.put_signal(identifier, "text", {})
    with pytest.raises(InsightError, match="something that can be seen"):
        store.put_signal(SIGNAL, " ", {})


def test_the_id_of_a_text_is_no_signals_and_the_other_way_round(store: Store) -> None:
    store.put("a text")
    with pytest.raises(SignalError, match="belongs to no text"):
        store.put_signal(insight_id("a text"), "signal", {})
    store.put_signal(insight_id("another"), "signal", {})
    with pytest.raises(InsightError, match="belongs to no signal"):
        store.put("another")
    with pytest.raises(InsightError, match="belongs to no signal"):
        store.put_many(["fine", "another"])
    assert store.find(insight_id("fine")) is None
    assert store.get(insight_id("another")).seen == 1


# --- reading ----------------------------------------------------------------------------------------------------------


def test_an_id_that_none_has_is_named(store: Store) -> None:
    store.put("something")
    for identifier in ("0" * 64, "", "\0", "\ud800", "' OR 1=1 --", "x" * 10_000):
        assert store.find(identifier) is None
        for ask in (store.get, store.delete):
            with pytest.raises(NotFoundError, match="an insight has this id; none has") as caught:
                ask(identifier)
            assert len(str(caught.value)) < 700
    assert store.count() == 1


def test_many_come_in_the_order_asked_and_signals_with_their_documents(store: Store) -> None:
    texts = [item.insight for item in store.put_many([f"text {number}" for number in range(1200)])]
    signal = store.put_signal(SIGNAL, "a signal", {"x": 1}).insight
    wanted = [texts[7], signal, texts[3], *reversed(texts[10:])]
    found = store.get_many([insight.id for insight in wanted] + ["0" * 64, texts[7].id])
    assert list(found.values()) == wanted
    assert store.get_many([SIGNAL], documents=False)[SIGNAL].signal is None


def test_pages_hold_each_insight_once_the_newest_first_while_others_come_and_go(store: Store) -> None:
    texts = [f"text {number}" for number in range(10)]
    store.put_many(texts[:4])  # in one batch, so at one time
    for content in texts[4:]:
        store.put(content)
    seen: list[str] = []
    cursor = None
    for turn in range(3):
        page = store.page(limit=3, cursor=cursor)
        seen += [insight.text for insight in page.items]
        cursor = page.next
        store.put(f"later {turn}")
        if turn == 0:
            store.delete(insight_id("text 6"))
    assert cursor is None
    assert seen == ["text 9", "text 8", "text 7", "text 5", "text 4", "text 3", "text 2", "text 1", "text 0"]


def test_pages_of_a_kind(store: Store) -> None:
    store.put_many(["a", "b", "c"])
    store.put_signal(SIGNAL, "s", {"x": 1})
    assert [insight.text for insight in store.page(limit=9).items] == ["s", "c", "b", "a"]
    assert [insight.text for insight in store.page(limit=9, kind="text").items] == ["c", "b", "a"]
    page = store.page(limit=1, kind="signal")
    assert (page.items, page.next) == ([store.get(SIGNAL)], None)
    assert store.page(limit=1, documents=False).items[0].signal is None
    assert store.page(limit=4).next is None


def test_an_empty_store_has_an_empty_page(store: Store) -> None:
    page = store.page(limit=5)
    assert (page.items, page.next) == ([], None)


def test_a_cursor_that_is_none_is_refused(store: Store) -> None:
    for cursor in ("", "x", "MQ", "\u00e9", "MS4y\n", "LS4x", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5LjE", "A" * 9999):
        with pytest.raises(QueryError, match="a cursor is `next` of a page"):
            store.page(limit=5, cursor=cursor)


def test_a_page_has_one_or_more(store: Store) -> None:
    with pytest.raises(QueryError, match="got limit 0"):
        store.page(limit=0)


def test_what_a_store_holds(store: Store) -> None:
    store.put_many(["a", "b", "a"])
    store.put_signal(SIGNAL, "s", {})
    stats = store.stats()
    assert (stats.insights, stats.texts, stats.signals, stats.seen, stats.stale) == (3, 2, 1, 4, 0)
    assert (stats.dialect, stats.encoder) == (store.dialect, "letters-v1")
    assert stats.bytes > 10_000


def test_same_words_in_other_case_and_spacing_share_a_fingerprint(store: Store) -> None:
    stored = store.put_many(["Caf\u00e9  au lait", "cafe\u0301 AU\nlait", "tea"])
    assert store.by_fingerprint("CAF\u00c9 au lait ") == [stored[0].insight.id, stored[1].insight.id]
    assert store.by_fingerprint("nothing") == []
    with pytest.raises(InsightError):
        store.by_fingerprint("\ud800")


# --- full text --------------------------------------------------------------------------------------------------------


def test_words_are_found_without_case_and_accents(store: Store) -> None:
    found = store.put("Le R\u00c9SUM\u00c9 de l'\u00e9t\u00e9").insight.id
    store.put("another one")
    for query in ("resume", "R\u00e9sum\u00e9", "re\u0301sume\u0301", "ETE", "resume-ete", '"resume"'):
        assert ids(store.lexical(query, 5)) == [found], query


def test_words_of_other_scripts_are_found(store: Store) -> None:
    for content, query in (
        ("\u043c\u043e\u0439 \u0434\u043e\u043c", "\u041c\u041e\u0419"),  # Russian, of a letter with an accent
        ("\u091c\u0940 \u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),  # Hindi
        ("\uc548\ub155 \uc138\uacc4", "\uc138\uacc4"),  # Korean
        ("x\u0302y value", "x\u0302y"),  # an accent that no single character has
        ("\u03a0\u03bb\u03ac\u03c4\u03c9\u03bd", "\u03c0\u03bb\u03ac\u03c4\u03c9\u03bd"),  # Greek
        ("dash\u2014between", "between"),
    ):
        assert ids(store.lexical(query, 5)) == []
        identifier = store.put(content).insight.id
        assert ids(store.lexical(query, 5)) == [identifier], query


def test_rare_words_weigh_more_and_more_words_more(store: Store) -> None:
    common = [f"the wave number {number}" for number in range(30)]
    store.put_many(common)
    rare = store.put("the zebra number x").insight.id
    both = store.put("the zebra waves number x").insight.id
    found = store.lexical("wave zebra", 50)
    assert ids(found)[:2] == [rare, both]
    assert len(found) == 32
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert all(score > 0 for _, score in found)
    assert ids(store.lexical("zebra waves", 50)) == [both, rare]


def test_shorter_texts_with_a_word_come_before_longer_ones(store: Store) -> None:
    long = store.put("zebra " + " ".join(f"filler{number}" for number in range(50))).insight.id
    short = store.put("zebra here").insight.id
    store.put_many([f"other {number}" for number in range(5)])
    assert ids(store.lexical("zebra", 5)) == [short, long]
    assert ids(store.lexical("zebra", 1)) == [short]


def test_deleted_texts_are_found_no_more_and_come_back_when_put(store: Store) -> None:
    stored = store.put_many(["alpha beta", "alpha gamma"])
    store.delete(stored[0].insight.id)
    assert ids(store.lexical("alpha beta", 5)) == [stored[1].insight.id]
    store.put("alpha beta")
    assert ids(store.lexical("alpha beta", 5)) == [stored[0].insight.id, stored[1].insight.id]
    for item in stored:
        store.delete(item.insight.id)
    assert store.lexical("alpha beta gamma", 5) == []
    if store.dialect == "sqlite":
        with store.database.writing() as connection:
            # Compares the index with the texts themselves, and fails where they differ.
            connection.execute(text("INSERT INTO insights_fts(insights_fts, rank) VALUES ('integrity-check', 1)"))


def test_a_query_without_words_finds_nothing(store: Store) -> None:
    store.put("something ! ? _")
    for query in ("", " ", "!?", "\0", '"', "\\", "\ud800", "\u0301", "_", "\u2014\u3002"):
        assert store.lexical(query, 5) == []


def test_nothing_in_a_query_is_an_operator(store: Store) -> None:
    found = store.put("a near and or not text w1 drop").insight.id
    store.put("b")
    for query in (
        "NEAR(a b)", "a AND", "OR", "a NOT b", "text:a", "a*", '"a', "a^2 {b} (c", "-a", "a' & !b | <-> :*", "a\0b",
        "'; DROP TABLE insights; --", ":a %s %(a)s ?", " ".join(f"w{number}" for number in range(500)),
    ):  # fmt: skip
        assert found in ids(store.lexical(query, 5)), query
    assert store.count() == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_any_query_is_safe_and_a_text_is_found_by_itself(store: Store, query: str) -> None:
    store.lexical(query, 3)
    with contextlib.suppress(InsightError):
        stored = store.put(query)
        found = ids(store.lexical(query, 1000))
        assert not found or stored.insight.id in found


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


def test_changes_tell_the_vectors_of_all_that_is_there(store: Store) -> None:
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
    vectors = LetterEncoder().encode([insight.text for insight in page])
    wanted = {insight.id: codes.tobytes() for insight, codes in zip(page, quantised(vectors)[0], strict=True)}
    assert index == fresh == wanted
    assert len(wanted) == 8
    identifier, codes, scale = store.changes(0, 1).upserts[0]
    exact = LetterEncoder().encode([store.get(identifier).text])[0]
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


def test_a_reader_misses_nothing_of_many_writers(database_url: str) -> None:
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


def test_what_one_store_keeps_another_finds_at_once(database_url: str) -> None:
    with opened(database_url) as one, opened(database_url) as two:
        identifier = one.put("shared wave").insight.id
        assert two.get(identifier).text == "shared wave"
        assert ids(two.lexical("wave", 1)) == [identifier]
        assert two.put("shared wave").insight.seen == 2
        two.delete(identifier)
        assert one.find(identifier) is None


# --- encoding anew ----------------------------------------------------------------------------------------------------


def test_another_encoder_encodes_all_anew(store: Store) -> None:
    store.put_many([f"text {number}" for number in range(7)])
    store.put_signal(SIGNAL, "a signal", {"x": 1})
    before = store.page(limit=20).items
    position = store.changes(0).position
    told: list[tuple[int, int]] = []
    other = LetterEncoder("letters-v2")
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


def test_one_that_was_interrupted_goes_on_where_it_stopped(store: Store) -> None:
    class Interrupted(LetterEncoder):
        def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 26"]:
            if len(self.calls) >= 4:
                raise KeyboardInterrupt
            return super().encode(texts)

    store.put_many([f"text {number}" for number in range(6)])
    with pytest.raises(KeyboardInterrupt):
        store.reindex(Interrupted("letters-v2"), batch=2)
    other = LetterEncoder("letters-v2")
    assert store.stats().stale == 2
    assert store.reindex(other, batch=2) == 2
    assert other.calls == ["text 4", "text 5"]


def test_vectors_of_another_encoder_are_passed_over(database_url: str) -> None:
    with Store.open(database_url, encoder=LetterEncoder("old")) as old:
        old.put_many(["a", "b", "c"])
    with Store.open(database_url, encoder=LetterEncoder("new")) as store:
        new = store.put("d").insight.id
        store.put("a")
        assert store.stats().stale == 3
        index: dict[str, bytes] = {}
        position = follow(store, index, 0, 2)
        assert list(index) == [new]
        assert store.reindex(store.encoder) == 3
        follow(store, index, position)
        assert len(index) == 4


def test_what_another_process_puts_meanwhile_is_encoded_too(database_url: str) -> None:
    with opened(database_url, "old") as old, opened(database_url, "old") as store:
        old.put_many(["a", "b", "c"])

        def meanwhile(done: int, total: int) -> None:
            if done == 2:
                old.put("d")
                old.delete(insight_id("c"))
            if done == 3:
                old.put("e")

        assert store.reindex(LetterEncoder("new"), batch=2, progress=meanwhile) == 4
        assert store.stats().stale == 0
        assert sorted(insight.text for insight in store.page(limit=9).items) == ["a", "b", "d", "e"]


def test_a_signal_that_changes_while_it_is_encoded_keeps_the_newer_vector(database_url: str) -> None:
    class Slow(LetterEncoder):
        def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 26"]:
            vectors = super().encode(texts)
            if not self.calls[1:]:
                new.put_signal(SIGNAL, "the later text", {})
            return vectors

    with opened(database_url, "old") as store, opened(database_url, "new") as new:
        store.put_signal(SIGNAL, "an earlier text", {})
        assert store.reindex(Slow("new")) == 0
        ((_, codes, _),) = store.changes(0).upserts
        assert codes == quantised(LetterEncoder().encode(["the later text"]))[0].tobytes()


# --- opening ----------------------------------------------------------------------------------------------------------


def test_all_is_there_after_reopening(database_url: str) -> None:
    with Store.open(DatabaseSettings(url=database_url), encoder=LetterEncoder()) as store:
        insight = store.put("kept").insight
        store.ready()
    store.close()
    with Store.open(database_url, encoder=LetterEncoder()) as store:
        assert store.get(insight.id) == insight
        assert store.changes(0).position == 1


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    for use in (store.count, store.ready, lambda: store.put("a"), lambda: store.delete("ab" * 32)):
        with pytest.raises(StoreError, match="was closed"):
            use()


def test_the_default_encoder_is_the_hashed_ngrams(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a.db") as store:
        assert store.put("a").insight.encoder == "hashed-ngrams-v1"


def test_paths_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = LetterEncoder()
    for name in (tmp_path / "new" / "er" / "a.db", str(tmp_path / "50% \u00fc#&.db")):
        with Store.open(name, encoder=encoder) as store:
            store.put("a")
        assert Path(name).is_file()
    monkeypatch.chdir(tmp_path)
    Store.open("relative.db", encoder=encoder).close()
    assert (tmp_path / "relative.db").is_file()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    Store.open(encoder=encoder).close()
    assert (tmp_path / "data" / "dredge" / "dredge.db").is_file()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://h/d", "SQLite or PostgreSQL; got mysql"),
        ("sqlite://", "a file that several connections open"),
        ("sqlite:///:memory:", "a file that several connections open"),
        ("sqlite:///file:a?mode=memory", "a file that several connections open"),
        ("no such thing://", "named by a path or by a URL"),
        ("where?.db", "holds no '?'"),
    ],
)
def test_a_url_that_cannot_be_is_refused(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=re.escape(message)):
        Store.open(url)


def test_what_is_no_database_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        Store.open(tmp_path)
    (tmp_path / "note.txt").write_text("not a database, but longer than its head" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        Store.open(tmp_path / "note.txt")
    assert (tmp_path / "note.txt").read_text().startswith("not a database")
    with pytest.raises(StoreError, match="a database needs a folder"):
        Store.open(tmp_path / "note.txt" / "a.db")


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(StoreError, match="has bookmarks and not that"):
        Store.open(tmp_path / "a.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]


def test_a_writer_that_waits_too_long_says_so(database_url: str) -> None:
    patient = DatabaseSettings(url=database_url, busy_timeout_ms=50)
    with Store.open(patient, encoder=LetterEncoder()) as one, Store.open(patient, encoder=LetterEncoder()) as two:
        with one.database.writing():
            for store in (one, two):  # behind the lock of this process, and behind that of the database
                for put in (lambda store=store: store.put("a"), lambda store=store: store.put_many(["a"])):
                    with pytest.raises(StoreError, match="waits 50 ms at most"):
                        put()
            assert two.count() == 0
        assert two.put("a").created


def test_a_write_that_fails_half_way_leaves_nothing(store: Store) -> None:
    with contextlib.suppress(ZeroDivisionError), store.database.writing() as connection:
        connection.execute(text("UPDATE clock SET position = 77"))
        raise ZeroDivisionError
    assert store.put("a").created
    assert store.changes(0).position == 1


def test_a_database_that_was_taken_away_is_not_ready(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a.db", encoder=LetterEncoder()) as store:
        store.ready()
        (tmp_path / "a.db").rename(tmp_path / "b.db")
        with pytest.raises(StoreError, match=r"a\.db is gone or another"):
            store.ready()
        (tmp_path / "a.db").write_bytes((tmp_path / "b.db").read_bytes())
        with pytest.raises(StoreError, match=r"a\.db is gone or another"):
            store.ready()


def test_a_signals_document_goes_with_it(store: Store) -> None:
    store.put_signal(SIGNAL, "a signal", {"x": 1})
    store.delete(SIGNAL)
    assert store.find(SIGNAL) is None
    with store.database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM signals")).scalar() == 0
    assert store.put_signal(SIGNAL, "a signal", {"x": 2}).created
    assert store.get(SIGNAL).signal == {"x": 2}


@pytest.mark.parametrize(("setting", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_every_connection_has_its_pragmas(tmp_path: Path, setting: Any, level: int) -> None:
    database = DatabaseSettings(url=f"sqlite:///{tmp_path / 'a.db'}", synchronous=setting, busy_timeout_ms=1234)
    with Store.open(database, encoder=LetterEncoder()) as store:
        for connect in (store.database.reading, store.database.writing):
            with store.database.reading(), connect() as connection:
                found = [connection.execute(text(f"PRAGMA {name}")).scalar() for name in
                         ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")]  # fmt: skip
                assert found == ["wal", level, 1, 1234]


@pytest.mark.parametrize(
    "database_url",
    ["sqlite", pytest.param("postgresql", marks=[pytest.mark.slow, pytest.mark.needs_extra("psycopg")])],
    indirect=True,
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_forked_process_may_go_on_with_the_store(database_url: str) -> None:
    program = (
        "import os, sys\n"
        "from dredge.insights.store import Store\n"
        "store = Store.open(sys.argv[1])\n"
        "store.put('parent')\n"
        "with store.database.reading(), store.database._alone():\n"  # as another thread may
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        store.put('child')\n"
        "        store.close()\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "store.put('parent')\n"
        "assert store.count() == 2, store.count()\n"
        "store.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, database_url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
