"""All cases of a circuit: what the hard one answers, and whether the soft one agrees."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from boolean_nca_cc.circuits.kernels import evaluate_packed, pack_cases, unpack_cases
from boolean_nca_cc.circuits.model import Circuit, run_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import ExportError

__all__ = ["MAX_INPUTS", "check_decided", "check_table", "truth_table"]

MAX_INPUTS = 20
"""The most inputs of which all cases are tried: a million of them."""

_CHUNK = 1 << 14  # cases at once: the activations of a thousand nodes then take 64 MiB


def truth_table(
    circuit: Circuit, spec: CircuitSpec, alive: Bool[Array | np.ndarray, " nodes"] | None = None
) -> Bool[np.ndarray, "cases n_out"]:
    """What the hard circuit answers in each of the 2^n_in cases; case i has input bit b = i >> b & 1.

    This is what an exported circuit is held to.

    Args:
        circuit: the circuit.
        spec: its layers.
        alive: the knockout; None = all alive.

    Returns:
        One row a case.

    Raises:
        ExportError: more than `MAX_INPUTS` inputs.
        MaskError: a mask that does not fit the circuit.

    >>> exclusive_or = Circuit([jnp.array([[0], [1]])], [jnp.array([[[-9.0, 9.0, 9.0, -9.0]]])])
    >>> truth_table(exclusive_or, CircuitSpec(((2, 1), (1, 1)), arity=2)).ravel().tolist()
    [False, True, True, False]
    """
    cases = _cases(spec)
    standing = None if alive is None else jnp.asarray(alive)
    return np.concatenate(
        [
            np.asarray(unpack_cases(evaluate_packed(circuit, pack_cases(bits), standing), len(bits)))
            for bits in np.array_split(cases, -(-len(cases) // _CHUNK))
        ]
    )


def check_decided(
    circuit: Circuit,
    spec: CircuitSpec,
    alive: Bool[Array | np.ndarray, " nodes"] | None = None,
    margin: float = 0.1,
) -> None:
    """Refuses a circuit whose soft outputs do not say what its hard outputs say.

    A soft output y is decided where the hard output h is a bit and |y - h| < 1/2 - margin: below 0.4 for a 0 and above
    0.6 for a 1, unless another margin is given. NaN is undecided.

    Args:
        circuit: the circuit.
        spec: its layers.
        alive: the knockout; None = all alive.
        margin: how far from one half, at least 0 and below 1/2.

    Raises:
        ExportError: an output that is undecided in some case; more than `MAX_INPUTS` inputs; a margin out of range.
        MaskError: a mask that does not fit the circuit.

    >>> spec = CircuitSpec(((1, 1), (1, 1)), arity=1)
    >>> check_decided(Circuit([jnp.array([[0]])], [jnp.array([[[-9.0, 9.0]]])]), spec)
    >>> check_decided(Circuit([jnp.array([[0]])], [jnp.array([[[-9.0, 0.1]]])]), spec)
    Traceback (most recent call last):
        ...
    boolean_nca_cc.errors.ExportError: an exported circuit is hard, and the soft one must say the same; 1 of 2 output \
bits are undecided, the worst in case 1, output 0: soft 0.525, hard 1. Train longer; or prune the circuit first \
(boolean_nca_cc.knockout.prune, or --prune), which takes the hard circuit as it is; or pass rounded=True (--rounded), \
which does so and keeps all gates.
    """
    if not 0 <= margin < 0.5:
        raise ExportError(f"margin is a distance from one half, at least 0 and below 0.5; it is {margin}.")
    cases = _cases(spec)
    standing = jnp.ones(spec.n_nodes, bool) if alive is None else jnp.asarray(alive)
    masks = spec.to_layers(standing)
    undecided, worst, where, soft_there, hard_there = 0, -1.0, (0, 0), 0.0, False
    for start in range(0, len(cases), _CHUNK):
        bits = cases[start : start + _CHUNK]
        soft = np.asarray(_soft_outputs(circuit, bits, masks))
        hard = np.asarray(unpack_cases(evaluate_packed(circuit, pack_cases(bits), standing), len(bits)))
        # What is no number is as far away as can be.
        distance = np.nan_to_num(np.abs(soft - hard), nan=np.inf)
        undecided += int((distance >= 0.5 - margin).sum())
        if distance.max() > worst:
            case, output = np.unravel_index(int(distance.argmax()), distance.shape)
            worst, where = float(distance.max()), (start + int(case), int(output))
            soft_there, hard_there = float(soft[case, output]), bool(hard[case, output])
    if undecided:
        raise ExportError(
            f"an exported circuit is hard, and the soft one must say the same; {undecided} of "
            f"{len(cases) * spec.n_out} output bits are undecided, the worst in case {where[0]}, output {where[1]}: "
            f"soft {soft_there:.3f}, hard {int(hard_there)}. Train longer; or prune the circuit first "
            "(boolean_nca_cc.knockout.prune, or --prune), which takes the hard circuit as it is; or pass rounded=True "
            "(--rounded), which does so and keeps all gates."
        )


def check_table(expected: Bool[np.ndarray, "cases n_out"], n_in: int, n_out: int) -> None:
    """Refuses a table of expected outputs that is not one row for each of the 2^n_in cases."""
    if expected.shape != (1 << n_in, n_out):
        raise ExportError(
            f"a check has one row for each of the {1 << n_in} cases and one column for each of the {n_out} outputs; "
            f"its shape is {expected.shape}. Make it with truth_table."
        )


def _cases(spec: CircuitSpec) -> Float[np.ndarray, "cases n_in"]:
    if spec.n_in > MAX_INPUTS:
        raise ExportError(
            f"all cases are tried of circuits with up to {MAX_INPUTS} inputs; this one has {spec.n_in}. Pass "
            "rounded=True to export its hard form untried, and no truth table."
        )
    return (np.arange(1 << spec.n_in)[:, None] >> np.arange(spec.n_in) & 1).astype(np.float32)


@jax.jit
def _soft_outputs(circuit: Circuit, x: Array, masks: list[Array]) -> Float[Array, "cases n_out"]:
    return run_circuit(circuit.logits, circuit.wires, x, masks)[-1]
