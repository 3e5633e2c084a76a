"""The command `dredge`: keep and find notes, serve them, fit signals.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 something was not as it should be, 2
bad usage or input. Frameworks are imported inside the commands, so that keeping a note is quick.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from dredge import __version__
from dredge.cli import benching, configuring
from dredge.cli.notes import backup, batch, delete, export, get, import_, lift, reindex, search, similar, stats
from dredge.cli.serving import health, mcp, openapi, serve
from dredge.cli.waves import compress, fit
from dredge.errors import DredgeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="dredge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    lift, batch, search, similar, get, delete, export, import_, reindex, backup, stats, fit, compress, serve, mcp,
    health, openapi,
)  # fmt: skip
for _command in _COMMANDS:
    app.command(name=_command.__name__.rstrip("_"))(_command)
app.add_typer(benching.app)
app.add_typer(configuring.app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        arguments: the command line without the program's name; None = the process's own.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="dredge")
    except (DredgeError, OSError) as error:
        typer.echo(f"dredge: {error}", err=True)
        raise SystemExit(2) from error


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Lift a text or a signal into a stable id, a compact representation and a searchable record.

    Examples:
      dredge lift "waves bend at the shelf's edge"
      dredge search "shelf waves"
      dredge serve
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit
