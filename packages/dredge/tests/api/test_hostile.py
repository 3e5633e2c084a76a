"""Requests that mean harm: each is answered below 500, in JSON, and the service goes on."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from dredge.config import Settings
from dredge.insights.store import Store
from dredge.server import create_app


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    with Store.open(tmp_path_factory.mktemp("hostile") / "notes.db") as store:
        yield create_app(Settings(log={"level": "ERROR"}), store).test_client()


def text(value: str) -> bytes:
    return json.dumps({"insight_text": value}).encode()


LIFT: dict[str, tuple[bytes, int]] = {
    "array": (b"[]", 422),
    "string": (b'"x"', 422),
    "number": (b"5", 422),
    "true": (b"true", 422),
    "null": (b"null", 422),
    "empty": (b"", 400),
    "blank": (b" \n", 400),
    "cut short": (b'{"insight_text": "x', 400),
    "two values": (b'{"insight_text": "x"} {}', 400),
    "text null": (b'{"insight_text": null}', 422),
    "text number": (b'{"insight_text": 5}', 422),
    "text array": (b'{"insight_text": ["x"]}', 422),
    "text object": (b'{"insight_text": {}}', 422),
    "text true": (b'{"insight_text": true}', 422),
    "text missing": (b"{}", 400),
    "text empty": (text(""), 422),
    "text blank": (text(" \t\n"), 422),
    "text of controls": (text("\x01\x7f\u200b"), 422),
    "text with NUL": (text("a\x00b"), 422),
    "lone high surrogate": (b'{"insight_text": "\\ud800"}', 422),
    "lone low surrogate": (b'{"insight_text": "a\\udc00b"}', 422),
    "surrogates swapped": (b'{"insight_text": "\\udc00\\ud800"}', 422),
    "surrogate in a key": (b'{"\\ud800": 1, "insight_text": "x"}', 422),
    "raw surrogate": (b'{"insight_text": "\xed\xa0\x80"}', 400),
    "overlong UTF-8": (b'{"insight_text": "\xc0\xaf"}', 400),
    "Latin-1": (b'{"insight_text": "\xe9"}', 400),
    "raw control character": (b'{"insight_text": "a\x01"}', 400),
    "nested 100,000 deep": (b"[" * 100_000 + b"]" * 100_000, 400),
    "nested and open": (b'{"a":' * 100_000, 400),
    "nested in the text's place": (b'{"insight_text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
    "nested after a lying string": (b'{"insight_text": "\\\\", "b": ' + b"[" * 100_000, 400),
    "5,000 digits": (b'{"insight_text": ' + b"9" * 5000 + b"}", 400),
    "a million digits": (b"-" + b"9" * 1_000_000, 400),
    "5,000 digits after a point": (b"0." + b"9" * 5000, 400),
    "huge exponent": (b'{"insight_text": 1e999999}', 422),
    "NaN": (b'{"insight_text": NaN}', 400),
    "Infinity": (b'{"insight_text": "x", "keep": -Infinity}', 400),
    "duplicate keys": (b'{"insight_text": "x", "insight_text": "y"}', 400),
    "duplicate keys by escape": (b'{"insight_text": "x", "insight\\u005ftext": "y"}', 400),
    "byte order mark": (b"\xef\xbb\xbf" + text("x"), 400),
    "UTF-16": (text("x").decode().encode("utf-16"), 400),
    "UTF-16 without mark": (text("x").decode().encode("utf-16-le"), 400),
    "UTF-32": (text("x").decode().encode("utf-32"), 400),
    "unknown field": (b'{"insight_text": "x", "admin": true}', 422),
    "prototype": (b'{"insight_text": "x", "__proto__": {}}', 422),
    "keep as text": (b'{"insight_text": "x", "keep": "yes"}', 422),
    "single quotes": (b"{'insight_text': 'x'}", 400),
    "trailing comma": (b'{"insight_text": "x",}', 400),
    "comment": (b'{"insight_text": "x" /* */}', 400),
    "4 MiB of quotes": (b'"' * (4 << 20), 400),
    "4 MiB of escapes": (b'"' + b'\\"' * (2 << 20 - 1), 400),
    "too large": (b"x" * ((4 << 20) + 1), 413),
    "text too long": (text("x" * ((1 << 20) + 1)), 422),
    "many keys": (json.dumps({f"k{n}": n for n in range(100_000)}).encode(), 422),
}


@pytest.mark.parametrize("name", LIFT)
def test_a_hostile_body_is_refused(client: FlaskClient, name: str) -> None:
    body, status = LIFT[name]
    answer = client.post("/lift", data=body, content_type="application/json")
    assert answer.status_code == status, answer.text[:300]
    assert answer.json["code"]
    assert len(answer.data) < 5000


OTHER: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "no type": ("POST", "/lift", {"data": text("x")}, 415),
    "form": ("POST", "/lift", {"data": {"insight_text": "x"}}, 415),
    "multipart": ("POST", "/lift", {"data": b"--x", "content_type": "multipart/form-data; boundary=x"}, 415),
    "other charset": ("POST", "/lift", {"data": text("x"), "content_type": "application/json; charset=utf-16"}, 415),
    "broken type": ("POST", "/lift", {"data": text("x"), "content_type": ";;=\x7f" * 20}, 415),
    "gzip": ("POST", "/lift", {"data": b"\x1f\x8b", "content_type": "application/json",
                               "headers": {"Content-Encoding": "gzip"}}, 415),
    "batch of a text": ("POST", "/lift/batch", {"json": {"insight_texts": "abc"}}, 422),
    "batch of too many": ("POST", "/lift/batch", {"json": {"insight_texts": ["x"] * 1001}}, 422),
    "a million wrong numbers": ("POST", "/lift/signal", {
        "data": b'{"values":[0],"coords":[' + b'"",' * 1_000_000 + b"0]}",
        "content_type": "application/json"}, 422),
    "a million empty rows": ("POST", "/lift/signal", {
        "data": b'{"values":[0],"coords":[' + b"[]," * 1_000_000 + b"[]]}",
        "content_type": "application/json"}, 400),
    "two million numbers": ("POST", "/lift/signal", {
        "data": b'{"coords":[0],"values":[' + b"1," * 2_000_000 + b"1]}",
        "content_type": "application/json"}, 422),
    "batch of a million": ("POST", "/lift/batch", {
        "data": b'{"insight_texts":[' + b'"",' * 1_000_000 + b'""]}',
        "content_type": "application/json"}, 422),
    "batch of nothing": ("POST", "/lift/batch", {"json": {"insight_texts": []}}, 422),
    "path up": ("GET", "/../../etc/passwd", {}, 404),
    "path up, encoded": ("GET", "/static/%2e%2e/%2e%2e/etc/passwd", {}, 404),
    "path with NUL": ("GET", "/insights/%00", {}, 404),
    "path not UTF-8": ("GET", "/insights/%ff%fe", {}, 404),
    "path with a newline": ("GET", "/insights/a%0d%0aX-Evil:%201", {}, 404),
    "path of 100 kB": ("GET", "/insights/" + "a" * 100_000, {}, 404),
    "id as SQL": ("GET", "/insights/' OR 1=1 --", {}, 404),
    "id in capitals": ("GET", "/insights/" + "A" * 64, {}, 404),
    "delete nothing": ("DELETE", "/insights/" + "0" * 64, {}, 404),
    "query not UTF-8": ("GET", "/search?q=%ff", {}, 200),
    "query with NUL": ("GET", "/search?q=%00", {}, 422),
    "query as FTS": ("GET", '/search?q="a" NEAR/2 b* OR (', {}, 200),
    "query as SQL": ("GET", "/search?q='; DROP TABLE insights; --", {}, 200),
    "query too long": ("GET", "/search?q=" + "a" * 1001, {}, 422),
    "query twice": ("GET", "/search?q=a&q=b", {}, 422),
    "limit huge": ("GET", "/insights?limit=" + "9" * 5000, {}, 422),
    "limit below": ("GET", "/insights?limit=-1", {}, 422),
    "limit in other digits": ("GET", "/insights?limit=١", {}, 422),
    "offset huge": ("GET", "/search?q=a&offset=999999999", {}, 422),
    "cursor": ("GET", "/insights?cursor=%00%ff", {}, 422),
    "cursor of base64": ("GET", "/insights?cursor=AAAAAAAAAAAAAAAA", {}, 422),
    "kind": ("GET", "/insights?kind=all", {}, 422),
    "import of nothing": ("POST", "/import", {"data": b"", "content_type": "application/x-ndjson"}, 422),
    "import of depth": ("POST", "/import", {"data": b"[" * 100_000, "content_type": "application/x-ndjson"}, 400),
    "import of digits": ("POST", "/import", {"data": b"9" * 5000, "content_type": "application/x-ndjson"}, 400),
    "import that hides depth": ("POST", "/import", {"data": b'"\n' + b"[" * 100_000 + b'\n"',
                                                    "content_type": "application/x-ndjson"}, 400),
    "import of bytes": ("POST", "/import", {"data": bytes(range(256)), "content_type": "application/x-ndjson"}, 400),
    "import of two million lines": ("POST", "/import", {"data": b"\n" * (1 << 21),
                                                        "content_type": "application/x-ndjson"}, 422),
    "import as JSON": ("POST", "/import", {"json": {}}, 415),
    "method": ("TRACE", "/lift", {}, 405),
    "method made up": ("BREW", "/lift", {}, 405),
    "put": ("PUT", "/lift", {"json": {"insight_text": "x"}}, 405),
    "host": ("GET", "/health", {"headers": {"Host": "evil.example"}}, 200),
    "forwarded": ("GET", "/health", {"headers": {"X-Forwarded-Host": "evil", "X-Original-URL": "/export"}}, 200),
    "accept": ("GET", "/", {"headers": {"Accept": "text/html;q=9,;;,*/*;q=-1,\x80"}}, 200),
    "long header": ("GET", "/health", {"headers": {"X-Request-ID": "a" * 100_000}}, 200),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_a_hostile_request_is_answered(client: FlaskClient, name: str) -> None:
    method, path, arguments, status = OTHER[name]
    answer = client.open(path, method=method, **arguments)
    assert answer.status_code == status, answer.text[:300]
    assert "X-Evil" not in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if status >= 400:
        assert answer.mimetype == "application/json"


def test_the_table_is_long_enough_and_the_service_goes_on(client: FlaskClient) -> None:
    assert len(LIFT) + len(OTHER) >= 40
    before = client.get("/insights").json["items"]
    assert [item["text"] for item in before if item["text"] != "still here"] == []
    assert client.post("/lift", json={"insight_text": "still here"}).status_code == 200
