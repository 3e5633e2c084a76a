"""What the service says of itself."""

from flask import Blueprint, Response, request

from dredge import __version__
from dredge.api import pages
from dredge.api.answers import json_answer
from dredge.api.openapi import ABOUT, document
from dredge.api.services import services
from dredge.metrics import CONTENT_TYPE

__all__ = ["OPEN", "operating"]

# Needs no token, and is not counted against a client.
OPEN = frozenset({"/health"})

operating = Blueprint("operating", __name__)

_CARD = {
    "name": "dredge",
    "version": __version__,
    "description": ABOUT,
    "endpoints": {
        "health": "/health", "ready": "/ready", "lift": "/lift", "batch": "/lift/batch", "signal": "/lift/signal",
        "insights": "/insights", "search": "/search", "export": "/export", "import": "/import", "reindex": "/reindex",
        "metrics": "/metrics", "openapi": "/openapi.json",
    },
}  # fmt: skip


@operating.get("/")
def root() -> Response:
    """A card of the service; the page for those who prefer HTML."""
    accepted = request.accept_mimetypes
    if accepted["text/html"] > accepted["application/json"]:
        return pages.home()
    answer = json_answer(_CARD)
    answer.vary.add("Accept")
    return answer


@operating.get("/health")
def health() -> Response:
    """The process answers."""
    return json_answer({"status": "healthy", "version": __version__})


@operating.get("/ready")
def ready() -> Response:
    """The process and its database answer."""
    services().store.ready()
    return json_answer({"status": "ready", "version": __version__})


@operating.get("/metrics")
def metrics() -> Response:
    """Counters for Prometheus."""
    own = services()
    own.metrics.hash_cache(own.ids.counts)
    return Response(own.metrics.render(), content_type=CONTENT_TYPE)


@operating.get("/openapi.json")
def openapi() -> Response:
    """This description."""
    own = services()
    return json_answer(document(own.settings, __version__))
