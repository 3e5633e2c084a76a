"""Lifts texts."""

from typing import Any

from flask import Blueprint, Response

from dredge.api.answers import json_answer
from dredge.api.bodies import read_json
from dredge.api.errors import RefusedError, refusal_of
from dredge.api.schemas import BatchBody, LiftBody, moment
from dredge.api.services import services
from dredge.errors import InsightError
from dredge.insights.ids import check_text

__all__ = ["lifting"]

lifting = Blueprint("lifting", __name__)


@lifting.post("/lift")
def lift() -> Response:
    """Lifts one text: its id, and a record that counts it where it was there."""
    body = read_json(LiftBody)
    own = services()
    text = body.insight_text
    check_text(text, own.settings.limits.text_bytes)
    told: dict[str, Any] = {"id": own.ids(text), "text": text, "lifted": True}
    if body.keep:
        stored = own.store.put(text)
        insight = stored.insight
        own.metrics.lifted("text", created=stored.created)
        told["message"] = "Insight lifted and kept." if stored.created else "Insight lifted; it was kept before."
        told["created"], told["seen"] = moment(insight.created), insight.seen
    else:
        told["message"], told["created"], told["seen"] = "Insight lifted, and not kept.", None, 0
    own.metrics.hash_cache(own.ids.counts)
    return json_answer(told)


@lifting.post("/lift/batch")
def lift_batch() -> Response:
    """Lifts up to a thousand texts in one transaction; those that cannot be lifted get an error each."""
    texts = read_json(BatchBody).insight_texts
    own = services()
    limits = own.settings.limits
    if len(texts) > limits.batch_items:
        raise RefusedError(
            422, "too_many_items", f"A batch has at most {limits.batch_items} texts; got {len(texts)}. "
            "Send several batches.",
        )  # fmt: skip
    results: list[dict[str, Any]] = [_checked(text, limits.text_bytes) for text in texts]
    good = [position for position, result in enumerate(results) if result["lifted"]]
    created = 0
    for position, stored in zip(good, own.store.put_many([texts[position] for position in good]), strict=True):
        insight = stored.insight
        created += stored.created
        results[position].update(id=insight.id, created=moment(insight.created), seen=insight.seen)
    own.metrics.lifted("text", created=True, count=created)
    own.metrics.lifted("text", created=False, count=len(good) - created)
    return json_answer({"results": results, "lifted": len(good), "failed": len(texts) - len(good)})


def _checked(text: Any, max_bytes: int) -> dict[str, Any]:
    try:
        if not isinstance(text, str):
            raise InsightError(f"an insight is a text; got {type(text).__name__}. Send a JSON string.")
        check_text(text, max_bytes)
    except InsightError as error:
        refusal = refusal_of(error)
        assert refusal is not None
        return {"lifted": False, "code": refusal.code, "message": refusal.message}
    return {"lifted": True}
