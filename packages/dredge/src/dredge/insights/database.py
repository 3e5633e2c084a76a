"""A database: opened, brought to the present tables, read, and written by one writer at a time.

On SQLite a write begins with BEGIN IMMEDIATE, on PostgreSQL with an advisory lock; either way a transaction of another
process is over, and seen, before the next one reads.
"""

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from sqlalchemy import Connection, PoolProxiedConnection, TextClause, text
from sqlalchemy.exc import SQLAlchemyError

from dredge.config import DatabaseSettings
from dredge.errors import StoreError
from dredge.files import write_whole
from dredge.insights.engines import BEGIN_WRITE, WRITES, Dialect, database_url, postgresql_engine, sqlite_engine
from dredge.insights.schema import SCHEMA_VERSION, VERSION_TABLE, migrate, schema_version

__all__ = ["Database", "Direct"]

_PG_LOCK_NOT_AVAILABLE: Final = "55P03"


class Database:
    """An open database; safe for threads, and for a process that forks while it is not written.

    Args:
        settings: where it is, and how long to wait.

    Raises:
        StoreError: it cannot be opened, belongs to another program, or was written by a newer version.
        MissingExtraError: PostgreSQL is asked for and psycopg is not installed.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self.settings = settings
        self.url = database_url(settings)
        self.dialect: Dialect = "sqlite" if self.url.get_backend_name() == "sqlite" else "postgresql"
        # The process may go to another folder later.
        self.path = Path(self.url.database or "").absolute() if self.dialect == "sqlite" else None
        self.closed = False
        self._writer = threading.Lock()
        self._compiled: dict[TextClause, str] = {}
        if self.path is None:
            self._engine = postgresql_engine(self.url, settings)
        else:
            self._engine = sqlite_engine(self.url, self.path, settings)
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error)
        # On SQLite a single statement needs no transaction, and the driver begins none by itself.
        reads: dict[str, Any] = {} if self.dialect == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
        self._reads = self._engine.execution_options(**reads)
        self._writes = self._engine.execution_options(**{WRITES: True})
        _OPEN.add(self)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise
        self._file = None if self.path is None else _identity(self.path)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection on which each statement sees what is committed when it begins."""
        self._refuse_closed()
        try:
            with self._reads.connect() as connection:
                yield connection
        except self._errors as error:
            self._fail(error)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """The connection of the only writer; what it wrote is there when the block ends well, and else is not."""
        self._refuse_closed()
        with self._alone():
            try:
                with self._writes.begin() as connection:
                    yield connection
            except self._errors as error:
                self._fail(error)

    @contextlib.contextmanager
    def direct(self) -> Iterator["Direct"]:
        """A connection for the few statements of a single put, past SQLAlchemy's bookkeeping.

        Of what a single put costs, that would be as much as all of SQLite's work.
        """
        self._refuse_closed()
        try:
            pooled = self._engine.raw_connection()
            try:
                yield Direct(self, pooled)
            finally:
                pooled.close()
        except self._errors as error:
            self._fail(error)

    def compiled(self, statement: TextClause) -> str:
        """A statement in the form that the driver takes.

        Args:
            statement: with names for its values.

        Returns:
            SQL with the driver's names.
        """
        found = self._compiled.get(statement)
        if found is None:
            found = self._compiled[statement] = str(statement.compile(self._engine))
        return found

    def check(self) -> None:
        """Asks the database whether it answers, and holds the tables of this version.

        Raises:
            StoreError: it does not, or its file was taken away.
        """
        if self.path is not None and self._file != _identity(self.path):
            raise StoreError(
                f"the file of a database stays where it is; {self.path} is gone or another. Put it back and restart."
            )
        with self.reading() as connection:
            found = connection.execute(_VERSION).scalar()
        if found != SCHEMA_VERSION:
            raise StoreError(
                f"a database has version {SCHEMA_VERSION}; this one has {found} now. Restart with its own."
            )

    def size(self) -> int:
        """Bytes that the tables and what belongs to them take on the disk."""
        if self.path is not None:
            files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
            return sum(file.stat().st_size for file in files if file.exists())
        with self.reading() as connection:
            return int(connection.execute(_SIZE).scalar() or 0)

    def backup(self, path: Path) -> None:
        """Copies an SQLite database as it is at one moment, while others write.

        Args:
            path: of the copy, which is there whole or not at all.

        Raises:
            StoreError: PostgreSQL, a path at which a database is open, or a disk that does not take it.
        """
        if self.path is None:
            raise StoreError(
                f"a backup is made of SQLite; {self._name()} is PostgreSQL. Use its own: pg_dump --format=custom."
            )
        if path.resolve() == self.path.resolve() or path.with_name(f"{path.name}-wal").exists():
            raise StoreError(f"a backup goes where no database is open; {path} is one, or has a -wal. Choose another.")

        def copy(temporary: Path) -> None:
            temporary.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(temporary)) as target, self.reading() as connection:
                source = connection.connection.driver_connection
                # At once, under one snapshot: by parts, it would begin again after each write of others.
                source.backup(target)  # type: ignore[union-attr]
                # One file, without others beside it.
                target.execute("PRAGMA journal_mode=DELETE")

        try:
            write_whole(path, copy)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"a backup needs a place that can be written; {path}: {error}. Choose another.") from error

    def close(self) -> None:
        """Closes all connections; twice does no harm."""
        self.closed = True
        _OPEN.discard(self)
        self._engine.dispose()

    # --- opening ------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if (self._on_sqlite() if self.dialect == "sqlite" else self._on_postgresql()) != SCHEMA_VERSION:
            with self.writing() as connection:
                migrate(connection)

    def _on_postgresql(self) -> str | None:
        """Version of the tables."""
        with self.reading() as connection:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
            if encoding != "UTF8":
                raise StoreError(
                    f"a database holds all of Unicode; {self._name()} has the encoding {encoding}. Make it anew: "
                    "createdb --encoding=UTF8 --template=template0."
                )
            return schema_version(connection)

    def _on_sqlite(self) -> str | None:
        """Version of the tables; keeps a write-ahead log from now on."""
        deadline = time.monotonic() + self.settings.busy_timeout_ms / 1000
        while True:
            try:
                with self._reads.connect() as connection:
                    # First: a file of another program is refused as it is, and the kind of log is written into it.
                    found = schema_version(connection)
                    mode = connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar()
                break
            except self._errors as error:
                # Others that open it too are in the way for a moment, and the busy timeout does not cover this lock.
                if not _busy(error) or time.monotonic() > deadline:
                    self._fail(error)
                time.sleep(0.02)
        if mode != "wal":
            raise StoreError(
                f"a database lies on a disk of this machine, where SQLite can keep a write-ahead log; {self.path} has "
                f"the mode {mode}. Move it, or use PostgreSQL."
            )
        return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Writers of one process wait here, without asking the database again and again."""
        writer = self._writer
        if not writer.acquire(timeout=self.settings.busy_timeout_ms / 1000):
            self._fail_busy(None)
        try:
            yield
        finally:
            writer.release()

    # --- failing ------------------------------------------------------------------------------------------------------

    def _refuse_closed(self) -> None:
        if self.closed:
            raise StoreError(f"a database that is used is open; {self._name()} was closed. Open it again.")

    def _fail(self, error: Exception) -> NoReturn:
        if _busy(error):
            self._fail_busy(error)
        detail = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise StoreError(
            f"a database answers every statement; {self._name()} says: {detail}. Check that it is one of dredge, that "
            "it can be reached and written, and that the disk has room."
        ) from error

    def _fail_busy(self, error: Exception | None) -> NoReturn:
        raise StoreError(
            f"a writer waits {self.settings.busy_timeout_ms} ms at most for others; {self._name()} was locked for "
            "longer. Try again, or raise database.busy_timeout_ms."
        ) from error

    def _name(self) -> str:
        return str(self.path) if self.path is not None else self.url.render_as_string(hide_password=True)

    def _forked(self) -> None:
        # The parent goes on using its connections and its lock.
        self._writer = threading.Lock()
        self._engine.dispose(close=False)


class Direct:
    """Statements on a connection of the driver.

    Args:
        database: that it belongs to.
        pooled: the connection, given back to the pool by whoever took it.
    """

    def __init__(self, database: Database, pooled: PoolProxiedConnection) -> None:
        self.dialect = database.dialect
        self._database = database
        self._pooled = pooled
        self._cursor = pooled.cursor()

    def one(self, statement: TextClause, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Runs a statement.

        Args:
            statement: with names for its values.
            values: of them.

        Returns:
            Its row, of which there is one at most.
        """
        self._cursor.execute(self._database.compiled(statement), values)
        return self._cursor.fetchone()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What is run inside is one transaction of the only writer."""
        with self._database._alone():
            self._cursor.execute(BEGIN_WRITE[self.dialect])
            try:
                yield
                self._pooled.commit()
            except BaseException:
                self._pooled.rollback()
                raise


_OPEN: "weakref.WeakSet[Database]" = weakref.WeakSet()
_VERSION: Final = text(f"SELECT version_num FROM {VERSION_TABLE}")
_SIZE: Final = text(
    "SELECT sum(pg_total_relation_size(to_regclass(name)))::bigint "
    "FROM unnest(ARRAY['insights', 'signals', 'deletions', 'clock']) AS name"
)


def _after_fork() -> None:
    for database in list(_OPEN):
        database._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another that took its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _busy(error: Exception) -> bool:
    cause = getattr(error, "orig", None) or error
    # The lowest byte is the kind of error, the rest says more about it.
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or (
        getattr(cause, "sqlstate", None) == _PG_LOCK_NOT_AVAILABLE
    )
