import contextlib
import math
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32
from sqlalchemy import make_url, text

from dredge.config import DatabaseSettings
from dredge.errors import MissingExtraError, StoreError
from dredge.insights.fulltext import tsvector_literal, words
from dredge.insights.ids import insight_id
from dredge.insights.rows import ticks
from dredge.insights.store import Store

pytestmark = pytest.mark.needs_extra("psycopg")


class OneEncoder:
    """The same vector for every text."""

    version = "one-v1"
    dim = 4

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 4"]:
        return np.tile(np.float32(0.5), (len(texts), 4))


def opened(url: str, wait: int = 10_000, pool: int = 2) -> Store:
    return Store.open(DatabaseSettings(url=url, busy_timeout_ms=wait, pool_size=pool), encoder=OneEncoder())


def test_a_writer_waits_until_the_one_before_is_seen(postgresql_url: str) -> None:
    # Without waiting, the later revision would be seen first, and who asks for what follows it would miss the other.
    with opened(postgresql_url) as one, opened(postgresql_url) as two:
        writing, done = threading.Event(), threading.Event()

        def second() -> None:
            writing.set()
            two.put("second")
            done.set()

        thread = threading.Thread(target=second)
        with one.database.writing() as connection:
            assert ticks(connection, 1) == 1
            thread.start()
            assert writing.wait(10)
            assert not done.wait(0.3)
            assert one.changes(0).position == 0
        thread.join(10)
        assert done.is_set()
        assert one.changes(0).position == 2


def test_writers_of_two_schemas_do_not_wait(postgresql_url: str, postgresql_server: str) -> None:
    import psycopg

    other = f"{postgresql_url}_other"
    name = make_url(other).query["options"]
    assert isinstance(name, str)
    schema = name.rpartition("=")[2]
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    try:
        with opened(postgresql_url) as one, opened(other, wait=2000) as two, one.database.writing():
            assert two.put("a").created
    finally:
        with psycopg.connect(postgresql_server, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA {schema} CASCADE")


def test_a_role_that_asks_for_older_snapshots_changes_nothing(postgresql_url: str) -> None:
    url = postgresql_url.replace("options=", "options=-cdefault_transaction_isolation%3Dserializable%20")
    with opened(url) as one, opened(url) as two:

        def write(store: Store, name: str) -> None:
            for turn in range(10):
                store.put("shared")
                store.put_many(["shared too", f"{name} {turn}"])

        threads = [threading.Thread(target=write, args=args) for args in ((one, "a"), (one, "b"), (two, "c"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert one.get(insight_id("shared")).seen == one.get(insight_id("shared too")).seen == 30
        assert one.count() == 32


@pytest.mark.parametrize(("setting", "waits"), [("FULL", "on"), ("NORMAL", "off")])
def test_a_commit_waits_for_the_disk_whatever_the_role_says(postgresql_url: str, setting: Any, waits: str) -> None:
    url = postgresql_url.replace("options=", "options=-csynchronous_commit%3Doff%20")
    with Store.open(DatabaseSettings(url=url, synchronous=setting), encoder=OneEncoder()) as store:
        for connect in (store.database.reading, store.database.writing):
            with connect() as connection:
                assert connection.execute(text("SHOW synchronous_commit")).scalar() == waits
        with store.database.direct() as direct:
            assert direct.one(text("SHOW synchronous_commit"), {}) == (waits,)
    stronger = postgresql_url.replace("options=", "options=-csynchronous_commit%3Dremote_apply%20")
    with opened(stronger) as store, store.database.writing() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar() == "remote_apply"


def test_the_ranking_is_that_of_the_description(postgresql_url: str) -> None:
    texts = ["wave", "a wave and a wave and a wave", "light of the wave", "light light of a lamp", "nothing else here"]

    def rank(count: int, words: int) -> float:
        # tsrank.c of one word of weight D = 0.1: its places count 1, 1/4, 1/9, … of π²/6.
        return 0.1 * sum(1 / place**2 for place in range(1, count + 1)) / (math.pi**2 / 6) / math.log2(words + 1)

    idf = {"wave": math.log(1 + (5 - 3 + 0.5) / 3.5), "light": math.log(1 + (5 - 2 + 0.5) / 2.5)}
    expected = {}
    for content in texts:
        split = content.split()
        score = sum(idf[word] * rank(split.count(word), len(split)) for word in idf)
        if score:
            expected[insight_id(content)] = score
    with opened(postgresql_url) as store:
        store.put_many(texts)
        found = store.lexical("wave light", 10)
    assert dict(found) == pytest.approx(expected, rel=1e-5)
    assert [identifier for identifier, _ in found] == sorted(expected, key=lambda one: -expected[one])


def test_connections_that_the_server_cut_are_made_anew(postgresql_url: str) -> None:
    with opened(postgresql_url, pool=1) as store, opened(postgresql_url) as other:
        store.put("before")
        with store.database.reading() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
        with other.database.reading() as connection:
            assert connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}).scalar()
        assert store.get(insight_id("before")).seen == 1
        assert store.put("after").created


def test_a_connection_cut_while_writing_keeps_nothing(postgresql_url: str) -> None:
    with opened(postgresql_url) as store, opened(postgresql_url) as other:
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytest.raises(StoreError, match="terminating connection"))
            connection = stack.enter_context(store.database.writing())
            ticks(connection, 5)
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
            with other.database.reading() as killer:
                killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            ticks(connection, 1)
        assert store.put("after").created
        assert store.changes(0).position == 1


def test_more_threads_than_connections_all_write(postgresql_url: str) -> None:
    with opened(postgresql_url, pool=1) as store:
        threads = [threading.Thread(target=store.put, args=[f"text {number}"]) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert store.count() == 12


def test_a_backup_is_made_by_the_servers_own_program(postgresql_url: str, tmp_path: Path) -> None:
    with opened(postgresql_url) as store:
        with pytest.raises(StoreError, match="pg_dump"):
            store.backup(tmp_path / "a.db")
        assert not (tmp_path / "a.db").exists()


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(StoreError, match="connection") as caught:
        opened("postgresql://me:secret@127.0.0.1:1/notes")
    assert "secret" not in str(caught.value)
    assert "me:***@127.0.0.1" in str(caught.value)


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"dredge\[postgres\]"):
        opened("postgresql://127.0.0.1:1/notes")


def test_a_database_that_holds_only_some_characters_is_refused(postgresql_server: str) -> None:
    import psycopg

    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        role = connection.execute("SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user").fetchone()
        if role != (True,):
            pytest.skip("needs a role that may make databases")
        name = "dredge_test_latin1"
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        try:
            with pytest.raises(StoreError, match="has the encoding LATIN1"):
                opened(make_url(postgresql_server).set(database=name).render_as_string(hide_password=False))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_the_index_is_used_for_search(postgresql_url: str) -> None:
    with opened(postgresql_url) as store:
        store.put_many([f"word{number} common" for number in range(2000)])
        with store.database.writing() as connection:
            connection.execute(text("ANALYZE insights"))
            plan = "\n".join(
                connection.execute(
                    text("EXPLAIN SELECT id FROM insights WHERE words @@ CAST('''word7''' AS tsquery)")
                ).scalars()
            )
        assert "insights_by_words" in plan
        assert [identifier for identifier, _ in store.lexical("word7", 5)] == [insight_id("word7 common")]


def test_words_have_neither_case_nor_accents() -> None:
    assert words("L'\u00c9t\u00e9 e\u0301 STRASSE stra\u00dfe x_y 3,5 \u0439") == [
        "l", "ete", "e", "strasse", "strasse", "x", "y", "3", "5", "\u0438",
    ]  # fmt: skip
    assert words("\ud55c\uae00") == ["\ud55c\uae00"]
    assert words("!? \u0301 \ud800") == []


def test_a_literal_stays_inside_the_servers_limits(postgresql_url: str) -> None:
    many = " ".join(f"{number:x}z" for number in range(200_000))
    hostile = f"again {'again ' * 40_000} {'y' * 5000} {many} end"
    literal = tsvector_literal(hostile)
    assert literal.startswith("'again':1,2,3,")
    assert literal.partition(" ")[0].count(",") == 254
    assert "yyyyy" not in literal
    assert "16384" not in literal
    with opened(postgresql_url) as store:
        store.put_many([hostile, "\u00e9" * 2500, many[::-1]])
        assert store.lexical("again 5z", 5)[0][0] == insight_id(hostile)
        store.lexical("y" * 5000 + " " + "\u00e9" * 2500, 5)
