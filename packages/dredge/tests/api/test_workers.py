"""granian with several workers: one database, one total, one end."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Serve = Callable[..., Any]
WaitFor = Callable[[Callable[[], object], str], None]

# Lifting takes longer than stopping would, if it did not wait.
SLOW = """
import time
from dredge.insights.store import Store
put = Store.put
def slow(self, text):
    if text.startswith("slow"):
        print('{"event": "in progress"}', flush=True)
        time.sleep(0.8)
    return put(self, text)
Store.put = slow
"""


@pytest.fixture(scope="module")
def pair(serve: Serve) -> Any:
    return serve(workers=2, DREDGE_LIMITS__BODY_BYTES="3000000")


def test_what_one_worker_lifts_another_finds(pair: Any) -> None:
    served = pair
    status, lifted = served.request(
        "POST", "/lift", {"insight_text": "a zeppelin over the lake"}, **{"X-Request-ID": "lifting"}
    )
    assert (status, lifted["seen"]) == (200, 1)
    for n in range(200):
        name = f"search-{n}"
        status, answer = served.request("GET", "/search?q=zeppelin", **{"X-Request-ID": name})
        assert status == 200
        assert [hit["insight"]["id"] for hit in answer["hits"]][:1] == [lifted["id"]]
        if served.worker_of(name) != served.worker_of("lifting"):
            break
    else:
        pytest.fail("200 connections all went to one worker")
    # Nothing is waited for: the first request that the other worker got found it already.
    assert served.request("POST", "/lift", {"insight_text": "a zeppelin over the lake"})[1]["seen"] == 2
    _, metrics = served.request("GET", "/metrics")
    total = sum(
        float(line.rpartition(b" ")[2])
        for line in metrics.splitlines()
        if line.startswith(b'dredge_requests_total{method="GET",route="/search"')
    )
    assert total == n + 1


def test_a_worker_that_is_killed_is_replaced_and_a_stop_waits_for_requests(serve: Serve, wait_for: WaitFor) -> None:
    served = serve(code=SLOW)
    (first,) = served.workers()
    assert served.request("POST", "/lift", {"insight_text": "kept"})[0] == 200
    os.kill(first, signal.SIGKILL)

    def answers() -> bool:
        try:
            return bool(served.request("GET", "/insights")[1]["items"][0]["text"] == "kept")
        except OSError:
            return False

    wait_for(answers, "another worker")
    assert len(served.workers()) == 2
    lifted: list[Any] = []
    lifting = threading.Thread(
        target=lambda: lifted.append(served.request("POST", "/lift", {"insight_text": "slow note"}))
    )
    lifting.start()
    wait_for(lambda: served.lines("in progress"), "a request in progress")
    assert served.stop() == 0
    lifting.join(30)
    assert [(status, answer["seen"]) for status, answer in lifted] == [(200, 1)]
    assert not served.living()


def test_bodies_are_read_whole_and_no_further(pair: Any) -> None:
    served = pair
    texts = [f"{n:06d} " * 14_000 for n in range(20)]
    status, answer = served.request("POST", "/lift/batch", {"insight_texts": texts})
    assert (status, answer["lifted"]) == (200, 20)

    def parts(count: int) -> Iterator[bytes]:
        yield b'{"insight_text": "'
        for _ in range(count):
            yield b"chunk of text " * 1000
        yield b'"}'

    # The second is too long by less than a socket holds, so that it can be sent to its end.
    for count, expected in ((10, 200), (215, 413)):
        connection = served.connection()
        try:
            try:
                connection.request(
                    "POST", "/lift", parts(count), {"Content-Type": "application/json"}, encode_chunked=True
                )
            except (BrokenPipeError, ConnectionResetError):
                # It may answer and close before the end was sent; the answer is there all the same.
                assert expected == 413
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["lifted" if expected == 200 else "code"]) == (
                expected, True if expected == 200 else "body_too_large",
            )  # fmt: skip
        finally:
            connection.close()
