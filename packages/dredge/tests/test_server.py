"""The service in one process, as a client of the original and a client of today see it."""

import hashlib
import io
import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

import dredge.server
from dredge.api.ids_cache import CACHED_BYTES
from dredge.config import Settings
from dredge.errors import ConfigError
from dredge.insights.encoders import HashedNgramEncoder, register_encoder
from dredge.insights.store import Store
from dredge.logs import make_logger
from dredge.server import _compute_insight_hash, create_app, run_server

TEXT = "Gravity waves — größer als 1 µm"
ID = hashlib.sha256(TEXT.encode()).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "notes.db") as opened:
        yield opened


@pytest.fixture
def client(store: Store) -> FlaskClient:
    return create_app(Settings(log={"level": "ERROR"}), store).test_client()


def test_the_card_is_json_unless_html_is_preferred(client: FlaskClient) -> None:
    for accept in (None, "*/*", "application/json", "application/json, text/html;q=0.5", "text/html;q=0.2, */*"):
        answer = client.get("/", headers={"Accept": accept} if accept else {})
        assert answer.mimetype == "application/json"
        assert answer.json["name"] == "dredge"
        assert answer.json["endpoints"]["lift"] == "/lift"
        assert "Accept" in answer.headers["Vary"]


def test_a_browser_gets_the_page(client: FlaskClient) -> None:
    accept = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"
    answer = client.get("/", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.mimetype == "text/html"


def test_health_and_readiness(client: FlaskClient, store: Store) -> None:
    assert client.get("/health").json["status"] == "healthy"
    assert client.get("/ready").json["status"] == "ready"
    store.close()
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503


def test_a_lift_answers_as_the_original_and_says_more(client: FlaskClient) -> None:
    first = client.post("/lift", json={"insight_text": TEXT})
    assert first.status_code == 200
    assert first.json["id"] == ID
    assert first.json["text"] == TEXT
    assert first.json["lifted"] is True
    assert first.json["message"]
    assert first.json["seen"] == 1
    again = client.post("/lift", json={"insight_text": TEXT})
    assert again.json["seen"] == 2
    assert again.json["created"] == first.json["created"]
    assert again.json["created"].endswith("Z")


def test_the_id_is_of_the_text_as_received(client: FlaskClient) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    ids = {client.post("/lift", json={"insight_text": text}).json["id"] for text in (composed, apart, f" {composed}")}
    assert ids == {hashlib.sha256(text.encode()).hexdigest() for text in (composed, apart, f" {composed}")}


def test_a_text_can_be_lifted_and_not_kept(client: FlaskClient, store: Store) -> None:
    answer = client.post("/lift", json={"insight_text": TEXT, "keep": False}).json
    assert (answer["id"], answer["lifted"], answer["created"], answer["seen"]) == (ID, True, None, 0)
    assert store.count() == 0


def test_a_text_that_is_missing_is_400_with_the_original_s_key(client: FlaskClient) -> None:
    answer = client.post("/lift", json={})
    assert answer.status_code == 400
    assert "error" in answer.json
    assert "insight_text" in answer.json["message"]


@pytest.mark.parametrize("text", ["", " ", "\n\t \u00a0\u2003", "\u200b"])
def test_a_blank_text_is_422(client: FlaskClient, store: Store, text: str) -> None:
    answer = client.post("/lift", json={"insight_text": text})
    assert (answer.status_code, answer.json["code"]) == (422, "unusable_text")
    assert store.count() == 0


def test_a_batch_keeps_its_order_and_its_errors(client: FlaskClient, store: Store) -> None:
    texts = ["one", " ", "two", 5, "one", None, "\ud800", ["x"]]
    answer = client.post("/lift/batch", json={"insight_texts": texts})
    assert answer.status_code == 200
    results = answer.json["results"]
    assert [result["lifted"] for result in results] == [True, False, True, False, True, False, False, False]
    assert [result.get("id") for result in results[:3]] == [
        hashlib.sha256(b"one").hexdigest(), None, hashlib.sha256(b"two").hexdigest(),
    ]  # fmt: skip
    assert (results[0]["seen"], results[4]["seen"]) == (1, 2)
    assert all(result["code"] == "unusable_text" and result["message"] for result in results if not result["lifted"])
    assert (answer.json["lifted"], answer.json["failed"]) == (3, 5)
    assert store.count() == 2


def test_a_batch_is_bounded(client: FlaskClient, store: Store) -> None:
    fits = client.post("/lift/batch", json={"insight_texts": [f"note {n}" for n in range(1000)]})
    assert (fits.status_code, fits.json["lifted"]) == (200, 1000)
    more = client.post("/lift/batch", json={"insight_texts": ["x"] * 1001})
    assert (more.status_code, more.json["code"]) == (422, "too_many_items")
    assert client.post("/lift/batch", json={"insight_texts": []}).status_code == 422
    assert store.count() == 1000


def test_records_are_listed_shown_and_deleted(client: FlaskClient) -> None:
    ids = [client.post("/lift", json={"insight_text": f"note {n}"}).json["id"] for n in range(5)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = client.get(f"/insights?limit=2{cursor}").json
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == ids[::-1]
    shown = client.get(f"/insights/{ids[0]}").json
    assert (shown["text"], shown["kind"], shown["seen"]) == ("note 0", "text", 1)
    assert {"created", "last_seen", "encoder"} <= shown.keys()
    assert client.get("/insights?kind=signal").json["items"] == []
    gone = client.delete(f"/insights/{ids[0]}")
    assert (gone.status_code, gone.data) == (204, b"")
    assert client.get(f"/insights/{ids[0]}").status_code == 404
    assert client.delete(f"/insights/{ids[0]}").status_code == 404


def test_an_export_is_imported_elsewhere_exactly(client: FlaskClient, tmp_path: Path) -> None:
    for text in ("one", "two", "two", "line\u2028end"):
        client.post("/lift", json={"insight_text": text})
    archive = client.get("/export")
    assert archive.is_streamed
    assert archive.mimetype == "application/x-ndjson"
    with Store.open(tmp_path / "other.db") as other:
        there = create_app(Settings(log={"level": "ERROR"}), other).test_client()
        report = there.post("/import", data=archive.data, content_type="application/x-ndjson")
        assert report.json == {"lines": 3, "added": 3, "merged": 0, "unchanged": 0}
        again = there.post("/import", data=archive.data, content_type="application/x-ndjson")
        assert again.json["unchanged"] == 3
        assert there.get("/export").data == archive.data


def test_a_damaged_archive_imports_nothing(client: FlaskClient, store: Store) -> None:
    client.post("/lift", json={"insight_text": "one"})
    lines = client.get("/export").data.split(b"\n")
    lines[1] = lines[1].replace(b"one", b"two")
    client.delete(f"/insights/{hashlib.sha256(b'one').hexdigest()}")
    answer = client.post("/import", data=b"\n".join(lines), content_type="application/x-ndjson")
    assert (answer.status_code, answer.json["code"]) == (422, "unusable_archive")
    assert "ine 2" in answer.json["message"]
    assert store.count() == 0


def test_reindexing_tells_how_many_and_with_what(client: FlaskClient) -> None:
    client.post("/lift", json={"insight_text": "one"})
    answer = client.post("/reindex")
    assert answer.json == {"reindexed": 0, "encoder": "hashed-ngrams-v1"}


def test_another_encoder_finds_nothing_until_all_is_encoded_anew(client: FlaskClient, store: Store) -> None:
    class Other(HashedNgramEncoder):
        version = "other-for-reindexing"

    register_encoder(Other.version, Other)
    client.post("/lift", json={"insight_text": "gravity waves"})
    with Store.open(store.database.path, encoder=Other()) as opened:
        settings = Settings(log={"level": "ERROR"}, search={"encoder": Other.version})
        other = create_app(settings, opened).test_client()
        assert other.get("/search?q=gravity&mode=vector").json["hits"] == []
        assert other.post("/reindex").json == {"reindexed": 1, "encoder": Other.version}
        (hit,) = other.get("/search?q=gravity&mode=vector").json["hits"]
        assert (hit["insight"]["text"], hit["insight"]["encoder"]) == ("gravity waves", Other.version)
        assert other.post("/reindex").json["reindexed"] == 0


def test_one_reindexing_runs_at_a_time(client: FlaskClient) -> None:
    own = client.application.extensions["dredge"]
    with own.reindexing:
        answer = client.post("/reindex")
    assert (answer.status_code, answer.json["code"]) == (429, "busy")
    assert int(answer.headers["Retry-After"]) > 0


# --- the cache of hashes ---------------------------------------------------------------------------------------------


def test_the_hash_is_cached_as_the_note_says() -> None:
    _compute_insight_hash.cache_clear()
    assert _compute_insight_hash("note") == hashlib.sha256(b"note").hexdigest()
    assert _compute_insight_hash("".join(("no", "te"))) == hashlib.sha256(b"note").hexdigest()
    info = _compute_insight_hash.cache_info()
    assert (info.hits, info.misses, info.maxsize) == (1, 1, 1024)


def test_repeated_lifts_hit_the_cache(client: FlaskClient) -> None:
    _compute_insight_hash.cache_clear()
    for _ in range(5):
        client.post("/lift", json={"insight_text": "repeated"})
    info = _compute_insight_hash.cache_info()
    assert (info.hits, info.misses) == (4, 1)


@pytest.mark.parametrize(
    ("text", "cached"),
    [("x" * CACHED_BYTES, 1), ("x" * (CACHED_BYTES + 1), 0), ("€" * 682, 1), ("€" * 683, 0), ("😀" * 512, 1),
     ("😀" * 513, 0)],
)  # fmt: skip
def test_long_texts_do_not_enter_the_cache(client: FlaskClient, text: str, cached: int) -> None:
    _compute_insight_hash.cache_clear()
    answer = client.post("/lift", json={"insight_text": text, "keep": False})
    assert answer.json["id"] == hashlib.sha256(text.encode()).hexdigest()
    assert _compute_insight_hash.cache_info().currsize == cached


@pytest.mark.parametrize("size", [0, 2])
def test_the_size_of_the_cache_is_a_setting(store: Store, size: int) -> None:
    _compute_insight_hash.cache_clear()
    app = create_app(Settings(log={"level": "ERROR"}, search={"hash_cache": size}), store)
    for n in range(4):
        app.test_client().post("/lift", json={"insight_text": f"note {n}"})
    assert app.extensions["dredge"].ids.counts() == (0, 4 if size else 0)
    assert _compute_insight_hash.cache_info().misses == 0


# --- running it ------------------------------------------------------------------------------------------------------


def test_debugging_stays_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"debugging is for this machine alone; got host 0\.0\.0\.0"):
        run_server(host="0.0.0.0", port=0, debug=True)


@pytest.mark.parametrize("backend", ["granian", "waitress", "flask"])
def test_a_port_that_is_taken_is_refused_at_once(tmp_path: Path, backend: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(
            database={"url": f"sqlite:///{tmp_path}/notes.db"},
            server={"port": taken.getsockname()[1], "backend": backend},
        )
        with pytest.raises(ConfigError, match="a port that is free"):
            run_server(settings=settings)


def test_the_reserved_port_can_be_listened_on_by_workers() -> None:
    with dredge.server._reserved(Settings(server={"port": 0}).server) as port, socket.socket() as worker:
        assert port > 0
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", port))
        worker.listen()
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            connection, _ = worker.accept()
            connection.close()


def test_other_backends_serve_the_same_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[Flask, dict[str, Any]]] = []
    waitress = ModuleType("waitress")
    waitress.serve = lambda app, **options: served.append((app, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "waitress", waitress)
    monkeypatch.setattr(
        Flask, "run", lambda app, host, port, **options: served.append((app, {"port": port, **options}))
    )
    monkeypatch.setattr("logging.config.dictConfig", lambda configuration: None)
    for backend in ("waitress", "flask"):
        run_server(
            Settings(
                database={"url": f"sqlite:///{tmp_path}/notes.db"},
                server={"port": 0, "backend": backend, "threads": 3},
                log={"level": "ERROR"},
            )
        )
    (by_waitress, waitress_options), (by_flask, flask_options) = served
    assert waitress_options["threads"] == 3
    assert waitress_options["host"] == "127.0.0.1"
    assert flask_options["use_debugger"] is False
    for app in (by_waitress, by_flask):
        assert app.test_client().get("/health").status_code == 200


@pytest.mark.parametrize("backend", ["waitress", "flask"])
def test_backends_of_one_process_end_in_good_order_at_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    ended: list[str] = []

    def serve(*_: Any, **__: Any) -> None:
        # As both of them do: what is in progress is finished after an interrupt, and after nothing else.
        try:
            signal.raise_signal(signal.SIGTERM)
            ended.append("not at all")
        except KeyboardInterrupt:
            ended.append("in good order")

    waitress = ModuleType("waitress")
    waitress.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "waitress", waitress)
    monkeypatch.setattr(Flask, "run", serve)
    monkeypatch.setattr("logging.config.dictConfig", lambda configuration: None)
    settings = Settings(
        database={"url": f"sqlite:///{tmp_path}/notes.db"}, server={"port": 0, "backend": backend},
        log={"level": "ERROR"},
    )  # fmt: skip
    # So that the tests themselves are not ended where it is not caught.
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        run_server(settings)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == ["in good order"]


@pytest.mark.parametrize("backend", ["waitress", "flask"])
def test_backends_of_one_process_refuse_more(tmp_path: Path, backend: str) -> None:
    settings = Settings(
        database={"url": f"sqlite:///{tmp_path}/notes.db"}, server={"port": 0, "backend": backend, "workers": 2}
    )
    with pytest.raises(ConfigError, match=f"{backend} has one process; got 2 workers"):
        run_server(settings)


@pytest.mark.parametrize(
    ("host", "tokens", "warned"), [("127.0.0.1", (), 0), ("0.0.0.0", (), 1), ("0.0.0.0", ("t" * 16,), 0)]
)
def test_a_service_that_is_open_to_all_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, tokens: tuple[str, ...], warned: int
) -> None:
    lines = io.StringIO()
    monkeypatch.setattr("dredge.server.make_logger", lambda settings: make_logger(settings, lines))
    monkeypatch.setitem(dredge.server._BACKENDS, "granian", lambda settings: None)
    settings = Settings(
        database={"url": f"sqlite:///{tmp_path}/notes.db"}, server={"host": host, "port": 0}, auth={"tokens": tokens},
        log={"format": "json"},
    )  # fmt: skip
    run_server(settings)
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["level"] for line in told] == ["warning"] * warned + ["info"]


def test_a_backend_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "waitress", None)
    settings = Settings(
        database={"url": f"sqlite:///{tmp_path}/notes.db"},
        server={"port": 0, "backend": "waitress"},
        log={"level": "ERROR"},
    )
    with pytest.raises(ConfigError, match="needs the package waitress"):
        run_server(settings)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_host_may_be_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    given: list[str] = []

    class Granian:
        def __init__(self, *_: Any, address: str, **__: Any) -> None:
            given.append(address)

        def serve(self, **_: Any) -> None:
            pass

    monkeypatch.setattr("granian.Granian", Granian)
    run_server(
        Settings(
            database={"url": f"sqlite:///{tmp_path}/notes.db"}, server={"host": host, "port": 0}, log={"level": "ERROR"}
        )
    )
    assert given == ["127.0.0.1"]


def test_a_host_that_is_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an address or a name; got none"):
        run_server(Settings(database={"url": f"sqlite:///{tmp_path}/notes.db"}, server={"host": "", "port": 0}))


def test_settings_may_be_given_for_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []
    monkeypatch.setitem(dredge.server._BACKENDS, "granian", served.append)
    settings = Settings(database={"url": f"sqlite:///{tmp_path}/notes.db"}, server={"port": 0}, log={"level": "ERROR"})
    run_server(settings)
    run_server(settings=settings)
    monkeypatch.setenv("DREDGE_DATABASE__URL", f"sqlite:///{tmp_path}/notes.db")
    run_server("127.0.0.1", 0)
    assert [one.server.host for one in served] == ["127.0.0.1"] * 3
    assert all(one.server.port > 0 for one in served)


def test_json_is_utf8_without_escapes(client: FlaskClient) -> None:
    data = client.post("/lift", json={"insight_text": TEXT}).data
    assert TEXT.encode() in data
    assert json.loads(data)["text"] == TEXT
