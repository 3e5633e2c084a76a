"""Real servers, each in its own process on a free port of loopback."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from dredge.config import DatabaseSettings
from dredge.insights.store import Store

RUN = "from dredge.server import run_server\nrun_server(port=0)\n"
PATIENCE = 60.0


class Served:
    """A server that runs.

    Args:
        folder: of its database and its log.
        workers: processes.
        code: run before the server is.
        settings: of the environment.
    """

    def __init__(self, folder: Path, *, workers: int = 1, code: str = "", **settings: str) -> None:
        self._log = folder / f"{time.monotonic_ns()}.log"
        environment = {
            **os.environ,
            "DREDGE_DATABASE__URL": f"sqlite:///{folder}/notes.db",
            "DREDGE_SERVER__WORKERS": str(workers),
            "DREDGE_LOG__FORMAT": "json",
            # What one that is killed leaves behind goes with the rest of the folder.
            "TMPDIR": str(folder),
            **settings,
        }
        with self._log.open("w") as log:
            # A session of its own, so that its workers can be ended with it.
            self.process = subprocess.Popen(
                [sys.executable, "-c", code + RUN], env=environment, stderr=log, stdout=log, start_new_session=True
            )
        try:
            wait_for(lambda: self.lines("listening") or self.process.poll() is not None, "a server that listens")
            self.port = int(self.lines("listening")[0]["url"].rpartition(":")[2])
            wait_for(lambda: len(self.workers()) == workers and self._is_up(), "workers that answer")
        except BaseException:
            self.end()
            raise

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What was logged so far of a kind."""
        whole = self._log.read_text().rpartition("\n")[0]
        found = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in found if line["event"].startswith(event)]

    def workers(self) -> list[int]:
        """Processes of the workers that were started."""
        return [int(line["event"].rpartition(" ")[2]) for line in self.lines("Spawning worker")]

    def living(self) -> list[int]:
        """Those of them that still run."""

        def is_there(process: int) -> bool:
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                return False
            return True

        return list(filter(is_there, self.workers()))

    def connection(self) -> http.client.HTTPConnection:
        """A new one, which one of the workers takes."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request on a connection of its own; status and JSON."""
        connection = self.connection()
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(content) if "json" in (answer.getheader("content-type") or "") else content

    def worker_of(self, request_id: str) -> int:
        """The process that answered a request."""
        found: list[int] = []

        def logged() -> bool:
            found[:] = [line["pid"] for line in self.lines("request") if line["request_id"] == request_id]
            return bool(found)

        wait_for(logged, "a line for a request")
        return found[0]

    def kill(self) -> None:
        """Ends the server and its workers at once, as a loss of power would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """Asks the server to end, and waits; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        """Leaves nothing behind."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def _is_up(self) -> bool:
        try:
            return self.request("GET", "/health")[0] == 200
        except OSError:
            return False


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Waits until something holds, and fails where it does not in a minute."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited for {what} in vain")
        time.sleep(0.02)


def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Starts servers, each over a database of its own unless a folder is given, and ends them."""
    with ExitStack() as stack:

        def start(*, folder: Path | None = None, **options: Any) -> Served:
            served = Served(folder or tmp_path_factory.mktemp("served"), **options)
            stack.callback(served.end)
            return served

        yield start


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without a record."""
    path = tmp_path_factory.mktemp("empty") / "notes.db"
    Store.open(path).close()
    return path


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> Iterator[Store]:
    """An empty one: a copy, which takes a fifth of the time that making one takes."""
    path = shutil.copy(empty_database, tmp_path / "notes.db")
    with Store.open(DatabaseSettings(url=f"sqlite:///{path}", synchronous="NORMAL")) as opened:
        yield opened


# Of the servers of a module, and of those that several modules share.
serve = pytest.fixture(scope="module", name="serve")(started)
serve_for_all = pytest.fixture(scope="session", name="serve_for_all")(started)


@pytest.fixture(name="wait_for")
def wait_for_fixture() -> Callable[[Callable[[], object], str], None]:
    """The function `wait_for`, for tests, which cannot import this file."""
    return wait_for
