"""Damage to the tables themselves: stuck, noisy and flipped entries of chosen gates.

A knocked-out gate (a mask) is silent and cannot learn. A faulty one still speaks, wrongly, and may be trained back. The
struck gates are given by the same `alive` vector as everywhere, False = struck, so every pattern of
`boolean_nca_cc.knockout` serves here too; all other gates keep their logits bit for bit.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Shaped

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import PatternError

__all__ = ["faulty_logits", "noisy_logits", "seu_flips"]


def faulty_logits(
    circuit: Circuit, alive: Bool[Array | np.ndarray, " nodes"], spec: CircuitSpec, value: float = -10.0
) -> Circuit:
    """Every table entry of the struck gates becomes `value`.

    The default, -10, is stuck at 0 (sigmoid 4.5e-5); 0 forgets (one half everywhere); 10 is stuck at 1.

    Args:
        circuit: the circuit.
        alive: False = struck.
        spec: its layers.
        value: the logit.

    Returns:
        The damaged circuit, on the same wires.

    Raises:
        MaskError: a vector that does not fit the circuit.

    >>> from boolean_nca_cc.circuits.model import gen_circuit
    >>> spec = CircuitSpec(((1, 1), (2, 1), (1, 1)), arity=1)
    >>> circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, spec.arity)
    >>> faulty_logits(circuit, jnp.array([True, False, True, True]), spec).logits[0].tolist()
    [[[-10.0, -10.0]], [[-3.0, 3.0]]]
    """
    return Circuit(
        circuit.wires,
        [jnp.where(struck, value, layer) for struck, layer in zip(_struck(alive, spec), circuit.logits, strict=True)],
    )


def noisy_logits(
    key: Shaped[Array, "..."],
    circuit: Circuit,
    alive: Bool[Array | np.ndarray, " nodes"],
    spec: CircuitSpec,
    scale: float = 0.05,
) -> Circuit:
    """Normal noise of the given scale is added to the tables of the struck gates.

    Args:
        key: random key.
        circuit: the circuit.
        alive: False = struck.
        spec: its layers.
        scale: standard deviation, in logits.

    Returns:
        The damaged circuit, on the same wires.

    Raises:
        MaskError: a vector that does not fit the circuit.
        PatternError: a negative scale.

    >>> from boolean_nca_cc.circuits.model import gen_circuit
    >>> spec = CircuitSpec.default(2, 1, arity=2)
    >>> circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, spec.arity)
    >>> unharmed = noisy_logits(jax.random.key(1), circuit, jnp.ones(spec.n_nodes, bool), spec)
    >>> all((a == b).all() for a, b in zip(unharmed.logits, circuit.logits))
    True
    """
    if not scale >= 0:
        raise PatternError(f"scale is a standard deviation and cannot be negative; it is {scale}. Use 0 for no noise.")
    keys = jax.random.split(key, spec.n_layers)
    return Circuit(
        circuit.wires,
        [
            jnp.where(struck, layer + scale * jax.random.normal(one, layer.shape, layer.dtype), layer)
            for one, struck, layer in zip(keys, _struck(alive, spec), circuit.logits, strict=True)
        ],
    )


def seu_flips(
    key: Shaped[Array, "..."],
    circuit: Circuit,
    alive: Bool[Array | np.ndarray, " nodes"],
    spec: CircuitSpec,
    flips_per_gate: int = 1,
) -> Circuit:
    """Single-event upsets: in each struck gate, exactly `flips_per_gate` random table entries change sign.

    A negated logit is a flipped bit of the hard table (a logit of exactly 0 stays 0). The entries depend on the key
    alone, so the same call again repairs the circuit bit for bit.

    Args:
        key: random key.
        circuit: the circuit.
        alive: False = struck.
        spec: its layers.
        flips_per_gate: entries of each struck gate; more than the table has flips them all.

    Returns:
        The damaged circuit, on the same wires.

    Raises:
        MaskError: a vector that does not fit the circuit.
        PatternError: a negative number of flips.

    >>> from boolean_nca_cc.circuits.model import gen_circuit
    >>> spec = CircuitSpec.default(2, 1, arity=2)
    >>> circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, spec.arity)
    >>> struck = jnp.ones(spec.n_nodes, bool).at[5].set(False)
    >>> hit = seu_flips(jax.random.key(1), circuit, struck, spec)
    >>> sum(int((a != b).sum()) for a, b in zip(hit.logits, circuit.logits))
    1
    """
    if flips_per_gate < 0:
        raise PatternError(f"flips_per_gate cannot be negative; it is {flips_per_gate}. Use 0 to change nothing.")
    keys = jax.random.split(key, spec.n_layers)
    damaged = []
    for one, struck, layer in zip(keys, _struck(alive, spec), circuit.logits, strict=True):
        # The order of independent scores is a uniform permutation; its entries serve as ranks as well as any.
        rank = jnp.argsort(jax.random.uniform(one, layer.shape), axis=-1)
        damaged.append(jnp.where(struck & (rank < flips_per_gate), -layer, layer))
    return Circuit(circuit.wires, damaged)


def _struck(alive: Bool[Array | np.ndarray, " nodes"], spec: CircuitSpec) -> list[Bool[Array, "groups size 1"]]:
    """For each layer of gates which are struck, shaped to meet its tables."""
    spec.check_alive(alive)
    return [
        ~jnp.asarray(alive[where]).reshape(n // s, s, 1)
        for where, (n, s) in zip(spec.layer_slices[1:], spec.layer_sizes[1:], strict=True)
    ]
