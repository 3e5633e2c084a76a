import hashlib
import json
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import Float32

from dredge.config import DatabaseSettings
from dredge.errors import ArchiveError, StoreError
from dredge.insights.archive import ImportReport, export_lines, import_lines
from dredge.insights.ids import insight_id
from dredge.insights.store import Store

SIGNAL = "cd" * 32
HEAD = '{"dredge":"insights","version":1}'


class OneEncoder:
    """The same vector for every text."""

    version = "one-v1"
    dim = 4

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 4"]:
        return np.tile(np.float32(0.5), (len(texts), 4))


def opened(url: str | Path) -> Store:
    name = url if isinstance(url, str) else f"sqlite:///{url}"
    return Store.open(DatabaseSettings(url=name, synchronous="NORMAL"), encoder=OneEncoder())


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with opened(database_url) as store:
        yield store


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "other.db") as store:
        yield store


def archive(*insights: dict[str, Any], **tail: Any) -> list[str]:
    """Lines of an archive, made by hand."""
    lines = [HEAD, *(json.dumps(insight) for insight in insights)]
    digest = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    return [*lines, json.dumps({"insights": len(insights), "sha256": digest, **tail})]


def line(text: str = "a", /, **values: Any) -> dict[str, Any]:
    whole = {
        "id": insight_id(text), "kind": "text", "created": "2026-01-02T03:04:05.000006Z",
        "last_seen": "2026-01-02T03:04:05.000007Z", "seen": 3, "text": text, **values,
    }  # fmt: skip
    return {name: value for name, value in whole.items() if value is not ...}


def test_what_is_exported_is_imported_exactly(store: Store, other: Store) -> None:
    texts = ["plain", "line\nend\r\n\x0b\x0c\x1c\u2028\u2029\x85", '"quoted" \\', "\U0001f30a\u00e9e\u0301", " spaces "]
    store.put_many([*texts, "plain"])
    store.put_many([f"more {number}" for number in range(100)])
    store.put_signal(SIGNAL, "chirp", {"z": [0.1, -0.0, 1e-320, 2**70], "a": {"\u2028": None}, "deep": [[[True]]]})
    store.delete(insight_id("more 3"))
    lines = list(export_lines(store))
    assert len(lines) == 105 + 2
    assert all(len(line.splitlines()) == 1 for line in lines)
    assert import_lines(other, lines) == ImportReport(lines=105, added=105, merged=0, unchanged=0)
    assert list(export_lines(other)) == lines
    assert store.page(limit=200) == other.page(limit=200)
    assert other.lexical("chirp", 1)[0][0] == SIGNAL
    assert len(other.changes(0).upserts) == 105
    assert str(other.get(SIGNAL).signal) == str(store.get(SIGNAL).signal)


def test_an_empty_store_makes_an_archive_too(store: Store, other: Store) -> None:
    lines = list(export_lines(store))
    assert [json.loads(line) for line in lines] == [json.loads(line) for line in archive()]
    assert import_lines(other, lines) == ImportReport(0, 0, 0, 0)


def test_lines_are_what_the_description_says(store: Store) -> None:
    import_lines(store, archive(line("\u00e9"), line("s", id=SIGNAL, kind="signal", signal={"x": [1.5]})))
    assert list(export_lines(store))[1:3] == [
        f'{{"id":"{insight_id(chr(0xE9))}","kind":"text","created":"2026-01-02T03:04:05.000006Z",'
        '"last_seen":"2026-01-02T03:04:05.000007Z","seen":3,"text":"\u00e9"}',
        f'{{"id":"{SIGNAL}","kind":"signal","created":"2026-01-02T03:04:05.000006Z",'
        '"last_seen":"2026-01-02T03:04:05.000007Z","seen":3,"text":"s","signal":{"x":[1.5]}}',
    ]
    insight = store.get(insight_id("\u00e9"))
    assert insight.created == datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    assert (insight.last_seen.microsecond, insight.seen, insight.encoder) == (7, 3, "one-v1")


def test_line_feeds_and_empty_lines_do_no_harm(store: Store) -> None:
    lines = archive(line("a"), line("b"))
    assert import_lines(store, [f"{line}\r\n" for line in lines] + ["\n", ""]).added == 2


def test_imported_insights_meet_those_that_are_there(store: Store) -> None:
    early, late = "2020-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"
    here = store.put("a").insight
    store.put("b")
    store.put_signal(SIGNAL, "one", {"n": 1})
    lines = archive(
        line("a", created=early, last_seen=late, seen=7),
        line("new", created=early, last_seen=late),
        line("old fit", id=SIGNAL, kind="signal", signal={"n": 0}, created=early, last_seen=early, seen=1),
    )
    assert import_lines(store, lines) == ImportReport(lines=3, added=1, merged=2, unchanged=0)
    merged = store.get(here.id)
    assert (merged.created.year, merged.last_seen.year, merged.seen) == (2020, 2999, 7)
    signal = store.get(SIGNAL)
    assert (signal.text, signal.signal, signal.created.year) == ("one", {"n": 1}, 2020)
    assert store.get(insight_id("b")).seen == 1
    before = list(export_lines(store))
    assert import_lines(store, lines) == ImportReport(lines=3, added=0, merged=0, unchanged=3)
    assert import_lines(store, before) == ImportReport(lines=4, added=0, merged=0, unchanged=4)
    assert list(export_lines(store)) == before
    newer = archive(line("new fit", id=SIGNAL, kind="signal", signal={"n": 2}, last_seen=late, seen=1))
    assert import_lines(store, newer).merged == 1
    assert (store.get(SIGNAL).text, store.get(SIGNAL).signal) == ("new fit", {"n": 2})
    assert [identifier for identifier, _ in store.lexical("fit", 5)] == [SIGNAL]


def test_what_was_deleted_comes_back(store: Store) -> None:
    stored = store.put_many(["alpha beta", "alpha"])
    lines = list(export_lines(store))
    for item in stored:
        store.delete(item.insight.id)
    position = store.changes(0).position
    assert import_lines(store, lines).added == 2
    assert list(export_lines(store)) == lines
    changes = store.changes(position)
    assert ({identifier for identifier, *_ in changes.upserts}, changes.deleted) == (
        {item.insight.id for item in stored},
        [],
    )
    assert len(store.lexical("alpha", 5)) == 2


def test_the_highest_counts_go_on_being_counted(store: Store) -> None:
    most = 10**12
    import_lines(store, archive(line("a", seen=most), line("b", seen=most)))
    assert (store.put("a").insight.seen, store.put_many(["a"])[0].insight.seen) == (most + 1, most + 2)
    assert store.stats().seen == 2 * most + 2


def test_an_insight_that_comes_twice_is_merged(store: Store) -> None:
    assert import_lines(store, archive(line("a", seen=1), line("b"), line("a", seen=9))) == ImportReport(3, 2, 1, 0)
    assert store.get(insight_id("a")).seen == 9


BAD_LINES: list[tuple[str, list[str], str]] = [
    ("nothing", [], "line 1: .*cut short"),
    ("no head", archive(line())[1:], "line 1: an archive begins with"),
    ("another version", ['{"dredge":"insights","version":2}'], "line 1: an archive begins with"),
    ("another file", ["hello"], "line 1: a line is JSON"),
    ("no end", archive(line("a"), line("b"))[:-1], "line 4: .*cut short"),
    ("half a line", [*archive(line("a"), line("b"))[:2], '{"id":"ab', ""], "line 3: a line is JSON"),
    ("a line lost", [*archive(line(), line("b"))[:2], archive(line(), line("b"))[3]], "line 3: .*the sum of"),
    ("a count changed", [text.replace('"seen": 3', '"seen": 4') for text in archive(line())], "line 3: .*the sum"),
    ("a wrong sum", archive(line(), sha256="0" * 64), "line 3: .*the sum"),
    ("a wrong number", archive(line(), insights=2), "line 3: .*the sum"),
    ("more after the end", [*archive(line("a")), *archive(line("b"))], "line 4: .*more came"),
    ("not an object", archive(line("a"), [1]), "line 3: a line is an object"),  # type: ignore[arg-type]
    ("a number out of bounds", [HEAD, '{"a":NaN}'], "line 2: .*NaN is not JSON"),
    ("5,000 digits", [HEAD, f'{{"a":{"9" * 5000}}}'], "line 2: a line is JSON"),
    ("100,000 brackets", [HEAD, "[" * 100_000], "line 2: a line is JSON"),
    ("half a pair", [HEAD, '{"a":"\ud800"}'], "line 2: a line is JSON"),
    ("a field missing", archive(line(seen=...)), "line 2: an insight has created, id"),
    ("a field too many", archive(line(extra=1)), "line 2: an insight has"),
    ("a text with a signal", archive(line(signal={})), "line 2: an insight has"),
    ("a signal without", archive(line(id=SIGNAL, kind="signal")), "line 2: an insight has"),
    ("a signal of infinity",
     [HEAD, json.dumps(line(id=SIGNAL, kind="signal", signal={"a": 1})).replace("1}", "1e999}")],
     "line 2: a signal's document"),
    ("another kind", archive(line(kind="song")), "line 2: id and text are strings"),
    ("a list for a kind", archive(line(kind=["text"])), "line 2: id and text are strings"),
    ("no text", archive(line(text=5)), "line 2: id and text are strings"),
    ("a blank text", archive(line(" ")), "line 2: a text has something"),
    ("an escaped half pair", archive(line(text="\ud800", id="ab" * 32)), "line 2: a text is Unicode"),
    ("another id", archive(line("a"), line("b", id=insight_id("a"))), "line 3: the id of a text is its SHA-256"),
    ("an id in capitals", archive(line(id=SIGNAL.upper(), kind="signal", signal={})), "line 2: the id"),
    ("never seen", archive(line(seen=0)), "line 2: seen is a count"),
    ("seen true", archive(line(seen=True)), "line 2: seen is a count"),
    ("seen too often", archive(line(seen=10**12 + 1)), "line 2: seen is a count from 1 to 1000000000000"),
    ("seen before made", archive(line(created="2027-01-01T00:00:00.000000Z")), "line 2: an insight is created before"),
    ("no zone", archive(line(created="2026-01-01T00:00:00.000000")), "line 2: a time is written"),
    ("a part of a time", archive(line(created="2026-01-01")), "line 2: a time is written"),
    ("no time", archive(line(created=None)), "line 2: a time is written"),
    ("no such day", archive(line(created="2026-02-30T00:00:00.000000Z")), "line 2: a time is written"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "message"), [case[1:] for case in BAD_LINES], ids=[case[0] for case in BAD_LINES])
def test_a_damaged_line_is_named_and_nothing_is_imported(tmp_path: Path, lines: list[str], message: str) -> None:
    with opened(tmp_path / "a.db") as store:
        store.put("here before")
        before = list(export_lines(store))
        with pytest.raises(ArchiveError, match=f"^{message}"):
            import_lines(store, lines)
        assert list(export_lines(store)) == before


def test_a_line_that_only_the_database_refuses_is_named_and_nothing_is_imported(store: Store) -> None:
    store.put("taken")
    before = list(export_lines(store))
    lines = archive(
        *(line(f"new {number}") for number in range(600)),
        line("x", id=insight_id("taken"), kind="signal", signal={}),
    )
    with pytest.raises(ArchiveError, match=r"line 602: the id of a signal belongs to no text"):
        import_lines(store, lines)
    assert list(export_lines(store)) == before


def test_an_import_that_cannot_write_leaves_nothing(database_url: str) -> None:
    impatient = DatabaseSettings(url=database_url, busy_timeout_ms=50)
    with Store.open(impatient, encoder=OneEncoder()) as store, Store.open(impatient, encoder=OneEncoder()) as busy:
        with busy.database.writing(), pytest.raises(StoreError, match="waits 50 ms"):
            import_lines(store, archive(line()))
        assert store.count() == 0
        assert import_lines(store, archive(line())).added == 1


def test_lines_that_fail_in_between_leave_nothing(store: Store) -> None:
    def broken() -> Iterator[str]:
        yield from archive(*(line(f"t {number}") for number in range(600)))[:550]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        import_lines(store, broken())
    assert store.count() == 0


def test_an_export_ends_though_others_write_all_the_time(store: Store) -> None:
    store.put_many([f"first {number}" for number in range(100)])
    exported = export_lines(store)
    texts = []
    for number, exported_line in enumerate(exported):
        texts.append(json.loads(exported_line).get("text"))
        store.put(f"meanwhile {number}")
        if number == 10:
            store.delete(insight_id("first 90"))
    assert texts[1:-1] == [f"first {number}" for number in range(100) if number != 90]


def test_neither_export_nor_import_holds_all_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dredge.insights.archive._EXPORTED", 4)
    monkeypatch.setattr("dredge.insights.archive._CHARACTERS", 400_000)
    with opened(tmp_path / "a.db") as store, opened(tmp_path / "b.db") as other:
        store.put_many([f"{number} {'x' * 100_000}" for number in range(100)])
        import_lines(other, export_lines(store))  # all that is loaded only once is loaded
        other.delete(insight_id(f"7 {'x' * 100_000}"))
        tracemalloc.start()
        try:
            held = sum(len(line) for line in export_lines(store))
            exported = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            report = import_lines(other, export_lines(store))
            imported = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert held > 10_000_000
    assert report == ImportReport(lines=100, added=1, merged=0, unchanged=99)
    assert exported < 2_500_000
    assert imported < 5_000_000


def test_others_read_and_write_while_lines_come(store: Store) -> None:
    def slow() -> Iterator[str]:
        for number, archived in enumerate(archive(*(line(f"t {number}") for number in range(20)))):
            store.put(f"other {number}")
            yield archived

    done: list[ImportReport] = []
    thread = threading.Thread(target=lambda: done.append(import_lines(store, slow())))
    thread.start()
    thread.join(30)
    assert done == [ImportReport(20, 20, 0, 0)]
    assert store.count() == 20 + 22


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20), max_size=6),
    document=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), JSON, max_size=3),
)
def test_any_texts_and_documents_make_the_round_trip(
    store: Store, other: Store, texts: list[str], document: dict[str, Any]
) -> None:
    for both in (store, other):
        while items := both.page(limit=50).items:
            for insight in items:
                both.delete(insight.id)
    store.put_many([f".{text}" for text in texts])
    store.put_signal(SIGNAL, "signal", document)
    lines = list(export_lines(store))
    import_lines(other, "".join(f"{line}\n" for line in lines).splitlines())
    assert list(export_lines(other)) == lines
    assert other.get(SIGNAL).signal == document
