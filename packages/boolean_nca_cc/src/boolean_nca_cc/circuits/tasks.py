"""Truth tables: what a circuit is asked to compute, over all 2^n cases.

Case i is the integer i; its input bit b is (i >> b) & 1, least significant first. Tasks of two operands split the input
in halves of h = n / 2 bits: lo = i & (2^h - 1), hi = i >> h.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from boolean_nca_cc.circuits.font import render
from boolean_nca_cc.errors import TaskError

__all__ = ["TaskData", "get_task", "split", "task_names"]

_MAX_BITS = 20  # a million cases; a slip beyond that would fill the memory


class TaskData(NamedTuple):
    """Cases and targets.

    Args:
        x: inputs, zeros and ones.
        y: targets, zeros and ones.
        name: the task.
    """

    x: Float[Array, "cases n_in"]
    y: Float[Array, "cases n_out"]
    name: str


class _Arithmetic(NamedTuple):
    """A task that maps case numbers to numbers: the function (of case and width), its output width, its operands."""

    function: Callable[[np.ndarray, int], np.ndarray]
    width: Callable[[int], int]
    halves: bool = False


def _low(i: np.ndarray, n: int) -> np.ndarray:
    return i & ((1 << n // 2) - 1)


def _high(i: np.ndarray, n: int) -> np.ndarray:
    return i >> n // 2


def _ones(i: np.ndarray, n: int) -> np.ndarray:
    return (i[:, None] >> np.arange(n) & 1).sum(1)


def _reversed(i: np.ndarray, n: int) -> np.ndarray:
    return ((i[:, None] >> np.arange(n) & 1) << np.arange(n)[::-1]).sum(1)


_ARITHMETIC: Mapping[str, _Arithmetic] = MappingProxyType(
    {
        "copy": _Arithmetic(lambda i, n: i, lambda n: n),
        "reverse": _Arithmetic(_reversed, lambda n: n),
        "gray": _Arithmetic(lambda i, n: i ^ i >> 1, lambda n: n),
        "and": _Arithmetic(lambda i, n: _low(i, n) & _high(i, n), lambda n: n // 2, halves=True),
        "xor": _Arithmetic(lambda i, n: _low(i, n) ^ _high(i, n), lambda n: n // 2, halves=True),
        "add": _Arithmetic(lambda i, n: _low(i, n) + _high(i, n), lambda n: n // 2 + 1, halves=True),
        "multiply": _Arithmetic(lambda i, n: _low(i, n) * _high(i, n), lambda n: n, halves=True),
        "parity": _Arithmetic(lambda i, n: _ones(i, n) & 1, lambda n: 1),
        "popcount": _Arithmetic(_ones, lambda n: n.bit_length()),
    }
)
_ALIASES: Mapping[str, str] = MappingProxyType({"identity": "copy", "binary_multiply": "multiply"})


def task_names() -> tuple[str, ...]:
    """The names that `get_task` knows.

    Returns:
        The names, without the aliases "identity" (copy) and "binary_multiply" (multiply).

    >>> task_names()
    ('copy', 'reverse', 'gray', 'and', 'xor', 'add', 'multiply', 'parity', 'popcount', 'text', 'noise', 'custom')
    """
    return (*_ARITHMETIC, "text", "noise", "custom")


def get_task(
    name: str,
    n_in: int,
    n_out: int | None = None,
    *,
    seed: int = 0,
    text: str = "Hello",
    probability: float = 0.5,
    function: Callable[[np.ndarray], np.ndarray] | None = None,
) -> TaskData:
    """The truth table of a task over all 2^n_in cases.

    | name | target |
    |---|---|
    | copy, reverse, gray | i; bit b goes to bit n - 1 - b; i ^ (i >> 1) |
    | and, xor, add, multiply | lo op hi |
    | parity, popcount | exclusive or, sum of all bits |
    | text | column i of `text`, centred in a bitmap 2^n wide and n_out high; bit 0 is the top row |
    | noise | independent bits, 1 with `probability`, drawn from `seed` |
    | custom | `function` of the array of all case numbers |

    Args:
        name: which task.
        n_in: input bits.
        n_out: output bits; None = as many as the task needs (8 for text, n_in for noise and custom). Bits beyond the
            task's are 0.
        seed: of the noise.
        text: printable ASCII.
        probability: of a 1 in the noise.
        function: of the custom task.

    Returns:
        Cases and targets.

    Raises:
        TaskError: an unknown name, no inputs or too many, an odd width where halves are needed, too few output bits,
            text that does not fit, a probability outside 0 to 1, a custom task without its function.

    >>> get_task("add", 4).y[0b1111].tolist()  # 3 + 3 = 6
    [0.0, 1.0, 1.0]
    >>> get_task("multply", 4)
    Traceback (most recent call last):
        ...
    boolean_nca_cc.errors.TaskError: there is no task 'multply'. Did you mean multiply? All: copy, reverse, gray, and, \
xor, add, multiply, parity, popcount, text, noise, custom.
    """
    name = _ALIASES.get(name, name)
    if name not in task_names():
        near = get_close_matches(name, task_names(), cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise TaskError(f"there is no task {name!r}.{hint} All: {', '.join(task_names())}.")
    if not 1 <= n_in <= _MAX_BITS:
        raise TaskError(f"n_in must be from 1 to {_MAX_BITS}, for 2^n_in cases; it is {n_in}.")
    if n_out is not None and n_out < 1:
        raise TaskError(f"n_out must be at least 1; it is {n_out}. Leave it out for the task's own width.")
    cases = np.arange(1 << n_in)
    if name == "text":
        bits = render(text, width=cases.size, height=8 if n_out is None else n_out).T
    elif name == "noise":
        if not 0 <= probability <= 1:
            raise TaskError(f"probability must be from 0 to 1; it is {probability}.")
        bits = np.random.default_rng(seed).random((cases.size, n_in if n_out is None else n_out)) < probability
    elif name == "custom":
        bits = _bits(_custom_values(function, cases), n_in if n_out is None else n_out, "custom")
    else:
        task = _ARITHMETIC[name]
        if task.halves and n_in % 2:
            raise TaskError(f"{name} splits its input in halves, so n_in must be even; it is {n_in}. Use {n_in + 1}.")
        width = task.width(n_in)
        if n_out is not None and n_out < width:
            raise TaskError(
                f"{name} of {n_in} bits needs {width} output bits; n_out is {n_out}. Leave it out for {width}."
            )
        bits = _bits(task.function(cases, n_in), n_out or width, name)
    return TaskData(jnp.asarray(_bits(cases, n_in, name)), jnp.asarray(bits, jnp.float32), name)


def _custom_values(function: Callable[[np.ndarray], np.ndarray] | None, cases: np.ndarray) -> np.ndarray:
    if function is None:
        raise TaskError("the custom task needs its function of the case numbers; function is None.")
    values = np.asarray(function(cases.copy()))
    if values.shape != cases.shape or values.dtype.kind not in "iub" or values.min() < 0:
        raise TaskError(
            f"the custom function returns one integer of at least 0 a case: {cases.size} of them; it returned "
            f"{values.dtype} of shape {values.shape}" + (f" from {values.min()} on." if values.size else ".")
        )
    return values.astype(np.int64)


def _bits(values: Int[np.ndarray, " cases"], width: int, name: str) -> Float[np.ndarray, "cases width"]:
    needed = int(values.max()).bit_length()
    if needed > width:
        raise TaskError(f"{name} needs {needed} output bits; n_out is {width}. Use at least {needed}.")
    return (values[:, None] >> np.arange(width) & 1).astype(np.float32)


def split(data: TaskData, test_fraction: float = 0.2, seed: int = 42) -> tuple[TaskData, TaskData]:
    """Splits cases at random; the last int(cases * test_fraction) of a permutation drawn from `seed` are the test.

    Args:
        data: all cases.
        test_fraction: share of the test cases.
        seed: of the permutation.

    Returns:
        Training data, test data.

    Raises:
        TaskError: a share that leaves either without a case.

    >>> train, test = split(get_task("copy", 4))
    >>> train.x.shape, test.x.shape
    ((13, 4), (3, 4))
    """
    cases = data.x.shape[0]
    held_out = int(cases * test_fraction)
    if not 0 < held_out < cases:
        raise TaskError(
            f"training and test need at least one case each; test_fraction {test_fraction} of {cases} cases leaves "
            f"{cases - held_out} and {held_out}."
        )
    order = jax.random.permutation(jax.random.key(seed), cases)
    train, test = order[:-held_out], order[-held_out:]
    return data._replace(x=data.x[train], y=data.y[train]), data._replace(x=data.x[test], y=data.y[test])
