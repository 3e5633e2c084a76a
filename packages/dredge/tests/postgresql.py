"""A throw-away PostgreSQL server for tests, and a schema of its own for each test that asks.

Tests in any folder get the fixtures by a conftest.py that loads this file by its path, as `insights/conftest.py` does.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GIVEN = "DREDGE_TEST_POSTGRES_URL"


def _binaries() -> Path | None:
    """The folder of the newest server that is installed."""
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if versions:
        return max(versions, key=lambda folder: float(folder.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def _unprivileged() -> dict[str, Any]:
    """How a program is started as somebody who may run a server: root may not."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """A server on loopback, in a folder that is removed afterwards.

    Yields:
        The URL of its database.
    """
    binaries = _binaries()
    assert binaries is not None
    who = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="dredge-postgresql-"))
    if who:
        os.chown(folder, who["user"], who["group"])
    data, log = folder / "data", folder / "log"

    def call(*command: str) -> None:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=60, check=False, **who,
        )  # fmt: skip
        if done.returncode:
            said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{command[0]} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}{said}")

    try:
        call(str(binaries / "initdb"), "--auth=trust", "--username=dredge", "--encoding=UTF8", "--locale=C",
             "--no-sync", f"--pgdata={data}")  # fmt: skip
        for attempt in range(5):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
            try:
                call(str(binaries / "pg_ctl"), "start", f"--pgdata={data}", f"--log={log}", "--wait",
                     f"--options={options}")  # fmt: skip
                break
            except RuntimeError:
                # Somebody else took the port in between.
                if attempt == 4:
                    raise
        try:
            yield f"postgresql://dredge@127.0.0.1:{port}/postgres"
        finally:
            call(str(binaries / "pg_ctl"), "stop", f"--pgdata={data}", "--mode=immediate", "--wait")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a PostgreSQL server: the given one, or one that lives as long as the tests."""
    given = os.environ.get(GIVEN)
    if given:
        yield given
        return
    if _binaries() is None:
        message = f"needs the programs of a PostgreSQL server (Debian: postgresql), or {GIVEN}"
        if request.config.getoption("--require-extras"):
            pytest.fail(message)
        pytest.skip(message)
    with running_server() as url:
        yield url


@pytest.fixture
def postgresql_url(postgresql_server: str) -> Iterator[str]:
    """URL of an empty schema, which is removed afterwards."""
    import psycopg
    from psycopg import sql

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    try:
        yield f"{postgresql_server}{'&' if '?' in postgresql_server else '?'}options=-csearch_path%3D{name}"
    finally:
        with psycopg.connect(postgresql_server, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs_extra("psycopg"))])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'insights.db'}"
    return str(request.getfixturevalue("postgresql_url"))
