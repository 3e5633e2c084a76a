"""What has become of vectors: for indexes of other processes, and when another encoder makes them anew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, and_, bindparam, func, select, text

from dredge.errors import QueryError
from dredge.insights.database import Database
from dredge.insights.encoders import Encoder
from dredge.insights.rows import encoded, ticks
from dredge.insights.schema import insights

__all__ = ["Changes", "changes_after", "encode_anew"]

_CHANGES: Final = text("""
    SELECT revision, id, 0 AS gone, CASE WHEN encoder = :encoder THEN codes END AS codes, scale
    FROM insights WHERE revision > :after
    UNION ALL
    SELECT revision, id, 1, NULL, NULL FROM deletions
    WHERE revision > :after AND NOT EXISTS (SELECT 1 FROM insights WHERE insights.id = deletions.id)
    ORDER BY revision LIMIT :most
""")
_CHARACTERS: Final = 4_000_000  # of the texts that are encoded at once, unless one alone has more
_STALE: Final = and_(insights.c.encoder != bindparam("encoder"), insights.c.seq > bindparam("after"))
_LENGTHS: Final = select(insights.c.seq, func.length(insights.c.text)).where(_STALE).order_by(insights.c.seq)
_TEXTS: Final = (
    select(insights.c.seq, insights.c.revision, insights.c.text)
    .where(_STALE, insights.c.seq <= bindparam("last"))
    .order_by(insights.c.seq)
)
_ENCODE_ANEW: Final = text(
    "UPDATE insights SET encoder = :encoder, scale = :scale, codes = :codes, revision = :next "
    "WHERE seq = :seq AND revision = :revision"
)


@dataclass(frozen=True)
class Changes:
    """What happened to vectors after a position.

    Args:
        position: to ask after next; where it is the one that was asked after, nothing has happened since.
        upserts: ids that are new or have another vector, with its codes and scale: v ≈ scale · codes.
        deleted: ids that are gone. No id is in both.
    """

    position: int
    upserts: list[tuple[str, bytes, float]]
    deleted: list[str]


def changes_after(connection: Connection, encoder: str, after: int, limit: int) -> Changes:
    """What happened after a position, in one look at the database.

    Args:
        connection: to read on.
        encoder: version of it; vectors of others are passed over, and the position moves on past them.
        after: the position.
        limit: most changes.

    Returns:
        The changes that follow.

    Raises:
        QueryError: a limit below 1, with which nothing would ever follow.
    """
    if limit < 1:
        raise QueryError(f"1 change or more is asked for; got limit {limit}. Raise it.")
    upserts: list[tuple[str, bytes, float]] = []
    deleted: list[str] = []
    position = after
    for row in connection.execute(_CHANGES, {"encoder": encoder, "after": after, "most": limit}):
        position, identifier, gone, codes, scale = row
        if gone:
            deleted.append(identifier)
        elif codes is not None:
            upserts.append((identifier, bytes(codes), scale))
    return Changes(position, upserts, deleted)


def encode_anew(database: Database, encoder: Encoder, batch: int, progress: Callable[[int, int], object] | None) -> int:
    """Encodes what another encoder encoded, a batch in a transaction.

    Args:
        database: of the insights.
        encoder: the new one.
        batch: most insights of one transaction; fewer where texts are long.
        progress: called with how many are done, and of how many.

    Returns:
        How many were encoded.
    """
    done = after = 0
    with database.reading() as connection:
        query = select(func.count()).select_from(insights).where(insights.c.encoder != encoder.version)
        total = int(connection.execute(query).scalar_one())
    while True:
        rows, last = _stale(database, encoder.version, after, batch)
        if last == after:
            if after == 0:
                return done
            # Once more from the start, for what others have put or changed meanwhile.
            after = 0
            continue
        after = last
        if rows:
            done += _encode(database, encoder, rows)
        if progress is not None:
            progress(done, max(total, done))


def _stale(database: Database, encoder: str, after: int, batch: int) -> tuple[Sequence[Any], int]:
    """Some insights of other encoders, fewer where texts are long, and the place up to which these are all."""
    asked = {"encoder": encoder, "after": after}
    last, characters = after, 0
    with database.reading() as connection:
        for seq, length in connection.execute(_LENGTHS.limit(batch), asked).all():
            characters += length
            if characters > _CHARACTERS and last > after:
                break
            last = seq
        return connection.execute(_TEXTS, {**asked, "last": last}).all(), last


def _encode(database: Database, encoder: Encoder, rows: Sequence[Any]) -> int:
    """Writes new vectors of those that have not changed since they were read; returns how many."""
    vectors = encoded(encoder, [row.text for row in rows])
    with database.writing() as connection:
        first = ticks(connection, len(rows))
        changed = [
            {
                "seq": row.seq, "revision": row.revision, "next": first + number, "encoder": encoder.version,
                "scale": scale, "codes": codes,
            } for number, (row, (scale, codes)) in enumerate(zip(rows, vectors, strict=True))
        ]  # fmt: skip
        return connection.execute(_ENCODE_ANEW, changed).rowcount
