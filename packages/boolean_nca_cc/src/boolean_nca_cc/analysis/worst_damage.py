"""How bad a few well-chosen dead gates are, beside as many chosen blindly."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from boolean_nca_cc.analysis.accuracy import accuracy_by_output
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import PatternError
from boolean_nca_cc.knockout.patterns import greedy_order

__all__ = ["WorstDamage", "worst_damage"]


@dataclass(frozen=True)
class WorstDamage:
    """Hard accuracy against the number of dead gates; point d of a curve has d of them.

    Args:
        order: flat ids of the gates, the first to die first, as `boolean_nca_cc.knockout.greedy_order` finds them.
        accuracy: hard accuracy with the first d of them dead.
        random: the same for random orders, one row each.
    """

    order: Int[np.ndarray, " count"]
    accuracy: Float[np.ndarray, " points"]
    random: Float[np.ndarray, "orders points"]

    @property
    def dead(self) -> Int[np.ndarray, " points"]:
        """Dead gates at each point."""
        return np.arange(len(self.accuracy))

    def gates_to(self, accuracy: float) -> int | None:
        """The fewest dead gates of the greedy order that bring hard accuracy to this or below; None = not among them.

        Args:
            accuracy: hard accuracy.

        Returns:
            Dead gates.

        >>> half = WorstDamage(np.array([3, 4]), np.array([1.0, 0.75, 0.5]), np.ones((1, 3)))
        >>> half.gates_to(0.8), half.gates_to(0.1)
        (1, None)
        """
        reached = np.flatnonzero(self.accuracy <= accuracy)
        return int(reached[0]) if reached.size else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        random = {"mean": self.random.mean(axis=0), "worst": self.random.min(axis=0)} if len(self.random) else {}
        return {
            "order": self.order.tolist(),
            "hard_accuracy": self.accuracy.tolist(),
            "random_orders": len(self.random),
            "random_hard_accuracy": {name: curve.tolist() for name, curve in random.items()},
        }


def worst_damage(
    key: Shaped[Array, "..."],
    circuit: Circuit,
    spec: CircuitSpec,
    x: Float[Array | np.ndarray, "cases n_in"],
    y: Float[Array | np.ndarray, "cases n_out"],
    count: int,
    random_orders: int = 32,
) -> WorstDamage:
    """The greedy worst order of hidden gates with its curve, beside random orders.

    Greedy is not optimal: another set of the same size may hurt more, so the curve is an upper bound of the worst.

    Args:
        key: random key of the random orders.
        circuit: the circuit.
        spec: its layers.
        x: input bits.
        y: target bits.
        count: gates to kill; more than there are hidden gates kills all of these.
        random_orders: random orders beside it, 0 for none.

    Returns:
        Order and curves.

    Raises:
        PatternError: a negative count, or fewer than no random orders.
        TaskError: cases of another width than the circuit's.

    >>> from boolean_nca_cc.circuits.model import gen_circuit
    >>> bits = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> spec = CircuitSpec(((2, 1), (4, 2), (2, 1)), arity=2)
    >>> circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, spec.arity)
    >>> worst_damage(jax.random.key(1), circuit, spec, bits, bits, count=2).dead.tolist()
    [0, 1, 2]
    """
    if random_orders < 0:
        raise PatternError(f"random_orders is a number of orders; it is {random_orders}. Use 0 for none.")
    order = greedy_order(circuit, x, y, count)
    keys = jax.random.split(key, max(1, random_orders))[:random_orders]
    drawn = [np.asarray(jax.random.permutation(one, spec.hidden_gates))[: len(order)] for one in keys]
    masks = np.ones((1 + random_orders, len(order) + 1, spec.n_nodes), bool)
    for row, gates in enumerate([order, *drawn]):
        for dead in range(1, len(order) + 1):
            masks[row, dead, gates[:dead]] = False
    right = accuracy_by_output(circuit, spec, x, y, masks.reshape(-1, spec.n_nodes)).mean(axis=1)
    curves = right.reshape(masks.shape[:2])
    return WorstDamage(order, curves[0], curves[1:])
