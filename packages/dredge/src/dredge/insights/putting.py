"""How texts and signals are put: what is new is encoded, then written; what is there is counted."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection

from dredge.errors import InsightError, SignalError
from dredge.insights.database import Database
from dredge.insights.encoders import Encoder
from dredge.insights.ids import check_text, insight_id
from dredge.insights.reading import insights_with, moment
from dredge.insights.records import Insight, Stored
from dredge.insights.rows import (
    Draft,
    Known,
    add,
    add_or_count,
    count,
    count_one,
    document_json,
    drafts,
    is_there,
    known,
    replace_signal,
)

__all__ = ["put_signal", "put_text", "put_texts"]

_ID: Final = re.compile("[0-9a-f]{64}")


def put_text(database: Database, encoder: Encoder, content: str) -> Stored:
    """Keeps one text, in as few statements as can be.

    Args:
        database: to write.
        encoder: of what is new.
        content: the text.

    Returns:
        The record.
    """
    check_text(content)
    identifier = insight_id(content)
    while True:
        with database.direct() as direct:
            new = None
            if not is_there(direct, identifier):
                (new,) = drafts(encoder, [(identifier, content, "text", None)])
            with direct.writing():
                if new is None:
                    row, created = count_one(direct, identifier, _now()), False
                else:
                    row, created = add_or_count(direct, new, _now())
                # It is None where another deleted it between the two looks; then all begins again.
                if row is not None:
                    return Stored(_text_insight(identifier, content, row), created)


def put_texts(database: Database, encoder: Encoder, contents: Sequence[str]) -> list[Stored]:
    """Keeps texts in one transaction.

    Args:
        database: to write.
        encoder: of those that are new.
        contents: the texts.

    Returns:
        One record each, as it was after that text.
    """
    ids = [_checked(content, number, len(contents)) for number, content in enumerate(contents, start=1)]
    texts = dict(zip(ids, contents, strict=True))
    with database.reading() as connection:
        there = known(connection, list(texts))
    made: dict[str, Draft] = {}
    while True:
        missing = [identifier for identifier in texts if identifier not in there and identifier not in made]
        if missing:
            new = drafts(encoder, [(identifier, texts[identifier], "text", None) for identifier in missing])
            made |= {draft.id: draft for draft in new}
        with database.writing() as connection:
            there = known(connection, list(texts))
            # Another may have deleted a text that had been there; then it is encoded first.
            if there.keys() | made.keys() >= texts.keys():
                return _kept(connection, ids, texts, there, made)


def put_signal(
    database: Database, encoder: Encoder, identifier: str, content: str, document: Mapping[str, Any]
) -> Stored:  # fmt: skip
    """Keeps a signal.

    Args:
        database: to write.
        encoder: of its text.
        identifier: of its samples.
        content: the text by which it is found.
        document: what is known of it.

    Returns:
        The record.
    """
    if not _ID.fullmatch(identifier):
        raise SignalError(f"a signal's id is 64 lower-case hexadecimal digits; got {identifier!r}. Use signal_id.")
    check_text(content)
    (draft,) = drafts(encoder, [(identifier, content, "signal", document_json(document))])
    with database.writing() as connection:
        now = _now()
        row = known(connection, [identifier]).get(identifier)
        if row is None:
            add(connection, [(draft, now, now, 1)])
        else:
            if row.kind != "signal":
                raise SignalError(f"a signal's id belongs to no text; {identifier} does. Change the samples' scale.")
            count(connection, [replace(row, seen=row.seen + 1, last_seen=max(row.last_seen, now))])
            replace_signal(connection, row.seq, draft)
        insight = insights_with(connection, [identifier], documents=True)[identifier]
    return Stored(insight, row is None)


def _checked(content: str, number: int, total: int) -> str:
    try:
        check_text(content)
        return insight_id(content)
    except InsightError as error:
        if total == 1:
            raise
        raise InsightError(f"text {number} of {total}: {error}") from error


def _kept(
    connection: Connection, ids: Sequence[str], texts: Mapping[str, str], there: Mapping[str, Known],
    made: Mapping[str, Draft],
) -> list[Stored]:  # fmt: skip
    """Writes new texts, counts those that are there, and tells what became of each in its turn."""
    now = _now()
    state: dict[str, Known] = {}
    results = []
    for identifier in ids:
        before = state.get(identifier) or there.get(identifier)
        if before is None:
            row = Known(0, "text", now, now, 1, made[identifier].encoder)
        else:
            row = replace(before, seen=before.seen + 1, last_seen=max(before.last_seen, now))
        state[identifier] = row
        results.append(Stored(_text_insight(identifier, texts[identifier], row), before is None))
    new = [(made[key], row.created, row.last_seen, row.seen) for key, row in state.items() if key not in there]
    add(connection, new)
    count(connection, [row for key, row in state.items() if key in there])
    return results


def _text_insight(identifier: str, content: str, row: Known) -> Insight:
    if row.kind != "text":
        raise InsightError(f"a text's id belongs to no signal; {identifier} does. Change the text by a character.")
    times = moment(row.created), moment(row.last_seen)
    return Insight(identifier, content, "text", times[0], row.seen, times[1], row.encoder, None)


def _now() -> int:
    return time.time_ns() // 1000
