"""Search by words, by vectors, and by both together."""

from collections.abc import Iterator
from typing import Final, Literal, get_args

from dredge.config import SearchSettings
from dredge.errors import InsightError, NotFoundError, QueryError
from dredge.insights.duplicates import DuplicatePair, duplicate_pairs, duplicates_of
from dredge.insights.frequencies import WordFrequencies
from dredge.insights.fusion import (
    FUSION,
    Candidate,
    Fusion,
    asked_words,
    exact_cosines,
    read_likeliest,
    relative_scores,
    share_of,
    unit,
)
from dredge.insights.ids import check_text
from dredge.insights.records import Hit, Insight
from dredge.insights.store import Store
from dredge.insights.vectors import VectorIndex

__all__ = ["MAX_RESULTS", "Mode", "Searcher", "check_query"]

Mode = Literal["hybrid", "text", "vector"]

MAX_RESULTS: Final = 1000
"""Most that `offset + limit` may ask for."""

_QUERY_CHARACTERS: Final = 10_000
_CANDIDATES: Final = 50  # of each half
# Rows that the full-text half of a hybrid search may score: 1 µs each on SQLite, several times that on PostgreSQL.
_SCORED: Final = {"sqlite": 15_000, "postgresql": 5_000}


class Searcher:
    """Searches a store. Safe for threads; what any process has put is found by the next search.

    The first search reads all vectors, some 550 bytes a row.

    Args:
        store: to search.
        settings: from which cosine two texts are near-duplicates; None = the defaults.
        fusion: how scores become one.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "notes.db") as store:
    ...     _ = store.put_many(["gravity waves bend light", "a list of tuples"])
    ...     [hit.insight.text for hit in Searcher(store).search("gravty wavs", limit=1)]
    ['gravity waves bend light']
    """

    def __init__(self, store: Store, settings: SearchSettings | None = None, *, fusion: Fusion = FUSION) -> None:
        self.store = store
        self.settings = settings or SearchSettings()
        self.fusion = fusion
        self._index = VectorIndex(store.encoder)
        self._frequencies = WordFrequencies()

    def index(self) -> VectorIndex:
        """The vectors in memory, brought up to date.

        Returns:
            The index; a new one where the store's encoder has become another.
        """
        index = self._index
        if index.encoder.version != self.store.encoder.version:
            index = self._index = VectorIndex(self.store.encoder)
        index.update(self.store)
        return index

    def search(self, query: str, *, limit: int = 10, offset: int = 0, mode: Mode | str = "hybrid") -> list[Hit]:
        """Insights that fit a query, the best first. Documents of signals are not read.

        Args:
            query: any text; nothing in it is an operator.
            limit: most hits.
            offset: hits passed over. From the 50th hit on, more candidates are looked at than for the pages before, so
                that a hit may come again or be left out.
            mode: text = the order of the database's full-text search; vector = by cosine; hybrid = by both.

        Returns:
            The hits. Scores are in [0, 1]: of hybrid as `Fusion` says; of vector the cosine, 0 where it is negative; of
            text the database's score divided by the best, times the share of the query's words that the best has.
            `lexical` is None where no word of the query is in the record.

        Raises:
            QueryError: a query in which nothing can be seen or that is too long, a limit or an offset that is none, or
                an unknown mode.
        """
        check_query(query)
        _check_page(limit, offset)
        if mode not in get_args(Mode):
            raise QueryError(f"a mode is one of {', '.join(get_args(Mode))}; got {mode!r}. Choose one.")
        if mode == "text":
            return self._text_hits(query, limit, offset)
        if mode == "vector":
            return self._vector_hits(query, limit, offset)
        return self._hybrid_hits(query, limit, offset)

    def similar(self, id: str, limit: int = 10) -> list[Hit]:
        """Insights whose texts are near to that of one; of a signal, the text that lists its packets.

        Args:
            id: of the one, which is left out.
            limit: most hits.

        Returns:
            The hits, by cosine.

        Raises:
            NotFoundError: none has the id.
            QueryError: a limit that is none.
        """
        _check_page(limit, 0)
        text = self._insight(id).text
        return self._vector_hits(text, limit, but=id)

    def near_duplicates(self, id_or_text: str, *, limit: int = 100) -> list[Hit]:
        """Insights that are nearly the same as one: of a cosine from the setting on, or of the same fingerprint.

        Args:
            id_or_text: an id, whose record is left out; or a text.
            limit: most hits.

        Returns:
            The hits, by cosine; those of the same fingerprint first, with score 1.

        Raises:
            NotFoundError: 64 hexadecimal digits that no record has for its id.
            QueryError: a text in which nothing can be seen, or a limit that is none.
        """
        _check_page(limit, 0)
        is_id = len(id_or_text) == 64 and set(id_or_text) <= set("0123456789abcdef")
        text = self._insight(id_or_text).text if is_id else id_or_text
        _check_text(text)
        most = _CANDIDATES + limit
        hits = duplicates_of(text, self.store, self.index(), self.settings.duplicate_cosine, most=most)
        return [hit for hit in hits if not is_id or hit.insight.id != id_or_text][:limit]

    def duplicate_pairs(self) -> Iterator[DuplicatePair]:
        """All pairs of insights that are nearly the same, in no more memory than the index and a list of ids.

        Compares each with each: about a minute for 100,000 on one core.

        Yields:
            The pairs, each once.
        """
        return duplicate_pairs(self.store, self.index(), self.settings.duplicate_cosine)

    def _insight(self, id: str) -> Insight:
        insight = self.store.get_many([id], documents=False).get(id)
        if insight is None:
            raise NotFoundError(f"an insight has this id; none has {id[:80]!r}. Look it up: dredge search.")
        return insight

    def candidates(self, query: str, count: int) -> tuple[list[Candidate], dict[str, Insight]]:
        """What a hybrid search orders: the nearest vectors, and what full text finds by the query's rarer words.

        Args:
            query: any text.
            count: most of each of both.

        Returns:
            The candidates, in no order, and those of their records that were read.

        Raises:
            QueryError: a query in which nothing can be seen, or that is too long.
        """
        check_query(query)
        index = self.index()
        self._frequencies.update(self.store, index)
        asked = asked_words(query)
        rare = self._frequencies.rare(asked, _SCORED[self.store.dialect])
        raw = self.store.lexical(" ".join(rare), count) if rare else []
        vector = index.encoder.encode([query])[0]
        near = dict(index.nearest(vector, count))
        relative = relative_scores(raw)
        guessed = {id: near.get(id, 0.0) + relative.get(id, 0.0) for id in (*near, *relative)}
        read = read_likeliest(self.store, sorted(guessed, key=lambda id: (-guessed[id], id)))
        near |= exact_cosines(index.encoder, vector, read)
        near |= index.cosines_of([id for id in guessed if id not in near], vector)
        shares = {id: share_of(asked, insight.text) for id, insight in read.items()}
        # Of what was not read, full text alone knows something.
        most = max(shares.values(), default=1.0)
        found = [
            Candidate(id, near.get(id), shares.get(id, most * relative.get(id, 0.0)), relative.get(id, 0.0))
            for id in guessed
        ]
        return found, read

    def _hybrid_hits(self, query: str, limit: int, offset: int) -> list[Hit]:
        candidates, read = self.candidates(query, max(_CANDIDATES, offset + limit))
        lexical = {one.id: self.fusion.lexical(one.share, one.relative) for one in candidates}
        scored = [(self.fusion.score(one.cosine or 0.0, lexical[one.id]), one) for one in candidates]
        scored.sort(key=lambda pair: (-pair[0], pair[1].id))
        page = scored[offset : offset + limit]
        read |= self.store.get_many([one.id for _, one in page if one.id not in read], documents=False)
        return [
            Hit(read[one.id], score, one.cosine, lexical[one.id] or None) for score, one in page if one.id in read
        ]  # fmt: skip

    def _vector_hits(self, text: str, limit: int, offset: int = 0, *, but: str | None = None) -> list[Hit]:
        index = self.index()
        vector = index.encoder.encode([text])[0]
        near = dict(index.nearest(vector, max(_CANDIDATES, offset + limit + 1)))
        near.pop(but or "", None)
        read = read_likeliest(self.store, list(near))
        near |= exact_cosines(index.encoder, vector, read)
        page = sorted(near, key=lambda id: (-near[id], id))[offset : offset + limit]
        read |= self.store.get_many([id for id in page if id not in read], documents=False)
        return [Hit(read[id], unit(near[id]), near[id], None) for id in page if id in read]

    def _text_hits(self, query: str, limit: int, offset: int) -> list[Hit]:
        raw = self.store.lexical(query, offset + limit)
        relative = relative_scores(raw)
        page = [id for id, _ in raw[offset:]]
        read = self.store.get_many([id for id, _ in raw[:1]] + page, documents=False)
        asked = asked_words(query)
        shares = {id: share_of(asked, insight.text) for id, insight in read.items()}
        best = max((shares[id] for id, _ in raw[:1] if id in read), default=1.0)
        return [
            Hit(read[id], relative[id] * best, None, self.fusion.lexical(shares[id], relative[id]))
            for id in page if id in read
        ]  # fmt: skip


def check_query(query: str, most: int = _QUERY_CHARACTERS) -> None:
    """Refuses a query that cannot be searched for.

    Args:
        query: any text.
        most: characters of it.

    Raises:
        QueryError: it is too long, or nothing in it can be seen.

    >>> check_query("waves")
    """
    if len(query) > most:
        raise QueryError(f"a query has at most {most} characters; got {len(query)}. Ask with fewer words.")
    _check_text(query)


def _check_text(text: str) -> None:
    try:
        check_text(text)
    except InsightError as error:
        raise QueryError(f"a query is a text that could be kept: {error}") from error


def _check_page(limit: int, offset: int) -> None:
    if limit < 1 or offset < 0 or offset + limit > MAX_RESULTS:
        raise QueryError(
            f"limit is at least 1, offset at least 0, and their sum at most {MAX_RESULTS}; got {limit} and {offset}. "
            "Change them."
        )
