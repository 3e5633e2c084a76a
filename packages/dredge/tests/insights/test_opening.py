import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dredge.config import DatabaseSettings
from dredge.errors import StoreError
from dredge.insights.store import Store


def test_all_is_there_after_reopening(database_url: str, letters: Any) -> None:
    with Store.open(DatabaseSettings(url=database_url), encoder=letters()) as store:
        insight = store.put("kept").insight
        store.ready()
    store.close()
    with Store.open(database_url, encoder=letters()) as store:
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


def test_paths_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letters: Any) -> None:
    encoder = letters()
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


def test_a_store_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letters: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open("sqlite:///relative.db", encoder=letters()) as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.put("a")
        store.ready()
        assert store.stats().bytes > 10_000
        with pytest.raises(StoreError, match="where no database is open"):
            store.backup(tmp_path / "relative.db")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://h/d", "sqlite:/// or postgresql://; got mysql://"),
        ("postgres://h/d", "sqlite:/// or postgresql://; got postgres://"),
        ("postgresql://h:port/d", "named by a path or by a URL"),
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
    for name in ("x" * 300, "x" * 300 + "/a.db"):  # longer than a file system takes
        with pytest.raises(StoreError, match="a name that it takes"):
            Store.open(tmp_path / name)


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    before = (tmp_path / "a.db").read_bytes()
    with pytest.raises(StoreError, match="has bookmarks and not that"):
        Store.open(tmp_path / "a.db")
    # Its kind of log stands in the file, too.
    assert (tmp_path / "a.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]


def test_a_writer_that_waits_too_long_says_so(database_url: str, letters: Any) -> None:
    patient = DatabaseSettings(url=database_url, busy_timeout_ms=50)
    with Store.open(patient, encoder=letters()) as one, Store.open(patient, encoder=letters()) as two:
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


def test_a_database_that_was_taken_away_is_not_ready(tmp_path: Path, letters: Any) -> None:
    with Store.open(tmp_path / "a.db", encoder=letters()) as store:
        store.ready()
        (tmp_path / "a.db").rename(tmp_path / "b.db")
        with pytest.raises(StoreError, match=r"a\.db is gone or another"):
            store.ready()
        (tmp_path / "a.db").write_bytes((tmp_path / "b.db").read_bytes())
        with pytest.raises(StoreError, match=r"a\.db is gone or another"):
            store.ready()


@pytest.mark.parametrize(("setting", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_every_connection_has_its_pragmas(tmp_path: Path, setting: Any, level: int, letters: Any) -> None:
    database = DatabaseSettings(url=f"sqlite:///{tmp_path / 'a.db'}", synchronous=setting, busy_timeout_ms=1234)
    with Store.open(database, encoder=letters()) as store:
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
