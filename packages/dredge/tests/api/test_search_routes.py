"""Searching and finding similar records through the service."""

import pytest
from flask.testing import FlaskClient

from dredge.config import Settings
from dredge.insights.store import Store
from dredge.server import create_app

TEXTS = (
    "Gravity waves stretch the arms of an interferometer",
    "Gravitational wave detectors measure strain",
    "A sourdough needs twelve hours in a cool kitchen",
    "The kitchen clock is two minutes slow",
    "Glaciers calve more icebergs in a warm summer",
)


@pytest.fixture
def client(store: Store) -> FlaskClient:
    store.put_many(TEXTS)
    return create_app(Settings(log={"level": "ERROR"}), store).test_client()


@pytest.mark.parametrize("mode", ["hybrid", "text", "vector"])
def test_words_find_their_record_first(client: FlaskClient, mode: str) -> None:
    answer = client.get("/search", query_string={"q": "sourdough kitchen", "mode": mode})
    assert answer.status_code == 200
    assert (answer.json["query"], answer.json["mode"]) == ("sourdough kitchen", mode)
    assert answer.json["hits"][0]["insight"]["text"] == TEXTS[2]
    scores = [hit["score"] for hit in answer.json["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_typing_errors_are_forgiven(client: FlaskClient) -> None:
    hits = client.get("/search?q=glacirs clave icebrgs").json["hits"]
    assert hits[0]["insight"]["text"] == TEXTS[4]


def test_pages_of_hits_are_parts_of_one_list(client: FlaskClient) -> None:
    whole = [hit["insight"]["id"] for hit in client.get("/search?q=kitchen wave&limit=4").json["hits"]]
    parts = [
        hit["insight"]["id"]
        for offset in (0, 2)
        for hit in client.get(f"/search?q=kitchen wave&limit=2&offset={offset}").json["hits"]
    ]
    assert parts == whole[: len(parts)]
    assert len(whole) >= 3


def test_what_another_application_lifts_is_found(client: FlaskClient) -> None:
    store = client.application.extensions["dredge"].store
    assert client.get("/search?q=zeppelin").status_code == 200
    other = create_app(Settings(log={"level": "ERROR"}), store).test_client()
    other.post("/lift", json={"insight_text": "A zeppelin crosses the lake"})
    assert client.get("/search?q=zeppelin").json["hits"][0]["insight"]["text"] == "A zeppelin crosses the lake"
    gone = client.get("/search?q=zeppelin").json["hits"][0]["insight"]["id"]
    other.delete(f"/insights/{gone}")
    assert gone not in [hit["insight"]["id"] for hit in client.get("/search?q=zeppelin").json["hits"]]


def test_similar_records_leave_out_the_one_itself(client: FlaskClient) -> None:
    id_ = client.post("/lift", json={"insight_text": TEXTS[0]}).json["id"]
    answer = client.get(f"/insights/{id_}/similar?limit=2")
    assert answer.json["id"] == id_
    found = [hit["insight"]["id"] for hit in answer.json["hits"]]
    assert len(found) == 2
    assert id_ not in found
    assert client.get(f"/insights/{'0' * 64}/similar").status_code == 404


@pytest.mark.parametrize(
    "q", ['"', "'", "AND OR NOT", "a*", "col:x", "NEAR(a b, 2)", "(", ")", "^a", "-a", "a\\", "; DROP TABLE insights",
          "%", "_", "{}", "😀", "\u202e", "ﬁ", "a" * 1000, "a " * 500])  # fmt: skip
def test_no_query_is_an_operator_or_an_error_of_the_service(client: FlaskClient, q: str) -> None:
    for mode in ("hybrid", "text", "vector"):
        assert client.get("/search", query_string={"q": q, "mode": mode}).status_code in (200, 422)
    assert client.get("/insights").json["items"]


@pytest.mark.parametrize(
    "query",
    ["", "q=", "q=%20", "q=%00", "q=x&mode=magic", "q=x&limit=0", "q=x&offset=-1", "q=x&q=y", "q=x&other=1", "limit=5",
     "q=x&offset=99999", "Q=x"],
)  # fmt: skip
def test_queries_that_are_none_are_refused(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/search?{query}")
    assert answer.status_code in (400, 422)
    assert answer.json["message"]
