"""Who may use the service: bearer tokens, and pages of other sites kept out.

Tokens are compared by their digests in constant time, and all of them each time. A browser, which cannot be told to
send a bearer token, may give one as the password of HTTP's Basic scheme, with any name.

A page of another site can make a browser on this machine send a form here, loopback or not. Such a request says where
it comes from, in `Sec-Fetch-Site` or `Origin`, and is refused where it would change something. Such a site may also
let its own name lead to this machine after its page was loaded (DNS rebinding); then requests seem to come from the
page's own site, and their `Host` is a name that this service does not have.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from dredge.api.errors import RefusedError

__all__ = ["Gate"]

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::[0-9]*)?")


class Gate:
    """Lets requests in.

    Args:
        tokens: any of which opens; none = all may come in.
        hosts: names of the service, besides localhost and addresses. Who has a token may use any.
    """

    def __init__(self, tokens: Sequence[str], hosts: Sequence[str] = ()) -> None:
        self._digests = [_digest(token.encode()) for token in tokens]
        self._hosts = {"localhost", *(_plain(host) for host in hosts)}
        # Clients use one name each, and reading it costs more than the rest of the gate.
        self._leads_here = lru_cache(128)(self._is_own)

    def check(self, environ: dict[str, Any], *, open_to_all: bool = False) -> None:
        """Lets a request in, or refuses.

        Args:
            environ: of the request.
            open_to_all: needs no token.

        Raises:
            RefusedError: 401 without a token that opens; 403 from a page of another site, or under another's name.
        """
        if not self._digests and not open_to_all and not self._leads_here(environ.get("HTTP_HOST", "")):
            raise RefusedError(
                403, "unknown_host", f"A service without tokens answers to names that it knows; got "
                f"{environ['HTTP_HOST'][:100]!r}. Use its address, or add the name to server.hosts.",
            )  # fmt: skip
        if environ["REQUEST_METHOD"] not in _SAFE and _from_another_site(environ):
            raise RefusedError(
                403, "cross_site", "A page of another site changes nothing here; this request came from one. Use the "
                "service's own page, or a client that is no browser.",
            )  # fmt: skip
        if self._digests and not open_to_all and not self._opens(_token(environ.get("HTTP_AUTHORIZATION", ""))):
            challenge = 'Bearer realm="dredge"'
            if "text/html" in environ.get("HTTP_ACCEPT", ""):
                # First: browsers look at one scheme of a header alone.
                challenge = f'Basic realm="dredge", charset="UTF-8", {challenge}'
            raise RefusedError(
                401, "unauthorized", "This service asks for a token; got none that it knows. "
                "Send the header Authorization: Bearer TOKEN.", headers={"WWW-Authenticate": challenge},
            )  # fmt: skip

    def _opens(self, token: bytes) -> bool:
        digest = _digest(token)
        # Over all of them, so that the time does not tell which one is near.
        return sum([hmac.compare_digest(digest, known) for known in self._digests]) > 0

    def _is_own(self, host: str) -> bool:
        name = _plain(host)
        if not name or name in self._hosts or name.endswith(".localhost"):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _plain(host: str) -> str:
    """The name or address of a `Host`, without its port and its brackets."""
    found = _HOST.fullmatch(host)
    return host if found is None else (found[1] or found[2]).removesuffix(".").lower()


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _token(header: str) -> bytes:
    scheme, _, rest = header.partition(" ")
    # WSGI gives the bytes of a header as Latin-1.
    given = rest.strip().encode("latin-1")
    if scheme.lower() == "bearer":
        return given
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _from_another_site(environ: dict[str, Any]) -> bool:
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = environ.get("HTTP_ORIGIN")
    return origin is not None and _host(origin) != environ.get("HTTP_HOST", "")


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None
