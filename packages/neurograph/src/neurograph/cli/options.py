"""Options that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from neurograph.config import Config

__all__ = [
    "AsJson", "ConfigName", "DataName", "Device", "Folder", "Overrides", "Root", "Seed", "Threads", "device_of",
    "set_threads", "settings_of", "with_data",
]  # fmt: skip

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
ConfigName = Annotated[
    str, typer.Option("--config", "-c", metavar="NAME", help="digits, digits-small, note, or a YAML file.")
]
DataName = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME",
        help="digits, wine, breast_cancer, iris, glyphs, or idx.",
        show_default="the settings' own",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, …, or auto.", show_default="the settings' own, cpu")
]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or a checkpoint in one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting, train.epochs=5 or graph.widths=[64,32,10]; repeatable."
    ),
]
Root = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where MNIST's four files are, for the set idx.")]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**32 - 1,
        help="Of the split, the first integers and the order of samples.",
        show_default="the settings' own, 0",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch.", show_default="as many as it likes")]


def device_of(name: str | None) -> str | None:
    """The device that was asked for, `auto` being the best one.

    Args:
        name: "auto", a device, or None.

    Returns:
        The device; None where nothing was asked for.
    """
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def settings_of(
    config: str,
    overrides: list[str] | None = None,
    *,
    data: str | None = None,
    root: Path | None = None,
    seed: int | None = None,
    threads: int | None = None,
    device: str | None = None,
) -> "Config":
    """Settings of a command line; `--set` comes first, and the options that have a name of their own last.

    Args:
        config: a name or a file.
        overrides: of `--set`.
        data: of `--data`.
        root: of `--root`.
        seed: of `--seed`.
        threads: of `--threads`.
        device: of `--device`.

    Returns:
        The settings; threads are set as a side effect.

    Raises:
        ConfigError: settings that do not exist or cannot be run.

    >>> settings_of("digits-small", ["train.epochs=2"], seed=4).seed
    4
    """
    import json

    from neurograph.config import load_config, overridden

    named = {"seed": seed, "threads": threads, "device": device_of(device)}
    found = load_config(config, overrides or [])
    # Quoted as JSON, which is YAML too, so that a device named 1 stays a name.
    found = overridden(found, [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None])
    set_threads(found.threads)
    return with_data(found, data, root)


def with_data(config: "Config", name: str | None, root: Path | None) -> "Config":
    """Settings with another set, or with another folder of its files.

    Args:
        config: the settings.
        name: of the set; None = as it is.
        root: the folder, kept as an absolute path so that a run can be opened from anywhere; None = as it is.

    Returns:
        The settings.

    Raises:
        ConfigError: a folder for a set that is not read from files.
    """
    from neurograph.errors import ConfigError

    named = name or config.data.name
    if root is not None and named != "idx":
        raise ConfigError(
            f"--root is the folder of the set idx; the set is {named}. Add --data idx, or leave --root out."
        )
    changes = {key: value for key, value in (("name", name), ("root", root and root.resolve())) if value is not None}
    return config.model_copy(update={"data": config.data.model_copy(update=changes)}) if changes else config


def set_threads(threads: int | None) -> None:
    """Tells torch how many threads to use.

    Args:
        threads: how many; None = it decides.
    """
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
