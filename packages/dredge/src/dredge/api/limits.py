"""How many requests a client may make.

A bucket of tokens for each client: a request takes one, and they come back at a steady rate up to a full bucket. The
table of clients is bounded; the one that has been away longest is forgotten first. Each process counts for itself.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from dredge.api.errors import RefusedError

__all__ = ["RateLimiter"]

_CLIENTS = 10_000


class RateLimiter:
    """Buckets of tokens.

    Args:
        per_minute: requests of one client; 0 = any number.
        burst: requests that may come at once.
        clients: that are remembered.
        clock: seconds that never go back.

    >>> limiter = RateLimiter(per_minute=60, burst=2, clock=lambda: 0.0)
    >>> [limiter.wait("a") for _ in range(3)]
    [0.0, 0.0, 1.0]
    """

    def __init__(
        self, per_minute: int, burst: int, *, clients: int = _CLIENTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_minute / 60
        self._burst = float(burst)
        self._clients = clients
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = Lock()

    @property
    def active(self) -> bool:
        """Whether there is a limit at all."""
        return self._per_second > 0

    def wait(self, client: str) -> float:
        """Takes a token.

        Args:
            client: whose.

        Returns:
            0 where there was one; else the seconds until there is.
        """
        if not self.active:
            return 0.0
        now = self._clock()
        with self._lock:
            tokens, since = self._buckets.pop(client, (self._burst, now))
            tokens = min(self._burst, tokens + (now - since) * self._per_second)
            taken = tokens >= 1
            self._buckets[client] = (tokens - 1 if taken else tokens, now)
            if len(self._buckets) > self._clients:
                self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - tokens) / self._per_second

    def check(self, client: str) -> None:
        """Takes a token, or refuses.

        Args:
            client: whose.

        Raises:
            RefusedError: 429, with the header Retry-After.
        """
        wait = self.wait(client)
        if wait:
            seconds = math.ceil(wait)
            raise RefusedError(
                429, "too_many_requests",
                f"A client makes at most {self._per_second * 60:.0f} requests a minute; got more. "
                f"Wait {seconds} s.",
                headers={"Retry-After": str(seconds)},
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._buckets)
