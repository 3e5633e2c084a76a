"""The OpenAPI document describes every route, and answers are as it says."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from flask import Flask
from flask.testing import FlaskClient

from dredge.config import Settings
from dredge.insights.store import Store
from dredge.server import create_app

# The page belongs to people; the document is for programs.
PAGES = ("pages.",)


@pytest.fixture
def app(store: Store) -> Flask:
    return create_app(Settings(log={"level": "ERROR"}, limits={"batch_items": 7, "page_items": 30}), store)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from refs(inner)


def fits(client: FlaskClient, name: str, value: Any) -> None:
    document = client.get("/openapi.json").json
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_every_route_is_described_and_nothing_else(app: Flask, client: FlaskClient) -> None:
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if not rule.endpoint.startswith(PAGES)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    paths = client.get("/openapi.json").json["paths"]
    assert served == {(path, method) for path, operations in paths.items() for method in operations}


def test_every_reference_leads_somewhere(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    found = list(refs(document))
    assert found
    for ref in found:
        place: Any = document
        for part in ref.removeprefix("#/").split("/"):
            place = place[part]


def test_every_schema_is_a_schema(client: FlaskClient) -> None:
    for schema in client.get("/openapi.json").json["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_operation_describes_its_errors(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    names = set()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            names.add(operation["operationId"])
            statuses = set(operation["responses"])
            assert {"405", "429", "500"} <= statuses
            assert ("401" in statuses) == (path != "/health")
            assert ("403" in statuses) == (path != "/health")
            assert ("415" in statuses) == ("requestBody" in operation)
    assert len(names) == sum(map(len, document["paths"].values()))
    for response in document["components"]["responses"].values():
        assert response["description"]
        assert response["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")


def test_limits_are_told(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    assert document["components"]["schemas"]["BatchBody"]["properties"]["insight_texts"]["maxItems"] == 7
    limits = [
        parameter["schema"]["maximum"]
        for operations in document["paths"].values()
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
        if parameter["name"] == "limit"
    ]
    assert limits == [30, 30, 30]


def test_security_is_told_where_there_is_some(app: Flask, client: FlaskClient) -> None:
    assert "security" not in client.get("/openapi.json").json
    store = app.extensions["dredge"].store
    closed = create_app(Settings(log={"level": "ERROR"}, auth={"tokens": ["t" * 16]}), store).test_client()
    document = closed.get("/openapi.json", headers={"Authorization": "Bearer " + "t" * 16}).json
    assert document["security"] == [{"token": []}]
    assert document["paths"]["/health"]["get"]["security"] == []


def test_answers_are_as_described(client: FlaskClient) -> None:
    fits(client, "ServiceCard", client.get("/").json)
    fits(client, "Health", client.get("/health").json)
    fits(client, "Ready", client.get("/ready").json)
    lifted = client.post("/lift", json={"insight_text": "gravity waves"}).json
    fits(client, "Lifted", lifted)
    fits(client, "Lifted", client.post("/lift", json={"insight_text": "other", "keep": False}).json)
    fits(client, "BatchLifted", client.post("/lift/batch", json={"insight_texts": ["gravity wave", "", 1]}).json)
    fits(client, "InsightPage", client.get("/insights?limit=1").json)
    fits(client, "Record", client.get(f"/insights/{lifted['id']}").json)
    fits(client, "SearchResult", client.get("/search?q=gravity").json)
    fits(client, "SimilarResult", client.get(f"/insights/{lifted['id']}/similar").json)
    archive = client.get("/export").data
    fits(client, "Imported", client.post("/import", data=archive, content_type="application/x-ndjson").json)
    fits(client, "Reindexed", client.post("/reindex").json)
    fits(client, "ErrorBody", client.get("/nowhere").json)
    fits(client, "ErrorBody", client.post("/lift", json={"insight_text": 1}).json)


@pytest.mark.needs_extra("torch")
def test_a_lifted_signal_is_as_described(client: FlaskClient) -> None:
    body = {"coords": [0, 1, 2, 3, 4, 5], "values": [0, 1, 0, -1, 0, 1], "title": "sine", "seconds": 0.2}
    answer = client.post("/lift/signal", json=body)
    assert answer.status_code == 200
    fits(client, "SignalLifted", answer.json)
    fits(client, "Record", client.get(f"/insights/{answer.json['id']}").json)
