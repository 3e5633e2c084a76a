"""What happens to every request: an id, a gate, headers, a line in the log and a count.

Most of it is done around Flask, on the plain environment and list of headers of WSGI: it is on the way of each request,
and Flask's own hooks cost several times as much.
"""

import re
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter
from typing import Any

from flask import Flask

from dredge.api.auth import Gate
from dredge.api.errors import RefusedError, answer_refusal
from dredge.api.limits import RateLimiter
from dredge.api.ops import OPEN
from dredge.api.services import REQUEST_ID, Services

__all__ = ["register"]

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
# Pages use only what this service sends; nothing embeds them.
_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # Not no-referrer: that makes browsers send forms of our own page with the origin null.
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_CACHING = ("Cache-Control", "no-store")


def register(app: Flask, services: Services) -> None:
    """Puts it around all routes of an application.

    Args:
        app: the application.
        services: those of the application.
    """
    app.wsgi_app = _Exchange(app.wsgi_app, services)  # type: ignore[method-assign]


class _Exchange:
    def __init__(self, inner: Callable[..., Iterable[bytes]], services: Services) -> None:
        settings = services.settings
        self._inner = inner
        self._metrics = services.metrics
        self._log = services.log
        self._gate = Gate(settings.auth.tokens, (settings.server.host, *settings.server.hosts))
        self._limiter = RateLimiter(settings.limits.rate_per_minute, settings.limits.rate_burst)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        began = perf_counter()
        given = environ.get("HTTP_X_REQUEST_ID")
        request_id = given if given and _SANE_ID.fullmatch(given) else secrets.token_hex(8)
        environ[REQUEST_ID] = request_id

        start = partial(self._start, environ, request_id, began, start_response)
        try:
            self._let_in(environ)
        except RefusedError as refusal:
            return answer_refusal(refusal, request_id)(environ, start)
        return self._inner(environ, start)

    def _start(
        self, environ: dict[str, Any], request_id: str, began: float, start_response: Callable[..., Any], status: str,
        headers: list[tuple[str, str]], exc_info: Any = None,
    ) -> Any:  # fmt: skip
        for name, _ in headers:
            if name == "Cache-Control":
                break
        else:
            headers.append(_CACHING)
        headers += _HEADERS
        headers.append(("X-Request-ID", request_id))
        seconds = perf_counter() - began
        # A refused request was never matched with a route.
        rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
        route = rule.rule if rule is not None else None
        method = environ["REQUEST_METHOD"]
        number = int(status[:3])
        self._metrics.request(method, route, number, seconds)
        self._log.info(
            "request", method=method, route=route, status=number, ms=round(seconds * 1000, 2), request_id=request_id
        )
        return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

    def _let_in(self, environ: dict[str, Any]) -> None:
        open_to_all = environ.get("PATH_INFO") in OPEN
        if self._limiter.active and not open_to_all:
            self._limiter.check(environ.get("REMOTE_ADDR", ""))
        self._gate.check(environ, open_to_all=open_to_all)
