"""Options that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from neurograph.config import Config

__all__ = [
    "AsJson", "ConfigName", "DataName", "Device", "Folder", "Overrides", "Root", "Seed", "Threads", "device_of",
    "set_threads", "settings_of",
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
Root = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where MNIST's four files are, for --data idx.")]
Seed = Annotated[
    int | None, typer.Option(help="Of the split, the first integers and the order of samples.", show_default="0")
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

    named = {
        "data.name": data,
        "data.root": None if root is None else str(root),
        "seed": seed,
        "threads": threads,
        "device": device_of(device),
    }
    found = load_config(config, overrides or [])
    # Quoted as JSON, which is YAML too, so that a folder named 1e3 stays a folder.
    found = overridden(found, [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None])
    set_threads(found.threads)
    return found


def set_threads(threads: int | None) -> None:
    """Tells torch how many threads to use.

    Args:
        threads: how many; None = it decides.
    """
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
