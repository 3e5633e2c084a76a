"""Lists, shows and deletes records, and moves them in and out as JSON lines."""

from collections.abc import Iterator
from dataclasses import asdict

from flask import Blueprint, Response

from dredge.api.answers import json_answer
from dredge.api.bodies import query, read_lines
from dredge.api.errors import RefusedError
from dredge.api.schemas import InsightQuery, insight_json
from dredge.api.services import services
from dredge.errors import DredgeError
from dredge.insights.archive import export_lines, import_lines
from dredge.insights.encoders import encoder_named
from dredge.logs import described_exception

__all__ = ["LINES", "bounded", "keeping"]

LINES = "application/x-ndjson"

keeping = Blueprint("keeping", __name__)


@keeping.get("/insights")
def insights() -> Response:
    """Records, the newest first, page by page."""
    asked = query(InsightQuery)
    page = services().store.page(limit=bounded(asked.limit), cursor=asked.cursor, kind=asked.kind, documents=False)
    return json_answer({"items": [insight_json(item) for item in page.items], "next": page.next})


@keeping.get("/insights/<insight_id>")
def insight(insight_id: str) -> Response:
    """One record; a signal with its samples and packets."""
    return json_answer(insight_json(services().store.get(insight_id), whole=True))


@keeping.delete("/insights/<insight_id>")
def delete_insight(insight_id: str) -> Response:
    """Deletes a record."""
    services().store.delete(insight_id)
    return Response(status=204)


@keeping.get("/export")
def export() -> Response:
    """All records as JSON lines, sent as they are read."""
    own = services()

    def lines() -> Iterator[str]:
        try:
            for line in export_lines(own.store):
                yield f"{line}\n"
        except DredgeError as error:
            # The status is sent already: all that can be done is to break off, which leaves the last line missing.
            own.log.error("export cut short", exception=described_exception(error))
            raise

    answer = Response(lines(), mimetype=LINES)
    answer.headers["Content-Disposition"] = 'attachment; filename="dredge.jsonl"'
    return answer


@keeping.post("/import")
def import_() -> Response:
    """Takes records from JSON lines: all of them, or, where a line is damaged, none."""
    return json_answer(asdict(import_lines(services().store, read_lines())))


@keeping.post("/reindex")
def reindex() -> Response:
    """Makes all vectors anew with the encoder of the settings."""
    own = services()
    if not own.reindexing.acquire(blocking=False):
        raise RefusedError(
            429, "busy", "One reindexing runs at a time; one does. Wait for it.", headers={"Retry-After": "10"}
        )
    try:
        encoder = encoder_named(own.settings.search.encoder)
        count = own.store.reindex(encoder)
    finally:
        own.reindexing.release()
    return json_answer({"reindexed": count, "encoder": encoder.version})


def bounded(limit: int) -> int:
    """Checks how many records are asked for.

    Args:
        limit: of a query.

    Returns:
        The same.

    Raises:
        RefusedError: 422; more than a page may have.
    """
    most = services().settings.limits.page_items
    if limit > most:
        raise RefusedError(422, "wrong_field", f"A page has at most {most} records; asked for {limit}. Ask for fewer.")
    return limit
