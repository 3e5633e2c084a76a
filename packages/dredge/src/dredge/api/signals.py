"""Lifts signals."""

from flask import Blueprint, Response

from dredge.api.answers import json_answer
from dredge.api.bodies import read_json
from dredge.api.errors import RefusedError
from dredge.api.schemas import SignalBody, insight_json
from dredge.api.services import services
from dredge.api.signal_fits import kept_signal

__all__ = ["signalling"]

signalling = Blueprint("signalling", __name__)


@signalling.post("/lift/signal")
def lift_signals() -> Response:
    """Lifts a sampled signal to a few wave packets; one that is kept is fitted again only where more is asked."""
    body = read_json(SignalBody)
    own = services()
    limits = own.settings.limits
    if len(body.values) > limits.signal_points or len(body.coords) > limits.signal_points:
        raise RefusedError(
            422, "too_many_points", f"A signal has at most {limits.signal_points} samples; got "
            f"{max(len(body.values), len(body.coords))}. Send every second one, or use dredge fit.",
        )  # fmt: skip
    stored = kept_signal(
        own, body.coords, body.values, title=body.title, max_packets=body.max_packets, seconds=body.seconds
    )
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
