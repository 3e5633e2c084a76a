"""What the cases share: the device, calls that take turns, and requests without a network."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from claimbench import statistics
from claimbench.case import Workload
from claimbench.errors import CaseError
from claimbench.record import Params

__all__ = ["Requests", "default_device", "in_turns", "interval_of", "not_timed", "ratio_of", "seconds", "share_saved"]

Ends = tuple[float, float]


def default_device() -> torch.device:
    """The GPU where this worker may see one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def not_timed(params: Params) -> Workload:
    """Stands for the set-up of a case that is only counted."""
    raise CaseError(f"this case is counted or checked, not timed; got {params}")


# --- calls that take turns --------------------------------------------------------------------------------------------


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """What a call takes.

    Args:
        call: Called once.
        clock: Which clock.
    """
    began = clock()
    call()
    return clock() - began


def in_turns(calls: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, np.ndarray]:
    """Calls each once a round, in mirrored order every other round; the first round is thrown away.

    Args:
        calls: Name → measures itself and returns seconds.
        rounds: How many count.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            taken = calls[name]()
            if turn:
                found[name].append(taken)
    return {name: np.asarray(values) for name, values in found.items()}


def interval_of(values: Sequence[float] | np.ndarray) -> tuple[float, Ends]:
    """Mean and 99 % interval of the mean, over rounds or seeds of one process.

    Args:
        values: One a round or seed.
    """
    found = statistics.bootstrap([[np.asarray(values, float)]])
    low, high = statistics.interval(found.draws[:, 0])
    return float(found.estimate[0]), (float(low), float(high))


def ratio_of(top: np.ndarray, bottom: np.ndarray) -> tuple[float, Ends]:
    """A mean ratio with its interval: of the logarithms of pairs.

    Args:
        top: By round or seed.
        bottom: By round or seed.
    """
    mean, (low, high) = interval_of(np.log(top) - np.log(bottom))
    return float(np.exp(mean)), (float(np.exp(low)), float(np.exp(high)))


def share_saved(before: np.ndarray, after: np.ndarray) -> tuple[float, Ends]:
    """How much less in per cent, with its interval.

    Args:
        before: By round or seed.
        after: By round or seed.
    """
    ratio, (low, high) = ratio_of(after, before)
    return 100 * (1 - ratio), (100 * (1 - high), 100 * (1 - low))


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
