"""Settings by name, and changes to them on a command line."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from spd.config.run import Config, read_config
from spd.errors import ConfigError

__all__ = ["load_config", "names", "overridden"]

_CONFIGS = Path(__file__).parent / "configs"
_SUFFIX = ".yaml"
_ORDER = ("tms", "resid_mlp", "ih", "text")


def names() -> tuple[str, ...]:
    """Settings that are shipped: the toys first.

    >>> names()
    ('tms_5-2', 'tms_5-2-id', 'tms_40-10', 'tms_40-10-id', 'resid_mlp1', 'resid_mlp2', 'resid_mlp3', 'ih', 'text', \
'gpt2')
    """

    def place(name: str) -> tuple[int, list[int], str]:
        family = next((i for i, first in enumerate(_ORDER) if name.startswith(first)), len(_ORDER))
        return family, [int(number) for number in re.findall(r"\d+", name)], name

    return tuple(sorted((path.stem for path in _CONFIGS.glob(f"*{_SUFFIX}")), key=place))


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Shipped settings, or a file's, with changes.

    Args:
        name_or_path: one of `names`, or a YAML file.
        overrides: changes `a.b=c`: c is read as YAML, and a number in the path counts the elements of a list from 0.

    Returns:
        The settings.

    Raises:
        ConfigError: no such settings, a change of a key that is not there, or values that are refused.

    >>> load_config("tms_5-2", ["steps=7", "loss_metrics.0.coeff=1e-3"]).steps
    7
    """
    shipped = str(name_or_path) in names()
    path = _CONFIGS / f"{name_or_path}{_SUFFIX}" if shipped else Path(name_or_path)
    if not path.is_file():
        near = difflib.get_close_matches(str(name_or_path), names(), n=1)
        raise ConfigError(
            f"settings are a YAML file, or one of {', '.join(names())}; {str(name_or_path)!r} is neither. "
            f"{f'Did you mean {near[0]}?' if near else 'Name one.'}"
        )
    config = read_config(path)
    return overridden(config, overrides) if overrides else config


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """Settings with changes.

    Args:
        config: the settings.
        overrides: see `load_config`.

    Returns:
        New settings.

    Raises:
        ConfigError: a change of a key that is not there, or values that are refused.
    """
    tree: dict[str, Any] = config.model_dump(mode="json")
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            f"settings are those of spd.config.run.Config; with {', '.join(overrides)}: {_wrong(error, tree)}. Correct "
            "them."
        ) from error


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"a change of settings is written key=value, steps=1000 for example; got {override!r}.")
    try:
        value = _yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"a setting's value is YAML; in {override!r} it is not: {error}. Quote it.") from error
    *path, last = key.split(".")
    at: Any = tree
    for depth, part in enumerate(path):
        place = _place(at, part, key)
        if at[place] is None:
            at[place] = {}
        at = at[place]
        if not isinstance(at, dict | list):
            raise ConfigError(
                f"{'.'.join(path[: depth + 1])} is a single value, {at!r}, with nothing inside; got {override!r}. "
                "Change it as a whole."
            )
    if isinstance(at, dict) and at is not tree:
        # What does not belong here is refused with everything else, because one change may make room for another.
        at[last] = value
    else:
        at[_place(at, last, key)] = value


def _yaml(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _place(at: dict[str, Any] | list[Any], part: str, key: str) -> Any:
    if isinstance(at, list):
        if part.isdecimal() and int(part) < len(at):
            return int(part)
        raise ConfigError(f"elements of a list are counted from 0 to {len(at) - 1}; in {key!r} got {part!r}. Name one.")
    if part in at:
        return part
    raise ConfigError(f"a setting is one that exists; in {key!r} {part!r} does not. {_nearest(part, at)}")


def _nearest(part: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(part, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"Choose from {', '.join(known)}."


def _wrong(error: ValidationError, tree: Mapping[str, Any]) -> str:
    said = []
    for one in error.errors():
        where = ".".join(map(str, one["loc"])) or "all"
        hint = ""
        if one["type"] == "extra_forbidden":
            known = _siblings(tree, one["loc"])
            hint = f" ({_nearest(str(one['loc'][-1]), known)})" if known else ""
        said.append(f"{where}: {one['msg']}{hint}")
    return "; ".join(said)


def _siblings(tree: Any, loc: tuple[Any, ...]) -> dict[str, Any]:
    """What stands beside a key; steps of the path that only tell kinds apart lead nowhere and are passed over."""
    at = tree
    for part in loc[:-1]:
        if (isinstance(at, dict) and part in at) or (isinstance(at, list) and isinstance(part, int)):
            at = at[part]
    return {key: None for key in at if key != loc[-1]} if isinstance(at, dict) else {}
