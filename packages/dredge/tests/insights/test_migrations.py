import contextlib
import sqlite3
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from dredge.errors import StoreError
from dredge.insights.schema import SCHEMA_VERSION, VERSION_TABLE, metadata
from dredge.insights.store import Store

STEPS = Path(str(files("dredge.insights"))) / "migrations"


def test_the_steps_end_at_the_version_of_the_package_in_one_line() -> None:
    script = ScriptDirectory(str(STEPS))
    assert script.get_heads() == [SCHEMA_VERSION]
    assert script.get_bases() == ["0001"]
    assert len(list(script.walk_revisions())) == len(list((STEPS / "versions").glob("v*.py")))


def test_the_steps_make_the_tables_that_the_code_uses(database_url: str) -> None:
    with Store.open(database_url) as store, store.database.reading() as connection:
        # What full-text search needs is made for each database in its own way, and is no part of the description.
        def described(thing: object, name: str | None, kind: str, reflected: bool, _other: object) -> bool:
            own = (name or "").startswith("insights_fts") or name in ("words", "insights_by_words", VERSION_TABLE)
            return not (reflected and own)

        options = {"include_object": described, "compare_type": True, "version_table": VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        found = set(inspect(connection).get_table_names())
        assert found >= {*metadata.tables, VERSION_TABLE}
        checks = {check["name"] for check in inspect(connection).get_check_constraints("insights")}
        assert checks >= {"insights_kind", "insights_seen"}


def test_opening_again_changes_nothing(database_url: str) -> None:
    with Store.open(database_url) as store:
        insight = store.put("kept").insight
    for _ in range(2):
        with Store.open(database_url) as store, store.database.reading() as connection:
            assert connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all() == ["0001"]
            assert store.get(insight.id) == insight


def test_a_newer_database_is_left_alone(database_url: str) -> None:
    with Store.open(database_url) as store:
        store.put("kept")
        with store.database.writing() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'"))
        with pytest.raises(StoreError, match="has 0999 now"):
            store.ready()
    with pytest.raises(StoreError, match=rf"a version up to {SCHEMA_VERSION}; this one has 0999"):
        Store.open(database_url)


def test_a_step_that_fails_leaves_no_half_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import op

    def failing(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(op, "bulk_insert", failing)
        with pytest.raises(ZeroDivisionError):
            Store.open(tmp_path / "a.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    with Store.open(tmp_path / "a.db") as store:
        assert store.put("a").created


@pytest.mark.needs_extra("psycopg")
def test_tables_of_another_program_are_left_alone(postgresql_url: str) -> None:
    import psycopg

    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE others (id int)")
        Store.open(postgresql_url).close()  # several programs may share a schema
        connection.execute(f"DROP TABLE {VERSION_TABLE}")
        with pytest.raises(StoreError, match="has clock, deletions, insights, signals and not that"):
            Store.open(postgresql_url)


def test_several_processes_that_open_a_new_database_at_once_all_can(database_url: str) -> None:
    program = (
        "import sys\n"
        "from dredge.insights.store import Store\n"
        "from alembic import command, config, script\n"  # loaded before the start
        "print('loaded', flush=True)\n"
        "sys.stdin.readline()\n"
        "with Store.open(sys.argv[1]) as store:\n"
        "    store.put(sys.argv[2])\n"
        "    store.put('shared')\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, database_url, f"own {number}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "loaded\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.wait()
    with Store.open(database_url) as store:
        assert sorted(insight.text for insight in store.page(limit=9).items) == [
            "own 0", "own 1", "own 2", "shared",
        ]  # fmt: skip
        assert store.stats().seen == 6
