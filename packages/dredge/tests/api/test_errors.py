"""Errors are JSON, say the rule, and tell nothing of the inside."""

import errno
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from werkzeug.exceptions import ImATeapot

from dredge.api.errors import RefusedError, refusal_of
from dredge.config import LogSettings, Settings
from dredge.errors import (
    ArchiveError,
    InsightError,
    MissingExtraError,
    NotFoundError,
    QueryError,
    SignalError,
    StoreError,
)
from dredge.insights.store import Store
from dredge.logs import make_logger, standard_logging
from dredge.server import create_app

SECRET = "a text that belongs to nobody else"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    lines = io.StringIO()
    monkeypatch.setattr("dredge.server.make_logger", lambda settings: make_logger(settings, lines))
    return lines


def application(store: Store, **settings: Any) -> Flask:
    return create_app(Settings(**{"log": {"format": "json"}, **settings}), store)


def logged(log: io.StringIO, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == event]


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status", "code"),
    [
        ("POST", "/lift", {"data": b"{", "content_type": "application/json"}, 400, "bad_json"),
        ("POST", "/lift", {"json": {}}, 400, "missing_field"),
        ("GET", "/search", {}, 400, "missing_field"),
        ("GET", "/nowhere", {}, 404, "no_such_route"),
        ("GET", "/health//", {}, 404, "no_such_route"),
        ("GET", "/health/", {}, 404, "no_such_route"),
        ("GET", "/insights/abc", {}, 404, "not_found"),
        ("GET", f"/insights/{'0' * 64}/similar", {}, 404, "not_found"),
        ("GET", "/lift", {}, 405, "method_not_allowed"),
        ("PUT", "/insights", {}, 405, "method_not_allowed"),
        ("POST", "/lift", {"json": {"insight_text": "x" * 1001}}, 413, "body_too_large"),
        ("POST", "/lift", {"data": b"{}", "content_type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", "/lift", {"data": b"{}"}, 415, "unsupported_media_type"),
        ("POST", "/lift", {"json": {"insight_text": " "}}, 422, "unusable_text"),
        ("POST", "/lift", {"json": {"insight_text": 5}}, 422, "wrong_field"),
        ("GET", "/insights?cursor=none", {}, 422, "unusable_query"),
        ("POST", "/import", {"data": b"{}\n", "content_type": "application/x-ndjson"}, 422, "unusable_archive"),
    ],
)  # fmt: skip
def test_every_error_is_json_of_one_shape(
    store: Store, method: str, path: str, arguments: dict[str, Any], status: int, code: str
) -> None:
    client = application(store, limits={"body_bytes": 1000}, log={"level": "ERROR"}).test_client()
    answer = client.open(path, method=method, headers={"X-Request-ID": "mine-1"}, **arguments)
    assert (answer.status_code, answer.mimetype, answer.json["code"]) == (status, "application/json", code)
    assert answer.json["request_id"] == answer.headers["X-Request-ID"] == "mine-1"
    assert answer.json["error"]
    assert answer.json["message"].endswith(".")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("error", "status"),
    [(InsightError("a."), 422), (SignalError("a."), 422), (QueryError("a."), 422), (ArchiveError("a."), 422),
     (NotFoundError("a."), 404), (StoreError("a."), 503), (MissingExtraError("a."), 501)],
)  # fmt: skip
def test_errors_of_the_package_have_statuses(error: Any, status: int) -> None:
    refusal = refusal_of(error)
    assert refusal is not None
    assert refusal.status == status


def test_details_name_the_fields_and_repeat_no_value(store: Store) -> None:
    client = application(store, log={"level": "ERROR"}).test_client()
    for body, fields in (
        ({"insight_text": 7_654_321, "keep": SECRET}, {"insight_text", "keep"}),
        ({"insight_text": "x", SECRET: 7_654_321}, {"body"}),
    ):
        answer = client.post("/lift", json=body)
        assert answer.status_code == 422
        assert {detail["field"] for detail in answer.json["details"]} == fields
        assert SECRET.encode() not in answer.data
        assert b"7654321" not in answer.data


def test_what_was_not_foreseen_is_500_and_logged_without_the_text(store: Store, log: io.StringIO) -> None:
    app = application(store)

    def broken(text: str) -> Any:
        raise ValueError(f"cannot do with {text}")

    app.extensions["dredge"].store.put = broken
    answer = app.test_client().post("/lift", json={"insight_text": SECRET})
    assert answer.status_code == 500
    assert answer.json.keys() == {"error", "code", "message", "request_id"}
    assert b"ValueError" not in answer.data
    assert SECRET.encode() not in answer.data
    (line,) = logged(log, "request failed")
    assert line["request_id"] == answer.json["request_id"]
    assert line["exception"]["type"] == "builtins.ValueError"
    assert any("broken" in frame for frame in line["exception"]["traceback"])
    assert SECRET not in log.getvalue()


def test_debugging_logs_the_words_of_an_exception(store: Store, log: io.StringIO) -> None:
    app = application(store, log={"format": "json", "level": "DEBUG"})

    def broken(text: str) -> Any:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    app.extensions["dredge"].store.put = broken
    assert app.test_client().post("/lift", json={"insight_text": "x"}).status_code == 500
    (line,) = logged(log, "request failed")
    assert line["exception"]["message"] == "outer"
    assert line["exception"]["cause"]["type"] == "builtins.KeyError"


def test_a_database_that_fails_is_503_and_its_words_stay_in_the_log(
    store: Store, log: io.StringIO, tmp_path: Path
) -> None:
    client = application(store).test_client()
    store.close()
    for path in ("/ready", "/insights"):
        answer = client.get(path)
        assert (answer.status_code, answer.json["code"]) == (503, "store_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert str(tmp_path).encode() not in answer.data
    assert str(tmp_path) in logged(log, "request failed")[0]["exception"]["message"]


def test_other_errors_of_http_are_json_too(store: Store) -> None:
    app = application(store, log={"level": "ERROR"})

    @app.get("/teapot")
    def teapot() -> str:
        raise ImATeapot(description=request.args.get("words"))

    for words in ("no {coffee} here", "{", "{0}"):
        answer = app.test_client().get("/teapot", query_string={"words": words})
        assert (answer.status_code, answer.mimetype) == (418, "application/json")
        assert answer.json["message"] == words
    assert app.test_client().get("/teapot").json["message"]


def test_refusals_keep_their_headers(store: Store) -> None:
    app = application(store, log={"level": "ERROR"})

    @app.get("/refused")
    def refused() -> str:
        raise RefusedError(429, "slow", "Wait.", headers={"Retry-After": "7"})

    assert app.test_client().get("/refused").headers["Retry-After"] == "7"


def test_an_export_that_breaks_off_is_logged(store: Store, log: io.StringIO) -> None:
    client = application(store).test_client()
    store.put("one")
    answer = client.get("/export")
    store.close()
    with pytest.raises(StoreError):
        answer.get_data()
    assert logged(log, "export cut short")[0]["exception"]["type"] == "dredge.errors.StoreError"


def test_lines_of_libraries_look_like_ours_and_quote_nothing() -> None:
    formatter = standard_logging(LogSettings(format="json"))["formatters"]["lines"]
    made = formatter.pop("()")(**formatter)
    try:
        raise ValueError(SECRET)
    except ValueError:
        record = logging.LogRecord("other", logging.ERROR, __file__, 1, "it %s", ("failed",), sys.exc_info())
    line = json.loads(made.format(record))
    assert (line["event"], line["level"], line["exception"]["type"]) == ("it failed", "error", "builtins.ValueError")
    assert SECRET not in json.dumps(line)


def test_a_log_that_takes_no_line_stops_no_request(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dredge.server.make_logger", lambda settings: make_logger(settings, Full()))
    assert application(store).test_client().post("/lift", json={"insight_text": "x"}).status_code == 200


SERVED = """
import logging.config, threading, urllib.request
from werkzeug.serving import make_server
from dredge.config import LogSettings
from dredge.logs import standard_logging
logging.config.dictConfig(standard_logging(LogSettings(format="json")))
server = make_server("127.0.0.1", 0, lambda environ, start: (start("200 OK", []), [b"answer"])[1])
answering = threading.Thread(target=server.handle_request)
answering.start()
with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/search?q=a-secret") as answer:
    print(answer.read())
answering.join()
server.server_close()
"""


def test_the_server_for_development_writes_no_queries_either() -> None:
    done = subprocess.run([sys.executable, "-c", SERVED], capture_output=True, text=True, timeout=60, check=True)
    assert "answer" in done.stdout
    assert "a-secret" not in done.stderr


# --- ids and headers and lines of every request ----------------------------------------------------------------------


@pytest.mark.parametrize("sane", ["a", "A-1.b_2", "x" * 64])
def test_a_sane_request_id_is_taken(store: Store, sane: str) -> None:
    client = application(store, log={"level": "ERROR"}).test_client()
    assert client.get("/health", headers={"X-Request-ID": sane}).headers["X-Request-ID"] == sane


@pytest.mark.parametrize("other", ["", "x" * 65, "a b", "<script>", "ä", "a/b", None])
def test_another_is_replaced(store: Store, other: str | None) -> None:
    client = application(store, log={"level": "ERROR"}).test_client()
    headers = {} if other is None else {"X-Request-ID": other}
    made = {client.get("/health", headers=headers).headers["X-Request-ID"] for _ in range(20)}
    assert len(made) == 20
    assert all(len(one) == 16 and one.isalnum() for one in made)


def test_every_answer_has_the_security_headers(store: Store) -> None:
    client = application(store, log={"level": "ERROR"}).test_client()
    for answer in (client.get("/"), client.get("/nowhere"), client.get("/export"), client.options("/lift")):
        policy = answer.headers.getlist("Content-Security-Policy")
        assert len(policy) == 1
        assert "default-src 'none'" in policy[0]
        assert "unsafe" not in policy[0]
        assert "frame-ancestors 'none'" in policy[0]
        assert answer.headers.getlist("X-Content-Type-Options") == ["nosniff"]
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_line_a_request_without_text_query_or_path(store: Store, log: io.StringIO) -> None:
    client = application(store).test_client()
    id_ = client.post("/lift", json={"insight_text": SECRET}).json["id"]
    client.get(f"/insights/{id_}", headers={"X-Request-ID": "mine"})
    client.get("/search", query_string={"q": SECRET})
    client.get("/" + SECRET.replace(" ", "-"))
    lines = logged(log, "request")
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("POST", "/lift", 200), ("GET", "/insights/<insight_id>", 200), ("GET", "/search", 200), ("GET", None, 404),
    ]  # fmt: skip
    assert lines[1]["request_id"] == "mine"
    assert all(line["ms"] >= 0 and line["timestamp"] and line["level"] == "info" for line in lines)
    assert SECRET not in log.getvalue()
    assert SECRET.replace(" ", "-") not in log.getvalue()
    assert id_ not in log.getvalue()
