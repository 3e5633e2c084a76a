"""Numbers for Prometheus: right, bounded, and one total over several processes."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from dredge.config import Settings
from dredge.errors import ConfigError
from dredge.insights.store import Store
from dredge.metrics import Metrics
from dredge.server import _compute_insight_hash, create_app, run_server


@pytest.fixture
def client(store: Store) -> FlaskClient:
    _compute_insight_hash.cache_clear()
    return create_app(Settings(log={"level": "ERROR"}), store).test_client()


def numbers(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "le")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def test_requests_are_counted_by_template(client: FlaskClient) -> None:
    for n in range(30):
        client.get(f"/insights/{n:064x}")
        client.get(f"/nowhere/{n}")
    client.open("/health", method="BREW")
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain; version=")
    found = numbers(answer.text)
    assert found["dredge_requests_total", "GET", "/insights/<insight_id>", "404"] == 30
    assert found["dredge_requests_total", "GET", "none", "404"] == 30
    assert found["dredge_requests_total", "other", "none", "405"] == 1
    assert found["dredge_request_seconds_count", "/insights/<insight_id>"] == 30
    assert len([key for key in found if key[0] == "dredge_requests_total"]) == 3


def test_what_is_lifted_is_counted(client: FlaskClient) -> None:
    client.post("/lift", json={"insight_text": "one"})
    client.post("/lift", json={"insight_text": "one"})
    client.post("/lift/batch", json={"insight_texts": ["one", "two", "three", ""]})
    found = numbers(client.get("/metrics").text)
    assert found["dredge_lifted_total", "text", "new"] == 3
    assert found["dredge_lifted_total", "text", "repeat"] == 2
    assert found["dredge_insights",] == 3
    assert found["dredge_store_up",] == 1


def test_the_cache_of_hashes_is_told(client: FlaskClient) -> None:
    assert numbers(client.get("/metrics").text)["dredge_hash_cache_hit_rate",] == 0
    for text in ("one", "one", "one", "two"):
        client.post("/lift", json={"insight_text": text})
    found = numbers(client.get("/metrics").text)
    assert found["dredge_hash_cache_hits_total",] == 2
    assert found["dredge_hash_cache_misses_total",] == 2
    assert found["dredge_hash_cache_hit_rate",] == 0.5
    _compute_insight_hash.cache_clear()
    client.post("/lift", json={"insight_text": "one"})
    assert numbers(client.get("/metrics").text)["dredge_hash_cache_misses_total",] == 3


def test_requests_that_overtake_each_other_count_the_cache_once() -> None:
    metrics, overtaken = Metrics(), threading.Event()

    def slow() -> tuple[int, int]:
        told = (5, 5)
        overtaken.wait(0.2)
        return told

    def quick() -> None:
        metrics.hash_cache(lambda: (6, 5))
        overtaken.set()

    first = threading.Thread(target=metrics.hash_cache, args=(slow,))
    second = threading.Thread(target=quick)
    first.start()
    second.start()
    first.join()
    second.join()
    found = numbers(metrics.render().decode())
    assert (found["dredge_hash_cache_hits_total",], found["dredge_hash_cache_misses_total",]) == (6, 5)


def test_a_database_that_fails_does_not_hide_the_other_numbers(client: FlaskClient, store: Store) -> None:
    store.close()
    answer = client.get("/metrics")
    assert answer.status_code == 200
    found = numbers(answer.text)
    assert found["dredge_store_up",] == 0
    assert ("dredge_insights",) not in found


def test_several_applications_keep_their_numbers_apart() -> None:
    first, second = Metrics(), Metrics()
    first.request("GET", "/health", 200, 0.1)
    assert b"dredge_requests_total{" in first.render()
    assert b"dredge_requests_total{" not in second.render()


PROCESS = """
import json, sys
from dredge.metrics import Metrics
metrics = Metrics()
metrics.request("GET", "/health", 200, 0.01)
metrics.hash_cache(lambda: (int(sys.argv[1]), 1))
print(json.dumps(metrics.render().decode()))
"""


def test_processes_that_share_a_folder_tell_one_total(tmp_path: Path) -> None:
    told = ""
    for hits in ("3", "5"):
        done = subprocess.run(
            [sys.executable, "-c", PROCESS, hits],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        told = json.loads(done.stdout)
    found = numbers(told)
    assert found["dredge_requests_total", "GET", "/health", "200"] == 2
    assert found["dredge_hash_cache_hits_total",] == 8
    assert found["dredge_hash_cache_hit_rate",] == 0.8


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere is none"):
        Metrics()
    # At once, and not by workers that end and are replaced for ever.
    with pytest.raises(ConfigError, match="nowhere is none"):
        run_server(Settings(database={"url": f"sqlite:///{tmp_path}/notes.db"}, server={"port": 0}))
    assert not (tmp_path / "notes.db").exists()
