"""Tokens open the service, and pages of other sites change nothing."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from dredge.api import auth
from dredge.api.auth import Gate
from dredge.config import Settings
from dredge.insights.store import Store
from dredge.server import create_app

FIRST, SECOND = "first-token-of-32-characters-abc", "second-token-of-32-characters-xy"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "notes.db") as opened:
        yield opened


@pytest.fixture
def client(store: Store) -> FlaskClient:
    return create_app(Settings(log={"level": "ERROR"}, auth={"tokens": [FIRST, SECOND]}), store).test_client()


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.mark.parametrize("header", [f"Bearer {FIRST}", f"bearer {SECOND}", f"BEARER  {FIRST}", basic(SECOND)])
def test_any_of_the_tokens_opens(client: FlaskClient, header: str) -> None:
    assert client.get("/insights", headers={"Authorization": header}).status_code == 200


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", f"Bearer {FIRST[:-1]}", f"Bearer {FIRST}x", f"Token {FIRST}", FIRST,
     "Bearer \xff\xfe", f"Bearer {FIRST} {SECOND}", "Basic !!!", "Basic ====", basic("other"), basic("")],
)  # fmt: skip
def test_anything_else_does_not(client: FlaskClient, header: str | None) -> None:
    answer = client.get("/insights", headers={} if header is None else {"Authorization": header})
    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="dredge"'
    assert FIRST.encode() not in answer.data


@pytest.mark.parametrize("path", ["/", "/ready", "/metrics", "/openapi.json", "/export", "/search?q=x", "/nowhere"])
def test_all_but_health_ask_for_one(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 401
    assert client.get("/health").status_code == 200


def test_nothing_is_lifted_without_one(client: FlaskClient, store: Store) -> None:
    assert client.post("/lift", json={"insight_text": "x"}).status_code == 401
    assert store.count() == 0


def test_a_browser_may_ask_its_user(client: FlaskClient) -> None:
    answer = client.get("/", headers={"Accept": "text/html"})
    assert "Basic" in answer.headers["WWW-Authenticate"]


def test_all_tokens_are_compared_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    class Counting:
        @staticmethod
        def compare_digest(one: bytes, other: bytes) -> bool:
            compared.append(other)
            return one == other

    monkeypatch.setattr(auth, "hmac", Counting)
    gate = Gate([FIRST, SECOND])
    gate.check({"REQUEST_METHOD": "GET", "HTTP_AUTHORIZATION": f"Bearer {FIRST}"})
    assert len(compared) == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[bad"}, 403),
    ],
)
def test_a_page_of_another_site_changes_nothing(store: Store, headers: dict[str, Any], status: int) -> None:
    client = create_app(Settings(log={"level": "ERROR"}), store).test_client()
    assert client.post("/lift", json={"insight_text": "x"}, headers=headers).status_code == status
    assert store.count() == (status == 200)
    assert client.get("/insights", headers=headers).status_code == 200
