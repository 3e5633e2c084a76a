"""Bodies, queries and answers, as pydantic has them; the OpenAPI document is made from these.

What comes in is strict: no unknown field, no number for a text, no text for a number. Answers are written by the
functions at the end, by hand since they are on the way of every request; tests hold them to the models.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field

from dredge.insights.records import Hit, Insight, Kind
from dredge.signals import TITLE_CHARACTERS

__all__ = [
    "BatchBody", "BatchItem", "BatchLifted", "ErrorBody", "ErrorDetail", "FoundHit", "Health", "Imported",
    "InsightPage", "InsightQuery", "LiftBody", "Lifted", "Ready", "Record", "Reindexed", "SearchQuery", "SearchResult",
    "ServiceCard", "SignalBody", "SignalLifted", "SimilarQuery", "SimilarResult", "hit_json", "insight_json", "moment",
]  # fmt: skip

# A text has no U+0000, and a character that is neither white space nor a control character.
WRITTEN = r"^[^\u0000]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000]*$"
ID = r"^[0-9a-f]{64}$"


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Query(BaseModel):
    # The values of a query are all texts.
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _integer(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"0|[1-9][0-9]{0,8}", value, re.ASCII):
        raise ValueError("a whole number without sign is needed")
    return value


QueryInt = Annotated[int, BeforeValidator(_integer)]
# One error of a list says enough; a million would take longer than the rest.
Numbers = Annotated[list[float], FailFast()]
Row = Annotated[list[float], Field(min_length=1, max_length=5)]
Text = Annotated[str, Field(json_schema_extra={"pattern": WRITTEN})]
Id = Annotated[str, Field(pattern=ID)]
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class LiftBody(_In):
    """A text to lift."""

    insight_text: Annotated[Text, Field(description="The text; its id is the SHA-256 of its UTF-8 bytes as they are.")]
    keep: Annotated[bool, Field(description="false = answer the id, and keep nothing.")] = True


class BatchBody(_In):
    """Texts to lift in one transaction."""

    insight_texts: Annotated[
        list[Any], Field(min_length=1, description="Texts. One that cannot be lifted gets its own error.")
    ]


class SignalBody(_In):
    """Samples of a signal."""

    coords: Annotated[
        list[float | Row],
        FailFast(),
        Field(description="Where each sample was taken: a number, or a list of one to five."),
    ]
    values: Annotated[Numbers, Field(description="What was measured there.")]
    title: Annotated[str, Field(max_length=TITLE_CHARACTERS)] = ""
    max_packets: Annotated[int | None, Field(ge=1, le=64, description="At most so many; null = as many as pay.")] = None
    seconds: Annotated[float | None, Field(gt=0, description="How long to fit; null = the service's limit.")] = None


class InsightQuery(_Query):
    """Which records of a list."""

    limit: Annotated[QueryInt, Field(ge=1)] = 50
    cursor: Annotated[str | None, Field(description="`next` of the page before.")] = None
    kind: Kind | None = None


class SearchQuery(_Query):
    """What to search for."""

    q: Annotated[Text, Field(description="Words, or a piece of text; it has no operators.")]
    limit: Annotated[QueryInt, Field(ge=1)] = 10
    offset: Annotated[QueryInt, Field(ge=0, le=1000)] = 0
    mode: Literal["hybrid", "text", "vector"] = "hybrid"


class SimilarQuery(_Query):
    """How many similar records."""

    limit: Annotated[QueryInt, Field(ge=1)] = 10


class ErrorDetail(_Out):
    """What is wrong with a field."""

    field: str
    message: str


class ErrorBody(_Out):
    """Any error."""

    error: Annotated[str, Field(description="The phrase that HTTP has for the status.")]
    code: Annotated[str, Field(description="A word for programs.")]
    message: Annotated[str, Field(description="The rule, what came, and what to do.")]
    request_id: str
    details: list[ErrorDetail] = []


class ServiceCard(_Out):
    """What answers here."""

    name: str
    version: str
    description: str
    endpoints: dict[str, str]


class Health(_Out):
    """The process answers."""

    status: Literal["healthy"]
    version: str


class Ready(_Out):
    """The process and its database answer."""

    status: Literal["ready"]
    version: str


class Lifted(_Out):
    """A lifted text."""

    id: Id
    text: str
    lifted: Literal[True]
    message: str
    created: Annotated[Moment | None, Field(description="When it was first lifted; null = it was not kept.")]
    seen: Annotated[int, Field(ge=0, description="How often it was lifted; 1 = it is new.")]


class BatchItem(_Out):
    """What came of one text of a batch."""

    lifted: bool
    id: Id | None = None
    created: Moment | None = None
    seen: int | None = None
    code: str | None = None
    message: str | None = None


class BatchLifted(_Out):
    """What came of a batch, in its order."""

    results: list[BatchItem]
    lifted: Annotated[int, Field(ge=0)]
    failed: Annotated[int, Field(ge=0)]


class Record(_Out):
    """A record."""

    id: Id
    text: str
    kind: Kind
    created: Moment
    seen: Annotated[int, Field(ge=1)]
    last_seen: Moment
    encoder: str
    signal: Annotated[
        dict[str, Any] | None, Field(description="Of a signal asked for by its id: samples, fit and packets.")
    ] = None


class SignalLifted(Record):
    """A lifted signal."""

    lifted: Literal[True]
    packets: list[dict[str, Any]]
    residual: Annotated[float, Field(description="Root of the mean squared difference between samples and packets.")]


class InsightPage(_Out):
    """Records, the newest first."""

    items: list[Record]
    next: Annotated[str | None, Field(description="`cursor` of the next page; null = this is the last.")]


class FoundHit(_Out):
    """A record that was found."""

    insight: Record
    score: float
    cosine: float | None
    lexical: float | None


class SearchResult(_Out):
    """What a search found, the best first."""

    query: str
    mode: Literal["hybrid", "text", "vector"]
    hits: list[FoundHit]


class SimilarResult(_Out):
    """Records like one, the most alike first."""

    id: Id
    hits: list[FoundHit]


class Imported(_Out):
    """What came of an import."""

    lines: Annotated[int, Field(ge=0)]
    added: Annotated[int, Field(ge=0)]
    merged: Annotated[int, Field(ge=0)]
    unchanged: Annotated[int, Field(ge=0)]


class Reindexed(_Out):
    """Vectors that were made anew."""

    reindexed: Annotated[int, Field(ge=0)]
    encoder: str


def moment(time: datetime) -> str:
    """A time in UTC as ISO 8601 has it, ending in Z.

    Args:
        time: in UTC.

    Returns:
        Its text, to the microsecond.

    >>> moment(datetime(2024, 2, 29, tzinfo=UTC))
    '2024-02-29T00:00:00.000000Z'
    """
    if time.tzinfo is not UTC and time.tzinfo is not None:
        time = time.astimezone(UTC)
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def insight_json(insight: Insight, *, whole: bool = False) -> dict[str, Any]:
    """The JSON of a record.

    Args:
        insight: the record.
        whole: with the signal.

    Returns:
        The object of the model `Record`.
    """
    told: dict[str, Any] = {
        "id": insight.id,
        "text": insight.text,
        "kind": insight.kind,
        "created": moment(insight.created),
        "seen": insight.seen,
        "last_seen": moment(insight.last_seen),
        "encoder": insight.encoder,
    }
    if whole and insight.signal is not None:
        told["signal"] = insight.signal
    return told


def hit_json(hit: Hit) -> dict[str, Any]:
    """The JSON of a hit.

    Args:
        hit: the hit.

    Returns:
        The object of the model `FoundHit`.
    """
    return {
        "insight": insight_json(hit.insight), "score": hit.score, "cosine": hit.cosine, "lexical": hit.lexical,
    }  # fmt: skip
