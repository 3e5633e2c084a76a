"""Export and import: JSON lines that hold all that a store knows, without the vectors, which are made anew.

The first line is `{"dredge":"insights","version":1}`. Each line after it is an insight, in the order of arrival. The
last line counts them and gives the SHA-256 of all lines before it, each with its line feed, so that an archive that was
cut short or changed is known. No line holds a character that any program takes for the end of a line.
"""

import hashlib
import json
import pickle
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from sqlalchemy import Connection, func, select

from dredge.errors import ArchiveError, DredgeError
from dredge.insights.ids import check_text, insight_id
from dredge.insights.reading import insight_of, microseconds, selected
from dredge.insights.records import Insight, Kind
from dredge.insights.rows import Draft, Known, add, count, document_json, drafts, known, replace_signal
from dredge.insights.schema import insights
from dredge.insights.store import Store

__all__ = ["ImportReport", "export_lines", "import_lines"]

_HEAD: Final[dict[str, Any]] = {"dredge": "insights", "version": 1}
_FIELDS: Final = {"id", "kind", "created", "last_seen", "seen", "text"}
_ID: Final = re.compile("[0-9a-f]{64}")
_EXPORTED: Final = 32  # insights read at once: a text may have a megabyte
_IMPORTED: Final = 500
_CHARACTERS: Final = 4_000_000
_SEEN: Final = 10**12  # more than are ever counted, so few that neither a count nor the sum of all passes 63 bits
# All that str.splitlines takes for the end of a line and JSON leaves as it is.
_LINE_ENDS: Final = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Args:
        lines: insights in the archive.
        added: those that were not there.
        merged: those that were there and took over something: an earlier creation, a later sight, a higher count, or
            the later document of a signal.
        unchanged: those that were there as they were.
    """

    lines: int
    added: int
    merged: int
    unchanged: int


def export_lines(store: Store) -> Iterator[str]:
    """An archive, line by line; the store may be written meanwhile.

    Args:
        store: to read.

    Yields:
        Lines without their line feeds.

    Raises:
        StoreError: the database failed in between; the last line is then missing.
    """
    digest = hashlib.sha256()

    def told(values: dict[str, Any]) -> str:
        line = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_LINE_ENDS)
        digest.update(f"{line}\n".encode())
        return line

    with store.database.reading() as connection:
        # What comes later stays out, so that an export among writers ends.
        last = connection.execute(select(func.max(insights.c.seq))).scalar() or 0
    yield told(_HEAD)
    number = 0
    query = selected(documents=True).where(insights.c.seq <= last).order_by(insights.c.seq).limit(_EXPORTED)
    after = 0
    while True:
        with store.database.reading() as connection:
            rows = connection.execute(query.where(insights.c.seq > after)).all()
        if not rows:
            break
        after = rows[-1].seq
        for row in rows:
            yield told(_values(insight_of(row)))
        number += len(rows)
    yield told({"insights": number, "sha256": digest.hexdigest()})


def import_lines(store: Store, lines: Iterable[str]) -> ImportReport:
    """Adds an archive to a store: all of it, or nothing.

    An insight that is there keeps the earlier creation, the later sight and the higher count of both, so that importing
    twice changes nothing; a signal's text and document are those of the later sight.

    The archive is read, checked and encoded before the write begins; what it holds waits in a temporary file.

    Args:
        store: to write.
        lines: of `export_lines`, with or without line feeds.

    Returns:
        What was done.

    Raises:
        ArchiveError: a line that is damaged, missing or foreign; its number is named. Nothing was imported.
        StoreError: the database failed. Nothing was imported.
    """
    with tempfile.TemporaryFile() as waiting:
        total = added = merged = 0
        batches = 0
        for batch in _batches(_checked(lines)):
            total += len(batch)
            made = drafts(store.encoder, [(line.id, line.text, line.kind, line.document) for line in batch])
            pickle.dump(list(zip(batch, made, strict=True)), waiting)
            batches += 1
        waiting.seek(0)
        with store.database.writing() as connection:
            for _ in range(batches):
                new, changed = _merged(connection, pickle.load(waiting))
                added += new
                merged += changed
    return ImportReport(total, added, merged, total - added - merged)


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    id: str
    kind: Kind
    created: int
    last_seen: int
    seen: int
    text: str
    document: str | None


def _values(insight: Insight) -> dict[str, Any]:
    values = {
        "id": insight.id, "kind": insight.kind, "created": _time_text(insight.created),
        "last_seen": _time_text(insight.last_seen), "seen": insight.seen, "text": insight.text,
    }  # fmt: skip
    return values if insight.signal is None else {**values, "signal": insight.signal}


def _checked(lines: Iterable[str]) -> Iterator[_Line]:
    digest = hashlib.sha256()
    number = total = 0
    begun = ended = False
    for number, received in enumerate(lines, start=1):
        line = received.rstrip("\r\n")
        if not line:
            continue
        if ended:
            _refuse(number, "an archive ends with its count; more came", "Import archives one by one.")
        values = _parsed(number, line)
        if not begun:
            begun = True
            if values != _HEAD:
                _refuse(
                    number, f"an archive begins with {json.dumps(_HEAD)}; got {line[:80]!r}", "Use `dredge export`."
                )
        elif values.keys() == {"insights", "sha256"}:
            ended = True
            if values != {"insights": total, "sha256": digest.hexdigest()}:
                _refuse(
                    number, f"an archive is what was exported; the sum of its {total} insights is another",
                    "Export again: lines were changed, lost or added.",
                )  # fmt: skip
        else:
            total += 1
            yield _line(number, values)
        digest.update(f"{line}\n".encode())
    if not ended:
        _refuse(number + 1, "an archive ends with its count; it was cut short before", "Export or transfer it again.")


def _parsed(number: int, line: str) -> dict[str, Any]:
    def no_number(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        line.encode()
        values = json.loads(line, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        _refuse(number, f"a line is JSON; this one is not: {error}", "Export or transfer it again.")
    if not isinstance(values, dict):
        _refuse(number, f"a line is an object; got {line[:80]!r}", "Use `dredge export`.")
    return values


def _line(number: int, values: dict[str, Any]) -> _Line:
    again = "Export or transfer it again."
    signal = values.get("signal")
    if values.keys() - {"signal"} != _FIELDS or (values["kind"] == "signal") != isinstance(signal, dict):
        _refuse(number, f"an insight has {', '.join(sorted(_FIELDS))}, and a signal its `signal`; got "
                f"{', '.join(sorted(values))[:200]}", again)  # fmt: skip
    identifier, kind, seen, content = (values[name] for name in ("id", "kind", "seen", "text"))
    if kind not in ("text", "signal") or not isinstance(content, str) or not isinstance(identifier, str):
        _refuse(number, f"id and text are strings, and kind is text or signal; got {kind!r}"[:200], again)
    if type(seen) is not int or not 0 < seen <= _SEEN:
        _refuse(number, f"seen is a count from 1 to {_SEEN}; got {seen!r}"[:200], again)
    try:
        check_text(content)
        document = document_json(signal) if isinstance(signal, dict) else None
    except DredgeError as error:
        raise ArchiveError(f"line {number}: {error}") from error
    if not _ID.fullmatch(identifier) or (kind == "text" and identifier != insight_id(content)):
        _refuse(number, f"the id of a text is its SHA-256; {identifier[:64]!r} is not", again)
    created, last_seen = (_microseconds(number, values[name]) for name in ("created", "last_seen"))
    if created > last_seen:
        _refuse(number, "an insight is created before it is last seen; this one was after", again)
    return _Line(number, identifier, kind, created, last_seen, seen, content, document)


def _time_text(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _microseconds(number: int, time: object) -> int:
    try:
        found = datetime.fromisoformat(str(time))
        written = _time_text(found.astimezone(UTC))
    except (OverflowError, ValueError):
        written = ""
    if written != time:
        _refuse(
            number, f"a time is written 2026-01-31T12:00:00.000000Z; got {str(time)[:40]!r}",
            "Export or transfer it again.",
        )  # fmt: skip
    return microseconds(found)


def _batches(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    """Lines to store at once: not too many, not too long, and no id twice."""
    batch: dict[str, _Line] = {}
    characters = 0
    for line in lines:
        if len(batch) == _IMPORTED or characters > _CHARACTERS or line.id in batch:
            yield list(batch.values())
            batch, characters = {}, 0
        batch[line.id] = line
        characters += len(line.text) + len(line.document or "")
    if batch:
        yield list(batch.values())


def _merged(connection: Connection, pairs: list[tuple[_Line, Draft]]) -> tuple[int, int]:
    """Writes lines; returns how many were new, and how many changed what was there."""
    there = known(connection, [line.id for line, _ in pairs])
    new: list[tuple[Draft, int, int, int]] = []
    counted: list[Known] = []
    merged = 0
    for line, draft in pairs:
        row = there.get(line.id)
        if row is None:
            new.append((draft, line.created, line.last_seen, line.seen))
            continue
        if row.kind != line.kind:
            _refuse(line.number, f"the id of a {line.kind} belongs to no {row.kind}; {line.id} does", "Leave it out.")
        target = replace(
            row, created=min(row.created, line.created), last_seen=max(row.last_seen, line.last_seen),
            seen=max(row.seen, line.seen),
        )  # fmt: skip
        replaced = (
            line.last_seen > row.last_seen and line.kind == "signal" and replace_signal(connection, row.seq, draft)
        )
        if target != row:
            counted.append(target)
        merged += replaced or target != row
    add(connection, new)
    count(connection, counted)
    return len(new), merged


def _refuse(number: int, rule: str, advice: str) -> NoReturn:
    raise ArchiveError(f"line {number}: {rule}. {advice} Nothing was imported.")
