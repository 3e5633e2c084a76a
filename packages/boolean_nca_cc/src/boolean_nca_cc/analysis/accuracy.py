"""Hard accuracy of one circuit under many knockouts: one compiled map over the masks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from boolean_nca_cc.circuits.kernels import pack_cases, wrong_bits
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import TaskError

__all__ = ["accuracy_by_output"]


def accuracy_by_output(
    circuit: Circuit,
    spec: CircuitSpec,
    x: Float[Array | np.ndarray, "cases n_in"],
    y: Float[Array | np.ndarray, "cases n_out"],
    alive_batch: Bool[Array | np.ndarray, "patterns nodes"],
) -> Float[np.ndarray, "patterns n_out"]:
    """Share of cases in which each output bit of the hard circuit is right, under each mask.

    Args:
        circuit: the circuit.
        spec: its layers.
        x: input bits.
        y: target bits.
        alive_batch: one mask a pattern.

    Returns:
        One row a pattern; its mean is the pattern's hard accuracy.

    Raises:
        MaskError: masks that do not fit the circuit.
        TaskError: cases of another width than the circuit's.

    >>> copy = Circuit([jnp.array([[0, 1]])], [jnp.array([[[-3.0, 3.0]], [[-3.0, 3.0]]])])
    >>> bits = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> masks = np.array([[True, True, True, True], [True, True, False, True]])
    >>> accuracy_by_output(copy, CircuitSpec(((2, 1), (2, 1)), 1), bits, bits, masks).tolist()
    [[1.0, 1.0], [0.5, 1.0]]
    """
    if x.shape[1] != spec.n_in or y.shape[1] != spec.n_out:
        raise TaskError(
            f"cases have the circuit's {spec.n_in} input and {spec.n_out} output bits; these have {x.shape[1]} and "
            f"{y.shape[1]}. Take the task that the circuit was trained on."
        )
    for alive in alive_batch[:1]:
        spec.check_alive(alive)
    wrong = _wrong_bits(circuit, pack_cases(x), pack_cases(y), x.shape[0], jnp.asarray(alive_batch))
    return 1 - np.asarray(wrong) / x.shape[0]


@partial(jax.jit, static_argnums=3)
def _wrong_bits(
    circuit: Circuit,
    words: UInt32[Array, "n_in words"],
    targets: UInt32[Array, "n_out words"],
    cases: int,
    alive_batch: Bool[Array, "patterns nodes"],
) -> Int[Array, "patterns n_out"]:
    return jax.lax.map(partial(wrong_bits, circuit, words, targets, cases), alive_batch)
