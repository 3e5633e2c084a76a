"""The command `resu`: train sparsely, prune, look at files, export, measure, check, demonstrate.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 a result below what was required, 2 bad
usage or input. Frameworks are imported inside the commands, so that help is quick.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from resu import __version__
from resu.cli.files import export, info, prune
from resu.cli.machine import bench, verify
from resu.cli.runs import demo, train
from resu.errors import ResuError

__all__ = ["app", "main"]

app = typer.Typer(
    name="resu",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench")
for _command in (train, prune, info, export, verify, demo):
    app.command()(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        arguments: the command line without the program's name; None = the process's own.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="resu")
    except ValidationError as error:
        _fail("; ".join(_setting_error(one) for one in error.errors()))
    except (ResuError, OSError) as error:
        _fail(str(error))


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Sparse training in which pruned weights compete to come back.

    Examples:
      resu demo digits
      resu train --method shadow --sparsity 0.98
      resu verify
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _setting_error(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "settings"
    return f"{where}: {error['msg']}; it is {error['input']!r}" if error["loc"] else error["msg"]


def _fail(message: str) -> None:
    typer.echo(f"resu: {message}", err=True)
    raise SystemExit(2)
