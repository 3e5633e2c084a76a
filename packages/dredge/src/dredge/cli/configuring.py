"""Commands about settings: where they are, what they are, and a file to begin with."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from dredge.cli.options import AsJson, ConfigFile, settings_of
from dredge.cli.output import print_json, say
from dredge.config import Settings, default_config_path
from dredge.errors import ConfigError
from dredge.files import write_whole

__all__ = ["app"]

app = typer.Typer(name="config", help="Settings: show them, say where they are, begin a file.", no_args_is_help=True)


@app.command()
def show(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print all settings as they hold here, tokens and the database's password blotted out.

    Examples:
      dredge config show
    """
    values = settings_of(config, None).model_dump(mode="json")
    values["auth"]["tokens"] = ["…" for _ in values["auth"]["tokens"]]
    values["database"]["url"] = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:…@", values["database"]["url"])
    if as_json:
        print_json(values)
    else:
        typer.echo(_toml(values), nl=False)


@app.command()
def path() -> None:
    """Print where the user's own file of settings is looked for.

    Examples:
      dredge config path
    """
    typer.echo(default_config_path())


@app.command()
def init(
    path: Annotated[Path | None, typer.Option("--path", help="File to write; the user's own by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a file with all settings at their defaults.

    Examples:
      dredge config init
      dredge config init --path ./dredge.toml
    """
    file = path or default_config_path()
    if file.exists() and not force:
        raise ConfigError(f"a file is not replaced unasked; {file} is there. Give --force, or another --path.")
    defaults = {name: field.default.model_dump(mode="json") for name, field in Settings.model_fields.items()}
    write_whole(file, lambda temporary: temporary.write_text(_toml(defaults), encoding="utf-8"))
    say(f"wrote {file}")


def _toml(sections: dict[str, dict[str, Any]]) -> str:
    # Two levels of plain values. A JSON value is a TOML value, but for pairs of surrogates, and DEL not escaped.
    blocks = [
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
        for name, values in sections.items()
    ]
    return "\n".join(blocks).replace("\x7f", "\\u007f")
