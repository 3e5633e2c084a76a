"""The OpenAPI 3.1 document, made from the schemas."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dredge.api import schemas
from dredge.config import Settings

__all__ = ["ABOUT", "OPERATIONS", "Operation", "document"]

ABOUT = "Lift a text or a signal into a stable id, a compact representation and a searchable record."

_REF = "#/components/schemas/{model}"
_JSON, _LINES, _PLAIN = "application/json", "application/x-ndjson", "text/plain"
_ERRORS = {
    400: "Not the JSON that this service reads, or a field is missing.",
    401: "No token that opens the service.",
    403: "A page of another site wants to change something, or the host's name is not one of the service's.",
    404: "No record has this id.",
    405: "The route does not take this method; the header Allow has those that it takes.",
    413: "The body is too large.",
    415: "The body is of another media type.",
    422: "The request can be read, and cannot be used.",
    429: "Too many requests; the header Retry-After says how many seconds to wait.",
    500: "The service failed; its log has the reason.",
    501: "The service was installed without what this needs.",
    503: "The database does not answer.",
}


@dataclass(frozen=True)
class Operation:
    """A method of a route.

    Args:
        method: of HTTP.
        path: with parameters in braces.
        name: of the operation.
        summary: what it does.
        answer: model of the answer; None = it has no body, or one of lines.
        status: of the answer.
        body: model of the body, or the media type of one without a model.
        query: model of the query.
        media: of the answer.
        errors: beside those that any request can meet.
        open_to_all: whether it needs no token.
    """

    method: Literal["get", "post", "delete"]
    path: str
    name: str
    summary: str
    answer: type[BaseModel] | None = None
    status: int = 200
    body: type[BaseModel] | str | None = None
    query: type[BaseModel] | None = None
    media: str = _JSON
    errors: tuple[int, ...] = ()
    open_to_all: bool = False

    @property
    def statuses(self) -> tuple[int, ...]:
        """Of all errors that it answers."""
        found = {405, 413, 429, 500, *self.errors}
        if not self.open_to_all:
            found |= {401, 403}
        if self.body is not None:
            found |= {400, 413, 415, 422}
        if self.query is not None:
            found |= {400, 422}
        if "{insight_id}" in self.path:
            found.add(404)
        return tuple(sorted(found))


OPERATIONS = (
    Operation("get", "/", "root", "What answers here", schemas.ServiceCard),
    Operation("get", "/health", "health", "Whether the process answers", schemas.Health, open_to_all=True),
    Operation("get", "/ready", "ready", "Whether the database answers", schemas.Ready, errors=(503,)),
    Operation("post", "/lift", "lift", "Lift a text", schemas.Lifted, body=schemas.LiftBody, errors=(503,)),
    Operation("post", "/lift/batch", "lift_batch", "Lift many texts in one transaction", schemas.BatchLifted,
              body=schemas.BatchBody, errors=(503,)),
    Operation("post", "/lift/signal", "lift_signal", "Lift a sampled signal to wave packets", schemas.SignalLifted,
              body=schemas.SignalBody, errors=(501, 503)),
    Operation("get", "/insights", "list_insights", "Records, the newest first", schemas.InsightPage,
              query=schemas.InsightQuery, errors=(503,)),
    Operation("get", "/insights/{insight_id}", "get_insight", "One record", schemas.Record, errors=(503,)),
    Operation("delete", "/insights/{insight_id}", "delete_insight", "Delete a record", status=204, errors=(503,)),
    Operation("get", "/insights/{insight_id}/similar", "similar", "Records like one", schemas.SimilarResult,
              query=schemas.SimilarQuery, errors=(503,)),
    Operation("get", "/search", "search", "Records for a query", schemas.SearchResult, query=schemas.SearchQuery,
              errors=(503,)),
    Operation("get", "/export", "export", "All records as JSON lines", media=_LINES, errors=(503,)),
    Operation("post", "/import", "import", "Take records from JSON lines, all or none", schemas.Imported, body=_LINES,
              errors=(503,)),
    Operation("post", "/reindex", "reindex", "Make all vectors anew", schemas.Reindexed, errors=(503,)),
    Operation("get", "/metrics", "metrics", "Counters for Prometheus", media=_PLAIN),
    Operation("get", "/openapi.json", "openapi", "This description"),
)  # fmt: skip


def document(settings: Settings, version: str) -> dict[str, Any]:
    """The document.

    Args:
        settings: whose limits it tells.
        version: of the service.

    Returns:
        The OpenAPI 3.1 object.

    >>> document(Settings(), "1.0")["openapi"]
    '3.1.0'
    """
    incoming = [one.body for one in OPERATIONS if isinstance(one.body, type)]
    outgoing = [one.answer for one in OPERATIONS if one.answer is not None]
    _, made = models_json_schema(
        [*((model, "validation") for model in incoming), *((model, "serialization") for model in outgoing),
         (schemas.ErrorBody, "validation")],
        ref_template=_REF,
    )  # fmt: skip
    components = made["$defs"]
    limits = settings.limits
    components["BatchBody"]["properties"]["insight_texts"]["maxItems"] = limits.batch_items
    for name in ("coords", "values"):
        components["SignalBody"]["properties"][name]["description"] += f" At most {limits.signal_points}."
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, settings)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "dredge",
            "version": version,
            "description": ABOUT,
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                str(status): {
                    "description": text,
                    "content": {_JSON: {"schema": {"$ref": _REF.format(model="ErrorBody")}}},
                }
                for status, text in _ERRORS.items()
            },
        },
    }
    if settings.auth.tokens:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _described(operation: Operation, settings: Settings) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done."}
    if operation.status != 204:
        schema: Mapping[str, Any] = {"type": "object"} if operation.media == _JSON else {"type": "string"}
        if operation.answer is not None:
            schema = {"$ref": _REF.format(model=operation.answer.__name__)}
        good["content"] = {operation.media: {"schema": schema}}
    told: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            str(operation.status): good,
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in operation.statuses},
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": schemas.ID}}
        for name in re.findall(r"\{(\w+)\}", operation.path)
    ]
    if operation.query is not None:
        parameters += _parameters(operation.query, settings)
    if parameters:
        told["parameters"] = parameters
    if isinstance(operation.body, str):
        told["requestBody"] = {"required": True, "content": {operation.body: {"schema": {"type": "string"}}}}
    elif operation.body is not None:
        reference = {"$ref": _REF.format(model=operation.body.__name__)}
        told["requestBody"] = {"required": True, "content": {_JSON: {"schema": reference}}}
    if operation.open_to_all and settings.auth.tokens:
        told["security"] = []
    return told


def _parameters(model: type[BaseModel], settings: Settings) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    found = []
    for name, described in schema["properties"].items():
        # In a query what is absent is absent: there is no null.
        if "anyOf" in described:
            kept = next(one for one in described.pop("anyOf") if one.get("type") != "null")
            described = {**kept, **{key: value for key, value in described.items() if key != "default"}}
        described.pop("title", None)
        if name == "limit":
            described["maximum"] = settings.limits.page_items
        if name == "q":
            described["maxLength"] = settings.limits.query_chars
        found.append(
            {
                "name": name, "in": "query", "required": name in schema.get("required", ()), "schema": described,
                **({"description": described.pop("description")} if "description" in described else {}),
            }
        )  # fmt: skip
    return found
