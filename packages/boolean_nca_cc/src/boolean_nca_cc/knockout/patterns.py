"""Which gates are knocked out: patterns as flat `alive` masks, True = alive.

Only gates of hidden layers are ever chosen: without an input or an output bit there is no task left to recover. A
pattern is a function of its random key, and its amount of damage may be traced under jit and vmap; only `greedy_order`
searches and returns a fixed order. The original drew its exact-count patterns with
`create_reproducible_knockout_pattern`, which could run under neither; here that is `shotgun`.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from boolean_nca_cc.circuits.kernels import pack_cases, wrong_bits
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import PatternError

__all__ = ["bernoulli", "greedy", "greedy_order", "shotgun", "strip", "vocabulary"]


def shotgun(
    key: Shaped[Array, "..."], spec: CircuitSpec, k: int | Int[Array | np.ndarray, ""]
) -> Bool[Array, " nodes"]:
    """Exactly k dead gates, drawn uniformly without replacement.

    The hidden gates are ranked at random; those of rank below k die.

    Args:
        key: random key.
        spec: the circuit's layers.
        k: dead gates. More than there are hidden gates kills all of these. May be traced (below 0 it then kills none).

    Returns:
        The pattern.

    Raises:
        PatternError: a k that is negative or no whole number.

    >>> spec = CircuitSpec.default(8, 8)
    >>> int((~shotgun(jax.random.key(0), spec, 20)).sum())
    20
    >>> batch = jax.vmap(lambda k: shotgun(jax.random.key(1), spec, k))(jnp.arange(3))
    >>> (~batch).sum(axis=1).tolist()
    [0, 1, 2]
    """
    rank = jax.random.permutation(key, spec.hidden_gates.size)
    return _without(spec, rank < _count("k", k))


def bernoulli(
    key: Shaped[Array, "..."],
    spec: CircuitSpec,
    expected: float | int | Float[Array | np.ndarray, ""] | Int[Array | np.ndarray, ""],
    layer: int | None = None,
) -> Bool[Array, " nodes"]:
    """Every eligible gate dies on its own with probability p = expected / eligible gates.

    Args:
        key: random key.
        spec: the circuit's layers.
        expected: dead gates on average; p stops at 1. May be traced.
        layer: the one hidden layer to damage, counted from 1 (0 is the input); None = all hidden layers.

    Returns:
        The pattern.

    Raises:
        PatternError: an expectation that is negative or not finite, or a layer that is not hidden.

    >>> spec = CircuitSpec.default(8, 8)
    >>> alive = bernoulli(jax.random.key(0), spec, 64.0, layer=2)
    >>> (~alive).nonzero()[0].tolist() == list(range(72, 136))
    True
    """
    if not isinstance(expected, jax.core.Tracer) and not (math.isfinite(expected) and expected >= 0):
        raise PatternError(f"expected is a mean number of dead gates, at least 0 and finite; it is {expected}.")
    eligible = np.ones(spec.hidden_gates.size, bool)
    if layer is not None:
        if not 1 <= layer < spec.n_layers:
            raise PatternError(
                f"layer is a hidden layer, from 1 to {spec.n_layers - 1} here (0 is the input, {spec.n_layers} the "
                f"output); it is {layer}. Leave it out to damage all hidden layers."
            )
        where = spec.layer_slices[layer]
        eligible = (spec.hidden_gates >= where.start) & (spec.hidden_gates < where.stop)
    struck = jax.random.uniform(key, eligible.shape) < expected / max(1, eligible.sum())
    return _without(spec, struck & eligible)


def strip(key: Shaped[Array, "..."], spec: CircuitSpec, d: int | Int[Array | np.ndarray, ""]) -> Bool[Array, " nodes"]:
    """A local wound: in each hidden layer every gate within d // 2 of a random centre dies.

    That is 2 (d // 2) + 1 gates a layer, fewer where the strip runs over the layer's edge; d = 0 kills none. Each layer
    has a centre of its own, uniform over its gates, from its own key.

    Args:
        key: random key.
        spec: the circuit's layers.
        d: width of the strip, in gates. May be traced.

    Returns:
        The pattern.

    Raises:
        PatternError: a d that is negative or no whole number.

    >>> spec = CircuitSpec.default(8, 8)
    >>> dead = ~strip(jax.random.key(2), spec, 5)
    >>> [int(dead[where].sum()) for where in spec.layer_slices]
    [0, 5, 5, 5, 0]
    """
    d = _count("d", d)
    struck = []
    for layer in range(1, spec.n_layers):
        position = np.arange(spec.layer_sizes[layer][0])
        centre = jax.random.randint(jax.random.fold_in(key, layer), (), 0, position.size)
        struck.append((jnp.abs(position - centre) <= d // 2) & (d > 0))
    return _without(spec, jnp.concatenate(struck) if struck else jnp.zeros(0, bool))


def greedy(
    spec: CircuitSpec, order: Sequence[int] | Int[Array | np.ndarray, " ranks"], d: int | Int[Array | np.ndarray, ""]
) -> Bool[Array, " nodes"]:
    """The first d gates of a given order are dead.

    Args:
        spec: the circuit's layers.
        order: flat node ids of hidden gates, the first to die first; `greedy_order` finds one.
        d: dead gates; more than `order` has kills all of these. May be traced.

    Returns:
        The pattern.

    Raises:
        PatternError: a d that is negative or no whole number; an order with repeats or with anything but hidden gates.

    >>> spec = CircuitSpec(((2, 1), (4, 2), (1, 1)), arity=2)
    >>> greedy(spec, [5, 2, 3], 2).tolist()
    [True, True, False, True, True, False, True]
    """
    ids = np.asarray(order, int)
    foreign = ids[~np.isin(ids, spec.hidden_gates)]
    if foreign.size:
        raise PatternError(
            f"order holds flat ids of hidden gates, {_hidden_range(spec)}; {foreign.tolist()} are none. "
            "Take it from greedy_order on this circuit."
        )
    if np.unique(ids).size != ids.size:
        raise PatternError(f"order names each gate once; it is {ids.tolist()}. Drop the repeats.")
    rank = np.full(spec.n_nodes, spec.n_nodes)
    rank[ids] = np.arange(ids.size)
    return _without(spec, rank[spec.hidden_gates] < jnp.minimum(_count("d", d), ids.size))


def greedy_order(
    circuit: Circuit,
    x: Float[Array | np.ndarray, "cases n_in"],
    y: Float[Array | np.ndarray, "cases n_out"],
    count: int,
) -> Int[np.ndarray, " count"]:
    """The worst gates to lose, found greedily: each step kills the gate whose loss costs the most hard accuracy.

    All remaining hidden gates are tried at once, with the gates chosen before them dead. Where several are equally bad,
    the one of lowest id goes first. Greedy is not optimal: another set of the same size may hurt more.

    Args:
        circuit: a trained circuit.
        x: input bits.
        y: target bits.
        count: gates to order; more than there are hidden gates orders all of these.

    Returns:
        Flat node ids, the first to die first.

    Raises:
        PatternError: a count that is negative or no whole number.

    >>> from boolean_nca_cc.circuits.model import gen_circuit
    >>> bits = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> circuit = gen_circuit(jax.random.key(0), [(2, 1), (4, 2), (2, 1)], arity=2)
    >>> greedy_order(circuit, bits, bits, 2).shape
    (2,)
    """
    spec = CircuitSpec.from_logits(circuit.logits, n_in=x.shape[1])
    steps = min(int(_count("count", count)), spec.hidden_gates.size)
    words, targets = pack_cases(x), pack_cases(y)
    hidden = jnp.asarray(spec.hidden_gates)

    def step(alive: Bool[Array, " nodes"], _: None) -> tuple[Bool[Array, " nodes"], Int[Array, ""]]:
        harm = jax.vmap(lambda gate: wrong_bits(circuit, words, targets, len(y), alive.at[gate].set(False)).sum())(
            hidden
        )
        worst = hidden[jnp.argmax(jnp.where(alive[hidden], harm, -1))]
        return alive.at[worst].set(False), worst

    _, order = jax.jit(lambda alive: jax.lax.scan(step, alive, length=steps))(jnp.ones(spec.n_nodes, bool))
    return np.asarray(order)


_RANDOM: dict[str, Callable[..., Bool[Array, " nodes"]]] = {"shotgun": shotgun, "bernoulli": bernoulli, "strip": strip}


def vocabulary(
    key: Shaped[Array, "..."],
    spec: CircuitSpec,
    size: int,
    mode: str,
    k: float | int | Int[Array | np.ndarray, ""] | Float[Array | np.ndarray, ""],
) -> Bool[Array, "size nodes"]:
    """A fixed set of random patterns, one from each of `size` split keys; the same amount of damage in each.

    Args:
        key: random key.
        spec: the circuit's layers.
        size: patterns.
        mode: "shotgun", "bernoulli" or "strip".
        k: the mode's amount of damage: dead gates, expected dead gates, or width of the strip.

    Returns:
        The patterns, one a row.

    Raises:
        PatternError: an unknown mode, fewer than one pattern, or an amount that the mode refuses.

    >>> patterns = vocabulary(jax.random.key(0), CircuitSpec.default(8, 8), size=16, mode="shotgun", k=20)
    >>> patterns.shape, set((~patterns).sum(axis=1).tolist())
    ((16, 176), {20})
    """
    if mode not in _RANDOM:
        raise PatternError(
            f"a vocabulary is drawn by one of {', '.join(_RANDOM)}; mode is {mode!r}. Greedy damage is not random: "
            "stack greedy(spec, order, d) instead."
        )
    if size < 1:
        raise PatternError(f"a vocabulary has at least 1 pattern; size is {size}.")
    return jax.vmap(lambda one: _RANDOM[mode](one, spec, k))(jax.random.split(key, size))


def _without(spec: CircuitSpec, struck: Bool[Array, " hidden"]) -> Bool[Array, " nodes"]:
    """All alive but the struck hidden gates, which are one stretch of the flat vector."""
    return jnp.concatenate([jnp.ones(spec.n_in, bool), ~struck, jnp.ones(spec.n_out, bool)])


def _count(name: str, value: Any) -> int | Int[Array, ""]:
    """A concrete count checked, a traced one as it is."""
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        whole = operator.index(value)
    except TypeError:
        raise PatternError(f"{name} is a whole number of gates; it is {value!r}. Round it first.") from None
    if whole < 0:
        raise PatternError(f"{name} is a number of gates and cannot be negative; it is {whole}. Use 0 for no damage.")
    return whole


def _hidden_range(spec: CircuitSpec) -> str:
    ids = spec.hidden_gates
    return f"{ids[0]} to {ids[-1]} here" if ids.size else "of which this circuit has none"
