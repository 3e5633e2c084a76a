"""Finds records."""

from flask import Blueprint, Response

from dredge.api.answers import json_answer
from dredge.api.bodies import query
from dredge.api.errors import RefusedError
from dredge.api.insights import bounded
from dredge.api.schemas import SearchQuery, SimilarQuery, hit_json
from dredge.api.services import services

__all__ = ["searching"]

searching = Blueprint("searching", __name__)


@searching.get("/search")
def search() -> Response:
    """Records for a query, the best first."""
    asked = query(SearchQuery)
    own = services()
    most = own.settings.limits.query_chars
    if len(asked.q) > most:
        raise RefusedError(
            422, "wrong_field", f"A query has at most {most} characters; got {len(asked.q)}. Ask with fewer words."
        )
    hits = own.searcher.search(asked.q, limit=bounded(asked.limit), offset=asked.offset, mode=asked.mode)
    return json_answer({"query": asked.q, "mode": asked.mode, "hits": [hit_json(hit) for hit in hits]})


@searching.get("/insights/<insight_id>/similar")
def similar(insight_id: str) -> Response:
    """Records like one, the most alike first."""
    asked = query(SimilarQuery)
    own = services()
    insight = own.store.get(insight_id)
    hits = own.searcher.similar(insight.id, limit=bounded(asked.limit))
    return json_answer({"id": insight.id, "hits": [hit_json(hit) for hit in hits]})
