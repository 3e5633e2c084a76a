"""Near-duplicates: texts whose vectors nearly agree, or that differ in case, white space or spelling in Unicode alone.

Rounded vectors choose candidates; whether a candidate is one is decided by vectors made anew from the texts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

from dredge.insights.encoders import Encoder
from dredge.insights.fusion import exact_cosines
from dredge.insights.ids import fingerprint
from dredge.insights.records import Hit
from dredge.insights.store import Store
from dredge.insights.vectors import Snapshot, VectorIndex

__all__ = ["DuplicatePair", "duplicate_pairs", "duplicates_of"]

_ROUNDING: Final = 0.01  # by which a rounded cosine may be off; of 16 million pairs of sentences the worst was 0.0045
_ROWS: Final = 1024  # compared with as many at once: 4 MB of cosines
_PAIRS: Final = 50  # whose texts are read at once


@dataclass(frozen=True)
class DuplicatePair:
    """Two insights that are nearly the same.

    Args:
        one: id of the one that sorts first.
        other: id of the other.
        cosine: of their texts.
        same_fingerprint: whether they differ in case, white space or spelling in Unicode alone.
    """

    one: str
    other: str
    cosine: float
    same_fingerprint: bool


def duplicates_of(text: str, store: Store, index: VectorIndex, cosine: float, *, most: int) -> list[Hit]:
    """Insights that are nearly the same as a text; the text itself is among them if it is there.

    Args:
        text: the text.
        store: the insights.
        index: their vectors, up to date.
        cosine: from which on two texts are near-duplicates.
        most: how many are looked at for their cosines.

    Returns:
        Those of the same fingerprint, with score 1; then the others, by cosine, which is their score.
    """
    vector = index.encoder.encode([text])[0]
    near = {id: found for id, found in index.nearest(vector, most) if found >= cosine - _ROUNDING}
    same = set(store.by_fingerprint(text))
    insights = store.get_many([*same, *near], documents=False)
    near |= index.cosines_of([id for id in insights if id not in near], vector)
    near |= exact_cosines(index.encoder, vector, insights)
    hits = [
        Hit(insight, 1.0 if id in same else min(near[id], 1.0), near.get(id), None)
        for id, insight in insights.items()
        if id in same or near[id] >= cosine
    ]
    return sorted(hits, key=lambda hit: (hit.insight.id not in same, -(hit.cosine or 0.0), hit.insight.id))


def duplicate_pairs(store: Store, index: VectorIndex, cosine: float) -> Iterator[DuplicatePair]:
    """All pairs of insights that are nearly the same, as they are when the first is asked for.

    Compares each vector with each, a block with a block: n² · dim multiplications, and 20 MB beside the index.

    Args:
        store: the insights.
        index: their vectors, up to date.
        cosine: from which on two texts are near-duplicates.

    Yields:
        Each pair once.
    """
    snapshot = index.snapshot()
    for rows in _near_rows(snapshot, cosine - _ROUNDING):
        for pair in _read_pairs(store, index.encoder, snapshot, rows):
            if pair.cosine >= cosine or pair.same_fingerprint:
                yield pair
    for rows in _same_rows(store, snapshot):
        one, other = (_widened(snapshot, rows[:, side]) for side in (0, 1))
        # Nearer ones have been told above.
        for pair in _read_pairs(store, index.encoder, snapshot, rows[(one * other).sum(axis=1) < cosine - _ROUNDING]):
            if pair.same_fingerprint:
                yield pair


def _near_rows(snapshot: Snapshot, cosine: float) -> Iterator[Int64[np.ndarray, "pairs 2"]]:
    """Pairs of rows whose rounded vectors have a cosine, or a larger one."""
    rows = np.flatnonzero(snapshot.alive)
    for first in range(0, len(rows), _ROWS):
        ones = rows[first : first + _ROWS]
        block = _widened(snapshot, ones)
        for second in range(first, len(rows), _ROWS):
            others = rows[second : second + _ROWS]
            found = block @ _widened(snapshot, others).T >= cosine
            if second == first:
                found = np.triu(found, 1)
            at = np.argwhere(found)
            if len(at):
                yield np.stack([ones[at[:, 0]], others[at[:, 1]]], axis=1)


def _same_rows(store: Store, snapshot: Snapshot) -> Iterator[Int64[np.ndarray, "pairs 2"]]:
    """Pairs of rows whose texts have one fingerprint, some at once."""
    rows = np.flatnonzero(snapshot.alive)
    marks = np.zeros(len(rows), np.uint64)
    for start in range(0, len(rows), _PAIRS):
        ids = snapshot.ids(rows[start : start + _PAIRS])
        insights = store.get_many(ids, documents=False)
        for number, id in enumerate(ids, start):
            if id in insights:
                marks[number] = int(fingerprint(insights[id].text)[:16], 16)
    order = np.argsort(marks, kind="stable")
    # Groups of equal marks; 0 is a row that has been deleted meanwhile.
    for group in np.split(order, np.flatnonzero(np.diff(marks[order])) + 1):
        if len(group) > 1 and marks[group[0]]:
            for first in range(len(group) - 1):
                yield np.stack(np.broadcast_arrays(rows[group[first]], rows[group[first + 1 :]]), axis=1)


def _widened(snapshot: Snapshot, rows: Int64[np.ndarray, " k"]) -> Float32[np.ndarray, "k dim"]:
    return snapshot.codes[rows] * snapshot.scales[rows, None]


def _read_pairs(
    store: Store, encoder: Encoder, snapshot: Snapshot, rows: Int64[np.ndarray, "pairs 2"]
) -> Iterator[DuplicatePair]:
    for start in range(0, len(rows), _PAIRS):
        some = rows[start : start + _PAIRS]
        ids = list(zip(snapshot.ids(some[:, 0]), snapshot.ids(some[:, 1]), strict=True))
        insights = store.get_many([id for pair in ids for id in pair], documents=False)
        vectors = dict(zip(insights, encoder.encode([insight.text for insight in insights.values()]), strict=True))
        marks = {id: fingerprint(insight.text) for id, insight in insights.items()}
        for one, other in map(sorted, ids):
            if one in insights and other in insights:
                yield DuplicatePair(one, other, float(vectors[one] @ vectors[other]), marks[one] == marks[other])
