"""Spreading work over devices: a mesh with the axes "patterns" and "cases", and arrays placed on it.

Nothing else is needed: JAX partitions the compiled functions after their inputs, and puts in the sums over cases.
"""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from boolean_nca_cc.errors import ConfigError

__all__ = ["CASES", "PATTERNS", "make_mesh", "replicate", "shard_cases", "shard_patterns"]

PATTERNS = "patterns"
CASES = "cases"

_Tree = TypeVar("_Tree")


def make_mesh(*, patterns: int = 1, cases: int = 1) -> Mesh:
    """A mesh of `patterns * cases` devices.

    Args:
        patterns: devices that share the knockout patterns.
        cases: devices that share the cases of each pattern.

    Returns:
        The mesh, with the axes "patterns" and "cases".

    Raises:
        ConfigError: a number below one, or more devices than there are.

    >>> make_mesh().shape["cases"]
    1
    """
    wanted, present = patterns * cases, len(jax.devices())
    if patterns < 1 or cases < 1 or wanted > present:
        raise ConfigError(
            f"a mesh takes patterns * cases devices, each factor at least 1; it is asked for {patterns} * {cases} and "
            f"there are {present}. Ask for fewer, or start Python with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={max(wanted, 1)} to split a CPU."
        )
    return Mesh(np.array(jax.devices()[:wanted]).reshape(patterns, cases), (PATTERNS, CASES))


def shard_cases(array: Shaped[Array | np.ndarray, "cases _"], mesh: Mesh) -> Shaped[Array, "cases _"]:
    """Places data so that each device of the "cases" axis holds an equal share of the rows.

    Args:
        array: one row a case.
        mesh: from `make_mesh`.

    Returns:
        The same values, placed.

    Raises:
        ConfigError: the cases do not divide evenly.

    >>> shard_cases(np.zeros((4, 2)), make_mesh()).shape
    (4, 2)
    """
    return _shard(array, mesh, CASES)


def shard_patterns(tree: _Tree, mesh: Mesh) -> _Tree:
    """Places arrays so that each device of the "patterns" axis holds an equal share of the leading axis.

    Args:
        tree: arrays with one leading entry a pattern.
        mesh: from `make_mesh`.

    Returns:
        The same values, placed.

    Raises:
        ConfigError: the patterns do not divide evenly.

    >>> shard_patterns([np.zeros(4)], make_mesh())[0].shape
    (4,)
    """
    return jax.tree.map(lambda array: _shard(array, mesh, PATTERNS), tree)


def replicate(tree: _Tree, mesh: Mesh) -> _Tree:
    """Places arrays whole on every device of the mesh.

    Args:
        tree: arrays.
        mesh: from `make_mesh`.

    Returns:
        The same values, placed.

    >>> replicate(np.zeros(3), make_mesh()).shape
    (3,)
    """
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def _shard(array: Array | np.ndarray, mesh: Mesh, axis: str) -> Array:
    if array.shape[0] % mesh.shape[axis]:
        raise ConfigError(
            f"the {axis} must divide evenly over the mesh's {axis!r} axis; there are {array.shape[0]} for "
            f"{mesh.shape[axis]} devices. Use a mesh with {axis}={np.gcd(array.shape[0], mesh.shape[axis])}, or pad."
        )
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(axis)))
