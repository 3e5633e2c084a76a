"""Counters for Prometheus.

Labels are bounded: a route is its template (`/insights/<id>`), never a path; a method that HTTP does not name is
`other`. Where `PROMETHEUS_MULTIPROC_DIR` is set, as `run_server` does for several workers, each process writes its
numbers to a file of that folder and any of them answers for all.
"""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

from dredge.errors import ConfigError, StoreError

__all__ = ["CONTENT_TYPE", "Metrics", "share_between_processes", "shared_folder"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def shared_folder() -> Path | None:
    """Where the processes that share their numbers write them.

    Returns:
        The folder that the environment names; None = the numbers of this process are its own.

    Raises:
        ConfigError: it names what is no folder.
    """
    named = os.environ.get(_FOLDER)
    if named and not Path(named).is_dir():
        raise ConfigError(f"{_FOLDER} names a folder that is there; {named} is none. Make it, empty.")
    return Path(named) if named else None


def share_between_processes(folder: Path | None = None) -> None:
    """Makes what is counted from here on part of a total over several processes.

    The library chooses between memory and files when it is imported, which may have been in the parent process and
    before the folder was named; this chooses again.

    Args:
        folder: where processes write; None = the one that the environment names.
    """
    if folder is not None:
        os.environ[_FOLDER] = str(folder)
    if not getattr(values.ValueClass, "_multiprocess", False):
        values.ValueClass = values.MultiProcessValue()


class Metrics:
    """The numbers of one application.

    Args:
        kept: counts the insights in the database, when asked for the numbers, and raises StoreError where it cannot;
            None = not told.

    Raises:
        ConfigError: `PROMETHEUS_MULTIPROC_DIR` names what is no folder.
    """

    def __init__(self, kept: Callable[[], int] | None = None) -> None:
        self._shared = shared_folder() is not None
        if self._shared:
            share_between_processes()
        own = CollectorRegistry()
        self._requests = Counter(
            "dredge_requests_total", "Requests answered.", ("method", "route", "status"), registry=own
        )
        self._seconds = Histogram(
            "dredge_request_seconds", "Time to answer, without the sending.", ("route",), registry=own, buckets=_BUCKETS
        )
        self._lifted = Counter("dredge_lifted_total", "Things lifted and kept.", ("kind", "outcome"), registry=own)
        self._hits = Counter("dredge_hash_cache_hits_total", "Ids found in the cache of hashes.", registry=own)
        self._misses = Counter("dredge_hash_cache_misses_total", "Ids computed for the cache of hashes.", registry=own)
        self._hash = (0, 0)
        self._lock = Lock()
        self._answered: dict[tuple[str, str, int], Counter] = {}
        self._timed: dict[str, Histogram] = {}
        if self._shared:
            # Its own registry, so that the numbers of this process are not told twice.
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)
        else:
            self._registry = own
        self._rate = _Computed(self._registry, kept)

    def request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Counts one request.

        Args:
            method: as it came.
            route: template of the route; None = there is none.
            status: of the answer.
            seconds: taken.
        """
        route = route or "none"
        key = (method if method in _METHODS else "other", route, status)
        counter = self._answered.get(key)
        if counter is None:
            counter = self._answered.setdefault(key, self._requests.labels(key[0], route, str(status)))
        counter.inc()
        timer = self._timed.get(route)
        if timer is None:
            timer = self._timed.setdefault(route, self._seconds.labels(route))
        timer.observe(seconds)

    def lifted(self, kind: str, *, created: bool, count: int = 1) -> None:
        """Counts what was kept.

        Args:
            kind: text or signal.
            created: whether it was new.
            count: of them.
        """
        if count:
            self._lifted.labels(kind, "new" if created else "repeat").inc(count)

    def hash_cache(self, counts: Callable[[], tuple[int, int]]) -> None:
        """Takes over how the cache of hashes has done.

        Args:
            counts: tells its hits and misses so far in this process.
        """
        with self._lock:
            # Asked for here: counts that another thread overtook would look like those of a cache that was cleared.
            hits, misses = counts()
            more_hits, more_misses = hits - self._hash[0], misses - self._hash[1]
            # A cache that was cleared starts again from zero.
            if more_hits < 0 or more_misses < 0:
                more_hits, more_misses = hits, misses
            self._hash = hits, misses
            if more_hits:
                self._hits.inc(more_hits)
            if more_misses:
                self._misses.inc(more_misses)

    def render(self) -> bytes:
        """All numbers in the text format of Prometheus.

        >>> metrics = Metrics()
        >>> metrics.request("GET", "/health", 200, 0.001)
        >>> b'dredge_requests_total{method="GET",route="/health",status="200"} 1.0' in metrics.render()
        True
        """
        return generate_latest(self._registry) + generate_latest(self._rate)


class _Computed:
    """What is worked out when it is asked for: the rate of the cache, and how many insights there are."""

    def __init__(self, counted: CollectorRegistry, kept: Callable[[], int] | None) -> None:
        self._counted = counted
        self._kept = kept

    def collect(self) -> list[Metric]:
        found = {
            sample.name: sample.value
            for metric in self._counted.collect()
            if metric.name in ("dredge_hash_cache_hits", "dredge_hash_cache_misses")
            for sample in metric.samples
        }
        hits = found.get("dredge_hash_cache_hits_total", 0.0)
        asked = hits + found.get("dredge_hash_cache_misses_total", 0.0)
        told: list[Metric] = [
            GaugeMetricFamily(
                "dredge_hash_cache_hit_rate", "Share of ids found in the cache of hashes.", hits / asked if asked else 0
            )
        ]
        if self._kept is not None:
            try:
                told.append(GaugeMetricFamily("dredge_insights", "Insights in the database.", self._kept()))
                up = 1
            except StoreError:
                up = 0
            told.append(GaugeMetricFamily("dredge_store_up", "Whether the database answers.", up))
        return told
