"""Full-text search: what the words of a text and of a query are, and how each database ranks them.

SQLite ranks by BM25 (Robertson and Zaragoza, *The Probabilistic Relevance Framework: BM25 and Beyond*, 2009).
PostgreSQL ranks by the sum over the query's words of idf · ts_rank: a count of the word that saturates, divided by
1 + ln(distinct words of the text), and BM25's idf = ln(1 + (N − n + ½) / (n + ½)) of a word that n of N texts have.
"""

import re
import unicodedata
from typing import Final

from sqlalchemy import Connection, TextClause, text

__all__ = ["lexical", "tsvector_literal", "words"]

_WORD: Final = re.compile(r"[^\W_]+")
_ACCENTS: Final = re.compile("[\u0300-\u036f]+")
_BETWEEN: Final = frozenset(
    ["Cc", "Cf", "Cs", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs"]
)
_QUERY_WORDS: Final = 100
_TSVECTOR_BYTES: Final = 1_000_000  # PostgreSQL takes 2²⁰ − 1
_LEXEME_BYTES: Final = 2000  # PostgreSQL takes 2046
_POSITIONS: Final = 16_383  # PostgreSQL numbers no more words, and 255 of each

_SQLITE: Final = text("""
    SELECT insights.id, hits.score
    FROM (SELECT rowid AS seq, -rank AS score FROM insights_fts WHERE insights_fts MATCH :query
          ORDER BY rank LIMIT :most) AS hits
    JOIN insights ON insights.seq = hits.seq
    ORDER BY hits.score DESC, hits.seq
""")
_POSTGRESQL: Final = text("""
    WITH matches AS (
        SELECT insights.seq, query.number, ts_rank(insights.words, query.word, 1) AS rank
        FROM unnest(CAST(:query AS tsquery[])) WITH ORDINALITY AS query(word, number)
        JOIN insights ON insights.words @@ query.word
    ), weights AS (
        SELECT number, ln(1 + ((SELECT count(*) FROM insights) - count(*) + 0.5) / (count(*) + 0.5)) AS idf
        FROM matches GROUP BY number
    ), hits AS (
        SELECT seq, sum(rank * idf) AS score FROM matches JOIN weights USING (number)
        GROUP BY seq ORDER BY score DESC, seq LIMIT :most
    )
    SELECT insights.id, CAST(hits.score AS double precision) FROM hits JOIN insights USING (seq)
    ORDER BY hits.score DESC, hits.seq
""")


def words(content: str) -> list[str]:
    """The words of a text: runs of letters and digits, without case and accents.

    Args:
        content: any text.

    Returns:
        Its words, in order.

    >>> words("L'Été: 3 x_y")
    ['l', 'ete', '3', 'x', 'y']
    """
    if not content.isascii():
        # Composed again, because Korean syllables fall apart as well.
        content = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", content.casefold())))
    return _WORD.findall(content.casefold())


def tsvector_literal(content: str) -> str:
    """A text as PostgreSQL's `tsvector`, whose own parser would depend on the server's locale.

    Args:
        content: any text; of one with more distinct words than fit a tsvector, some 100,000, the rest is left out.

    Returns:
        Words with their positions.

    >>> tsvector_literal("the wave and the end")
    "'the':1,4 'wave':2 'and':3 'end':5"
    """
    places: dict[str, list[int]] = {}
    size = 0
    for number, word in enumerate(words(content), start=1):
        found = places.get(word)
        if found is None:
            length = len(word.encode())
            if length > _LEXEME_BYTES:
                continue
            size += length + 6
            if size > _TSVECTOR_BYTES:
                break
            places[word] = [min(number, _POSITIONS)]
        elif len(found) < 255 and number < _POSITIONS:
            size += 2
            found.append(number)
    return " ".join(f"'{word}':{','.join(map(str, numbers))}" for word, numbers in places.items())


def lexical(connection: Connection, query: str, limit: int) -> list[tuple[str, float]]:
    """What has words of a query, the best first.

    Args:
        connection: to the database.
        query: any text; nothing in it is an operator. Its first 100 distinct words count.
        limit: most results.

    Returns:
        Ids and scores, larger = better; nothing for a query without letters and digits.
    """
    statement: TextClause
    given: str | list[str]
    if connection.dialect.name == "sqlite":
        distinct = list({word.casefold(): word for word in _pieces(query)}.values())
        statement, given = _SQLITE, " OR ".join(f'"{word}"' for word in distinct[:_QUERY_WORDS])
    else:
        distinct = [word for word in dict.fromkeys(words(query)) if len(word.encode()) <= _LEXEME_BYTES]
        statement, given = _POSTGRESQL, [f"'{word}'" for word in distinct[:_QUERY_WORDS]]
    if not given:
        return []
    return [(identifier, score) for identifier, score in connection.execute(statement, {"query": given, "most": limit})]


def _pieces(query: str) -> list[str]:
    """A query cut where SQLite surely cuts it too, which makes words of the pieces as it did of the texts.

    Composed, as most texts are: it takes accents off Latin letters alone.
    """
    plain = query if query.isascii() else unicodedata.normalize("NFC", query)
    return "".join(" " if unicodedata.category(character) in _BETWEEN else character for character in plain).split()
