"""Commands about what is kept: lift, batch, search, similar, get, delete, export, import, reindex, backup, stats."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from dredge.cli.options import AsJson, ConfigFile, DatabaseUrl, Limit, Token, settings_of
from dredge.cli.output import insight_values, print_facts, print_hits, print_json, say
from dredge.errors import ArchiveError, DredgeError, InsightError, QueryError
from dredge.files import write_whole

if TYPE_CHECKING:
    from dredge.config import Settings
    from dredge.insights.store import Store

__all__ = [
    "backup",
    "batch",
    "delete",
    "export",
    "get",
    "import_",
    "lift",
    "opened",
    "reindex",
    "search",
    "similar",
    "stats",
]

_CHARACTERS: Final = 4_000_000  # of texts that are kept at once, after which no more are read
_Id = Annotated[str, typer.Argument(help="Id of a record, or its first 8 digits or more.")]
_Out = Annotated[Path | None, typer.Option("--out", help="File to write; standard output by default.")]


def lift(
    text: Annotated[str, typer.Argument(help="The text, or - for standard input.")],
    as_json: AsJson = False,
    db: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Keep a text and print its id.

    Examples:
      dredge lift "waves bend at the shelf's edge"
      pbpaste | dredge lift -
    """
    from dredge.insights.ids import check_text

    settings = settings_of(config, db)
    text = _given_text() if text == "-" else text
    check_text(text, settings.limits.text_bytes)
    with opened(settings) as store:
        stored = store.put(text)
    if as_json:
        print_json(insight_values(stored.insight) | {"new": stored.created})
        return
    typer.echo(stored.insight.id)
    say("kept" if stored.created else f"was there already; lifted {stored.insight.seen} times")


def batch(
    file: Annotated[Path, typer.Argument(help='JSON lines, each a text or {"text": …}; - for standard input.')],
    as_json: AsJson = False,
    db: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Keep the texts of a file of JSON lines. Lines that cannot be kept are named; the others are kept.

    Exit code 1 when a line could not be kept.

    Examples:
      dredge batch notes.jsonl
      jq -c .body export.json | dredge batch -
    """
    settings = settings_of(config, db)
    counts = {"lines": 0, "new": 0, "known": 0}
    errors: list[dict[str, Any]] = []
    with opened(settings) as store:
        texts = _texts(file, settings.limits.text_bytes, errors)
        for group in _groups(texts, settings.limits.batch_items):
            new = sum(stored.created for stored in store.put_many(group))
            counts["new"] += new
            counts["known"] += len(group) - new
    counts["lines"] = counts["new"] + counts["known"] + len(errors)
    for refused in errors:
        say(f"line {refused['line']}: {refused['error']}")
    if as_json:
        print_json({**counts, "errors": errors})
    else:
        print_facts("", {**counts, "errors": len(errors)})
    if errors:
        raise typer.Exit(1)


def search(
    query: Annotated[str, typer.Argument(help="Words to look for, misspelt or not.")],
    limit: Limit = 10,
    mode: Annotated[Literal["hybrid", "text", "vector"], typer.Option(help="How.")] = "hybrid",
    as_json: AsJson = False,
    db: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Find what was kept, the best first.

    Examples:
      dredge search "shelf waves"
      dredge search "shelve wafes" --mode vector -n 3 --json
    """
    from dredge.insights.search import Searcher

    settings = settings_of(config, db)
    with opened(settings) as store:
        hits = Searcher(store, settings.search).search(query, limit=limit, mode=mode)
    _show(f"{len(hits)} found for {query!r}", hits, as_json)


def similar(
    id: _Id, limit: Limit = 10, as_json: AsJson = False, db: DatabaseUrl = None, config: ConfigFile = None
) -> None:
    """Find records that are near to one.

    Examples:
      dredge similar $(dredge lift "waves bend")
    """
    from dredge.insights.search import Searcher

    settings = settings_of(config, db)
    with opened(settings) as store:
        hits = Searcher(store, settings.search).similar(_whole(store, id), limit)
    _show(f"near to {id[:12]}", hits, as_json)


def get(id: _Id, as_json: AsJson = False, db: DatabaseUrl = None, config: ConfigFile = None) -> None:
    """Print one record.

    Examples:
      dredge get ID --json
    """
    with opened(settings_of(config, db)) as store:
        insight = store.get(_whole(store, id))
    if as_json:
        print_json(insight_values(insight))
    else:
        typer.echo(insight.text)


def delete(id: _Id, db: DatabaseUrl = None, config: ConfigFile = None) -> None:
    """Delete one record.

    Examples:
      dredge delete ID
    """
    with opened(settings_of(config, db)) as store:
        id = _whole(store, id)
        store.delete(id)
    say(f"deleted {id}")


def export(out: _Out = None, db: DatabaseUrl = None, config: ConfigFile = None) -> None:
    """Write all records as JSON lines, which `dredge import` reads.

    Examples:
      dredge export --out notes.jsonl
      dredge export | gzip > notes.jsonl.gz
    """
    from dredge.insights.archive import export_lines

    with opened(settings_of(config, db)) as store:
        if out is None:
            for line in export_lines(store):
                typer.echo(line.encode())  # whatever the encoding of the terminal
            return

        def write(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in export_lines(store))

        write_whole(out, write)
    say(f"wrote {out}")


def import_(
    file: Annotated[Path, typer.Argument(help="JSON lines of `dredge export`; - for standard input.")],
    as_json: AsJson = False,
    db: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Read records that `dredge export` wrote: all of them, or none where a line is damaged.

    Examples:
      dredge import notes.jsonl
    """
    from dredge.insights.archive import import_lines

    with opened(settings_of(config, db)) as store:
        report = asdict(import_lines(store, _archived(file)))
    if as_json:
        print_json(report)
    else:
        print_facts("", report)


def reindex(db: DatabaseUrl = None, config: ConfigFile = None) -> None:
    """Make the vectors of all records again, with the encoder that the settings name. Goes on where it was stopped.

    Examples:
      dredge reindex
    """
    from dredge.insights.encoders import encoder_named

    settings = settings_of(config, db)
    with opened(settings) as store, _progress("encoding") as told:
        done = store.reindex(encoder_named(settings.search.encoder), progress=told)
    say(f"{done:,} records have new vectors")


def backup(
    file: Annotated[Path, typer.Argument(help="File to write.")], db: DatabaseUrl = None, config: ConfigFile = None
) -> None:
    """Copy the database to a file while it is in use. SQLite only.

    Examples:
      dredge backup notes-2026-01-31.db
    """
    with opened(settings_of(config, db)) as store:
        store.backup(file)
    say(f"wrote {file}")


def stats(
    url: Annotated[
        str | None, typer.Option("--url", help="A running service, whose cache of ids is told too.", show_default=False)
    ] = None,
    token: Token = None,
    as_json: AsJson = False,
    db: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Count what is kept; of a running service, also how its cache of ids does.

    Examples:
      dredge stats
      dredge stats --url http://127.0.0.1:3001
    """
    facts: dict[str, Any] = {}
    if url is None:
        with opened(settings_of(config, db)) as store:
            facts = asdict(store.stats())
    else:
        from dredge.cli.client import counters

        facts = counters(url, token)
    if as_json:
        print_json(facts)
    else:
        print_facts("", {name.replace("_", " "): value for name, value in facts.items()})


# --- parts ------------------------------------------------------------------------------------------------------------


def opened(settings: "Settings") -> "Store":
    """The store that settings name.

    Args:
        settings: all of them.

    Returns:
        The store.
    """
    from dredge.insights.store import Store

    return Store.of(settings)


def _show(title: str, hits: list[Any], as_json: bool) -> None:
    if as_json:
        values = [
            insight_values(hit.insight) | {"score": hit.score, "cosine": hit.cosine, "lexical": hit.lexical}
            for hit in hits
        ]
        print_json(values)
    elif hits:
        print_hits(title, hits)
    else:
        say("nothing found")


def _whole(store: "Store", given: str) -> str:
    """The id that begins as given; what is given where none does, so that the store says so."""
    found = store.ids_beginning(given.lower()) if 8 <= len(given) < 64 else []
    if len(found) > 1:
        raise QueryError(f"the first digits of an id are those of one record; {given} is of several. Give more digits.")
    return found[0] if found else given


def _given_text() -> str:
    """Standard input, as its bytes say; what ends its last line is the shell's, and no part of the text."""
    try:
        return sys.stdin.buffer.read().decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InsightError(f"a text is UTF-8; byte {error.start + 1} of this one is not. Convert it.") from error


def _lines(file: Path) -> Iterator[bytes]:
    with nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as lines:
        yield from lines


def _archived(file: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(file), 1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise ArchiveError(
                f"line {number}: a line is UTF-8; byte {error.start + 1} of this one is not. Export or transfer it "
                "again. Nothing was imported."
            ) from error


def _texts(file: Path, most: int, errors: list[dict[str, Any]]) -> Iterator[str]:
    """Texts that can be kept; the others are added to the errors."""
    from dredge.insights.ids import check_text

    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            text = _text_of(line)
            check_text(text, most)
        except DredgeError as error:
            errors.append({"line": number, "error": str(error)})
        else:
            yield text


def _text_of(line: bytes) -> str:
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"a line is JSON in UTF-8; this one is not: {error}. Correct it.") from error
    if isinstance(value, dict):
        value = value.get("text", value.get("insight_text"))
    if not isinstance(value, str):
        raise ArchiveError('a line is a text or has one under "text"; this one has none. Correct it.')
    return value


def _groups(texts: Iterable[str], most: int) -> Iterator[list[str]]:
    group: list[str] = []
    characters = 0
    for text in texts:
        group.append(text)
        characters += len(text)
        if len(group) == most or characters > _CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], object]]:
    """How far long work has come: a bar on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: say(f"{what}: {done:,} of {total:,}")
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
