"""The circuit: layer sizes, wires, pass-through tables, and the run through them."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from boolean_nca_cc.circuits.kernels import forward, minterm_layer
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.wiring import check_counts, check_wires, local_wires
from boolean_nca_cc.errors import SpecError, WiringError

__all__ = [
    "Circuit",
    "gen_circuit",
    "gen_wires",
    "generate_layer_sizes",
    "make_nops",
    "run_circuit",
    "run_layer",
]


class Circuit(NamedTuple):
    """A circuit; unpacks as the pair `wires, logits`.

    Args:
        wires: which nodes each group reads, one array a layer of gates.
        logits: the tables before the sigmoid, one array a layer of gates.
    """

    wires: list[Int[Array, "*batch arity _"]]
    logits: list[Float[Array, "*batch _ _ entries"]]


def generate_layer_sizes(
    input_n: int, output_n: int, arity: int, layer_n: int = 2, width_factor: int = 2
) -> list[tuple[int, int]]:
    """The usual layers as (node count, group size) pairs, the input first; see `CircuitSpec.default`.

    Args:
        input_n: input bits.
        output_n: output bits.
        arity: inputs of every gate.
        layer_n: hidden layers.
        width_factor: factor of the wide layers.

    Returns:
        The pairs.

    Raises:
        SpecError: as `CircuitSpec.default`.

    >>> generate_layer_sizes(6, 3, arity=3)
    [(6, 1), (36, 3), (9, 1), (3, 1)]
    """
    return list(CircuitSpec.default(input_n, output_n, arity, layer_n, width_factor).layer_sizes)


def gen_wires(key: Shaped[Array, "..."], in_n: int, out_n: int, arity: int) -> Int[Array, "arity out_n"]:
    """Balanced random wires: every source is read floor or ceil of E / in_n times, with E = arity * out_n connections.

    A random permutation of 0 .. max(in_n, E) - 1 is cut to E values and taken modulo `in_n`. With E < in_n no source is
    read twice; a group may read the same source twice otherwise.

    Args:
        key: random key.
        in_n: nodes of the previous layer.
        out_n: groups of this layer (not gates).
        arity: inputs of every gate.

    Returns:
        The wires.

    Raises:
        SpecError: a count below one.

    >>> wires = gen_wires(jax.random.key(0), in_n=4, out_n=6, arity=2)
    >>> jnp.bincount(wires.ravel()).tolist()
    [3, 3, 3, 3]
    """
    check_counts(in_n=in_n, out_n=out_n, arity=arity)
    return _balanced_wires(key, in_n, out_n, arity)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _balanced_wires(key: Array, in_n: int, out_n: int, arity: int) -> Array:
    edges = arity * out_n
    return jax.random.permutation(key, max(in_n, edges))[:edges].reshape(arity, out_n) % in_n


def make_nops(gate_n: int, arity: int, group_size: int, nop_scale: float = 3.0) -> Float[Array, "groups size entries"]:
    """Pass-through tables: gate i copies its input `i mod arity`.

    Entry m is `+nop_scale` where bit `i mod arity` of m is 1, else `-nop_scale`.

    Args:
        gate_n: gates of the layer.
        arity: inputs of every gate.
        group_size: gates of a group.
        nop_scale: size of the logits.

    Returns:
        The logits.

    Raises:
        SpecError: a count below one, or a group size that does not divide the gates.

    >>> make_nops(2, arity=2, group_size=2).tolist()
    [[[-3.0, 3.0, -3.0, 3.0], [-3.0, -3.0, 3.0, 3.0]]]
    """
    check_counts(gate_n=gate_n, arity=arity, group_size=group_size)
    if gate_n % group_size:
        raise SpecError(
            f"a layer's group size must divide its gates; there are {gate_n} gates in groups of {group_size}. "
            f"Use a group size that divides {gate_n}."
        )
    entry = np.arange(1 << arity)
    copied = entry >> (np.arange(gate_n) % arity)[:, None] & 1
    return jnp.asarray((2.0 * copied - 1) * nop_scale, jnp.float32).reshape(gate_n // group_size, group_size, -1)


def gen_circuit(
    key: Shaped[Array, "..."],
    layer_sizes: Sequence[tuple[int, int]],
    arity: int = 4,
    *,
    wiring: Literal["random", "local"] = "random",
    noise: float = 0.0,
    wires: Sequence[Int[Array | np.ndarray, "arity _"]] | None = None,
    nop_scale: float = 3.0,
) -> Circuit:
    """A fresh circuit: random (or local, or given) wires and pass-through tables.

    The first layer's wires are drawn from `key` itself; after each layer the key becomes the second half of its split.

    Args:
        key: random key.
        layer_sizes: (node count, group size) pairs, the input first; `generate_layer_sizes` or `spec.layer_sizes`.
        arity: inputs of every gate.
        wiring: "random" is `gen_wires`, "local" is `local_wires`.
        noise: jitter of local wires, in connections.
        wires: fixed wires, used instead of drawn ones.
        nop_scale: size of the initial logits.

    Returns:
        The circuit.

    Raises:
        SpecError: layers that describe no circuit.
        WiringError: an unknown wiring, or given wires that do not fit.

    >>> wires, logits = gen_circuit(jax.random.key(0), generate_layer_sizes(8, 8, 4, layer_n=3))
    >>> [layer.shape for layer in logits]
    [(16, 4, 16), (16, 4, 16), (16, 2, 16), (8, 1, 16)]
    """
    spec = CircuitSpec(tuple((n, s) for n, s in layer_sizes), arity)
    if wires is not None:
        check_wires(wires, spec)
        drawn = [jnp.asarray(layer) for layer in wires]
    else:
        drawn = []
        for (n_before, _), (n, s) in zip(spec.layer_sizes[:-1], spec.layer_sizes[1:], strict=True):
            if wiring == "random":
                drawn.append(gen_wires(key, n_before, n // s, arity))
            elif wiring == "local":
                drawn.append(local_wires(key, n_before, n // s, arity, noise))
            else:
                raise WiringError(f"wiring is 'random' or 'local'; it is {wiring!r}. Pass other wires as wires=….")
            _, key = jax.random.split(key)
    return Circuit(drawn, [make_nops(n, arity, s, nop_scale) for n, s in spec.layer_sizes[1:]])


def run_layer(
    lut: Float[Array | np.ndarray, "groups size entries"], inputs: Float[Array | np.ndarray, "arity *batch groups"]
) -> Float[Array, "*batch gates"]:
    """One layer: multilinear interpolation of every gate's table over its group's inputs.

    out = sum_m lut[m] * prod_j (x_j if bit j of m else 1 - x_j); input 0 is the lowest bit.

    Args:
        lut: tables, values in [0, 1] (after the sigmoid).
        inputs: the groups' inputs, values in [0, 1].

    Returns:
        The gates' outputs, gate = group * size + position.

    >>> run_layer(jnp.array([[[0.0, 0.0, 0.0, 1.0]]]), jnp.array([[[1.0], [0.5]], [[1.0], [0.5]]])).tolist()
    [[1.0], [0.25]]
    """
    x = jnp.moveaxis(jnp.asarray(inputs), -1, 1)
    out = minterm_layer(jnp.asarray(lut), x.reshape(*x.shape[:2], -1))
    return jnp.moveaxis(out.reshape(-1, *x.shape[2:]), 0, -1)


def run_circuit(
    logits: Sequence[Float[Array | np.ndarray, "_ _ entries"]],
    wires: Sequence[Int[Array | np.ndarray, "arity _"]],
    x: Float[Array | np.ndarray, "cases n_in"],
    gate_mask: Sequence[Shaped[Array | np.ndarray, " _"]] | None = None,
    hard: bool = False,
) -> list[Float[Array, "cases _"]]:
    """Runs a circuit and returns every layer's activations.

    `a_0 = x * mask_0` and `a_l = layer_l(a_{l-1}) * mask_l`. A dead gate's logits are never read: whatever they hold,
    NaN included, the activations and the gradients of all other gates are those of a circuit where it is constantly 0,
    and its own gradient is exactly 0.

    Args:
        logits: tables before the sigmoid, one array a layer of gates.
        wires: one array a layer of gates.
        x: inputs, values in [0, 1].
        gate_mask: the layered mask (see `CircuitSpec.to_layers`), 1 alive, 0 dead, fractions attenuate.
        hard: round the tables: an entry is 1 where its logit is above 0.

    Returns:
        One array a layer, the masked input first, the output last.

    Raises:
        MaskError: a gate mask that does not fit.

    >>> wires, logits = gen_circuit(jax.random.key(0), [(2, 1), (2, 2)], arity=2)
    >>> run_circuit(logits, wires, jnp.array([[0.0, 1.0]]), hard=True)[-1].shape
    (1, 2)
    """
    if gate_mask is not None:
        CircuitSpec.from_logits(logits, x.shape[1]).check_layers(gate_mask)
    activations = forward(logits, wires, jnp.asarray(x).T, gate_mask, hard)
    return [layer.T for layer in activations]
