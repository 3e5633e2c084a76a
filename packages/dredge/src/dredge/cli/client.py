"""Asks a running service, over HTTP."""

import json
import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from dredge.errors import ConfigError, StoreError

__all__ = ["counters", "health_of"]

_SECONDS = 5.0


def health_of(url: str) -> dict[str, Any]:
    """What a service says of itself.

    Args:
        url: its address.

    Returns:
        The answers of `/health` and `/ready`, and whether it is ready.

    Raises:
        ConfigError: no address of HTTP.
        StoreError: it cannot be reached, or is no dredge.
    """
    health = json.loads(_read(url, "/health", None)[1])
    status, body = _read(url, "/ready", None, refused=True)
    return {**health, "ready": status == 200, "readiness": json.loads(body)}


def counters(url: str, token: str | None = None) -> dict[str, float]:
    """Counters and gauges of a service that have no labels.

    Args:
        url: its address.
        token: where it asks for one.

    Returns:
        Values by name.

    Raises:
        ConfigError: no address of HTTP.
        StoreError: it cannot be reached, or is no dredge.
    """
    families = text_string_to_metric_families(_read(url, "/metrics", token)[1])
    samples = [sample for family in families for sample in family.samples]
    return {
        sample.name.removeprefix("dredge_"): sample.value
        for sample in samples
        if sample.name.startswith("dredge_") and not sample.labels and not sample.name.endswith("_created")
    }


def _read(url: str, path: str, token: str | None, *, refused: bool = False) -> tuple[int, str]:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"a service's address begins with http:// or https://; got {url!r}. Correct it.")
    request = urllib.request.Request(url.rstrip("/") + path)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        if refused:
            return error.code, error.read().decode()
        raise StoreError(f"a service answers {path} with 200; {url} answered {error.code}. Look at its log.") from error
    except (OSError, ValueError) as error:
        raise StoreError(
            f"a service answers at its address; {url} does not: {error}. Start it: dredge serve."
        ) from error
