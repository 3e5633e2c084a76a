"""Commands that serve, and that ask what is served."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dredge.cli.options import AsJson, ConfigFile, DatabaseUrl, Token, settings_of
from dredge.cli.output import print_facts, print_json

__all__ = ["health", "mcp", "openapi", "serve"]

_Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")]


def serve(
    host: _Host = None,
    port: Annotated[int | None, typer.Option(help="0 = any free one.", show_default="3001")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="1")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each process.", show_default="4")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Flask's own server; on loopback only.")] = False,
    db: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Serve the HTTP interface and the page.

    Examples:
      dredge serve
      dredge serve --port 8080 --workers 2 --db notes.db
    """
    from dredge.server import run_server

    server = {"host": host, "port": port, "workers": workers, "threads": threads}
    settings = settings_of(config, db, server=server)
    run_server(settings.server.host, settings.server.port, debug, settings=settings)


def mcp(
    transport: Annotated[Literal["stdio", "http"], typer.Option(help="How clients connect.")] = "stdio",
    host: Annotated[str, typer.Option(help="Of http: address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of http: port; 0 = any free one.")] = 3002,
    db: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Serve the tools of the Model Context Protocol.

    Examples:
      dredge mcp
      dredge mcp --transport http --port 3002
    """
    from dredge.mcp_server import run_mcp_server

    run_mcp_server(settings_of(config, db), transport=transport, host=host, port=port)


def health(
    url: Annotated[str, typer.Option("--url", help="Of the service.")] = "http://127.0.0.1:3001",
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Ask a running service how it is. Exit code 1 when it is not ready, 2 when it cannot be reached.

    Examples:
      dredge health
      dredge health --url http://127.0.0.1:8080 --json
    """
    from dredge.cli.client import health_of

    found = health_of(url, token)
    if as_json:
        print_json(found)
    else:
        print_facts(url, {name: value for name, value in found.items() if not isinstance(value, dict)})
    if not found["ready"]:
        raise typer.Exit(1)


def openapi(
    out: Annotated[Path | None, typer.Option("--out", help="File to write; standard output by default.")] = None,
    config: ConfigFile = None,
) -> None:
    """Print the OpenAPI document of the HTTP interface.

    Examples:
      dredge openapi --out openapi.json
    """
    import json

    from dredge import __version__
    from dredge.api.openapi import document
    from dredge.config import load_settings
    from dredge.files import write_whole

    text = json.dumps(document(load_settings(config), __version__), indent=2, ensure_ascii=False)
    if out is None:
        typer.echo(text)
        return
    write_whole(out, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
    typer.echo(f"wrote {out}", err=True)
