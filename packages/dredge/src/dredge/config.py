"""Settings: from the environment (`DREDGE_…`), from a TOML file, or from code.

A value is taken from the first of: arguments in code or on the command line, the environment, the file. The file is the
one named by `--config` or `DREDGE_CONFIG`, else `dredge/config.toml` in the user's folder of settings; it is never
looked for in the working folder. `DREDGE_LIMITS__BODY_BYTES=1000000` sets `limits.body_bytes`.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from dredge.errors import ConfigError

__all__ = [
    "AuthSettings", "DatabaseSettings", "LimitSettings", "LogSettings", "SearchSettings", "ServerSettings", "Settings",
    "default_config_path", "default_database_path", "load_settings",
]  # fmt: skip


def default_config_path() -> Path:
    """Where settings are looked for when nothing names a file."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dredge" / "config.toml"


def default_database_path() -> Path:
    """Where insights are kept when nothing names a database."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "dredge" / "dredge.db"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatabaseSettings(_Section):
    """Where insights are kept.

    Args:
        url: of SQLAlchemy; empty = SQLite in the user's folder of data.
        synchronous: FULL survives a loss of power; NORMAL survives a killed process, and may lose the last
            transactions with the power. On PostgreSQL, FULL turns `synchronous_commit` on where it is off, and NORMAL
            leaves it.
        busy_timeout_ms: how long a writer waits for another.
        pool_size: connections that a process keeps. PostgreSQL only.
    """

    url: str = ""
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    busy_timeout_ms: Annotated[int, Field(gt=0, le=2**31 - 1)] = 10_000
    pool_size: PositiveInt = 8

    @property
    def resolved_url(self) -> str:
        """The URL, the default one filled in."""
        return self.url or f"sqlite:///{default_database_path()}"


class ServerSettings(_Section):
    """How the service is run.

    Args:
        host: address to listen on. Anything but loopback should have tokens.
        hosts: names by which clients reach it without a token, such as that of a proxy before it; addresses,
            localhost and `host` always do. A name that is not known is refused, because a page of another site may
            have made its own name lead here.
        port: to listen on; 0 = any free one.
        workers: processes.
        threads: of each process.
        graceful_seconds: how long requests in progress may take when the server stops.
        backend: granian serves well; waitress is for Windows; flask is for development only.
    """

    host: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()
    port: Annotated[int, Field(ge=0, le=65535)] = 3001
    workers: PositiveInt = 1
    threads: PositiveInt = 4
    graceful_seconds: PositiveInt = 10
    backend: Literal["granian", "waitress", "flask"] = "granian"


class LimitSettings(_Section):
    """What a request may ask for.

    Args:
        body_bytes: of a request's body.
        text_bytes: of a text, in UTF-8.
        json_depth: of nested arrays and objects.
        json_digits: of a number.
        batch_items: of a batch.
        page_items: of a page of results.
        query_chars: of a search.
        signal_points: of a signal.
        fit_seconds: of fitting one signal.
        rate_per_minute: requests of one client, each worker counting for itself; 0 = any number.
        rate_burst: requests that may come at once.
    """

    body_bytes: PositiveInt = 4 * 1024 * 1024
    text_bytes: PositiveInt = 1024 * 1024
    json_depth: PositiveInt = 32
    json_digits: PositiveInt = 400
    batch_items: PositiveInt = 1000
    page_items: PositiveInt = 200
    query_chars: PositiveInt = 1000
    signal_points: PositiveInt = 20_000
    fit_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0
    rate_per_minute: NonNegativeInt = 0
    rate_burst: PositiveInt = 60


class AuthSettings(_Section):
    """Who may use the service.

    Args:
        tokens: bearer tokens of at least 16 characters, any of which opens it; none = open to all who reach it.
    """

    tokens: tuple[str, ...] = ()

    @field_validator("tokens")
    @classmethod
    def _long_enough(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        for token in tokens:
            if not re.fullmatch(r"[!-~]{16,}", token):
                raise ValueError(
                    f"a token has at least 16 printable ASCII characters without spaces; got one of {len(token)}. "
                    'Make one: python -c "import secrets; print(secrets.token_urlsafe(32))"'
                )
        return tokens


class SearchSettings(_Section):
    """How texts are lifted and found.

    Args:
        encoder: name of the encoder; `dredge.insights.encoders` lists them.
        hash_cache: texts whose ids are remembered; 0 = none.
        duplicate_cosine: cosine from which two texts are called near-duplicates.
    """

    encoder: str = "hashed-ngrams-v1"
    hash_cache: NonNegativeInt = 1024
    duplicate_cosine: Annotated[float, Field(gt=0, le=1)] = 0.9


class LogSettings(_Section):
    """What is logged.

    Args:
        level: from which on.
        format: of a line; auto = text on a terminal, JSON elsewhere.
    """

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "json", "text"] = "auto"


class Settings(BaseSettings):
    """All settings. Unknown names are refused.

    Args:
        database: where insights are kept.
        server: how the service is run.
        limits: what a request may ask for.
        auth: who may use it.
        search: how texts are lifted and found.
        log: what is logged.

    >>> Settings(limits={"batch_items": 10}).limits.batch_items
    10
    """

    model_config = SettingsConfigDict(
        env_prefix="DREDGE_", env_nested_delimiter="__", extra="forbid", frozen=True, toml_file=None
    )

    database: DatabaseSettings = DatabaseSettings()
    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    auth: AuthSettings = AuthSettings()
    search: SearchSettings = SearchSettings()
    log: LogSettings = LogSettings()


def load_settings(path: str | Path | None = None, **given: Any) -> Settings:
    """Reads settings from file, environment and arguments.

    Args:
        path: a TOML file; None = `DREDGE_CONFIG`, or the user's own if it is there.
        **given: sections that win over both, as mappings; of a section, only what is named.

    Returns:
        The settings.

    Raises:
        ConfigError: a file that is not there or is no TOML, an unknown name, or a value that cannot be.
    """
    named = path or os.environ.get("DREDGE_CONFIG")
    file = Path(named) if named else default_config_path()
    if named and not file.is_file():
        raise ConfigError(f"a file of settings is there; {file} is not. Write one: dredge config init --path {file}.")

    class _FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    try:
        return Settings.model_construct(**dict(_FromFile(**given)))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'settings'}: {item['msg']}" for item in error.errors()]
        raise ConfigError(
            f"settings are those that `dredge config show` lists; {'; '.join(lines)}. Correct {file} or DREDGE_…."
        ) from error
    except ValueError as error:
        raise ConfigError(f"a file of settings is TOML; {file} is not: {error}. Correct it.") from error
