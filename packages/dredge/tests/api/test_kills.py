"""What was acknowledged is there, whenever the server is killed."""

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 3
LIFTED = 25


def load(served: Any, name: str, acknowledged: list[str], stop: threading.Event) -> None:
    """Lifts texts on one connection, one by one and in batches, until the server is gone."""
    connection = served.connection()
    number = 0
    try:
        while not stop.is_set():
            texts = [f"{name} {number + n}" for n in range(5 if number % 3 == 0 else 1)]
            number += len(texts)
            path, body = (
                ("/lift/batch", {"insight_texts": texts}) if len(texts) > 1 else ("/lift", {"insight_text": texts[0]})
            )
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = json.loads(answer.read())
            assert answer.status == 200
            acknowledged += [one["id"] for one in content.get("results", [content])]
    except (OSError, http.client.HTTPException, ValueError):
        # Cut off in the middle: this one was not acknowledged.
        pass
    finally:
        connection.close()


def test_no_acknowledged_insight_is_lost_over_three_kills(
    serve: Callable[..., Any], wait_for: Callable[..., None], tmp_path: Path
) -> None:
    acknowledged: list[str] = []
    for round_ in range(ROUNDS):
        # Two of them once: it is the start of a worker that takes time here.
        served = serve(folder=tmp_path, workers=1 + (round_ == 0))
        stop = threading.Event()
        before = len(acknowledged)
        clients = [
            threading.Thread(target=load, args=(served, f"round {round_} client {n} note", acknowledged, stop))
            for n in range(4)
        ]
        for client in clients:
            client.start()
        deadline = time.monotonic() + 60
        while len(acknowledged) < before + LIFTED and time.monotonic() < deadline:
            time.sleep(0.005)
        # The clients go on: the kill comes in the middle of their requests.
        served.kill()
        stop.set()
        for client in clients:
            client.join(60)
        assert len(acknowledged) >= before + LIFTED
    served = serve(folder=tmp_path)
    kept: set[str] = set()
    cursor = ""
    while True:
        status, page = served.request("GET", f"/insights?limit=200{cursor}")
        assert status == 200
        kept |= {item["id"] for item in page["items"]}
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert set(acknowledged) <= kept
    assert served.request("GET", "/ready")[0] == 200
    assert served.request("GET", "/search?q=client")[0] == 200
    # Workers whose server alone is killed do not live on.
    os.kill(served.process.pid, signal.SIGKILL)
    wait_for(lambda: not served.living(), "workers that end")
