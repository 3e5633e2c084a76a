"""The command `neurograph`: train a network of integers, evaluate and draw it, look into it, and take it elsewhere.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 a result below what was required, 2 bad
usage or input. Frameworks are imported inside the commands, so that help is quick.
"""

import inspect
import os
from collections.abc import Sequence
from typing import Annotated

import typer

from neurograph.cli.machine import bench, claims, tune
from neurograph.cli.networks import diagnose, export, graph, tables
from neurograph.cli.runs import evaluate, plot, train
from neurograph.errors import NeuroGraphError

__all__ = ["app", "main"]

app = typer.Typer(
    name="neurograph",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (train, evaluate, plot, export, diagnose, tune, bench, claims):
    app.command()(_command)
app.add_typer(graph)
app.add_typer(tables)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        arguments: the command line without the program's name; None = the process's own.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="neurograph")
    except NeuroGraphError as error:
        typer.echo(f"neurograph: {error}", err=True)
        raise SystemExit(2) from error
    except OSError as error:
        place = "a file" if error.filename is None else os.fsdecode(error.filename)
        said = error.strerror or str(error)
        typer.echo(f"neurograph: {place} cannot be read or written: {said}. Choose another path.", err=True)
        raise SystemExit(2) from error


def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Networks whose only trainable state is integer phase and magnitude indices.

    Examples:
      neurograph train --data digits
      neurograph evaluate runs/digits
      neurograph export runs/digits --c-header digits.h
    """
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("neurograph"))
        raise typer.Exit


def _help(docstring: str | None) -> str:
    """A docstring for a terminal of any width: paragraphs on one line each, and examples as at a prompt."""
    parts = []
    for paragraph in inspect.cleandoc(docstring or "").split("\n\n"):
        first, *lines = paragraph.splitlines()
        if first == "Examples:":
            parts.append("\n".join([first, *(f"$ {line.strip()}" for line in lines)]))
        else:
            parts.append(paragraph.replace("\n", " "))
    return "\n\n".join(parts)


app.callback(invoke_without_command=True, help=_help(root.__doc__))(root)
for _group in (app, graph, tables):
    for _registered in _group.registered_commands:
        _registered.help = _help(_registered.callback.__doc__)
