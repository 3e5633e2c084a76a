"""`torch.compile`, in the places where the switches ask for it.

Modules are compiled in place, so that names of parameters, and with them checkpoints, stay as they are.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn

__all__ = ["BACKEND", "CompileMode", "compile_methods", "compile_modules", "compiled", "prepare"]

CompileMode = Literal["default", "reduce-overhead"]

BACKEND = "inductor"
"""What compiles; others are for looking for breaks in a graph without waiting for code. Only Inductor knows modes."""

_GRAPHS = 64
"""Graphs of one function: one for each combination of masked sites and of what is remembered."""


def prepare() -> None:
    """Lets the compiler keep as many graphs of one function as a step needs; it gives up at 8 by itself."""
    import torch._dynamo

    config: Any = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, limit, max(_GRAPHS, getattr(config, limit)))


def compiled(function: Callable[..., Any], mode: CompileMode = "default") -> Callable[..., Any]:
    """A function, compiled at its first call.

    Args:
        function: what to compile.
        mode: of the compiler.

    Returns:
        The function.
    """
    prepare()
    return torch.compile(function, **_how(mode))  # type: ignore[no-any-return]


def compile_modules(modules: Iterable[nn.Module], mode: CompileMode = "default") -> None:
    """Compiles the call of each module, in place.

    Args:
        modules: which.
        mode: of the compiler.
    """
    prepare()
    for module in modules:
        module.compile(**_how(mode))


def compile_methods(owners: Iterable[object], names: Iterable[str], mode: CompileMode = "default") -> None:
    """Compiles methods of each object, in place.

    Args:
        owners: which objects.
        names: which of their methods.
        mode: of the compiler.
    """
    names = tuple(names)
    for owner in owners:
        for name in names:
            # Not through nn.Module's own setattr, which would look whether it is a parameter.
            object.__setattr__(owner, name, compiled(getattr(owner, name), mode))


def _how(mode: CompileMode) -> dict[str, Any]:
    return {"backend": BACKEND, **({"mode": mode} if BACKEND == "inductor" and mode != "default" else {})}
