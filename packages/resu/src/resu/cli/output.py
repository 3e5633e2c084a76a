"""Where commands put what they found: results on standard output, progress and complaints on standard error."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from resu.errors import MissingExtraError

__all__ = ["by_column", "draw_pictures", "print_files", "print_json", "progress", "results_console"]


def by_column(rows: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[float | int]]:
    """Rows as columns, for pictures.

    Args:
        rows: each with its values by name.
        names: of the columns.

    Returns:
        The columns by name.
    """
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in names}


def draw_pictures(draw: Callable[[Any], list[Path]]) -> list[Path]:
    """Draws pictures; they are an extra, and without it a run says so and is whole all the same.

    Args:
        draw: gets `resu.plots`, returns the files that it wrote.

    Returns:
        The files; none without the extra.
    """
    from resu import plots

    try:
        return draw(plots)
    except MissingExtraError as error:
        typer.echo(f"no pictures: {error}", err=True)
        return []


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal, plain lines elsewhere; both on standard error.

    Args:
        what: what is going on.

    Yields:
        A function to be called with steps done, steps in all and a line of words.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total, words: typer.echo(f"{what}: {done}/{total}, {words}", err=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task(what, total=None, words="starting")
        yield lambda done, total, words: bar.update(line, completed=done, total=total, words=words)


def results_console() -> Console:
    """Where tables go."""
    # A file or a pipe has no width of its own; rich would take 80 columns.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Console(soft_wrap=not sys.stdout.isatty(), width=width)


def print_json(document: dict[str, Any]) -> None:
    """Prints what `--json` asks for.

    Args:
        document: JSON values by name.
    """
    typer.echo(json.dumps(document, indent=2))


def print_files(files: list[Path]) -> None:
    """Says where the results are.

    Args:
        files: what was written.
    """
    for file in files:
        typer.echo(f"wrote {file}")
