"""Errors as JSON, whatever went wrong.

A body has `error` (the phrase that HTTP has for the status), `code` (a word for programs), `message` (a sentence for
people), `request_id`, and for a body or a query with wrong fields `details`. What was not foreseen is logged with its
traceback and answered with 500 and nothing of the inside.
"""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from dredge.api.services import request_id, services
from dredge.errors import (
    ArchiveError,
    DredgeError,
    InsightError,
    MissingExtraError,
    NotFoundError,
    QueryError,
    SignalError,
    StoreError,
)
from dredge.logs import described_exception

__all__ = ["RefusedError", "answer_error", "answer_refusal", "error_body", "refusal_of", "register", "unfit_fields"]

_OF_PACKAGE: dict[type[DredgeError], tuple[int, str]] = {
    InsightError: (422, "unusable_text"),
    SignalError: (422, "unusable_signal"),
    QueryError: (422, "unusable_query"),
    ArchiveError: (422, "unusable_archive"),
    NotFoundError: (404, "not_found"),
    MissingExtraError: (501, "missing_extra"),
}
_OF_HTTP = {
    400: ("bad_request", "A request is well-formed HTTP; this one is not. Correct its headers or its body."),
    404: ("no_such_route", "A request names a route of this service; this one does not. GET /openapi.json lists them."),
    405: ("method_not_allowed", "A route takes the methods in the header Allow; got another. Use one of those."),
    413: ("body_too_large", "A body has at most {body_bytes} bytes; got more. Send less at a time."),
}
_SHOWN_DETAILS = 20


class RefusedError(DredgeError):
    """A request that is refused, with its answer.

    Args:
        status: of HTTP.
        code: a word for programs.
        message: the rule, what came, and what to do.
        headers: for the answer.
        details: of single fields.
    """

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None,
        details: Sequence[Mapping[str, str]] = (),
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = dict(headers or {})
        self.details = list(details)


def unfit_fields(error: ValidationError, known: Sequence[str], *, what: str) -> RefusedError:
    """What a body or a query that does not fit its schema is answered with.

    A field that is missing is 400, as the original answers; a field that is there and wrong is 422. Values are not
    repeated, and neither are names that a client made up.

    Args:
        error: of pydantic.
        known: names of the fields that there are.
        what: body or query.

    Returns:
        The refusal.
    """
    details, missing = [], False
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:_SHOWN_DETAILS]:
        path = item["loc"]
        named = ".".join(map(str, path)) if path and path[0] in known else what
        message = item["msg"]
        if item["type"] == "extra_forbidden":
            message = f"a {what} has only the fields {', '.join(known)}"
        missing = missing or item["type"] == "missing"
        details.append({"field": named, "message": message})
    first = details[0]
    return RefusedError(
        400 if missing else 422,
        "missing_field" if missing else "wrong_field",
        f"A {what} fits its schema; {first['field']}: {first['message']}. GET /openapi.json describes it.",
        details=details,
    )


def refusal_of(error: DredgeError) -> RefusedError | None:
    """The answer to an error of the package.

    Args:
        error: the error.

    Returns:
        The refusal; None = the service's own fault.

    >>> refusal_of(InsightError("a text is not blank; got 3 spaces. Send words.")).status
    422
    """
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, StoreError):
        # Its own words name files and hosts.
        return RefusedError(
            503, "store_unavailable", "The database does not answer as it should; the service's log has the reason. "
            "Try again later.", headers={"Retry-After": "1"},
        )  # fmt: skip
    for kind, (status, code) in _OF_PACKAGE.items():
        if isinstance(error, kind):
            return RefusedError(status, code, _sentence(error))
    return None


def error_body(refusal: RefusedError, of_request: str) -> dict[str, Any]:
    """The JSON of an error.

    Args:
        refusal: what to say.
        of_request: its id.

    Returns:
        The object.
    """
    try:
        phrase = HTTPStatus(refusal.status).phrase
    except ValueError:
        phrase = "Error"
    body: dict[str, Any] = {
        "error": phrase, "code": refusal.code, "message": refusal.message, "request_id": of_request,
    }  # fmt: skip
    if refusal.details:
        body["details"] = refusal.details
    return body


def answer_refusal(refusal: RefusedError, of_request: str) -> Response:
    """Makes the answer to a refused request.

    Args:
        refusal: what to say.
        of_request: its id.

    Returns:
        The answer.
    """
    # Escapes keep an answer valid whatever a message quotes.
    body = json.dumps(error_body(refusal, of_request), ensure_ascii=True)
    answer = Response(body, refusal.status, mimetype="application/json")
    answer.headers.extend(refusal.headers)
    return answer


def answer_error(error: Exception) -> Response:
    """Makes the answer to any exception, and logs those that the service is to blame for.

    Args:
        error: what was raised.

    Returns:
        The answer.
    """
    refusal = _refusal(error)
    if refusal is None or refusal.status >= 500:
        own = services()
        own.log.error(
            "request failed",
            request_id=request_id(),
            route=request.url_rule.rule if request.url_rule else None,
            exception=described_exception(error, whole=own.settings.log.level == "DEBUG"),
        )
    if refusal is None:
        refusal = RefusedError(500, "internal", "The service failed at this request; its log has the reason.")
    return answer_refusal(refusal, request_id())


def register(app: Flask) -> None:
    """Answers every exception of an application as JSON.

    Args:
        app: the application.
    """
    app.register_error_handler(Exception, answer_error)


def _refusal(error: Exception) -> RefusedError | None:
    if isinstance(error, DredgeError):
        return refusal_of(error)
    if not isinstance(error, HTTPException) or error.code is None or error.code == 500:
        return None
    if error.code in _OF_HTTP:
        code, message = _OF_HTTP[error.code]
        message = message.format(body_bytes=services().settings.limits.body_bytes)
    else:
        code, message = error.name.lower().replace(" ", "_"), error.description or f"{error.name}."
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return RefusedError(error.code, code, message, headers=headers)


def _sentence(error: DredgeError) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
