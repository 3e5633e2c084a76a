"""Options that several commands share, and the settings that they make."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dredge.config import Settings, load_settings

__all__ = ["AsJson", "ConfigFile", "DatabaseUrl", "Limit", "settings_of"]

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file of settings; the user's own by default.", show_default=False)
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option("--db", help="Database: a path of SQLite, or a URL of SQLAlchemy.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Most hits.")]


def settings_of(config: Path | None, db: str | None, **sections: Any) -> Settings:
    """Settings from file and environment, with what the command line says.

    Args:
        config: a TOML file.
        db: a path or URL of a database.
        **sections: values by section; None values are left out.

    Returns:
        The settings.
    """
    given = {name: {key: v for key, v in values.items() if v is not None} for name, values in sections.items()}
    if db is not None:
        given["database"] = {"url": db if "://" in db else f"sqlite:///{Path(db).expanduser().absolute()}"}
    return load_settings(config, **{name: values for name, values in given.items() if values})
