"""Bodies of requests, read strictly.

JSON here is UTF-8 without a byte order mark, with no key twice in an object, no NaN and no Infinity, nested and with
numbers no longer than the limits. Depth and digits are measured on the bytes before anything is parsed, outside
strings, in a time that is linear in the length: a parser would meet its own limit first, or build a number for minutes.
"""

import json
import re
from typing import Any, TypeVar

import numpy as np
from flask import request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from dredge.api.errors import RefusedError, unfit_fields
from dredge.api.services import services
from dredge.config import LimitSettings

__all__ = ["measure", "parse_json", "query", "read_json", "read_lines"]

Model = TypeVar("Model", bound=BaseModel)

# The last alternative takes an unclosed string to the end, so that no start of a string is ever tried twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_DIGIT = re.compile(rb"[0-9]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ARRAYS = 50_000
_LINES = ("application/x-ndjson", "application/jsonl", "application/jsonlines")


def read_json(model: type[Model]) -> Model:
    """The body of the present request.

    Args:
        model: its schema.

    Returns:
        The body, validated.

    Raises:
        RefusedError: 400, 413, 415 or 422.
    """
    value = parse_json(_body("application/json"), services().settings.limits)
    return _validated(model, value, "body")


def read_lines() -> list[str]:
    """The body of the present request as JSON lines, each measured.

    Returns:
        The lines, the empty ones at the end left out.

    Raises:
        RefusedError: 400, 413 or 415.
    """
    body = _body(*_LINES)
    limits = services().settings.limits
    # A shorter line can break no limit; there may be millions of them.
    least = min(limits.json_depth, limits.json_digits)
    for line in body.split(b"\n"):
        if len(line) > least:
            measure(line, limits)
    return _decoded(body).rstrip("\n").split("\n")


def query(model: type[Model]) -> Model:
    """The query of the present request.

    Args:
        model: its schema.

    Returns:
        The query, validated.

    Raises:
        RefusedError: 400 or 422; also for a parameter that comes twice.
    """
    given = request.args
    for name, several in given.lists():
        if len(several) > 1:
            known = name if name in model.model_fields else "a parameter"
            raise RefusedError(
                422, "wrong_field", f"A parameter comes once; {known} came {len(several)} times. Send one of them."
            )
    return _validated(model, given.to_dict(), "query")


def parse_json(body: bytes, limits: LimitSettings) -> Any:
    """Parses JSON.

    Args:
        body: the bytes.
        limits: of depth and digits.

    Returns:
        The value.

    Raises:
        RefusedError: 400; it is not JSON as described above.

    >>> parse_json(b'{"insight_text": "note"}', LimitSettings())
    {'insight_text': 'note'}
    """
    measure(body, limits)
    text = _decoded(body)
    try:
        return _DECODER.decode(text)
    except _UnwantedError as error:
        raise _not_json(str(error)) from None
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg} at character {error.pos}") from None
    except (RecursionError, ValueError) as error:
        # Only where the limits were set above those of the interpreter.
        raise _not_json("it is nested too deep, or has too long a number, for this service") from error


def measure(body: bytes, limits: LimitSettings) -> None:
    """Checks depth, digits and the number of arrays of JSON that was not parsed yet.

    Args:
        body: the bytes.
        limits: of them.

    Raises:
        RefusedError: 400; it is nested deeper, a number is longer, or there are more arrays than any signal has.
    """
    # Most bodies have fewer brackets than the limit. A run of more digits than the limit has one at a place of this
    # grid; where there is none, nobody has to look at what is a string.
    brackets = body.count(b"[") + body.count(b"{")
    grid = body[limits.json_digits :: limits.json_digits + 1]
    if brackets <= limits.json_depth and not _DIGIT.search(grid):
        return
    outside = _STRING.sub(b'""', body)
    if brackets > limits.json_depth:
        if (depth := _depth(outside)) > limits.json_depth:
            raise _not_json(f"it is nested {depth} deep, and {limits.json_depth} is the limit")
        # A signal of many axes has an array for each sample; a million of empty ones would only take memory.
        most = max(_ARRAYS, 2 * limits.signal_points)
        if brackets > most and (arrays := outside.count(b"[") + outside.count(b"{")) > most:
            raise _not_json(f"it has {arrays} arrays and objects, and {most} is the limit")
    if grid and (digits := _digits(outside)) > limits.json_digits:
        raise _not_json(f"a number has {digits} digits, and {limits.json_digits} is the limit")


class _UnwantedError(Exception):
    """JSON that parsers take and that means different things to them."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _UnwantedError("an object has a key twice")
    return found


def _constant(name: str) -> None:
    raise _UnwantedError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _depth(outside: bytes) -> int:
    brackets = np.frombuffer(outside.translate(None, _NOT_BRACKETS), np.uint8)
    # '[' and '{' are two below ']' and '}'.
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    return int(np.cumsum(steps).max(initial=0))


def _digits(outside: bytes) -> int:
    data = np.frombuffer(outside, np.uint8)
    ends = np.flatnonzero((data < ord("0")) | (data > ord("9")))
    return int(np.diff(ends, prepend=-1, append=len(data)).max() - 1)


def _body(*types: str) -> bytes:
    environ = request.environ
    # What nearly all clients send needs no parsing.
    if environ.get("CONTENT_TYPE") != types[0] or "HTTP_CONTENT_ENCODING" in environ:
        _check_type(types)
    most = services().settings.limits.body_bytes
    length = environ.get("CONTENT_LENGTH", "")
    if length.isascii() and length.isdigit() and "HTTP_TRANSFER_ENCODING" not in environ:
        # No body has so long a length; and int() would take none of 5,000 digits.
        if len(length) > 18 or int(length) > most:
            raise RequestEntityTooLarge
        wanted = int(length)
    else:
        # Without a length a body ends where the server says that it does, or it is none.
        wanted = most + 1 if environ.get("wsgi.input_terminated") else 0
    body: bytes = environ["wsgi.input"].read(wanted)
    if len(body) > most:
        raise RequestEntityTooLarge
    return body


def _check_type(types: tuple[str, ...]) -> None:
    given = request.mimetype
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if given not in types:
        came = given if re.fullmatch(r"[\w.+/-]{1,60}", given, re.ASCII) else "no type" if not given else "another type"
    elif charset not in ("utf-8", "utf8"):
        came = "another charset"
    elif coding != "identity":
        came = "a packed one"
    else:
        return
    raise RefusedError(
        415, "unsupported_media_type", f"A body here is {types[0]} in UTF-8, not packed; got {came}. "
        "Set the header Content-Type.",
    )  # fmt: skip


def _decoded(body: bytes) -> str:
    if body.startswith(b"\xef\xbb\xbf"):
        raise _not_json("it begins with a byte order mark")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_json(f"byte {error.start} is not UTF-8") from None


def _validated(model: type[Model], value: Any, what: str) -> Model:
    if isinstance(value, dict) and len(value) > len(model.model_fields):
        # Not one error for each of them.
        raise RefusedError(
            422, "wrong_field",
            f"A {what} has only the fields {', '.join(model.model_fields)}; got {len(value)} fields. Send those.",
        )  # fmt: skip
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise unfit_fields(error, list(model.model_fields), what=what) from None


def _not_json(reason: str) -> RefusedError:
    return RefusedError(400, "bad_json", f"A body is JSON in UTF-8; {reason}. Correct it.")
