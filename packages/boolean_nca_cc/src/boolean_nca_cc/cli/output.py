"""What the commands share: the options that many of them take, and how they report.

Results go to standard output, progress and remarks to standard error.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from boolean_nca_cc.errors import MissingExtraError

__all__ = [
    "AsJson",
    "LearningRate",
    "Require",
    "Resume",
    "Seed",
    "check_required",
    "console",
    "pictures_if_possible",
    "print_files",
    "print_json",
    "progress",
]

Seed = Annotated[int, typer.Option(help="Random seed.")]
LearningRate = Annotated[float, typer.Option(help="Logits a step.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, if there is one.")]
Require = Annotated[float | None, typer.Option(help="Exit with 1 if the hard accuracy stays below this.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal, plain lines elsewhere; both on standard error.

    Args:
        what: the work, in a word or two.

    Yields:
        A function to call with steps done, steps in all and a line of words.
    """
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield lambda done, total, words: typer.echo(f"{what}: {done}/{total}, {words}", err=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        line = bar.add_task(what, total=None, words="compiling")
        yield lambda done, total, words: bar.update(line, completed=done, total=total, words=words)


def console() -> Console:
    """Where tables are printed; elsewhere than on a terminal no line is wrapped."""
    return Console(soft_wrap=not sys.stdout.isatty())


def print_json(document: dict[str, Any]) -> None:
    """Prints one JSON document."""
    typer.echo(json.dumps(document, indent=2))


def print_files(files: list[Path]) -> None:
    """Says what was written."""
    for file in files:
        typer.echo(f"wrote {file}")


def pictures_if_possible(draw: Callable[[], list[Path]], what: str = "pictures") -> list[Path]:
    """Pictures are an extra: without it a run says so and is whole all the same.

    Args:
        draw: writes the pictures and returns their paths.
        what: they are called, where there are none.

    Returns:
        The files; none without the extra.
    """
    try:
        return draw()
    except MissingExtraError as error:
        typer.echo(f"no {what}: {error}", err=True)
        return []


def check_required(value: float, required: float | None, what: str = "hard accuracy") -> None:
    """Ends the command with exit code 1 if a result is below what was required.

    Args:
        value: the result.
        required: the least that will do; None asks for nothing.
        what: the result is called.

    Raises:
        typer.Exit: the result is below it.
    """
    if required is not None and value < required:
        typer.echo(f"{what} {value:.4f} is below the required {required}", err=True)
        raise typer.Exit(1)
