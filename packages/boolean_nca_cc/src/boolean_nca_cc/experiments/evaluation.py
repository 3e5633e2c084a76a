"""How good a circuit is on every case of its task, and how much of it matters."""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from boolean_nca_cc.circuits.kernels import evaluate_packed, pack_cases
from boolean_nca_cc.circuits.model import Circuit, run_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData
from boolean_nca_cc.knockout import functional_liveness, prune

__all__ = ["Evaluation", "evaluate", "hard_accuracies"]


@dataclass(frozen=True)
class Evaluation:
    """A circuit on all cases of a task.

    Args:
        cases: cases.
        hard_accuracy: share of right output bits of the hard circuit.
        exact_cases: share of cases whose output bits are all right.
        accuracy: share of right output bits of the soft circuit, rounded.
        bit_accuracy: hard accuracy of each output bit.
        gates: gates, the output's included.
        live_gates: gates that an output depends on.
        pruned_gates: gates that remain after pruning.
    """

    cases: int
    hard_accuracy: float
    exact_cases: float
    accuracy: float
    bit_accuracy: list[float]
    gates: int
    live_gates: int
    pruned_gates: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def evaluate(
    circuit: Circuit, spec: CircuitSpec, data: TaskData, alive: Bool[Array | np.ndarray, " nodes"] | None = None
) -> Evaluation:
    """Evaluates a circuit, bit-packed for the hard outputs and in floating point for the soft ones.

    Args:
        circuit: the circuit.
        spec: its layers.
        data: the cases.
        alive: the knockout; None = all alive.

    Returns:
        The evaluation.

    Raises:
        MaskError: a mask that does not fit the circuit.

    >>> from boolean_nca_cc.circuits.tasks import get_task
    >>> spec = CircuitSpec(((2, 1), (2, 1)), arity=1)
    >>> circuit = Circuit([jnp.array([[0, 1]])], [jnp.array([[[-3.0, 3.0]], [[-3.0, 3.0]]])])
    >>> evaluate(circuit, spec, get_task("copy", 2)).exact_cases
    1.0
    """
    standing = np.ones(spec.n_nodes, bool) if alive is None else np.asarray(alive)
    soft = _soft_outputs(circuit, data.x, spec.to_layers(standing))
    right = _right_bits(circuit, data, standing[None])[0]
    return Evaluation(
        cases=data.x.shape[0],
        hard_accuracy=float(right.mean()),
        exact_cases=float(right.all(axis=1).mean()),
        accuracy=float((np.rint(soft) == np.asarray(data.y)).mean()),
        bit_accuracy=right.mean(axis=0).tolist(),
        gates=spec.n_gates,
        live_gates=int(functional_liveness(circuit, spec, alive)[spec.n_in :].sum()),
        pruned_gates=prune(circuit, spec, alive).spec.n_gates,
    )


def hard_accuracies(
    circuit: Circuit, data: TaskData, alive_batch: Bool[Array | np.ndarray, "patterns nodes"]
) -> Float[np.ndarray, " patterns"]:
    """Hard accuracy of one circuit under each of many knockouts.

    Args:
        circuit: the circuit.
        data: the cases.
        alive_batch: one mask a pattern.

    Returns:
        Share of right output bits of each pattern.

    Raises:
        MaskError: masks that do not fit the circuit.

    >>> from boolean_nca_cc.circuits.tasks import get_task
    >>> circuit = Circuit([jnp.array([[0, 1]])], [jnp.array([[[-3.0, 3.0]], [[-3.0, 3.0]]])])
    >>> hard_accuracies(circuit, get_task("copy", 2), np.array([[True] * 4, [True, True, False, True]])).tolist()
    [1.0, 0.75]
    """
    return _right_bits(circuit, data, alive_batch).mean(axis=(1, 2))


@jax.jit
def _soft_outputs(circuit: Circuit, x: Array, masks: list[Array]) -> Float[Array, "cases n_out"]:
    return run_circuit(circuit.logits, circuit.wires, x, masks)[-1]


@jax.jit
def _wrong_words(circuit: Circuit, x: Array, y: Array, alive_batch: Array) -> UInt32[Array, "patterns n_out words"]:
    words, targets = pack_cases(x), pack_cases(y)
    return jax.vmap(lambda alive: evaluate_packed(circuit, words, alive) ^ targets)(alive_batch)


def _right_bits(
    circuit: Circuit, data: TaskData, alive_batch: Bool[Array | np.ndarray, "patterns nodes"]
) -> Bool[np.ndarray, "patterns cases n_out"]:
    wrong = np.asarray(_wrong_words(circuit, jnp.asarray(data.x), jnp.asarray(data.y), jnp.asarray(alive_batch)))
    bits: Int[np.ndarray, "patterns n_out words 32"] = wrong[..., None] >> np.arange(32, dtype=np.uint32) & 1
    return bits.reshape(*wrong.shape[:2], -1)[..., : data.x.shape[0]].transpose(0, 2, 1) == 0
