"""How connections to each kind of database are made, and how a transaction that writes begins on them."""

import sqlite3
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from dredge.config import DatabaseSettings
from dredge.errors import StoreError, needed

__all__ = ["BEGIN_WRITE", "WRITES", "Dialect", "database_url", "postgresql_engine", "sqlite_engine"]

Dialect = Literal["sqlite", "postgresql"]

WRITES: Final = "dredge_writes"
"""Execution option of a connection whose transactions are those of the only writer."""

BEGIN_WRITE: Final[dict[Dialect, str]] = {
    "sqlite": "BEGIN IMMEDIATE",
    # The driver has begun. The lock is that of a schema: those of one database do not wait for each other.
    "postgresql": "SELECT pg_advisory_xact_lock(1685218658, hashtext(coalesce(current_schema(), '')))",
}

_OLDEST: Final = (3, 35)  # RETURNING
# Every other value waits for this server's own disk.
_WAITS_FOR_DISK: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)


def database_url(settings: DatabaseSettings) -> URL:
    """Where a database is, and by which driver it is reached.

    Args:
        settings: of it.

    Returns:
        The URL.

    Raises:
        StoreError: none that can be used.
    """
    try:
        url = make_url(settings.resolved_url)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError) as error:  # the latter of a port that is no number
        raise StoreError(
            "a database is named by a path or by a URL such as sqlite:////home/me/notes.db or "
            "postgresql://me@localhost/notes; got one that is neither. Correct database.url."
        ) from error
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreError(f"a database's URL begins with sqlite:/// or postgresql://; got {backend}://. Correct it.")
    if url.database in (None, "", ":memory:") or (url.database or "").startswith("file:"):
        raise StoreError(
            f"an SQLite database is a file that several connections open; got {url}. Name one: sqlite:///notes.db."
        )
    return url.set(drivername="sqlite")


def sqlite_engine(url: URL, path: Path, settings: DatabaseSettings) -> Engine:
    """Connections to a file, whose folder is made where it is missing.

    Args:
        url: of the file.
        path: of it.
        settings: how safe a commit is, and how long to wait.

    Returns:
        The engine. A statement outside a transaction that writes is one by itself.

    Raises:
        StoreError: the file cannot be, or SQLite is too old.
    """
    if sqlite3.sqlite_version_info < _OLDEST:
        raise StoreError(
            f"a database needs SQLite {'.'.join(map(str, _OLDEST))}; this Python has {sqlite3.sqlite_version}. "
            "Use a newer one, or PostgreSQL."
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_folder = path.is_dir()
    except OSError as error:
        raise StoreError(f"a database needs a folder and a name that it takes; {error}. Choose others.") from error
    if is_folder:
        raise StoreError(f"a database is a file; {path} is a folder. Name a file in it.")
    wait, synchronous = settings.busy_timeout_ms, settings.synchronous
    # A thread never waits for a connection: it waits for other writers, and readers wait for nobody.
    engine = create_engine(url, paramstyle="named", connect_args={"timeout": wait / 1000}, pool_size=8, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver begins no transaction by itself
        connection.execute(f"PRAGMA busy_timeout={wait}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        if synchronous == "FULL":
            connection.execute("PRAGMA fullfsync=ON")  # on macOS fsync alone stops at the drive's cache

    _begin_writes(engine, "sqlite")
    return engine


def postgresql_engine(url: URL, settings: DatabaseSettings) -> Engine:
    """Connections to a server.

    Args:
        url: of the database.
        settings: how safe a commit is, how many connections, and how long to wait.

    Returns:
        The engine. With `synchronous` FULL a commit waits for the disk, also for a role that shall not.

    Raises:
        MissingExtraError: psycopg is not installed.
    """
    needed("psycopg", "postgres", "a PostgreSQL database")
    wait, size = settings.busy_timeout_ms, settings.pool_size
    # Each statement sees what was committed before it, and not only what was before its transaction began to wait.
    engine = create_engine(
        url, isolation_level="READ COMMITTED", pool_size=size, max_overflow=size, pool_timeout=wait / 1000,
        pool_pre_ping=True,
    )  # fmt: skip

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.execute(f"SET lock_timeout = {wait}")
        if settings.synchronous == "FULL":
            connection.execute(_WAITS_FOR_DISK)
        connection.commit()

    _begin_writes(engine, "postgresql")
    return engine


def _begin_writes(engine: Engine, dialect: Dialect) -> None:
    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        if connection.get_execution_options().get(WRITES):
            connection.exec_driver_sql(BEGIN_WRITE[dialect])
