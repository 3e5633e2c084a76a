"""Putting other modules in the place of a model's linear layers."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn

from resu.errors import ConfigError

__all__ = ["replace_linears"]

_Names = Mapping[nn.Linear, list[str]]


def replace_linears(
    model: nn.Module,
    include: str | Iterable[str] | None,
    exclude: str | Iterable[str] | None,
    make: Callable[[nn.Linear, str], nn.Module],
) -> nn.Module:
    """Replaces each `nn.Linear` that is wanted, in every place where it stands; subclasses are left alone.

    Args:
        model: changed in place.
        include: patterns of module names; None = all. A module of several names is wanted if one of them matches.
        exclude: patterns of names that are not wanted.
        make: a layer and its first name → what comes in its place; called once a layer, in the model's order.

    Returns:
        The model; where it is itself replaced, what replaces it.

    Raises:
        ConfigError: a pattern that no linear layer's name matches.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> replace_linears(model, "1", None, lambda linear, name: nn.Identity())
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): Identity()
    )
    """
    names: dict[nn.Linear, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) is nn.Linear:
            names.setdefault(module, []).append(name)
    wanted = set(names) if include is None else _matched(include, names)
    wanted -= set() if exclude is None else _matched(exclude, names)
    # All are made before any is put in place, so that nothing changes while the model is walked.
    replaced: dict[nn.Module, nn.Module] = {
        linear: make(linear, own[0]) for linear, own in names.items() if linear in wanted
    }
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child in replaced:
                setattr(module, name, replaced[child])
    return replaced.get(model, model)


def _matched(patterns: str | Iterable[str], names: _Names) -> set[nn.Linear]:
    found: set[nn.Linear] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        hits = {linear for linear, own in names.items() if any(fnmatchcase(name, pattern) for name in own)}
        if not hits:
            known = ", ".join(name for own in names.values() for name in own)
            raise ConfigError(
                f"a pattern names linear layers; {pattern!r} matches none of {known or 'none'}. Look at "
                "model.named_modules()."
            )
        found |= hits
    return found
