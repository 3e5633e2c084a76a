"""Spreading a training over devices: each holds a share of the pool and works on a share of every batch.

The rule's weights, its optimiser and the random key are whole on every device. Nothing else is needed: JAX partitions
the compiled epochs after where their arrays lie, and puts in the sums over the batch. `hold` keeps it so inside the
scan, where the compiler could as well gather everything on every device. With several processes the mesh spans the
devices of all (`boolean_nca_cc.meta.hosts`).
"""

import hashlib
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.meta.pool import Pool

__all__ = ["POOL", "hold", "local_copy", "make_pool_mesh", "shardings_of", "spread"]

POOL = "pool"

_Tree = TypeVar("_Tree")


def make_pool_mesh(devices: int | None = None) -> Mesh:
    """A mesh of devices that share a pool.

    Args:
        devices: how many; None is all there are, of all processes.

    Returns:
        The mesh, with the axis "pool".

    Raises:
        ConfigError: fewer than one device, more than there are, or some but not all where there are several processes.

    >>> make_pool_mesh(1).shape["pool"]
    1
    """
    present = jax.devices()
    wanted = len(present) if devices is None else devices
    if not 1 <= wanted <= len(present):
        raise ConfigError(
            f"a pool is shared by at least one device; it is asked for {wanted} and there are {len(present)}. Ask for "
            f"fewer, or start Python with XLA_FLAGS=--xla_force_host_platform_device_count={max(wanted, 1)} to split "
            "a CPU."
        )
    if jax.process_count() > 1 and wanted < len(present):
        raise ConfigError(
            f"several processes share a pool with all their devices; it is asked for {wanted} of {len(present)}. "
            "Leave the number out, or start fewer processes."
        )
    return Mesh(np.array(present[:wanted]), (POOL,))


def shardings_of(tree: PyTree, mesh: Mesh) -> PyTree:
    """Where the arrays of a tree belong: the rows of every `Pool` in it over the mesh, all else on every device.

    Args:
        tree: a state of training, a pool, a batch, anything of arrays.
        mesh: from `make_pool_mesh`.

    Returns:
        A tree of the same structure, of shardings.

    Raises:
        ConfigError: circuits that do not divide evenly.

    >>> from boolean_nca_cc.circuits.spec import CircuitSpec
    >>> from boolean_nca_cc.meta.pool import fresh_pool
    >>> pool = fresh_pool(jax.random.key(0), CircuitSpec.default(4, 2, arity=2), size=3, channels=5)
    >>> places = shardings_of({"pool": pool, "epoch": np.zeros(())}, make_pool_mesh(1))
    >>> places["pool"].loss.spec, places["pool"].wires[0].spec, places["epoch"].spec
    (P('pool',), P(), P())
    """
    rows, whole = NamedSharding(mesh, PartitionSpec(POOL)), NamedSharding(mesh, PartitionSpec())

    def places(node: PyTree) -> PyTree:
        if not isinstance(node, Pool):
            return whole
        _check_shares(node.size, mesh)
        spread = jax.tree.map(lambda _: rows, node)
        # One wiring for all has no rows.
        return spread._replace(wires=[whole for _ in node.wires]) if node.shares_wires else spread

    return jax.tree.map(places, tree, is_leaf=lambda node: isinstance(node, Pool))


def spread(tree: _Tree, mesh: Mesh) -> _Tree:
    """Places the arrays of a tree where they belong; see `shardings_of`.

    With several processes, each makes the same tree from the same seeds and calls this; each keeps its share.

    Args:
        tree: arrays of this process.
        mesh: from `make_pool_mesh`.

    Returns:
        The same values, placed.

    Raises:
        ConfigError: circuits that do not divide evenly, or processes that come with different values.

    >>> spread({"weights": np.arange(3.0)}, make_pool_mesh(1))["weights"].tolist()
    [0.0, 1.0, 2.0]
    """
    shardings = shardings_of(tree, mesh)
    if jax.process_count() > 1:
        _check_same(tree)
    return jax.tree.map(_placed, tree, shardings)


def hold(tree: _Tree, mesh: Mesh | None) -> _Tree:
    """Keeps arrays where they belong, inside a compiled function; see `shardings_of`.

    Args:
        tree: arrays under jit.
        mesh: from `make_pool_mesh`; None leaves everything to the compiler.

    Returns:
        The same values.

    Raises:
        ConfigError: circuits that do not divide evenly.

    >>> jax.jit(lambda x: hold(x, make_pool_mesh(1)))(np.arange(3.0)).tolist()
    [0.0, 1.0, 2.0]
    """
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, shardings_of(tree, mesh))


def local_copy(tree: _Tree) -> _Tree:
    """Brings spread arrays together on one device of each process, to be evaluated, drawn or saved there.

    With several processes this is an exchange: all must call it.

    Args:
        tree: arrays from `spread`, or from epochs on a mesh.

    Returns:
        The same values, whole, on this process's first device.

    >>> local_copy(spread(np.arange(3.0), make_pool_mesh(1))).tolist()
    [0.0, 1.0, 2.0]
    """

    def whole(leaf: Array) -> Array:
        if isinstance(leaf.sharding, NamedSharding) and not leaf.is_fully_replicated:
            leaf = jax.device_put(leaf, NamedSharding(leaf.sharding.mesh, PartitionSpec()))
        return leaf.addressable_data(0)

    return jax.tree.map(whole, tree)


def _placed(leaf: Array | np.ndarray, sharding: NamedSharding) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_placed(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda share: values[share])


def _check_shares(circuits: int, mesh: Mesh) -> None:
    devices = mesh.shape[POOL]
    if circuits % devices:
        raise ConfigError(
            f"the circuits of a pool, and those of a batch, must divide evenly over the devices that share them; there "
            f"are {circuits} for {devices}. Use {circuits + -circuits % devices} circuits, or "
            f"{np.gcd(circuits, devices)} devices."
        )


def _check_same(tree: PyTree) -> None:
    """Processes that started from different seeds or settings would train a mixture without a word."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        digest.update(np.asarray(jax.random.key_data(leaf) if typed else leaf).tobytes())
    everybody = multihost_utils.process_allgather(np.frombuffer(digest.digest(), np.uint8))
    different = np.flatnonzero((everybody != everybody[0]).any(axis=1))
    if different.size:
        raise ConfigError(
            f"all processes start from the same state; that of process {different[0]} is not that of process 0. Start "
            "all with the same settings, seed and checkpoint."
        )
