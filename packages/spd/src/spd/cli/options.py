"""Options that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spd.errors import ConfigError

if TYPE_CHECKING:
    from spd.config.perf import PerfConfig

__all__ = ["AsJson", "Device", "Overrides", "Perf", "Require", "Resume", "device_of", "perf_of", "seeds_of"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …", show_default="cuda where it is, else cpu")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, steps=500 or perf.num_workers=2; repeatable."),
]
Perf = Annotated[str, typer.Option(help="all, none, quick-start, or a YAML file of switches.")]
Require = Annotated[bool, typer.Option("--require", help="Exit with 1 if a check fails.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, if there is one.")]


def device_of(name: str) -> str:
    """The device that was asked for, or the best one.

    Args:
        name: "auto" or a device.

    Returns:
        The device.
    """
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def perf_of(name: str) -> "PerfConfig":
    """Switches by the name of a combination, or from a file.

    Args:
        name: of a combination or a file.

    Returns:
        The switches.

    Raises:
        ConfigError: neither.
    """
    import yaml

    from spd.config.perf import PRESETS, PerfConfig

    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise ConfigError(
            f"--perf is one of {', '.join(PRESETS)}, or a YAML file of switches; got {name!r}. Name one of them."
        )
    try:
        return PerfConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except yaml.YAMLError as error:
        raise ConfigError(f"switches are a YAML file; {path} could not be read: {error}. Correct it.") from error


def seeds_of(text: str) -> list[int]:
    """Seeds from a list of numbers and ranges.

    Args:
        text: 0-9, or 1,5,7-8.

    Returns:
        The seeds, in their order, each once.

    Raises:
        ConfigError: no such list.

    >>> seeds_of("0-2,7")
    [0, 1, 2, 7]
    """
    found: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found.extend(range(int(first), int(last or first) + 1))
    except ValueError:
        found = []
    if not found:
        raise ConfigError(f"seeds are whole numbers and ranges, 0-9 or 1,5,7-8; got {text!r}. Correct them.")
    return list(dict.fromkeys(found))
