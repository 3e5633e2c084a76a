"""Signals are fitted one at a time, and once: one that is kept is fitted again only where something else is asked."""

from typing import Final

from dredge.api.errors import RefusedError
from dredge.api.services import Services
from dredge.api.signal_documents import read_document
from dredge.insights.records import Stored
from dredge.signals import Numbers, lift_signal, signal_id

__all__ = ["kept_signal"]

_PATIENCE: Final = 5.0
"""Seconds that a fit waits for another; one that must wait for longer is better sent again."""


def kept_signal(
    own: Services, coords: Numbers, values: Numbers, *, title: str, max_packets: int | None, seconds: float | int | None
) -> Stored:
    """Lifts a signal and keeps it, or counts one that is kept as it is asked for.

    Args:
        own: what requests share.
        coords: of the samples.
        values: of the samples.
        title: of the signal; "" = any.
        max_packets: at most; None = those that are kept, or as many as pay.
        seconds: to fit; None = those of the fit that is kept, or as the settings say.

    Returns:
        The record; its document is one that `read_document` reads.

    Raises:
        SignalError: samples that cannot be fitted.
        MissingExtraError: torch or scipy is not installed.
        RefusedError: 429, another signal is fitted.
    """
    store, limits = own.store, own.settings.limits
    if max_packets is None and seconds is None and len(values) <= limits.signal_points:
        known = store.find(signal_id(coords, values))
        # An archive may have brought a document that lacks parts.
        document = read_document(known.signal) if known is not None else None
        if known is not None and document is not None and title in ("", document.title):
            return store.put_signal(known.id, known.text, known.signal or {})
    if not own.fits.acquire(timeout=_PATIENCE):
        raise RefusedError(
            429, "busy", "One signal is fitted at a time; one is. Send it again in a few seconds.",
            headers={"Retry-After": "5"},
        )  # fmt: skip
    try:
        lifted = lift_signal(coords, values, title=title, max_packets=max_packets, seconds=seconds, limits=limits)
    finally:
        own.fits.release()
    return store.put_signal(lifted.id, lifted.text, lifted.document)
