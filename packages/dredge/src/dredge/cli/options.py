"""Options that several commands share, and the settings that they make."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dredge.config import Settings, load_settings
from dredge.errors import ConfigError

__all__ = ["AsJson", "ConfigFile", "DatabaseUrl", "Limit", "Token", "settings_of"]

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file of settings; the user's own by default.", show_default=False)
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option("--db", help="Database: a path of SQLite, or a URL of SQLAlchemy.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Most hits.")]
Token = Annotated[str | None, typer.Option(envvar="DREDGE_TOKEN", help="Of the service.", show_default=False)]


def settings_of(config: Path | None, db: str | None, **sections: Any) -> Settings:
    """Settings from file and environment, with what the command line says.

    Args:
        config: a TOML file.
        db: a path or URL of a database.
        **sections: values by section; None values are left out.

    Returns:
        The settings.

    Raises:
        ConfigError: settings that cannot be used, or a path that no URL can hold.
    """
    given = {name: {key: v for key, v in values.items() if v is not None} for name, values in sections.items()}
    if db is not None:
        given["database"] = {"url": db if "://" in db else _url_of(db)}
    return load_settings(config, **{name: values for name, values in given.items() if values})


def _url_of(path: str) -> str:
    if not path or "?" in path:
        # A URL would end at it, and another file be opened.
        raise ConfigError(f"a database's path is not empty and holds no '?'; got {path!r}. Rename it.")
    return f"sqlite:///{Path(path).expanduser().absolute()}"
