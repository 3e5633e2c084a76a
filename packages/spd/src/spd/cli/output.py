"""Where commands put what they found: results on standard output, progress and complaints on standard error."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from spd.errors import MissingExtraError

__all__ = ["draw_pictures", "print_files", "print_json", "progress", "results_console"]


def draw_pictures(draw: Callable[[Any], list[Path]]) -> list[Path]:
    """Draws pictures; they are an extra, and without it a run says so and is whole all the same.

    Args:
        draw: gets `spd.plots`, returns the files that it wrote.

    Returns:
        The files; none without the extra.
    """
    from spd import plots

    try:
        return draw(plots)
    except MissingExtraError as error:
        typer.echo(f"no pictures: {error}", err=True)
        return []


@contextmanager
def progress(what: str, *, shown: bool = True) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal, plain lines elsewhere; both on standard error.

    Args:
        what: what is going on.
        shown: whether this process is the one that says so.

    Yields:
        A function to be called with steps done, steps in all (0 = not known) and a line of words.
    """
    if not shown:
        yield lambda done, total, words: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total, words: typer.echo(f"{what}: {done}{f'/{total}' if total else ''}, {words}", err=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task(what, total=None, words="starting")
        yield lambda done, total, words: bar.update(line, completed=done, total=total or None, words=words)


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
