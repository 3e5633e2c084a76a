"""Wires: which nodes of the previous layer a group of gates reads.

The wires of a layer are an integer array `(arity, groups)`; entry `[j, g]` is the index, within the previous layer, of
input j of group g. Input 0 is the least significant bit of the table's address. Balanced random wires are `gen_wires`
in `boolean_nca_cc.circuits.model`; here are the other ways to come by wires, and their check.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import SpecError, WiringError

__all__ = ["Topology", "chain_topology", "check_wires", "local_wires", "mutate_wires", "tree_topology"]


class Topology(NamedTuple):
    """A hand-made circuit without its tables.

    Args:
        spec: its layers.
        wires: its wires, one array a layer of gates.
    """

    spec: CircuitSpec
    wires: list[Int[Array, "arity _"]]


def local_wires(
    key: Shaped[Array, "..."], in_n: int, out_n: int, arity: int, noise: float = 0.0
) -> Int[Array, "arity out_n"]:
    """Wires between neighbours, jittered: groups read consecutive stretches of the previous layer.

    The E = arity * out_n connections are put in the order of `index + noise * N(0, 1)`, then spread evenly over the
    `in_n` sources, so that fan-out stays balanced at any noise. With E = in_n and noise 0 every source is read once.

    Args:
        key: random key.
        in_n: nodes of the previous layer.
        out_n: groups of this layer.
        arity: inputs of every gate.
        noise: standard deviation of the jitter, in connections; 0 is strictly local.

    Returns:
        The wires.

    Raises:
        WiringError: a count below one or a negative noise.

    >>> local_wires(jax.random.key(0), in_n=4, out_n=2, arity=2).tolist()
    [[0, 2], [1, 3]]
    """
    check_counts(in_n=in_n, out_n=out_n, arity=arity)
    if noise < 0:
        raise WiringError(f"noise is a standard deviation and cannot be negative; it is {noise}. Use 0 for none.")
    return _local_wires(key, in_n, out_n, arity, noise)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _local_wires(key: Array, in_n: int, out_n: int, arity: int, noise: float | Array) -> Array:
    edges = arity * out_n
    order = jnp.argsort(jnp.arange(edges) + noise * jax.random.normal(key, (edges,)))
    return (order * in_n // edges).reshape(out_n, arity).T


def mutate_wires(
    key: Shaped[Array, "..."],
    wires: Int[Array, "arity groups"],
    swaps: int | Int[Array, ""] | None = None,
    rate: float | Float[Array, ""] | None = None,
) -> Int[Array, "arity groups"]:
    """Swaps disjoint pairs of connections within one layer: every source keeps its fan-out.

    Of the layer's n connections, m random disjoint pairs change places, 0 <= m <= n // 2. Works under jit and vmap;
    `swaps` and `rate` may be traced.

    Args:
        key: random key.
        wires: the layer's wires.
        swaps: m itself, clipped to n // 2.
        rate: probability of each connection to take part; m is half the count drawn.

    Returns:
        The mutated wires.

    Raises:
        WiringError: both or neither of `swaps` and `rate`; a negative number of swaps; a rate outside 0 to 1.

    >>> wires = jnp.arange(8).reshape(2, 4)
    >>> mutated = mutate_wires(jax.random.key(1), wires, swaps=2)
    >>> int((mutated != wires).sum()), sorted(mutated.ravel().tolist())
    (4, [0, 1, 2, 3, 4, 5, 6, 7])
    """
    if (swaps is None) == (rate is None):
        raise WiringError(f"give exactly one of swaps and rate; swaps is {swaps}, rate is {rate}.")
    if isinstance(swaps, int) and swaps < 0:
        raise WiringError(f"swaps cannot be negative; it is {swaps}. Use 0 to change nothing.")
    if isinstance(rate, float) and not 0 <= rate <= 1:
        raise WiringError(f"rate is a probability from 0 to 1; it is {rate}.")
    draw_key, pair_key = jax.random.split(key)
    flat = wires.ravel()
    half = flat.size // 2
    taking_part = None if rate is None else jax.random.bernoulli(draw_key, rate, (flat.size,))
    count = jnp.asarray(swaps) if taking_part is None else jnp.sum(taking_part) // 2
    order = jax.random.permutation(pair_key, flat.size)
    first, second = order[:half], order[half : 2 * half]
    chosen = jnp.arange(half) < count
    left, right = jnp.where(chosen, flat[second], flat[first]), jnp.where(chosen, flat[first], flat[second])
    return flat.at[first].set(left).at[second].set(right).reshape(wires.shape)


def tree_topology(n_in: int, arity: int = 2) -> Topology:
    """A balanced tree: each layer has one gate for `arity` nodes of the layer before, down to one output.

    Args:
        n_in: input bits, a power of `arity`.
        arity: inputs of every gate.

    Returns:
        Spec and wires.

    Raises:
        WiringError: `n_in` is not a positive power of an `arity` of two or more.

    >>> tree = tree_topology(4)
    >>> tree.spec.layer_sizes, [layer.tolist() for layer in tree.wires]
    (((4, 1), (2, 1), (1, 1)), [[[0, 2], [1, 3]], [[0], [1]]])
    """
    widths = [n_in]
    while arity > 1 and widths[-1] > 1 and widths[-1] % arity == 0:
        widths.append(widths[-1] // arity)
    if widths[-1] != 1 or len(widths) < 2:
        raise WiringError(
            "a balanced tree needs an input width that is a power of its arity, at least 2; "
            f"they are {n_in} and {arity}. Pad the input or choose another arity."
        )
    spec = CircuitSpec(tuple((n, 1) for n in widths), arity)
    return Topology(spec, [jnp.arange(arity * n).reshape(n, arity).T for n in widths[1:]])


def chain_topology(n_in: int) -> Topology:
    """A chain of two-input gates: gate 0 of a layer takes in one more input, the rest wait.

    Layer l has `n_in - l` gates. Its gate 0 reads nodes 0 and 1 before it; gate i > 0 reads node i + 1 twice, and
    passes it on when initialised as a pass-through.

    Args:
        n_in: input bits, at least two.

    Returns:
        Spec and wires.

    Raises:
        WiringError: fewer than two inputs.

    >>> [layer.tolist() for layer in chain_topology(3).wires]
    [[[0, 2], [1, 2]], [[0], [1]]]
    """
    if n_in < 2:
        raise WiringError(f"a chain needs at least 2 inputs; n_in is {n_in}.")
    spec = CircuitSpec(tuple((n, 1) for n in range(n_in, 0, -1)), 2)
    rows = [(np.r_[0, np.arange(2, n + 1)], np.arange(1, n + 1)) for n in range(n_in - 1, 0, -1)]
    return Topology(spec, [jnp.array(np.stack(pair)) for pair in rows])


def check_wires(wires: Sequence[Int[Array | np.ndarray, "_ _"]], spec: CircuitSpec) -> None:
    """Refuses wires that do not fit the layers. Reads values, so call it outside jit.

    Args:
        wires: one array a layer of gates.
        spec: the layers they should connect.

    Raises:
        WiringError: wrong number of layers, wrong shape, or a source that the previous layer does not have.

    >>> check_wires(tree_topology(4).wires, tree_topology(4).spec)
    """
    if len(wires) != spec.n_layers:
        raise WiringError(f"wires has one array for each of the {spec.n_layers} layers of gates; it has {len(wires)}.")
    for index, (layer, (n_before, _), (n, s)) in enumerate(
        zip(wires, spec.layer_sizes[:-1], spec.layer_sizes[1:], strict=True)
    ):
        if layer.shape != (spec.arity, n // s):
            raise WiringError(
                f"the wires of a layer have shape (arity, groups); those of layer {index + 1} should have "
                f"{(spec.arity, n // s)} and have {layer.shape}. gen_wires takes the number of groups, not of gates."
            )
        low, high = int(np.min(layer)), int(np.max(layer))
        if low < 0 or high >= n_before:
            raise WiringError(
                f"wires point into the previous layer, which has nodes 0 to {n_before - 1}; those of layer {index + 1} "
                f"run from {low} to {high}."
            )


def check_counts(**counts: int) -> None:
    """Refuses a count below one, by its name."""
    for name, value in counts.items():
        if value < 1:
            raise SpecError(f"{name} must be at least 1; it is {value}.")
