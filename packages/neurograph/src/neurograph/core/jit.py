"""Compilation of small functions of tensors: lazy, switchable, and never in the way.

A decorated function is compiled by `torch.compile` at its first call with at least `MIN_ELEMENTS` elements, never at
import; smaller calls run as they are, since for them a compiled function's guards cost more than it saves. Where a
compilation raises, the plain function runs from then on and `jit_status` says why.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["ENABLE_JIT", "MIN_ELEMENTS", "JitEntry", "enable_jit", "jit_compile_if_enabled", "jit_status"]

ENABLE_JIT = True
"""Whether large calls are compiled; `enable_jit` changes it for all modules that read it."""

MIN_ELEMENTS = 1 << 17
"""Elements of a call's largest argument below which it is not compiled."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class JitEntry:
    """One decorated function.

    Attributes:
        state: "not yet", "compiled" or "failed".
        runs: how often compiled code ran, counted within it.
        reason: why a compilation failed.
    """

    state: str = "not yet"
    runs: int = 0
    reason: str = ""


_entries: dict[str, JitEntry] = {}


def enable_jit(on: bool) -> None:
    """Switches compilation on or off for calls from now on.

    Args:
        on: whether.
    """
    global ENABLE_JIT
    ENABLE_JIT = on


def jit_status() -> dict[str, JitEntry]:
    """What became of each decorated function.

    Returns:
        By qualified name.

    >>> sorted(jit_status()) == sorted(_entries)
    True
    """
    return dict(_entries)


def _compiled(function: Callable[P, R], entry: JitEntry) -> Callable[P, R]:
    def backend(graph: Any, inputs: Any) -> Any:
        code = torch._dynamo.lookup_backend("inductor")(graph, inputs)

        def run(*args: Any) -> Any:
            entry.runs += 1
            return code(*args)

        return run

    found: Callable[P, R] = torch.compile(function, backend=backend, dynamic=True)
    return found


def jit_compile_if_enabled(function: Callable[P, R]) -> Callable[P, R]:
    """Compiles a function at its first large call, if that is switched on; otherwise it stays what it is.

    Args:
        function: of tensors, or a method.

    Returns:
        The function, with the plain one as its `plain`.

    >>> @jit_compile_if_enabled
    ... def double(x: Tensor) -> Tensor:
    ...     return 2 * x
    >>> double(torch.ones(2)).tolist()
    [2.0, 2.0]
    >>> jit_status()[double.__qualname__].state
    'not yet'
    """
    entry = _entries[function.__qualname__] = JitEntry()
    fast: list[Callable[P, R]] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        sizes = (value.numel() for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if not ENABLE_JIT or entry.state == "failed" or max(sizes, default=0) < MIN_ELEMENTS:
            return function(*args, **kwargs)
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if not fast:
            fast.append(_compiled(function, entry))
        try:
            result = fast[0](*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # whatever a compiler raises, the plain function answers or raises
            answer = function(*args, **kwargs)  # raises too where the arguments are at fault
            entry.state, entry.reason = "failed", f"{type(error).__name__}: {error}".strip()
            return answer
        entry.state = "compiled" if entry.runs else "not yet"
        return result

    call.plain = function  # type: ignore[attr-defined]
    return call
