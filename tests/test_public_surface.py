"""Every public name of every package is documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

PACKAGES = ("boolean_nca_cc", "neurograph", "resu", "spd", "dredge", "claimbench")
FRAMEWORKS_OF_OTHERS = {"claimbench.runtimes.torch_runtime": "torch"}


def _modules(name: str) -> list[ModuleType]:
    package = importlib.import_module(name)
    found = [package]
    for info in pkgutil.walk_packages(package.__path__, name + "."):
        needed = FRAMEWORKS_OF_OTHERS.get(info.name)
        if needed and importlib.util.find_spec(needed) is None:
            continue  # imported only inside a worker of a package that brings it
        if not any(part.startswith("_") for part in info.name.split(".")[1:]):
            found.append(importlib.import_module(info.name))
    return found


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_documented(name: str) -> None:
    bare: list[str] = []
    for module in _modules(name):
        assert module.__doc__, f"{module.__name__} has no docstring"
        for public in getattr(module, "__all__", []):
            thing = getattr(module, public)
            if (inspect.isfunction(thing) or inspect.isclass(thing)) and not inspect.getdoc(thing):
                bare.append(f"{module.__name__}.{public}")
            if inspect.isclass(thing) and thing.__module__ == module.__name__:
                bare += [
                    f"{module.__name__}.{public}.{method}"
                    for method, function in vars(thing).items()
                    if inspect.isfunction(function)
                    and not method.startswith("_")
                    and not inspect.getdoc(function)
                    and function.__name__ != "<lambda>"  # the default of a field
                ]
    assert bare == []


@pytest.mark.parametrize("name", PACKAGES)
def test_every_module_with_public_names_says_which(name: str) -> None:
    unsaid = [
        module.__name__
        for module in _modules(name)
        if not hasattr(module, "__all__")
        and any(
            not public.startswith("_") and getattr(thing, "__module__", None) == module.__name__
            for public, thing in vars(module).items()
            if inspect.isfunction(thing) or inspect.isclass(thing)
        )
    ]
    assert unsaid == []


@pytest.mark.parametrize("name", PACKAGES)
def test_every_package_is_typed(name: str) -> None:
    package = importlib.import_module(name)
    assert (Path(package.__path__[0]) / "py.typed").is_file()
