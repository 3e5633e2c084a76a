"""How rows become records, by id or page by page."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, func, null, select, tuple_

from dredge.errors import QueryError
from dredge.insights.engines import Dialect
from dredge.insights.records import Insight, Kind
from dredge.insights.schema import insights, signals

__all__ = [
    "Page", "StoreStats", "count_of", "ids_between", "insight_of", "insights_with", "microseconds", "moment", "page_of",
    "selected", "stats_of",
]  # fmt: skip

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TOGETHER: Final = 500  # ids that one statement asks for: old SQLite takes 999 values
_PLACE: Final = re.compile(r"(-?\d{1,18})\.(\d{1,18})", re.ASCII)


@dataclass(frozen=True)
class StoreStats:
    """What a store holds.

    Args:
        insights: all of them.
        texts: those that are texts.
        signals: those that are signals.
        seen: how often they were lifted, together.
        stale: those whose vector another encoder made, which vector search does not find before `reindex`.
        bytes: on the disk.
        dialect: of the database.
        encoder: version of the store's encoder.
    """

    insights: int
    texts: int
    signals: int
    seen: int
    stale: int
    bytes: int
    dialect: Dialect
    encoder: str


@dataclass(frozen=True)
class Page:
    """Some insights of many.

    Args:
        items: the newest first.
        next: cursor of those that follow; None = there are none.
    """

    items: list[Insight]
    next: str | None


def selected(*, documents: bool) -> Select[Any]:
    """The statement that `insight_of` understands, to which conditions and an order are added.

    Args:
        documents: whether to read those of signals, which are long.

    Returns:
        A selection of all insights.
    """
    fields = (insights.c.id, insights.c.text, insights.c.kind, insights.c.created, insights.c.seen,
              insights.c.last_seen, insights.c.encoder, insights.c.seq)  # fmt: skip
    if not documents:
        return select(*fields, null())
    return select(*fields, signals.c.document).outerjoin_from(insights, signals, signals.c.seq == insights.c.seq)


def insight_of(row: Sequence[Any]) -> Insight:
    """A record.

    Args:
        row: of `selected`.

    Returns:
        The record.
    """
    identifier, content, kind, created, seen, last_seen, encoder, _, document = row
    signal = None if document is None else json.loads(document)
    return Insight(identifier, content, kind, moment(created), seen, moment(last_seen), encoder, signal)


def moment(number: int) -> datetime:
    """A time, exactly.

    Args:
        number: microseconds since 1970.

    Returns:
        The time in UTC.

    >>> moment(1).isoformat()
    '1970-01-01T00:00:00.000001+00:00'
    """
    return _EPOCH + timedelta(microseconds=number)


def microseconds(time: datetime) -> int:
    """The inverse of `moment`.

    Args:
        time: with its zone.

    Returns:
        Microseconds since 1970.
    """
    return (time - _EPOCH) // timedelta(microseconds=1)


def insights_with(connection: Connection, ids: Sequence[str], *, documents: bool) -> dict[str, Insight]:
    """The insights with some ids.

    Args:
        connection: to read on.
        ids: any number.
        documents: whether to read those of signals.

    Returns:
        Those that are there, by id, in no order.
    """
    return {
        row.id: insight_of(row)
        for start in range(0, len(ids), _TOGETHER)
        for row in connection.execute(_BY_ID[documents], {"ids": ids[start : start + _TOGETHER]})
    }


def ids_between(connection: Connection, first: str, last: str, limit: int) -> list[str]:
    """Ids in a part of their order.

    Args:
        connection: to read on.
        first: that may be among them.
        last: that may be among them.
        limit: most ids.

    Returns:
        The ids, in order.
    """
    query = select(insights.c.id).where(insights.c.id.between(first, last)).order_by(insights.c.id).limit(limit)
    return list(connection.execute(query).scalars())


def page_of(connection: Connection, limit: int, cursor: str | None, kind: Kind | None, *, documents: bool) -> Page:
    """Some insights, the newest first.

    Args:
        connection: to read on.
        limit: most of them.
        cursor: `next` of the page before.
        kind: only these.
        documents: whether to read those of signals.

    Returns:
        The page.

    Raises:
        QueryError: a limit below 1, or a cursor that is none.
    """
    if limit < 1:
        raise QueryError(f"a page holds 1 insight or more; got limit {limit}. Raise it.")
    query = selected(documents=documents).order_by(insights.c.created.desc(), insights.c.seq.desc())
    if kind is not None:
        query = query.where(insights.c.kind == kind)
    if cursor is not None:
        query = query.where(tuple_(insights.c.created, insights.c.seq) < tuple_(*_place(cursor)))
    rows = connection.execute(query.limit(limit + 1)).all()
    more = len(rows) > limit
    return Page(
        [insight_of(row) for row in rows[:limit]],
        _cursor(rows[limit - 1].created, rows[limit - 1].seq) if more else None,
    )


def count_of(connection: Connection) -> int:
    """How many insights there are.

    Args:
        connection: to read on.

    Returns:
        Their number.
    """
    return int(connection.execute(select(func.count()).select_from(insights)).scalar_one())


def stats_of(connection: Connection, encoder: str, size: int) -> StoreStats:
    """What a database holds.

    Args:
        connection: to read on.
        encoder: version of the present one.
        size: of the database, in bytes.

    Returns:
        The numbers, all of one moment.
    """
    fields = (insights.c.kind, insights.c.encoder)
    query = select(*fields, func.count(), func.sum(insights.c.seen)).group_by(*fields)
    groups = [(kind, version, number, int(seen)) for kind, version, number, seen in connection.execute(query)]
    texts, signals = (sum(group[2] for group in groups if group[0] == kind) for kind in ("text", "signal"))
    stale = sum(group[2] for group in groups if group[1] != encoder)
    seen = sum(group[3] for group in groups)
    dialect: Any = connection.dialect.name
    return StoreStats(texts + signals, texts, signals, seen, stale, size, dialect, encoder)


def _cursor(created: int, seq: int) -> str:
    return base64.urlsafe_b64encode(f"{created}.{seq}".encode()).decode().rstrip("=")


def _place(cursor: str) -> tuple[int, int]:
    try:
        plain = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        found = _PLACE.fullmatch(plain)
    except ValueError:
        found = None
    if found is None:
        raise QueryError(f"a cursor is `next` of a page; got {cursor[:80]!r}. Leave it out to start anew.")
    return int(found[1]), int(found[2])


_BY_ID: Final = {
    documents: selected(documents=documents).where(insights.c.id.in_(bindparam("ids", expanding=True)))
    for documents in (False, True)
}
