"""Ours: what a request, a row and a search cost, and whether the right note is found."""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from claimbench.case import Case, Counted
from claimbench.cases.dredge.problem import Requests, default_settings, not_timed
from claimbench.errors import CaseError
from claimbench.record import Params
from claimbench.statistics import CONFIDENCE
from claimbench.turns import in_turns, interval_of, seconds, share_saved
from dredge.bench.recall import measure_latency, measure_recall
from dredge.config import DatabaseSettings
from dredge.insights.ids import insight_id
from dredge.insights.store import Store
from dredge.server import create_app, run_server

__all__ = ["CASES", "sentence"]

_WORDS = (
    "wave", "packet", "signal", "note", "search", "vector", "lake", "gravity", "river", "archive", "memory", "chirp",
    "window", "phase", "record", "morning", "letter", "winter", "engine", "garden", "sudden", "quiet", "narrow",
    "bright", "heavy", "finds", "keeps", "turns", "shows", "draws", "before", "after", "under", "across",
)  # fmt: skip


def sentence(number: int, size: int = 80) -> str:
    """A text of about a size that no other number has.

    Args:
        number: Which.
        size: Bytes.
    """
    drawn = random.Random(number)
    words = [f"{number}"]
    while sum(map(len, words)) + len(words) < size:
        words.append(drawn.choice(_WORDS))
    return " ".join(words)


@contextmanager
def _opened(synchronous: Literal["FULL", "NORMAL"] = "FULL") -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="claimbench-dredge-") as folder:
        settings = DatabaseSettings(url=f"sqlite:///{folder}/notes.db", synchronous=synchronous)
        with Store.open(settings) as store:
            yield store


# --- rows -------------------------------------------------------------------------------------------------------------

BATCH, SINGLES = 1000, 40


def _stored(_params: Params) -> Iterable[Counted]:
    numbers = count()
    with _opened() as full, _opened("NORMAL") as normal:

        def batch(clock: Callable[[], float]) -> float:
            texts = [sentence(next(numbers)) for _ in range(BATCH)]
            return seconds(lambda: full.put_many(texts), clock)

        def singly(store: Store) -> float:
            texts = [sentence(next(numbers)) for _ in range(SINGLES)]
            return seconds(lambda: [store.put(text) for text in texts]) / SINGLES

        for clock, name in ((time.perf_counter, "rows"), (time.process_time, "rows_cpu")):
            taken = np.array([batch(clock) for _ in range(7)])[1:]
            rate, (low, high) = interval_of(np.log(BATCH / taken))
            words = (
                f"in batches of {BATCH} texts of 80 bytes, each a transaction, FULL, in the folder for temporary files"
            )
            yield Counted(name, math.exp(rate), "best", "/s", words, (math.exp(low), math.exp(high)))
        found = in_turns({"full": lambda: singly(full), "normal": lambda: singly(normal)}, 8)
        there = full.find(insight_id(sentence(0)))
        if there is None or there.text != sentence(0) or full.count() + normal.count() != next(numbers):
            raise CaseError("what was put is there; some is not; mend the store before it is timed")
    for name, taken in found.items():
        mean, ends = interval_of(1e6 * taken)
        yield Counted(
            "put", mean, name, "µs", f"a put of one new text of 80 bytes, {SINGLES} in each of 8 rounds", ends
        )
    share, ends = share_saved(found["full"], found["normal"])
    yield Counted("saved", share, "normal", "%", "of the time of a put, NORMAL against FULL", ends)


# --- requests ---------------------------------------------------------------------------------------------------------

PART, PARTS = 50, 12


def _lifted(params: Params) -> Iterable[Counted]:
    """Processor time of whole requests to the application as it is by default, its log written to this worker's."""
    size, keep = int(params["bytes"]), params["kept"] == "yes"
    numbers = count()
    with _opened() as store:
        ask = Requests(create_app(default_settings(), store))

        def part() -> float:
            bodies = []
            for _ in range(PART):
                text = sentence(next(numbers), size)
                bodies.append((json.dumps({"insight_text": text, "keep": keep}).encode(), insight_id(text)))
            answers: list[bytes] = []

            def requests() -> None:
                answers.extend(ask("POST", "/lift", body) for body, _ in bodies)

            taken = seconds(requests, time.process_time)
            if [json.loads(answer)["id"] for answer in answers] != [identifier for _, identifier in bodies]:
                raise CaseError("an answer has the id of its text; one has not; mend the service before it is timed")
            return 1e6 * taken / PART

        taken = in_turns({"best": part}, PARTS)["best"]
    mean, ends = interval_of(taken)
    words = f"of the processor, {PARTS} parts of {PART} new texts, without the server's socket"
    yield Counted("taken", mean, "best", "µs", words, ends)


# --- a real server ----------------------------------------------------------------------------------------------------

CONNECTIONS, LOADED, PATIENCE = 4, 2000, 60.0


class _Served:
    """`dredge serve` on a free port of loopback, in a process of its own.

    Args:
        folder: Of its database and its log.
    """

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DREDGE_")}
        environment |= {
            "DREDGE_DATABASE__URL": f"sqlite:///{folder}/notes.db", "DREDGE_LOG__FORMAT": "json",
            "DREDGE_CONFIG": "", "XDG_CONFIG_HOME": str(folder),
        }  # fmt: skip
        with self._log.open("w") as log:
            # Of this worker's process group, so that it ends with it whatever happens.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dredge", "serve", "--port", "0"], env=environment, stdout=log, stderr=log
            )
        self.port = 0
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            lines = [line for line in self._log.read_text().splitlines() if '"listening"' in line]
            if lines:
                self.port = int(json.loads(lines[0])["url"].rpartition(":")[2])
                try:
                    with closing(self.connection()) as connection:
                        if self.ask(connection, "GET", "/ready")[0] == 200:
                            return
                except OSError:
                    pass
            time.sleep(0.05)
        raise CaseError(f"the server answers within {PATIENCE:.0f} s; it did not: {self._log.read_text()[-300:]}")

    def connection(self) -> http.client.HTTPConnection:
        """A new one."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    @staticmethod
    def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request; status and JSON.

        Args:
            connection: To use.
            method: Of the request.
            path: And query.
            body: To send as JSON.
        """
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def close(self) -> None:
        """Asks it to end, and waits."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(PATIENCE)


def _client(
    served: _Served, number: int, until: float, rows: list[tuple[str, int, float]], acknowledged: list[str]
) -> None:
    """Seven reads for three writes, of kinds drawn at random."""
    drawn, numbers = random.Random(number), count(1_000_000 * (number + 1))
    with closing(served.connection()) as connection:
        while time.monotonic() < until:
            kind = drawn.choices(("search", "get", "page", "lift", "batch"), (20, 30, 20, 25, 5))[0]
            body: Any = None
            method, path = "GET", f"/insights/{insight_id(sentence(drawn.randrange(LOADED)))}"
            if kind == "search":
                path = "/search?q=" + "+".join(drawn.choices(_WORDS, k=3))
            elif kind == "page":
                path = "/insights?limit=20"
            elif kind == "lift":
                method, path = "POST", "/lift"
                body = {"insight_text": sentence(next(numbers), drawn.choice((39, 200, 1000)))}
            elif kind == "batch":
                method, path = "POST", "/lift/batch"
                body = {"insight_texts": [sentence(next(numbers)) for _ in range(20)]}
            began = time.perf_counter()
            status, answer = served.ask(connection, method, path, body)
            rows.append(("writes" if method == "POST" else "reads", status, 1e3 * (time.perf_counter() - began)))
            if method == "POST" and status == 200:
                acknowledged += [one["id"] for one in answer.get("results", [answer])]


def _served(params: Params) -> Iterable[Counted]:
    rows: list[tuple[str, int, float]] = []
    acknowledged: list[str] = []
    broken: list[BaseException] = []

    def run(number: int, until: float) -> None:
        try:
            _client(served, number, until, rows, acknowledged)
        except Exception as error:  # noqa: BLE001 - a thread's exception would be lost; it is raised below
            broken.append(error)

    with tempfile.TemporaryDirectory(prefix="claimbench-dredge-") as name:
        folder = Path(name)
        with Store.open(folder / "notes.db") as store:
            store.put_many([sentence(number) for number in range(LOADED)])
        served = _Served(folder)
        try:
            until = time.monotonic() + float(params["seconds"])
            clients = [threading.Thread(target=run, args=(number, until)) for number in range(CONNECTIONS)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
        finally:
            served.close()
        if broken:
            raise CaseError(f"every request is answered; one was not: {broken[0]!r}") from broken[0]
        with Store.open(folder / "notes.db") as store:
            lost = len(set(acknowledged)) - len(store.get_many(list(dict.fromkeys(acknowledged))))
    words = (
        f"{len(rows)} requests in {params['seconds']} s over {CONNECTIONS} connections, on the machine of the clients"
    )
    for kind in ("reads", "writes"):
        taken = [milliseconds for what, _, milliseconds in rows if what == kind]
        half, most = np.quantile(taken, [0.5, 0.99])
        yield Counted(kind, float(most), "best", "ms", f"99 % of {len(taken)} {kind}; half took {half:.3g} ms; {words}")
    yield Counted(
        "failed", sum(status >= 500 for _, status, _ in rows), "best", "", f"answers of 500 and more; {words}"
    )
    refused = sum(status != 200 for _, status, _ in rows)
    yield Counted("refused", refused, "best", "", f"answers other than 200; {words}")
    yield Counted("lost", lost, "best", "", f"of {len(set(acknowledged))} acknowledged insights")


# --- finding ----------------------------------------------------------------------------------------------------------


def _recalled(params: Params) -> Iterable[Counted]:
    queries = int(params["queries"])
    rows = measure_recall(seeds=(0,), queries=queries)
    shares = {(row.kind, row.mode): 100 * row.at_1 for row in rows}
    for (kind, mode), share in shares.items():
        if mode in ("hybrid", "text", "vector"):
            words = f"{queries} queries, {kind}, each made of one of the reported half of the sentences"
            # Wilson's interval of a share.
            p, z2 = share / 100, NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) ** 2
            middle = (p + z2 / (2 * queries)) / (1 + z2 / queries)
            reach = math.sqrt(z2 * (p * (1 - p) / queries + z2 / (4 * queries**2))) / (1 + z2 / queries)
            yield Counted(
                kind, share, mode, "%", words, (min(share, 100 * (middle - reach)), max(share, 100 * (middle + reach)))
            )
    worst = min(
        (shares[kind, "hybrid"] - max(shares[kind, "text"], shares[kind, "vector"]), kind)
        for kind in dict.fromkeys(kind for kind, _ in shares)
    )
    yield Counted("against_better_part", worst[0], "hybrid", "points", f"at its worst, on queries that are {worst[1]}")


def _searched(params: Params) -> Iterable[Counted]:
    for row in measure_latency(rows=int(params["rows"])):
        words = (
            f"{row.queries} queries of all kinds; half took {row.wall_p50:.3g} ms; {row.bytes_per_row:.0f} bytes a row"
        )
        yield Counted("wall_p95", row.wall_p95, row.mode, "ms", words)
        yield Counted("cpu_p95", row.cpu_p95, row.mode, "ms", words)


CASES = (
    Case(
        "dredge.store",
        "rows kept a second, in batches and one by one",
        "torch",
        not_timed,
        values=_stored,
        values_grid=({"rows": BATCH},),
        original=(Store.put, Store.put_many),
        budget=10.0,
    ),
    Case(
        "dredge.lift",
        "processor time of a request to lift",
        "torch",
        not_timed,
        values=_lifted,
        values_grid=tuple({"kept": kept, "bytes": size} for kept in ("no", "yes") for size in (39, 1000)),
        original=(create_app,),
        budget=5.0,
    ),
    Case(
        "dredge.recall",
        "share of queries whose own sentence is found first",
        "torch",
        not_timed,
        values=_recalled,
        values_grid=({"queries": 400},),
        quick_values=({"queries": 100},),
        original=(measure_recall,),
        budget=30.0,
    ),
    Case(
        "dredge.search",
        "time of a search",
        "torch",
        not_timed,
        values=_searched,
        values_grid=({"rows": 100_000},),
        original=(measure_latency,),
        budget=200.0,
    ),
    Case(
        "dredge.serve",
        "a mixed load on a real server",
        "torch",
        not_timed,
        values=_served,
        values_grid=({"seconds": 60},),
        original=(run_server,),
        budget=100.0,
    ),
)
