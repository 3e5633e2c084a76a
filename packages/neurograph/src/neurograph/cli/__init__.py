"""The command `neurograph`: train a network of integers, evaluate and draw it, look into it, and take it elsewhere.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 a result below what was required, 2 bad
usage or input. Frameworks are imported inside the commands, so that help is quick.
"""

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
    except (NeuroGraphError, OSError) as error:
        typer.echo(f"neurograph: {error}", err=True)
        raise SystemExit(2) from error


@app.callback(invoke_without_command=True)
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
