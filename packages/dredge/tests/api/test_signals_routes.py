"""Lifting signals through the service."""

import math
from typing import Any

import pytest
from flask.testing import FlaskClient

import dredge.api.signal_fits
from dredge.config import LimitSettings, Settings
from dredge.errors import MissingExtraError
from dredge.insights.store import Store
from dredge.server import create_app

pytestmark = pytest.mark.needs_extra("torch")

COORDS = [n / 10 for n in range(80)]
VALUES = [math.exp(-((x - 4) ** 2)) * math.cos(6 * x) for x in COORDS]


@pytest.fixture
def client(store: Store) -> FlaskClient:
    settings = Settings(log={"level": "ERROR"}, limits={"fit_seconds": 2.0, "signal_points": 100})
    return create_app(settings, store).test_client()


def test_a_packet_is_found_kept_and_searched(client: FlaskClient) -> None:
    answer = client.post("/lift/signal", json={"coords": COORDS, "values": VALUES, "title": "Burst at noon"})
    assert answer.status_code == 200
    told = answer.json
    assert (told["kind"], told["lifted"], told["seen"]) == ("signal", True, 1)
    assert told["residual"] < 0.05
    assert told["packets"][0]["centre"] == pytest.approx([4.0], abs=0.1)
    kept = client.get(f"/insights/{told['id']}").json
    assert kept["signal"]["packets"] == told["packets"]
    assert "signal" not in client.get("/insights").json["items"][0]
    hit = client.get("/search?q=burst noon").json["hits"][0]["insight"]
    assert (hit["id"], hit["kind"]) == (told["id"], "signal")


def test_a_signal_that_is_kept_is_not_fitted_again(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[Any] = []
    real = dredge.api.signal_fits.lift_signal

    def counted(*arguments: Any, **options: Any) -> Any:
        fitted.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(dredge.api.signal_fits, "lift_signal", counted)
    body = {"coords": COORDS, "values": VALUES}
    first, again = client.post("/lift/signal", json=body).json, client.post("/lift/signal", json=body).json
    assert len(fitted) == 1
    assert (again["id"], again["packets"], again["seen"]) == (first["id"], first["packets"], 2)
    fewer = client.post("/lift/signal", json={**body, "max_packets": 1}).json
    assert len(fitted) == 2
    assert (fewer["id"], len(fewer["packets"]), fewer["seen"]) == (first["id"], 1, 3)


def test_the_time_of_a_fit_is_bounded_by_the_service(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, float]] = []

    def refused(*arguments: Any, seconds: Any, limits: LimitSettings, **options: Any) -> Any:
        asked.append((seconds, limits.fit_seconds))
        raise MissingExtraError("lifting a signal needs torch, which the extra 'inr' installs. Add it.")

    monkeypatch.setattr(dredge.api.signal_fits, "lift_signal", refused)
    for seconds in (None, 1.0, 1000.0):
        answer = client.post("/lift/signal", json={"coords": COORDS, "values": VALUES, "seconds": seconds})
        assert (answer.status_code, answer.json["code"]) == (501, "missing_extra")
        assert "'inr'" in answer.json["message"]
    # The lesser of both holds, as test_signals.py shows.
    assert asked == [(None, 2.0), (1.0, 2.0), (1000.0, 2.0)]


def test_one_signal_is_fitted_at_a_time(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dredge.api.signal_fits, "_PATIENCE", 0.01)
    own = client.application.extensions["dredge"]
    with own.fits:
        answer = client.post("/lift/signal", json={"coords": COORDS, "values": VALUES})
    assert (answer.status_code, answer.json["code"]) == (429, "busy")
    assert client.post("/lift/signal", json={"coords": COORDS, "values": VALUES}).status_code == 200


def test_a_foreign_document_is_made_anew(client: FlaskClient) -> None:
    first = client.post("/lift/signal", json={"coords": COORDS, "values": VALUES}).json
    store = client.application.extensions["dredge"].store
    store.put_signal(first["id"], "from elsewhere", {"packets": 5})
    again = client.post("/lift/signal", json={"coords": COORDS, "values": VALUES})
    assert again.status_code == 200
    assert again.json["packets"] == first["packets"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"values": VALUES[:-1]}, 422),
        ({"coords": [], "values": []}, 422),
        ({"coords": [1.0], "values": [1.0]}, 422),
        ({"coords": [1.0] * 80}, 422),
        ({"coords": [[x, 0.0] for x in COORDS]}, 422),
        ({"coords": [[0.0] * 6 for _ in COORDS]}, 422),
        ({"coords": [[0.0]] * 79 + [[0.0, 1.0]]}, 422),
        ({"coords": [[[0.0]]] * 80}, 422),
        ({"values": ["1"] * 80}, 422),
        ({"values": [True] * 80}, 422),
        ({"values": [None] * 80}, 422),
        ({"values": 5}, 422),
        ({"values": [1e200, *VALUES[1:]]}, 422),
        ({"values": [10**399, *VALUES[1:]]}, 422),
        ({"coords": [0.0] * 101, "values": [0.0] * 101}, 422),
        ({"title": "x" * 201}, 422),
        ({"title": "\ud800"}, 422),
        ({"title": "a\u0000b"}, 422),
        ({"title": 5}, 422),
        ({"max_packets": 0}, 422),
        ({"max_packets": 65}, 422),
        ({"max_packets": 1.5}, 422),
        ({"seconds": 0}, 422),
        ({"seconds": -1}, 422),
        ({"seconds": "1"}, 422),
        ({"unknown": 1}, 422),
    ],
)
def test_bad_signals_are_refused(client: FlaskClient, change: dict[str, Any], status: int) -> None:
    answer = client.post("/lift/signal", json={"coords": COORDS, "values": VALUES, **change})
    assert answer.status_code == status
    assert answer.json["message"]
    assert client.get("/insights").json["items"] == []


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_none_are_refused(client: FlaskClient, number: bytes) -> None:
    body = b'{"coords": [0, 1, 2, 3], "values": [0, 1, 2, %s]}' % number
    answer = client.post("/lift/signal", data=body, content_type="application/json")
    assert answer.status_code in (400, 422)


def test_a_constant_signal_has_no_packets(client: FlaskClient) -> None:
    answer = client.post("/lift/signal", json={"coords": COORDS, "values": [2.0] * 80})
    assert (answer.status_code, answer.json["packets"], answer.json["residual"]) == (200, [], 0.0)


def test_the_order_of_samples_changes_nothing(client: FlaskClient) -> None:
    first = client.post("/lift/signal", json={"coords": COORDS, "values": VALUES}).json
    again = client.post("/lift/signal", json={"coords": [[x] for x in COORDS[::-1]], "values": VALUES[::-1]}).json
    assert (again["id"], again["seen"]) == (first["id"], 2)
