"""What the cases share: the device, settings, and requests without a network."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch

from claimbench.case import Workload
from claimbench.errors import CaseError
from claimbench.record import Params
from dredge.config import Settings

__all__ = ["Requests", "default_device", "default_settings", "not_timed"]


def default_device() -> torch.device:
    """The GPU where this worker may see one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_settings(**given: Any) -> Settings:
    """Settings as they are by default, whatever `DREDGE_…` says where this runs.

    Args:
        **given: Sections that are not.
    """
    return Settings(_env_prefix="CLAIMBENCH-", **given)


def not_timed(params: Params) -> Workload:
    """Stands for the set-up of a case that is only counted."""
    raise CaseError(f"this case is counted or checked, not timed; got {params}")


# --- requests ---------------------------------------------------------------------------------------------------------


class Requests:
    """Calls a WSGI application as a server does, without a network: what is timed is the application.

    Args:
        app: The application.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        from werkzeug.test import create_environ

        self._app = app
        self._environ = create_environ("/", "http://127.0.0.1:3001", content_type="application/json")

    def __call__(self, method: str, path: str, body: bytes = b"") -> bytes:
        """One request.

        Args:
            method: Of the request.
            path: Of the request, without a query.
            body: JSON.

        Returns:
            The body of the answer.

        Raises:
            CaseError: An answer that is not 200.
        """
        status = ""

        def start(line: str, _headers: object, _error: object = None) -> Callable[[bytes], object]:
            nonlocal status
            status = line
            return lambda _data: None

        environ = {
            **self._environ, "REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
        }  # fmt: skip
        answer = self._app(environ, start)
        try:
            content = b"".join(answer)
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()
        if not status.startswith("200"):
            raise CaseError(f"{method} {path} answers 200; got {status}: {content[:200]!r}; correct the case")
        return content
