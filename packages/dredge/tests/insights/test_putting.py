import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32
from sqlalchemy import text

from dredge.config import DatabaseSettings
from dredge.errors import InsightError, SignalError, StoreError
from dredge.insights.ids import insight_id
from dredge.insights.store import Store
from dredge.insights.vectors import quantised

SIGNAL = "ab" * 32


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


def test_a_repeat_is_counted_and_not_encoded(store: Store, encoder: Any) -> None:
    first = store.put("again").insight
    second = store.put("again")
    assert not second.created
    assert (second.insight.seen, second.insight.created) == (2, first.created)
    assert second.insight.last_seen >= first.last_seen
    assert store.get(first.id) == second.insight
    assert encoder.calls == ["again"]
    assert store.count() == 1


def test_many_tell_what_became_of_each_in_its_turn(store: Store, encoder: Any) -> None:
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


def test_an_encoder_that_is_faulty_stores_nothing(database_url: str, letters: Any) -> None:
    class Faulty(letters):
        def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 26"]:
            return super().encode(texts) * np.float32("nan")

    with Store.open(database_url, encoder=Faulty()) as store:
        with pytest.raises(StoreError, match="one finite vector of 26 numbers a text; letters-v1 gave"):
            store.put("a")
        assert store.count() == 0


def test_a_database_without_a_clock_takes_nothing(store: Store) -> None:
    with store.database.writing() as connection:
        connection.execute(text("DELETE FROM clock"))
    # A row without a number would never be told to the index of vectors.
    for put in (lambda: store.put("a"), lambda: store.put_many(["a"]), lambda: store.put_signal(SIGNAL, "a", {})):
        with pytest.raises(StoreError):
            put()
    assert store.count() == 0


def test_the_encoder_runs_before_the_write_begins(database_url: str, letters: Any) -> None:
    class Curious(letters):
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


def test_a_signal_put_again_holds_what_was_found_last(store: Store, letters: Any) -> None:
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
    assert codes == quantised(letters().encode(["two waves"]))[0].tobytes()


def test_a_document_may_be_any_mapping(store: Store) -> None:
    assert store.put_signal(SIGNAL, "a signal", MappingProxyType({"x": [1]})).insight.signal == {"x": [1]}


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


def test_a_signals_document_goes_with_it(store: Store) -> None:
    store.put_signal(SIGNAL, "a signal", {"x": 1})
    store.delete(SIGNAL)
    assert store.find(SIGNAL) is None
    with store.database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM signals")).scalar() == 0
    assert store.put_signal(SIGNAL, "a signal", {"x": 2}).created
    assert store.get(SIGNAL).signal == {"x": 2}
