"""Lifts signals."""

from typing import Any

from flask import Blueprint, Response

from dredge.api.answers import json_answer
from dredge.api.bodies import read_json
from dredge.api.errors import RefusedError
from dredge.api.schemas import SignalBody, insight_json
from dredge.api.services import services
from dredge.insights.ids import check_text
from dredge.signals import lift_signal, signal_id

__all__ = ["signalling"]

signalling = Blueprint("signalling", __name__)

# A fit that must wait longer than this for another is better sent again.
_PATIENCE = 5.0


@signalling.post("/lift/signal")
def lift_signals() -> Response:
    """Lifts a sampled signal to a few wave packets; one that is kept is fitted again only where more is asked."""
    body = read_json(SignalBody)
    own = services()
    limits = own.settings.limits
    if body.title:
        check_text(body.title, limits.text_bytes)
    if len(body.values) > limits.signal_points or len(body.coords) > limits.signal_points:
        raise RefusedError(
            422, "too_many_points", f"A signal has at most {limits.signal_points} samples; got "
            f"{max(len(body.values), len(body.coords))}. Send every second one, or use dredge fit.",
        )  # fmt: skip
    known = own.store.find(signal_id(body.coords, body.values))
    if known is not None and known.signal is not None and _asks_for_this(body, known.signal):
        stored = own.store.put_signal(known.id, known.text, known.signal)
    else:
        if not own.fits.acquire(timeout=_PATIENCE):
            raise RefusedError(
                429, "busy", "One signal is fitted at a time; one is. Wait for it.", headers={"Retry-After": "5"}
            )
        try:
            lifted = lift_signal(
                body.coords, body.values, title=body.title, max_packets=body.max_packets,
                seconds=min(body.seconds or limits.fit_seconds, limits.fit_seconds), limits=limits,
            )  # fmt: skip
        finally:
            own.fits.release()
        stored = own.store.put_signal(lifted.id, lifted.text, lifted.document)
    own.metrics.lifted("signal", created=stored.created)
    document = stored.insight.signal or {}
    return json_answer(
        {
            **insight_json(stored.insight),
            "lifted": True,
            "packets": document["packets"],
            "residual": document["residual"]["rms"],
        }
    )


def _asks_for_this(body: SignalBody, document: dict[str, Any]) -> bool:
    """Whether a fit that is kept is what is asked for; an archive may have brought one that lacks parts."""
    residual = document.get("residual")
    whole = isinstance(document.get("packets"), list) and isinstance(residual, dict) and "rms" in residual
    return whole and body.max_packets is None and body.seconds is None and body.title in ("", document.get("title", ""))
