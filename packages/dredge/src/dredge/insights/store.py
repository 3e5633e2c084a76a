"""Where insights are kept: an SQLite file, or a PostgreSQL database that several machines share.

What `put` has returned is on the disk. Texts are encoded before the write begins, so that writers, who wait for each
other, hold the database for as long as the disk takes and no longer.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from sqlalchemy import bindparam, delete, select, text

from dredge.config import DatabaseSettings, Settings
from dredge.errors import NotFoundError, QueryError, StoreError
from dredge.insights.database import Database
from dredge.insights.encoders import Encoder, encoder_named
from dredge.insights.engines import Dialect
from dredge.insights.fulltext import lexical
from dredge.insights.ids import fingerprint
from dredge.insights.putting import put_signal, put_text, put_texts
from dredge.insights.reading import Page, StoreStats, count_of, ids_between, insights_with, page_of, stats_of
from dredge.insights.records import Insight, Kind, Stored
from dredge.insights.rows import ticks
from dredge.insights.schema import insights
from dredge.insights.vector_changes import Changes, changes_after, encode_anew

__all__ = ["Changes", "Page", "Store", "StoreStats"]

_ENCODER: Final = "hashed-ngrams-v1"
_ID: Final = re.compile("[0-9a-f]{64}")
_PREFIX: Final = re.compile("[0-9a-f]{1,64}")
_BY_FINGERPRINT: Final = (
    select(insights.c.id).where(insights.c.fingerprint == bindparam("fingerprint")).order_by(insights.c.seq)
)
# A text may be put and deleted again.
_DELETED: Final = text(
    "INSERT INTO deletions (id, revision) VALUES (:id, :revision) ON CONFLICT (id) DO UPDATE SET revision = :revision"
)


class Store:
    """Keeps insights. Safe for threads; several processes may share one database.

    Use `Store.open`.

    Args:
        database: an open one.
        encoder: of new insights.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with Store.open(Path(folder.name) / "notes.db") as store:
    ...     first, again = store.put("gravity waves"), store.put("gravity waves")
    ...     first.created, again.created, again.insight.seen, store.lexical("WAVES", 10)[0][0] == first.insight.id
    (True, False, 2, True)
    >>> folder.cleanup()
    """

    def __init__(self, database: Database, encoder: Encoder) -> None:
        self.database = database
        self.encoder = encoder

    @classmethod
    def open(cls, database: DatabaseSettings | str | Path | None = None, *, encoder: Encoder | None = None) -> "Store":
        """Opens a database, which is made where it is missing and brought to the present version.

        Args:
            database: settings, a path of an SQLite file, or a URL; None = the user's own.
            encoder: of new insights; None = `hashed-ngrams-v1`.

        Returns:
            The store.

        Raises:
            StoreError: a database that cannot be opened, of another program, or of a newer version.
            MissingExtraError: PostgreSQL without the extra.
        """
        if not isinstance(database, DatabaseSettings):
            name = "" if database is None else str(database)
            if isinstance(database, Path) or (name and "://" not in name):
                if "?" in name:
                    raise StoreError(f"a database's path holds no '?', which ends it in a URL; got {name}. Rename it.")
                name = f"sqlite:///{Path(name).expanduser().absolute()}"
            database = DatabaseSettings(url=name)
        return cls(Database(database), encoder or encoder_named(_ENCODER))

    @classmethod
    def of(cls, settings: Settings) -> "Store":
        """Opens the database that settings name, with the encoder that they name.

        Args:
            settings: all of them.

        Returns:
            The store.

        Raises:
            ConfigError: an encoder that there is none of.
            StoreError: as `open`.
            MissingExtraError: as `open`.
        """
        return cls.open(settings.database, encoder=encoder_named(settings.search.encoder))

    @property
    def dialect(self) -> Dialect:
        """Kind of the database."""
        return self.database.dialect

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(self, text: str) -> Stored:
        """Keeps a text; one that is there is counted once more.

        Args:
            text: any with something to be seen.

        Returns:
            The record, which is on the disk.

        Raises:
            InsightError: a text that cannot be lifted.
            StoreError: it was not kept.
        """
        return put_text(self.database, self.encoder, text)

    def put_many(self, texts: Sequence[str]) -> list[Stored]:
        """Keeps texts in one transaction: all or none.

        Args:
            texts: any number; a text may come twice.

        Returns:
            One record each, as it was after that text.

        Raises:
            InsightError: a text that cannot be lifted; its number is named.
            StoreError: none was kept.
        """
        return put_texts(self.database, self.encoder, texts)

    def put_signal(self, signal_id: str, text: str, document: Mapping[str, Any]) -> Stored:
        """Keeps a signal; one that is there is counted once more, and holds what was found last.

        Args:
            signal_id: SHA-256 of its samples, in lower-case hexadecimal.
            text: by which it is found.
            document: its packets, samples and residual, as JSON values.

        Returns:
            The record, which is on the disk.

        Raises:
            InsightError: a text that cannot be lifted.
            SignalError: an id that is none, or a document that is not JSON.
            StoreError: it was not kept.
        """
        return put_signal(self.database, self.encoder, signal_id, text, document)

    def delete(self, id: str) -> None:
        """Removes an insight.

        Args:
            id: of it.

        Raises:
            NotFoundError: none has it.
        """
        if not _ID.fullmatch(id):
            raise _unknown(id)
        with self.database.writing() as connection:
            if not connection.execute(delete(insights).where(insights.c.id == id)).rowcount:
                raise _unknown(id)
            connection.execute(_DELETED, {"id": id, "revision": ticks(connection, 1)})

    def reindex(
        self, encoder: Encoder, *, batch: int = 1000, progress: Callable[[int, int], object] | None = None
    ) -> int:
        """Encodes anew what another encoder encoded, and makes this encoder the store's own.

        What is done is kept batch by batch: one that was interrupted goes on where it stopped.

        Args:
            encoder: the new one.
            batch: most insights of one transaction; fewer where texts are long.
            progress: called with how many are done, and of how many.

        Returns:
            How many were encoded.

        Raises:
            QueryError: a batch of none.
            StoreError: a batch could not be written, or the encoder is faulty.
        """
        if batch < 1:
            raise QueryError(f"a batch is 1 insight or more; got {batch}. Raise it.")
        self.encoder = encoder
        return encode_anew(self.database, encoder, batch, progress)

    # --- reading ------------------------------------------------------------------------------------------------------

    def find(self, id: str) -> Insight | None:
        """The insight with an id.

        Args:
            id: any text.

        Returns:
            The record; None where none has it.
        """
        return self.get_many([id]).get(id)

    def get(self, id: str) -> Insight:
        """The insight with an id.

        Args:
            id: any text.

        Returns:
            The record.

        Raises:
            NotFoundError: none has it.
        """
        insight = self.find(id)
        if insight is None:
            raise _unknown(id)
        return insight

    def ids_beginning(self, prefix: str, limit: int = 2) -> list[str]:
        """Ids that begin with some digits.

        Args:
            prefix: 1 to 64 lower-case hexadecimal digits.
            limit: most ids.

        Returns:
            The ids, in order; none for a prefix that is none.
        """
        if not _PREFIX.fullmatch(prefix):
            return []
        with self.database.reading() as connection:
            return ids_between(connection, prefix.ljust(64, "0"), prefix.ljust(64, "f"), limit)

    def get_many(self, ids: Sequence[str], *, documents: bool = True) -> dict[str, Insight]:
        """The insights with some ids.

        Args:
            ids: any number.
            documents: whether to read those of signals, which are long; without, `signal` is None.

        Returns:
            Those that are there, by id, in the order asked.
        """
        wanted = [id for id in dict.fromkeys(ids) if _ID.fullmatch(id)]
        with self.database.reading() as connection:
            found = insights_with(connection, wanted, documents=documents)
        return {id: found[id] for id in wanted if id in found}

    def page(self, *, limit: int, cursor: str | None = None, kind: Kind | None = None, documents: bool = True) -> Page:
        """Some insights, the newest first.

        Args:
            limit: most of them.
            cursor: `next` of the page before.
            kind: only these.
            documents: whether to read those of signals, which are long; without, `signal` is None.

        Returns:
            The page. What is put meanwhile moves no insight from one page to another.

        Raises:
            QueryError: a limit below 1, or a cursor that is none.
        """
        with self.database.reading() as connection:
            return page_of(connection, limit, cursor, kind, documents=documents)

    def count(self) -> int:
        """How many insights there are."""
        with self.database.reading() as connection:
            return count_of(connection)

    def stats(self) -> StoreStats:
        """What the store holds. Reads each row's numbers: some 100 ms for 100,000."""
        size = self.database.size()
        with self.database.reading() as connection:
            return stats_of(connection, self.encoder.version, size)

    def lexical(self, query: str, limit: int) -> list[tuple[str, float]]:
        """Insights that have words of a query, the best first.

        Args:
            query: any text; nothing in it is an operator.
            limit: most results.

        Returns:
            Ids and raw scores, larger = better: BM25 on SQLite, PostgreSQL's own on PostgreSQL. On SQLite, what has
            none of the query's rarer words is left out where enough others have one.

        Raises:
            QueryError: a limit below 1.
        """
        with self.database.reading() as connection:
            return lexical(connection, query, limit)

    def by_fingerprint(self, text: str) -> list[str]:
        """Insights that differ from a text in case, white space or spelling in Unicode alone.

        Args:
            text: any.

        Returns:
            Their ids, the oldest first; that of the text itself is among them if it is there.

        Raises:
            InsightError: half of a surrogate pair, which UTF-8 cannot encode.
        """
        with self.database.reading() as connection:
            return list(connection.execute(_BY_FINGERPRINT, {"fingerprint": fingerprint(text)}).scalars())

    def changes(self, after: int, limit: int = 10_000) -> Changes:
        """What an index of vectors in another process must apply; nothing is ever missed.

        Vectors of other encoders than the store's are passed over; the position moves on past them.

        Args:
            after: position up to which all is known; 0 = nothing is.
            limit: most of them.

        Returns:
            The changes that follow. Ask again until the position stays where it is.

        Raises:
            QueryError: a limit below 1.
        """
        with self.database.reading() as connection:
            return changes_after(connection, self.encoder.version, after, limit)

    # --- upkeep -------------------------------------------------------------------------------------------------------

    def backup(self, path: Path) -> None:
        """Copies an SQLite database as it is at one moment, while others write.

        Args:
            path: of the copy, which is there whole or not at all.

        Raises:
            StoreError: PostgreSQL, a path at which a database is open, or a disk that does not take it.
        """
        self.database.backup(Path(path))

    def ready(self) -> None:
        """Asks whether the database answers.

        Raises:
            StoreError: it does not.
        """
        self.database.check()

    def close(self) -> None:
        """Closes the database; twice does no harm."""
        self.database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unknown(id: str) -> NotFoundError:
    return NotFoundError(f"an insight has this id; none has {id[:80]!r}. Look it up: dredge search.")
