"""What requests share: settings, the store, the searcher and the instruments."""

from dataclasses import dataclass, field
from threading import BoundedSemaphore

from flask import current_app, request

from dredge.api.ids_cache import IdCache
from dredge.config import Settings
from dredge.insights.search import Searcher
from dredge.insights.store import Store
from dredge.logs import Logger
from dredge.metrics import Metrics

__all__ = ["EXTENSION", "REQUEST_ID", "Services", "request_id", "services"]

EXTENSION = "dredge"
REQUEST_ID = "dredge.request_id"


@dataclass(frozen=True)
class Services:
    """What requests share.

    Args:
        settings: all of them.
        store: where insights are kept.
        searcher: finds them.
        ids: the cache of hashes.
        metrics: counters.
        log: logger.
        fits: how many signals may be fitted at once in this process.
        reindexing: held while vectors are made anew.
    """

    settings: Settings
    store: Store
    searcher: Searcher
    ids: IdCache
    metrics: Metrics
    log: Logger
    fits: BoundedSemaphore = field(default_factory=BoundedSemaphore)
    reindexing: BoundedSemaphore = field(default_factory=BoundedSemaphore)


def services() -> Services:
    """Those of the application that answers the present request.

    Returns:
        The services.
    """
    own: Services = current_app.extensions[EXTENSION]
    return own


def request_id() -> str:
    """The id of the present request: the client's own, or one that was made.

    Returns:
        The id.
    """
    return str(request.environ[REQUEST_ID])
