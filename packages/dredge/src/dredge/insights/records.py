"""What is kept of a text or a signal, and what a search finds."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

__all__ = ["Hit", "Insight", "Kind", "Stored"]

Kind = Literal["text", "signal"]


@dataclass(frozen=True)
class Insight:
    """A record.

    Args:
        id: of a text, the SHA-256 of its UTF-8 bytes as received, in lower-case hexadecimal; of a signal, that of its
            samples.
        text: as received; of a signal, its title and a readable list of its packets.
        kind: what was lifted.
        created: when it was first lifted, in UTC, to the microsecond.
        seen: how often it was lifted.
        last_seen: when it was last lifted, in UTC.
        encoder: version of the encoder whose vector is kept.
        signal: of a signal, its packets, samples and residual as JSON values; None for a text.
    """

    id: str
    text: str
    kind: Kind
    created: datetime
    seen: int
    last_seen: datetime
    encoder: str
    signal: dict[str, Any] | None = None


@dataclass(frozen=True)
class Stored:
    """What came of lifting.

    Args:
        insight: the record.
        created: whether it is new; False = it was there and was counted once more.
    """

    insight: Insight
    created: bool


@dataclass(frozen=True)
class Hit:
    """What a search found.

    Args:
        insight: the record.
        score: fused score in [0, 1], by which hits are ordered.
        cosine: of query and record; None where no vector was asked.
        lexical: calibrated full-text score in [0, 1]; None where the full-text index did not find it.
    """

    insight: Insight
    score: float
    cosine: float | None
    lexical: float | None
