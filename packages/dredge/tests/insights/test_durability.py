import contextlib
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text

from dredge.config import DatabaseSettings
from dredge.errors import StoreError
from dredge.insights.encoders import HashedNgramEncoder
from dredge.insights.ids import insight_id
from dredge.insights.store import Store

# Four threads that put, delete and put many, each telling what it was told is kept.
WRITER = """
import itertools, sys, threading
from dredge.insights.store import Store
store = Store.open(sys.argv[1])
told = threading.Lock()
def tell(*words):
    with told:
        sys.stdout.write(" ".join(words) + "\\n")
        sys.stdout.flush()
def single(name):
    for turn in itertools.count():
        stored = store.put(f"{sys.argv[2]} {name} {turn} waves")
        tell("kept", stored.insight.id)
        if turn % 3 == 2:
            tell("leaves", stored.insight.id)
            store.delete(stored.insight.id)
            tell("gone", stored.insight.id)
def many(name):
    for turn in itertools.count():
        batch = [f"{sys.argv[2]} {name} {turn} batch {number}" for number in range(20)]
        for stored in store.put_many(batch):
            tell("kept", stored.insight.id)
for number, work in enumerate((single, single, single, many)):
    threading.Thread(target=work, args=[f"thread{number}"]).start()
"""


# Another process for each kind of database takes its time; what differs is tested with threads elsewhere.
ONE_AT_ONCE = pytest.mark.parametrize(
    "database_url",
    ["sqlite", pytest.param("postgresql", marks=[pytest.mark.slow, pytest.mark.needs_extra("psycopg")])],
    indirect=True,
)


def killed(program: str, *arguments: str, after: int) -> list[str]:
    """Lines that a program printed until it had printed some, and was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = [line for _, line in zip(range(after), process.stdout, strict=False)]
        process.send_signal(signal.SIGKILL)
        rest, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, said
    # The last line may be cut off.
    return [line for line in "".join([*lines, rest]).split("\n")[:-1] if line]


def sound(store: Store) -> None:
    """Asks the database to check itself, its full-text index included."""
    if store.dialect == "sqlite":
        with store.database.writing() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalars().all() == ["ok"]
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
            connection.execute(text("INSERT INTO insights_fts(insights_fts, rank) VALUES ('integrity-check', 1)"))


def test_what_was_acknowledged_is_there_after_each_of_three_kills(database_url: str) -> None:
    kept: set[str] = set()
    uncertain: set[str] = set()
    gone: set[str] = set()
    sets = {"kept": kept, "leaves": uncertain, "gone": gone}
    for run in range(3):
        before = len(kept)
        for line in killed(WRITER, database_url, f"run{run}", after=150):
            kind, _, identifier = line.partition(" ")
            sets[kind].add(identifier)
        assert len(kept) - before > 50
        with Store.open(database_url) as store:
            sound(store)
            found = set(store.get_many(sorted(kept)))
            assert kept - uncertain <= found
            assert not found & gone
            # Of a batch all is there or nothing; and vectors, full text and pages tell of the same insights.
            everything = store.page(limit=100_000).items
            batches = Counter(match[0] for item in everything if (match := re.match("run.* batch", item.text)))
            assert set(batches.values()) <= {20}
            there = {item.id for item in everything}
            assert {identifier for identifier, *_ in store.changes(0, 100_000).upserts} == there
            waves = {item.id for item in everything if "waves" in item.text}
            assert {identifier for identifier, _ in store.lexical("waves", 100_000)} == waves


@ONE_AT_ONCE
def test_an_import_that_was_killed_left_nothing(database_url: str) -> None:
    program = """
import os, signal, sys
from dredge.insights import archive
from dredge.insights.store import Store
store = Store.open(sys.argv[1])
store.put_many([f"text {number}" for number in range(120)])
lines = list(archive.export_lines(store))
for item in store.page(limit=2000).items:
    store.delete(item.id)
store.put("before")
archive._IMPORTED = 50
merged = archive._merged
def counted(*arguments):
    done = merged(*arguments)
    print("merged", done[0], flush=True)
    if done[0] == 20:  # the last part is written, and nothing is committed
        os.kill(os.getpid(), signal.SIGKILL)
    return done
archive._merged = counted
archive.import_lines(store, lines)
"""
    assert killed(program, database_url, after=5) == ["merged 50", "merged 50", "merged 20"]
    with Store.open(database_url) as store:
        sound(store)
        assert [insight.text for insight in store.page(limit=9).items] == ["before"]
        assert store.lexical("text", 5) == []


@ONE_AT_ONCE
def test_encoding_anew_that_was_killed_goes_on_where_it_stopped(database_url: str) -> None:
    program = """
import sys, time
from dredge.insights.encoders import HashedNgramEncoder
from dredge.insights.store import Store
store = Store.open(sys.argv[1])
store.put_many([f"text {number}" for number in range(60)])
class New(HashedNgramEncoder):
    version = "new"
def told(done, total):
    print(done, total, flush=True)
    time.sleep(0.05)
store.reindex(New(), batch=10, progress=told)
"""
    told = killed(program, database_url, after=2)
    done = int(told[-1].split()[0])
    assert told[0] == "10 60"
    assert 20 <= done < 60
    with Store.open(database_url) as store:
        sound(store)
        left = [item for item in store.page(limit=100).items if item.encoder != "new"]
        assert len(left) <= 60 - done
        new = HashedNgramEncoder()
        new.version = "new"
        assert store.reindex(new) == len(left)
        assert len(store.changes(0).upserts) == 60


def test_a_backup_is_whole_while_threads_write(tmp_path: Path) -> None:
    with Store.open(DatabaseSettings(url=f"sqlite:///{tmp_path / 'a.db'}", synchronous="NORMAL")) as store:
        store.put_many([f"early {number} {'filler ' * 50}" for number in range(500)])
        running = threading.Event()
        running.set()
        written: list[str] = []

        def write(name: str) -> None:
            turn = 0
            while running.is_set():
                turn += 1
                written.extend(item.insight.id for item in store.put_many([f"{name} {turn} {part}" for part in "ab"]))

        threads = [threading.Thread(target=write, args=[name]) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        try:
            copies = []
            for number in range(3):
                before = list(written)
                while len(written) == len(before):
                    time.sleep(0.01)  # writing goes on between the copies
                before = list(written)
                store.backup(tmp_path / f"copy{number}.db")
                copies.append((tmp_path / f"copy{number}.db", before))
        finally:
            running.clear()
            for thread in threads:
                thread.join(30)
    for path, before in copies:
        # One file, that anything which reads SQLite can read.
        assert not list(tmp_path.glob(f"{path.name}-*"))
        with Store.open(path) as copy:
            sound(copy)
            assert copy.get_many(before).keys() == set(before)
            pairs = Counter(
                item.text[:-2] for item in copy.page(limit=100_000).items if item.text.endswith((" a", " b"))
            )
            assert set(pairs.values()) <= {2}
            assert len(copy.lexical("early", 1000)) == 500
            assert copy.put("the copy can be written").created


def test_a_backup_replaces_an_older_one_and_never_an_open_database(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a.db") as store, Store.open(tmp_path / "b.db") as other:
        other.put("other")
        with pytest.raises(StoreError, match="where no database is open"):
            store.backup(tmp_path / "a.db")
        with pytest.raises(StoreError, match="where no database is open"):
            store.backup(tmp_path / "b.db")
        assert other.count() == 1
        for content in ("one", "two"):
            store.put(content)
            store.backup(tmp_path / "new" / "copy.db")
        with contextlib.closing(sqlite3.connect(tmp_path / "new" / "copy.db")) as connection:
            assert connection.execute("SELECT count(*) FROM insights").fetchone() == (2,)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy.db"]


def test_a_backup_that_cannot_be_written_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path / "a.db") as store:
        store.put("one")
        store.backup(tmp_path / "copy.db")
        older = (tmp_path / "copy.db").read_bytes()
        store.put("two")
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="a place that can be written"):
            store.backup(tmp_path / "file" / "copy.db")

        def full(file: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            with pytest.raises(StoreError, match="No space left"):
                store.backup(tmp_path / "copy.db")
        assert (tmp_path / "copy.db").read_bytes() == older
        assert sorted(path.name for path in tmp_path.iterdir() if "copy" in path.name) == ["copy.db"]
        assert store.get(insight_id("two")).seen == 1
