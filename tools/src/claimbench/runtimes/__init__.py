"""How a framework is synchronised, read and asked for its memory; imported only inside workers."""

from __future__ import annotations

from importlib import import_module

from claimbench.errors import CaseError
from claimbench.runtimes.base import Runtime

__all__ = ["load_runtime"]


def load_runtime(name: str, device: str) -> Runtime:
    """Import the runtime of a framework and bind it to a device.

    Args:
        name: `host`, `jax` or `torch`.
        device: `cpu` or `cuda`.

    Returns:
        The runtime.

    Raises:
        CaseError: For an unknown name.
    """
    modules = {"host": "base", "jax": "jax_runtime", "torch": "torch_runtime"}
    if name not in modules:
        raise CaseError(f"a runtime is one of {', '.join(modules)}; got {name!r}; correct the case")
    return import_module(f"claimbench.runtimes.{modules[name]}").make(device)
