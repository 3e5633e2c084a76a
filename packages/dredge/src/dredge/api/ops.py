"""What the service says of itself."""

from importlib.metadata import version
from typing import Any

from flask import Blueprint, Response, current_app, request

from dredge.api.answers import json_answer
from dredge.api.openapi import ABOUT, document
from dredge.api.services import services
from dredge.metrics import CONTENT_TYPE

__all__ = ["OPEN", "operating"]

VERSION = version("dredge")
# Needs no token, and is not counted against a client.
OPEN = frozenset({"/health"})

operating = Blueprint("operating", __name__)

_CARD = {
    "name": "dredge",
    "version": VERSION,
    "description": ABOUT,
    "endpoints": {
        "health": "/health", "ready": "/ready", "lift": "/lift", "batch": "/lift/batch", "signal": "/lift/signal",
        "insights": "/insights", "search": "/search", "export": "/export", "import": "/import", "reindex": "/reindex",
        "metrics": "/metrics", "openapi": "/openapi.json",
    },
}  # fmt: skip


@operating.get("/")
def root() -> Any:
    """A card of the service; the page for those who prefer HTML."""
    page = current_app.view_functions.get("pages.home")
    accepted = request.accept_mimetypes
    if page is not None and accepted["text/html"] > accepted["application/json"]:
        return current_app.ensure_sync(page)()
    answer = json_answer(_CARD)
    answer.vary.add("Accept")
    return answer


@operating.get("/health")
def health() -> Response:
    """The process answers."""
    return json_answer({"status": "healthy", "version": VERSION})


@operating.get("/ready")
def ready() -> Response:
    """The process and its database answer."""
    services().store.ready()
    return json_answer({"status": "ready", "version": VERSION})


@operating.get("/metrics")
def metrics() -> Response:
    """Counters for Prometheus."""
    own = services()
    own.metrics.hash_cache(*own.ids.counts())
    return Response(own.metrics.render(), content_type=CONTENT_TYPE)


@operating.get("/openapi.json")
def openapi() -> Response:
    """This description."""
    own = services()
    return json_answer(document(own.settings, VERSION))
