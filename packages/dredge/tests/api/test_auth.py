"""Tokens open the service, and pages of other sites change nothing."""

import base64
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


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def unlocked(store: Store) -> FlaskClient:
    settings = Settings(log={"level": "ERROR"}, server={"host": "notes.lan", "hosts": ["Notes.Example.org"]})
    return create_app(settings, store).test_client()


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:3001", "notes.localhost:3001", "127.0.0.1:3001", "192.168.0.7", "[::1]:3001", "[fe80::1]",
     "notes.lan:3001", "notes.example.org", "notes.example.org.:80"],
)  # fmt: skip
def test_it_answers_to_its_own_names_and_to_addresses(unlocked: FlaskClient, host: str) -> None:
    assert unlocked.get("/insights", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:3001", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost", "[::1",
     "notes.lan.evil.example", "example.org", "[evil.example]:3001", "1271"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/insights", "/export", "/home", "/", "/metrics"])
def test_a_name_that_another_site_led_here_reads_nothing(
    unlocked: FlaskClient, store: Store, host: str, path: str
) -> None:
    store.put("a secret")
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    answer = unlocked.get(path, headers=headers)
    assert (answer.status_code, answer.json["code"]) == (403, "unknown_host")
    assert b"secret" not in answer.data
    assert "server.hosts" in answer.json["message"]
    assert unlocked.post("/lift", json={"insight_text": "x"}, headers=headers).status_code == 403
    assert store.count() == 1


def test_with_tokens_any_name_will_do(client: FlaskClient) -> None:
    headers = {"Host": "notes.example.org", "Authorization": f"Bearer {FIRST}"}
    assert client.get("/insights", headers=headers).status_code == 200
