"""How what words say and what vectors say of a candidate become one score.

Words find what has them, and rank it well when they are spelled right; vectors of character n-grams find what is
spelled otherwise. Adding reciprocal ranks lets the worse half spoil the better one. Here both are brought to one scale
and added, so that each counts for as much as it knows about this query.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32

from dredge.insights.encoders import Encoder
from dredge.insights.fulltext import words
from dredge.insights.records import Insight
from dredge.insights.store import Store

__all__ = [
    "FUSION", "Candidate", "Fusion", "asked_words", "exact_cosines", "read_likeliest", "relative_scores", "share_of",
    "unit",
]  # fmt: skip

_QUERY_WORDS: Final = 100  # the store's own limit
_TOGETHER: Final = 50  # candidates that are read at once
_READ: Final = 1_000_000  # characters of candidates, after which no more are read to be ranked
_ENCODED: Final = 200_000  # characters that are encoded anew for one search
_ENCODED_EACH: Final = 20_000  # of one text; of a longer one, the rounding of its codes matters less than the time


@dataclass(frozen=True)
class Candidate:
    """What is known of a record that may fit a query.

    Args:
        id: of the record.
        cosine: of its text and the query; None where it has no vector.
        share: of the query's distinct words that it has.
        relative: its full-text score, divided by the best; 0 where full text did not name it.
    """

    id: str
    cosine: float | None
    share: float
    relative: float


@dataclass(frozen=True)
class Fusion:
    """How a candidate's scores become one.

    With c its cosine, w the share of the query's distinct words that it has, and r its full-text score divided by that
    of the best candidate (0 where the full-text index did not name it)::

        lexical = w · (1 − rank + rank · r)
        score   = (cosine · c⁺ + lexical) / (cosine + 1)

    Dividing by the query's own words is what makes full-text scores of different queries comparable: of a query full of
    typing errors, of which the best candidate has two small words, r is 1 and w is near 0.

    The constants are those of a conditional logit: for candidates d of a query, log P(d is what the query was made of)
    = 15 c + 12.6 w + 2.5 w r + const fits 6,000 queries over one half of the sentences of
    `dredge.bench.corpus` best, with likelihood flat between half and twice the ratio of its terms. Hence equal parts,
    and rank = 1/6. `dredge bench recall` reports on the other half.

    Args:
        cosine: weight of the cosine, that of full text being 1. Another encoder may need another.
        rank: how much of the full-text score is the database's ranking.
    """

    cosine: int | float = 1.0
    rank: int | float = 1 / 6

    def lexical(self, share: int | float, relative: int | float) -> float:
        """The full-text score of a candidate.

        Args:
            share: of the query's words that it has.
            relative: its raw score, divided by the best.

        Returns:
            A number in [0, 1].

        >>> Fusion(rank=0.25).lexical(0.5, 1.0), Fusion(rank=0.25).lexical(1.0, 0.0)
        (0.5, 0.75)
        """
        return share * (1 - self.rank + self.rank * relative)

    def score(self, cosine: int | float, lexical: int | float) -> float:
        """The score by which candidates are ordered.

        Args:
            cosine: of the candidate and the query.
            lexical: of the candidate.

        Returns:
            A number in [0, 1].

        >>> Fusion().score(0.5, 1.0), Fusion().score(-0.1, 0.5)
        (0.75, 0.25)
        """
        return (self.cosine * unit(cosine) + lexical) / (self.cosine + 1)


FUSION: Final = Fusion()
"""The constants for `hashed-ngrams-v1`."""


def asked_words(query: str) -> list[str]:
    """The distinct words of a query that count.

    Args:
        query: any text.

    Returns:
        At most 100 words.
    """
    return list(dict.fromkeys(words(query)))[:_QUERY_WORDS]


def share_of(asked: Sequence[str], text: str) -> float:
    """Share of words that a text has.

    Args:
        asked: distinct words.
        text: any text.

    Returns:
        A number in [0, 1]; 0 where no word is asked.

    >>> share_of(["wave", "light"], "Light bends.")
    0.5
    """
    return len(set(words(text)).intersection(asked)) / len(asked) if asked else 0.0


def relative_scores(raw: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Full-text scores, divided by the best.

    Args:
        raw: ids and scores, the best first.

    Returns:
        Numbers in [0, 1] by id; 1 each where the best is 0, because no word tells one record from another.

    >>> relative_scores([("a", 4.0), ("b", 1.0)])
    {'a': 1.0, 'b': 0.25}
    """
    best = raw[0][1] if raw else 0.0
    return {id: unit(score / best) if best > 0 else 1.0 for id, score in raw}


def unit(number: int | float) -> float:
    """The nearest number in [0, 1].

    Args:
        number: any.

    Returns:
        The number, cut off.
    """
    return min(max(float(number), 0.0), 1.0)


def read_likeliest(store: Store, ids: Sequence[str]) -> dict[str, Insight]:
    """Reads candidates, some at once, until a million characters have been read.

    Args:
        store: the records.
        ids: the likeliest first.

    Returns:
        The records, without the documents of signals, by id.
    """
    found: dict[str, Insight] = {}
    characters = 0
    for start in range(0, len(ids), _TOGETHER):
        some = store.get_many(ids[start : start + _TOGETHER], documents=False)
        found |= some
        characters += sum(len(insight.text) for insight in some.values())
        if characters > _READ:
            break
    return found


def exact_cosines(
    encoder: Encoder, vector: Float32[np.ndarray, " dim"], insights: Mapping[str, Insight]
) -> dict[str, float]:
    """Cosines without the rounding of codes, from the texts; long texts, and what is too much, are left out.

    Args:
        encoder: of the vector.
        vector: of length 1.
        insights: by id, the most wanted first.

    Returns:
        Cosines by id.
    """
    chosen: list[str] = []
    characters = 0
    for identifier, insight in insights.items():
        length = len(insight.text)
        if length <= _ENCODED_EACH and characters + length <= _ENCODED:
            chosen.append(identifier)
            characters += length
    if not chosen:
        return {}
    vectors = encoder.encode([insights[identifier].text for identifier in chosen]).astype(np.float64)
    # Not a matrix product, in which equal rows come to differ in the last digits, by their places.
    exact = (vectors * vector).sum(axis=1)
    return dict(zip(chosen, exact.tolist(), strict=True))
