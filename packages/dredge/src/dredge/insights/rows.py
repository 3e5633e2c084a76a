"""Rows of insights: how they are made, written, counted and turned into records."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float32
from sqlalchemy import Connection, bindparam, select, text

from dredge.errors import SignalError, StoreError
from dredge.insights.database import Direct
from dredge.insights.encoders import Encoder
from dredge.insights.engines import Dialect
from dredge.insights.fulltext import tsvector_literal
from dredge.insights.ids import fingerprint
from dredge.insights.records import Kind
from dredge.insights.schema import insights, signals
from dredge.insights.vectors import quantised

__all__ = [
    "Draft", "Known", "add", "add_or_count", "count", "count_one", "document_json", "drafts", "encoded", "is_there",
    "known", "replace_signal", "ticks",
]  # fmt: skip

_TOGETHER: Final = 500  # ids that one statement asks for: old SQLite takes 999 values

_COLUMNS: Final = ("seq", "id", "kind", "fingerprint", "created", "last_seen", "seen", "revision", "encoder", "scale",
                   "codes", "text")  # fmt: skip
_NAMES: Final = ", ".join(_COLUMNS)
_VALUES: Final = ", ".join(f":{name}" for name in _COLUMNS)
_CHANGED: Final = (
    "UPDATE insights SET text = :text, fingerprint = :fingerprint, encoder = :encoder, scale = :scale, codes = :codes, "
    "revision = :revision"
)
_ADD: Final = {
    "sqlite": text(f"INSERT INTO insights ({_NAMES}) VALUES ({_VALUES})"),
    "postgresql": text(f"INSERT INTO insights ({_NAMES}, words) VALUES ({_VALUES}, CAST(:words AS tsvector))"),
}
_CHANGE: Final = {
    "sqlite": text(f"{_CHANGED} WHERE seq = :seq"),
    "postgresql": text(f"{_CHANGED}, words = CAST(:words AS tsvector) WHERE seq = :seq"),
}
_LATER: Final = (
    "seen = insights.seen + 1, last_seen = CASE WHEN insights.last_seen > :now THEN insights.last_seen ELSE :now END"
)
_FOUND: Final = "RETURNING seq, kind, created, last_seen, seen, encoder"
_ADD_OR_COUNT: Final = {
    name: text(f"{statement.text} ON CONFLICT (id) DO UPDATE SET {_LATER} {_FOUND}") for name, statement in _ADD.items()
}
_COUNT_ONE: Final = text(f"UPDATE insights SET {_LATER} WHERE id = :id {_FOUND}")
_ONE: Final = text("SELECT 1 FROM insights WHERE id = :id")
_TICK: Final = text("UPDATE clock SET position = position + :steps RETURNING position")
_KNOWN: Final = select(
    insights.c.id, insights.c.seq, insights.c.kind, insights.c.created, insights.c.last_seen, insights.c.seen,
    insights.c.encoder,
).where(insights.c.id.in_(bindparam("ids", expanding=True)))  # fmt: skip
_COUNT: Final = text("UPDATE insights SET created = :created, last_seen = :last_seen, seen = :seen WHERE seq = :seq")
_ADD_SIGNAL: Final = text("INSERT INTO signals (seq, document) VALUES (:seq, :document)")
_CHANGE_SIGNAL: Final = text("UPDATE signals SET document = :document WHERE seq = :seq")


@dataclass(frozen=True, slots=True)
class Draft:
    """What can be prepared of a row before the database is asked.

    Args:
        id: of the insight.
        text: of it.
        kind: of it.
        document: of a signal, as JSON; None for a text.
        fingerprint: of the text.
        encoder: version of what made the vector.
        scale: step of the codes.
        codes: the vector, an int8 a number.
    """

    id: str
    text: str
    kind: Kind
    document: str | None
    fingerprint: str
    encoder: str
    scale: float
    codes: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """What is read of a row that is there. Times are microseconds since 1970.

    Args:
        seq: its place.
        kind: of it.
        created: when it was first lifted.
        last_seen: when it was last lifted.
        seen: how often.
        encoder: version of the encoder whose vector is kept.
    """

    seq: int
    kind: Kind
    created: int
    last_seen: int
    seen: int
    encoder: str


def encoded(encoder: Encoder, texts: Sequence[str]) -> list[tuple[float, bytes]]:
    """Vectors of texts as they are stored.

    Args:
        encoder: makes them.
        texts: any number of them.

    Returns:
        Scale and codes of each.

    Raises:
        StoreError: the encoder gave something else than one vector of its length a text.
    """
    vectors: Float32[np.ndarray, "n dim"] = encoder.encode(texts)
    if vectors.shape != (len(texts), encoder.dim) or not np.isfinite(vectors).all():
        raise StoreError(
            f"an encoder gives one finite vector of {encoder.dim} numbers a text; {encoder.version} gave "
            f"{vectors.shape} for {len(texts)} texts. Correct it, or choose another."
        )
    codes, scale = quantised(vectors)
    return [(step, row.tobytes()) for step, row in zip(scale.tolist(), codes, strict=True)]


def drafts(encoder: Encoder, items: Sequence[tuple[str, str, Kind, str | None]]) -> list[Draft]:
    """Prepares rows; the costly part of storing, done while no one waits.

    Args:
        encoder: of their vectors.
        items: id, text, kind and document of each.

    Returns:
        One draft each.
    """
    vectors = encoded(encoder, [content for _, content, _, _ in items])
    return [
        Draft(identifier, content, kind, document, fingerprint(content), encoder.version, scale, codes)
        for (identifier, content, kind, document), (scale, codes) in zip(items, vectors, strict=True)
    ]


def ticks(connection: Connection, steps: int) -> int:
    """Moves the clock on.

    Args:
        connection: of the writer.
        steps: how far.

    Returns:
        The first of the positions that are now the caller's own.
    """
    return int(connection.execute(_TICK, {"steps": steps}).scalar_one()) - steps + 1


def known(connection: Connection, ids: Sequence[str]) -> dict[str, Known]:
    """Which of some ids are there.

    Args:
        connection: to read on.
        ids: any.

    Returns:
        Their rows, by id.
    """
    return {
        row[0]: Known(*row[1:])
        for start in range(0, len(ids), _TOGETHER)
        for row in connection.execute(_KNOWN, {"ids": ids[start : start + _TOGETHER]})
    }


def add(connection: Connection, new: Sequence[tuple[Draft, int, int, int]]) -> None:
    """Writes rows that are not there.

    Args:
        connection: of the writer.
        new: of each its draft, when it was created and last seen in microseconds, and how often it was seen.
    """
    if not new:
        return
    first = ticks(connection, len(new))
    dialect: Any = connection.dialect.name
    connection.execute(_ADD[dialect], [_row(dialect, seq, *values) for seq, values in enumerate(new, start=first)])
    documents = [
        {"seq": seq, "document": draft.document}
        for seq, (draft, *_) in enumerate(new, start=first)
        if draft.document is not None
    ]
    if documents:
        connection.execute(_ADD_SIGNAL, documents)


def is_there(direct: Direct, identifier: str) -> bool:
    """Whether an insight is there.

    Args:
        direct: to the database.
        identifier: of it.

    Returns:
        Whether it is.
    """
    return direct.one(_ONE, {"id": identifier}) is not None


def add_or_count(direct: Direct, draft: Draft, now: int) -> tuple[Known, bool]:
    """Writes one row without a signal, or counts it once more where it is there.

    Args:
        direct: of the writer.
        draft: of it.
        now: microseconds since 1970.

    Returns:
        The row as it is then, and whether it is new.

    Raises:
        StoreError: the database has lost its clock.
    """
    tick = direct.one(_TICK, {"steps": 1})
    if tick is None:
        raise StoreError("a database numbers its rows by a clock; the table clock is empty. Restore a backup.")
    (seq,) = tick
    row = _row(direct.dialect, seq, draft, now, now, 1)
    found = direct.one(_ADD_OR_COUNT[direct.dialect], {**row, "now": now}) or ()
    return Known(*found), found[0] == seq


def count_one(direct: Direct, identifier: str, now: int) -> Known | None:
    """Counts one row once more.

    Args:
        direct: of the writer.
        identifier: of it.
        now: microseconds since 1970.

    Returns:
        The row as it is then; None where it is not there any more.
    """
    found = direct.one(_COUNT_ONE, {"id": identifier, "now": now})
    return None if found is None else Known(*found)


def count(connection: Connection, rows: Iterable[Known]) -> None:
    """Writes when rows that are there were created, last seen, and how often.

    Args:
        connection: of the writer.
        rows: as they shall be.
    """
    changed = [{"seq": row.seq, "created": row.created, "last_seen": row.last_seen, "seen": row.seen} for row in rows]
    if changed:
        connection.execute(_COUNT, changed)


def replace_signal(connection: Connection, seq: int, draft: Draft) -> bool:
    """Gives a signal that is there another text and document, where they differ.

    Args:
        connection: of the writer.
        seq: its place.
        draft: what it shall hold.

    Returns:
        Whether something differed.
    """
    statement = select(insights.c.text, signals.c.document).join(signals, signals.c.seq == insights.c.seq)
    if tuple(connection.execute(statement.where(insights.c.seq == seq)).one()) == (draft.text, draft.document):
        return False
    row = {
        "seq": seq, "text": draft.text, "fingerprint": draft.fingerprint, "encoder": draft.encoder,
        "scale": draft.scale, "codes": draft.codes, "revision": ticks(connection, 1),
    }  # fmt: skip
    if connection.dialect.name == "postgresql":
        row["words"] = tsvector_literal(draft.text)
    connection.execute(_CHANGE[connection.dialect.name], row)
    connection.execute(_CHANGE_SIGNAL, {"seq": seq, "document": draft.document})
    return True


def _row(dialect: Dialect, seq: int, draft: Draft, created: int, last_seen: int, seen: int) -> dict[str, Any]:
    row = {
        "seq": seq, "id": draft.id, "kind": draft.kind, "fingerprint": draft.fingerprint, "created": created,
        "last_seen": last_seen, "seen": seen, "revision": seq, "encoder": draft.encoder, "scale": draft.scale,
        "codes": draft.codes, "text": draft.text,
    }  # fmt: skip
    if dialect == "postgresql":
        row["words"] = tsvector_literal(draft.text)
    return row


def document_json(document: Mapping[str, Any]) -> str:
    """A signal's document as it is kept.

    Args:
        document: of JSON values.

    Returns:
        JSON on one line, keys in their order.

    Raises:
        SignalError: something that JSON does not have, such as NaN, or text that UTF-8 cannot encode.
    """
    try:
        kept = json.dumps(dict(document), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        kept.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SignalError(
            f"a signal's document is made of what JSON has; got something else: {error}. Leave it out, or convert it."
        ) from error
    return kept
