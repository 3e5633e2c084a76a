"""Writes JSON answers."""

import json
from typing import Any

from flask import Response

__all__ = ["json_answer"]

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_answer(value: Any, status: int = 200) -> Response:
    """An answer with a JSON body.

    Args:
        value: the body.
        status: of HTTP.

    Returns:
        The answer.
    """
    return Response(_ENCODER.encode(value).encode(), status, mimetype="application/json")
