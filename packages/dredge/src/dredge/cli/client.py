"""Asks a running service, over HTTP."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from dredge.errors import ConfigError, StoreError

__all__ = ["counters", "health_of"]

_SECONDS = 5.0


def health_of(url: str, token: str | None = None) -> dict[str, Any]:
    """What a service says of itself.

    Args:
        url: its address.
        token: where it asks for one.

    Returns:
        The answers of `/health` and `/ready`, and whether it is ready.

    Raises:
        ConfigError: no address of HTTP, or the service asks for another token.
        StoreError: it cannot be reached, or is no dredge.
    """
    _, health = _read(url, "/health", None)
    status, readiness = _read(url, "/ready", token, refused=(503,))
    return {**_object(url, health), "ready": status == 200, "readiness": _object(url, readiness)}


def counters(url: str, token: str | None = None) -> dict[str, float]:
    """Counters and gauges of a service that have no labels.

    Args:
        url: its address.
        token: where it asks for one.

    Returns:
        Values by name.

    Raises:
        ConfigError: no address of HTTP, or the service asks for another token.
        StoreError: it cannot be reached, or is no dredge.
    """
    _, text = _read(url, "/metrics", token)
    try:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except ValueError as error:
        raise _stranger(url) from error
    found = {
        sample.name.removeprefix("dredge_"): sample.value
        for sample in samples
        if sample.name.startswith("dredge_") and not sample.labels and not sample.name.endswith("_created")
    }
    if not found:
        raise _stranger(url)
    return found


def _read(url: str, path: str, token: str | None, *, refused: tuple[int, ...] = ()) -> tuple[int, str]:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"a service's address begins with http:// or https://; got {url!r}. Correct it.")
    try:
        request = urllib.request.Request(url.rstrip("/") + path)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            if error.code in refused:
                return error.code, error.read().decode(errors="replace")
        if error.code == 401:
            raise ConfigError(
                f"a service with tokens is asked with one of them; {url} got {'another' if token else 'none'}. Give it "
                "with --token or DREDGE_TOKEN."
            ) from error
        raise StoreError(f"a service answers {path} with 200; {url} answered {error.code}. Look at its log.") from error
    except (OSError, ValueError, OverflowError, http.client.HTTPException) as error:
        raise StoreError(
            f"a service answers at its address; {url} does not: {error}. Start it: dredge serve."
        ) from error


def _object(url: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _stranger(url) from error
    if not isinstance(found, dict):
        raise _stranger(url)
    return found


def _stranger(url: str) -> StoreError:
    return StoreError(f"a service that is asked is a dredge; what answers at {url} is none. Correct the address.")
