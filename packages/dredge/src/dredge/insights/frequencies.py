"""How common words are, estimated from a sample of the texts.

A full-text search scores each row that has any word of the query, at about 1 µs a row: a query with `the` in it scores
most of the rows, and learns nothing from them. The estimate tells which words are worth asking for.
"""

import threading
from collections import Counter
from typing import Final

import numpy as np

from dredge.insights.fulltext import words
from dredge.insights.store import Store
from dredge.insights.vectors import VectorIndex

__all__ = ["WordFrequencies"]

_TEXTS: Final = 2000  # of a sample
_CHARACTERS: Final = 500_000  # of a sample, after which no more are read
_TOGETHER: Final = 50


class WordFrequencies:
    """Share of the rows that have a word. Safe for threads.

    The sample is taken anew when there are twice as many rows, or half as many, as when it was taken.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._sampled = 0
        self._rows = 0

    def update(self, store: Store, index: VectorIndex) -> None:
        """Takes a sample where there is none, or where it is old: some 50 ms.

        Args:
            store: the texts.
            index: their ids.
        """
        rows = len(index)
        with self._lock:
            if self._rows and self._rows / 2 <= rows <= 2 * self._rows:
                return
            snapshot = index.snapshot()
            alive = np.flatnonzero(snapshot.alive)
            if not len(alive):
                return
            chosen = alive[np.unique(np.linspace(0, len(alive) - 1, _TEXTS).astype(np.int64))]
            # In strides, so that a sample that is cut short is one of all rows as well.
            ids = [id for start in range(_TOGETHER) for id in snapshot.ids(chosen[start::_TOGETHER])]
            counts: Counter[str] = Counter()
            sampled = characters = 0
            for start in range(0, len(ids), _TOGETHER):
                for insight in store.get_many(ids[start : start + _TOGETHER], documents=False).values():
                    counts.update(set(words(insight.text)))
                    sampled += 1
                    characters += len(insight.text)
                if characters > _CHARACTERS:
                    break
            self._counts, self._sampled, self._rows = counts, sampled, rows

    def rare(self, asked: list[str], rows: int | float) -> list[str]:
        """The rarest words, as many as together are in few enough rows.

        Args:
            asked: distinct words.
            rows: in which the words are expected to be, counted once for each word.

        Returns:
            Some of the words, the rarest first; none where the rarest is in too many.
        """
        with self._lock:
            counts, scale = self._counts, self._rows / max(self._sampled, 1)
        chosen = []
        for word in sorted(asked, key=lambda word: counts[word]):
            rows -= counts[word] * scale
            if rows < 0:
                break
            chosen.append(word)
        return chosen
