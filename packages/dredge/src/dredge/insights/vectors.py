"""Vectors in one byte a number: how they are rounded, and an index of them in memory.

The index follows a store by its changes, so that each process that shares the database has its own.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int64, UInt64

from dredge.errors import StoreError
from dredge.insights.encoders import Encoder

__all__ = ["Snapshot", "VectorIndex", "cosines", "quantised"]

_BLOCK: Final = 512  # rows widened to float32 at once: 1 MB of 512 numbers, which stays in a core's cache
_ROOM: Final = 1024  # rows that an index has room for at first
_WORDS: Final = 4  # 64-bit words of an id


def quantised(
    vectors: Float32[np.ndarray, "n dim"],
) -> tuple[Int8[np.ndarray, "n dim"], Float32[np.ndarray, " n"]]:
    """Rounds each row to whole steps of its own size: v ≈ scale · code, |v − scale · code| ≤ scale / 2.

    Args:
        vectors: rows of finite numbers; of a row all of whose magnitudes are below 10⁻³⁶ the bound does not hold.

    Returns:
        Codes in −127 … 127 and the step of each row, its largest magnitude / 127.

    >>> codes, scale = quantised(np.array([[0.5, -1.0, 0.0]], np.float32))
    >>> codes.tolist(), round(float(scale[0]) * 127, 6)
    ([[64, -127, 0]], 1.0)
    """
    scale = (np.abs(vectors).max(axis=1, initial=0) / np.float32(127)).astype(np.float32)
    steps = np.where(scale > 0, scale, np.float32(1))
    return np.rint(vectors / steps[:, None]).astype(np.int8), scale


@runtime_checkable
class _Changes(Protocol):
    @property
    def position(self) -> int: ...
    @property
    def upserts(self) -> Sequence[tuple[str, bytes, float]]: ...
    @property
    def deleted(self) -> Sequence[str]: ...


@runtime_checkable
class _Source(Protocol):
    @property
    def encoder(self) -> Encoder: ...
    def changes(self, after: int, limit: int = ...) -> _Changes: ...


@dataclass(frozen=True)
class Snapshot:
    """The rows of an index at one moment, which later changes of the index leave alone.

    Args:
        codes: one row a vector, also of those that are gone.
        scales: that give the rows length 1.
        alive: which rows are there.
        words: ids, as four 64-bit words.
    """

    codes: Int8[np.ndarray, "n dim"]
    scales: Float32[np.ndarray, " n"]
    alive: Bool[np.ndarray, " n"]
    words: UInt64[np.ndarray, "n 4"]

    def ids(self, rows: Int64[np.ndarray, " k"]) -> list[str]:
        """Ids of rows.

        Args:
            rows: their numbers.

        Returns:
            One id each.
        """
        return [word.tobytes().hex() for word in self.words[rows]]

    def part(self, rows: slice | Int64[np.ndarray, " k"]) -> "Snapshot":
        """Some of the rows.

        Args:
            rows: a slice, which is not copied, or their numbers.

        Returns:
            The rows.
        """
        return Snapshot(self.codes[rows], self.scales[rows], self.alive[rows], self.words[rows])

    def blocks(self, rows: int = _BLOCK) -> Iterator[tuple[int, Float32[np.ndarray, "rows dim"]]]:
        """The codes as numbers that are multiplied fast, without their scales.

        Args:
            rows: of a block.

        Yields:
            Number of the first row, and the block, which is overwritten by the next.
        """
        room = np.empty((min(rows, len(self.codes)), self.codes.shape[1]), np.float32)
        for start in range(0, len(self.codes), rows):
            part = self.codes[start : start + rows]
            block = room[: len(part)]
            block[:] = part
            yield start, block


def cosines(snapshot: Snapshot, vector: Float32[np.ndarray, " dim"]) -> Float32[np.ndarray, " n"]:
    """Cosine of a vector of length 1 and each row, up to the rounding of the codes; −2 for rows that are gone.

    Args:
        snapshot: the rows.
        vector: the one.

    Returns:
        One cosine a row.
    """
    scores = np.empty(len(snapshot.codes), np.float32)
    for start, block in snapshot.blocks():
        np.matmul(block, vector, out=scores[start : start + len(block)])
    scores *= snapshot.scales
    scores[~snapshot.alive] = -2
    return scores


class VectorIndex:
    """The vectors of a store, in memory. Safe for threads: searches go on while it is brought up to date.

    A row takes dim + 37 bytes, twice that while the index grows. What is deleted or changed is marked as gone, and
    taken out when a quarter of the rows is.

    Args:
        encoder: of the vectors.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._lock = threading.Lock()
        self._position = self._rows = self._gone = 0
        self._room = _room(_ROOM, encoder.dim)

    def __len__(self) -> int:
        return self._rows - self._gone

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        room = self._room
        return room.codes.nbytes + room.scales.nbytes + room.alive.nbytes + room.words.nbytes

    def snapshot(self) -> Snapshot:
        """The rows as they are now."""
        with self._lock:
            part = self._room.part(slice(self._rows))
            return replace(part, alive=part.alive.copy())

    def update(self, source: _Source, *, limit: int = 10_000) -> int:
        """Applies what has happened to a store since the last time.

        Args:
            source: the store.
            limit: changes asked for at once.

        Returns:
            How many changes there were.

        Raises:
            StoreError: vectors of another length than the encoder's.
        """
        total = 0
        with self._lock:
            while True:
                changes = source.changes(self._position, limit)
                # A store that has meanwhile been given another encoder tells of other vectors.
                if changes.position == self._position or source.encoder.version != self.encoder.version:
                    return total
                self._apply(changes)
                self._position = changes.position
                total += len(changes.upserts) + len(changes.deleted)

    def nearest(self, vector: Float32[np.ndarray, " dim"], count: int) -> list[tuple[str, float]]:
        """The rows of the largest cosines.

        Args:
            vector: of length 1.
            count: most of them.

        Returns:
            Ids and cosines, up to the rounding of the codes, to six decimals; the largest first, equal ones by id.
        """
        snapshot = self.snapshot()
        scores = cosines(snapshot, vector)
        if count < len(scores):
            rows = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
        else:
            rows = np.arange(len(scores))
        rows = rows[scores[rows] > -2]
        # Equal rows come to differ in the last digits, by their places in blocks.
        found = zip(snapshot.ids(rows), np.round(scores[rows].astype(np.float64), 6).tolist(), strict=True)
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def cosines_of(self, ids: Sequence[str], vector: Float32[np.ndarray, " dim"]) -> dict[str, float]:
        """Cosines of a few rows.

        Args:
            ids: of the rows; some 0.1 ms each where the index has 100,000.
            vector: of length 1.

        Returns:
            Cosines of those that are there, up to the rounding of the codes, by id.
        """
        snapshot = self.snapshot()
        found = {}
        for identifier, word in zip(ids, _words(ids), strict=True):
            rows = np.flatnonzero((snapshot.words[:, 0] == word[0]) & snapshot.alive)
            for row in rows[(snapshot.words[rows] == word).all(axis=1)].tolist():
                found[identifier] = float(snapshot.codes[row] @ vector) * float(snapshot.scales[row])
        return found

    def _apply(self, changes: _Changes) -> None:
        upserts = changes.upserts
        new = _words([identifier for identifier, _, _ in upserts])
        self._mark_gone(np.concatenate([new, _words(changes.deleted)]))
        if upserts:
            dim = self.encoder.dim
            if any(len(codes) != dim for _, codes, _ in upserts):
                raise StoreError(
                    f"vectors of {self.encoder.version} have {dim} numbers; the database holds others under that name. "
                    "Encode them anew: dredge reindex."
                )
            end = self._rows + len(upserts)
            if end > len(self._room.codes):
                self._move(slice(self._rows), max(end, 2 * len(self._room.codes)))
            room, added = self._room, slice(self._rows, end)
            codes = np.frombuffer(b"".join([codes for _, codes, _ in upserts]), np.int8).reshape(-1, dim)
            room.codes[added] = codes
            # A vector has length 1: the step that gives its codes length 1 is nearer to it than the step of rounding.
            squares = np.square(codes, dtype=np.int32).sum(axis=1)
            room.scales[added] = 1 / np.sqrt(np.maximum(squares, 1))
            room.alive[added] = True
            room.words[added] = new
            self._rows = end
        if self._gone > max(_ROOM, self._rows // 4):
            kept = np.flatnonzero(self._room.alive[: self._rows])
            self._move(kept, len(kept) + _ROOM)
            self._rows, self._gone = len(kept), 0

    def _mark_gone(self, words: UInt64[np.ndarray, "m 4"]) -> None:
        if not len(words) or not self._rows:
            return
        known, alive = self._room.words[: self._rows], self._room.alive
        # An id is a digest: its first word is nearly always enough, and the rest makes sure.
        if len(words) < 16:
            rows = np.concatenate([np.flatnonzero(known[:, 0] == word[0]) for word in words])
        else:
            rows = np.flatnonzero(np.isin(known[:, 0], words[:, 0]))
        wanted = {word.tobytes() for word in words}
        for row in rows.tolist():
            if alive[row] and known[row].tobytes() in wanted:
                alive[row] = False
                self._gone += 1

    def _move(self, rows: slice | Int64[np.ndarray, " k"], capacity: int) -> None:
        """Into new arrays: searches in progress keep the old ones."""
        old = self._room.part(rows)
        self._room = _room(capacity, self.encoder.dim)
        count = len(old.scales)
        self._room.codes[:count] = old.codes
        self._room.scales[:count] = old.scales
        self._room.alive[:count] = old.alive
        self._room.words[:count] = old.words


def _room(rows: int, dim: int) -> Snapshot:
    return Snapshot(
        np.empty((rows, dim), np.int8), np.empty(rows, np.float32), np.zeros(rows, bool),
        np.empty((rows, _WORDS), np.uint64),
    )  # fmt: skip


def _words(ids: Sequence[str]) -> UInt64[np.ndarray, "n 4"]:
    return np.frombuffer(bytes.fromhex("".join(ids)), np.uint64).reshape(-1, _WORDS)
