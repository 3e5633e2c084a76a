"""The command `spd`: make targets, decompose them, evaluate, draw, profile and compare switches.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 a result below what was required, 2 bad
usage or input. Frameworks are imported inside the commands, so that help is quick.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from spd import __version__
from spd.cli.machine import bench, profile
from spd.cli.runs import convert, evaluate, names, plot, run, train_target
from spd.errors import SPDError

__all__ = ["app", "main"]

app = typer.Typer(
    name="spd",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="list")(names)
app.command(name="train-target")(train_target)
for _command in (run, evaluate, plot, convert, profile, bench):
    app.command()(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        arguments: the command line without the program's name; None = the process's own.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="spd")
    except ValidationError as error:
        _fail("; ".join(_setting_error(one) for one in error.errors()))
    except (SPDError, OSError) as error:
        _fail(str(error))


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Stochastic parameter decomposition: what a network's weights do.

    Examples:
      spd run tms_5-2
      spd run tms_5-2 --seeds 0-4 --require
      spd evaluate runs/tms_5-2
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _setting_error(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "settings"
    return f"{where}: {error['msg']}; it is {error['input']!r}" if error["loc"] else error["msg"]


def _fail(message: str) -> None:
    typer.echo(f"spd: {message}", err=True)
    raise SystemExit(2)
