"""Where commands put what they found: results on standard output, progress and complaints on standard error."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["print_facts", "print_files", "print_frame", "print_json", "progress", "say", "write_frame", "write_json"]


_WIDE = 90
"""Columns of a terminal from which on there is room for a bar."""


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal, plain lines elsewhere; both on standard error.

    Args:
        what: what is going on.
        total: steps in all.
        done: steps that were done before.

    Yields:
        A function to be called with steps done and a few words.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda now, words: say(f"{what}: {now}/{total}, {words}")
        return
    texts = (TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
    # Figures first: on a narrow terminal rich would cut them off to make room for the bar.
    columns = (texts[0], BarColumn(), *texts[1:], TimeRemainingColumn()) if console.width >= _WIDE else texts
    with Progress(*columns, console=console) as bar:
        line = bar.add_task(what, total=total, completed=done, words="starting")
        yield lambda now, words: bar.update(line, completed=now, words=words)


def say(words: str) -> None:
    """Says something that is no result.

    Args:
        words: a line.
    """
    typer.echo(words, err=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Prints what `--json` asks for.

    Args:
        document: JSON values by name.
    """
    typer.echo(json.dumps(document, indent=2))


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Prints figures by name.

    Args:
        title: above them.
        facts: text or numbers.
    """
    table = Table("", "value", title=title, title_justify="left")
    for name, value in facts.items():
        table.add_row(_spaced(name), _cell(value))
    _results().print(table)


def print_frame(title: str, frame: "pd.DataFrame") -> None:
    """Prints a table; where it is too wide, its columns in turns, each time behind the first one.

    Args:
        title: above it.
        frame: its columns' names are its head.
    """
    console, columns = _results(), list(frame.columns)
    while columns:
        fitting = len(columns)
        table = _table(title, frame, columns)
        if not _fits(console, table):
            table = _table(title, frame, columns, stacked=True)
        while fitting > 2 and not _fits(console, table):
            fitting -= 1
            table = _table(title, frame, columns[:fitting], stacked=True)
        console.print(table)
        rest = columns[fitting:]
        columns, title = [columns[0], *rest] if rest else [], ""


def print_files(files: Sequence[Path]) -> None:
    """Says where the results are.

    Args:
        files: what was written.
    """
    for file in files:
        typer.echo(f"wrote {file}")


def write_json(path: Path, document: Mapping[str, Any]) -> Path:
    """Writes a JSON file whole.

    Args:
        path: the file.
        document: JSON values.

    Returns:
        The file.
    """
    from neurograph.files import write_whole

    write_whole(path, lambda temporary: temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8"))
    return path


def write_frame(path: Path, frame: "pd.DataFrame", *, index: bool = False) -> Path:
    """Writes a table as CSV, whole.

    Args:
        path: the file.
        frame: the table.
        index: whether the rows' names belong to it.

    Returns:
        The file.
    """
    from neurograph.files import write_whole

    write_whole(path, lambda temporary: frame.to_csv(temporary, index=index))
    return path


def _results() -> Console:
    # A file or a pipe has no width of its own; rich would take 80 columns.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Console(soft_wrap=not sys.stdout.isatty(), width=width)


def _table(title: str, frame: "pd.DataFrame", columns: Sequence[Any], *, stacked: bool = False) -> Table:
    """A table of some columns, their names with one word a line if stacked."""
    table = Table(title=title or None, title_justify="left")
    for name in columns:
        head = _spaced(name).replace(" ", "\n") if stacked else _spaced(name)
        table.add_column(head, justify="right" if frame[name].dtype.kind in "fiu" else "left", overflow="fold")
    for row in frame[list(columns)].itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    return table


def _fits(console: Console, table: Table) -> bool:
    unbounded = console.options.update(width=1 << 16)
    return console.measure(table, options=unbounded).maximum <= console.width


def _spaced(name: object) -> str:
    return str(name).replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.5g}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return "" if value is None else str(value)
    return f"{int(value):,}"
