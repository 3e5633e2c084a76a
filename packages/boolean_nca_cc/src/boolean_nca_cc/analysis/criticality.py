"""What each gate alone is worth: the hard accuracy that is lost when it dies."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from boolean_nca_cc.analysis.accuracy import accuracy_by_output
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec

__all__ = ["Criticality", "criticality"]


@dataclass(frozen=True)
class Criticality:
    """The worth of every gate of a circuit, in the order of their flat ids.

    Args:
        spec: the circuit's layers.
        baseline: hard accuracy with all gates that were alive.
        lost_by_output: for each gate the share of cases in which output bit b is wrong more often without it. Negative
            where the circuit answers better without the gate.
    """

    spec: CircuitSpec
    baseline: float
    lost_by_output: Float[np.ndarray, "gates n_out"]

    @property
    def lost(self) -> Float[np.ndarray, " gates"]:
        """Hard accuracy lost with each gate."""
        return self.lost_by_output.mean(axis=1)

    @property
    def ranking(self) -> Int[np.ndarray, " gates"]:
        """Flat node ids, the most critical gate first; of equal ones the lowest id."""
        return np.argsort(-self.lost, kind="stable") + self.spec.n_in

    def by_layer(self) -> list[Float[np.ndarray, " _"]]:
        """Hard accuracy lost, one array a layer of gates."""
        first = np.asarray(self.spec.offsets[2:]) - self.spec.n_in
        return np.split(self.lost, first)

    def as_dict(self, top: int = 10) -> dict[str, Any]:
        """For JSON: the most critical gates, a summary of each layer, and what every gate costs."""
        lost, layers = self.lost, self.by_layer()
        return {
            "baseline_hard_accuracy": self.baseline,
            "critical_gates": int((lost > 0).sum()),
            "gates": len(lost),
            "worst": [
                {"node": int(node), "lost": float(lost[node - self.spec.n_in])} for node in self.ranking[: max(0, top)]
            ],
            "layers": [
                {"gates": len(layer), "critical": int((layer > 0).sum()), "mean": float(layer.mean()),
                 "worst": float(layer.max())}
                for layer in layers
            ],
            "lost": lost.tolist(),
        }  # fmt: skip


def criticality(
    circuit: Circuit,
    spec: CircuitSpec,
    x: Float[Array | np.ndarray, "cases n_in"],
    y: Float[Array | np.ndarray, "cases n_out"],
    alive: Bool[Array | np.ndarray, " nodes"] | None = None,
) -> Criticality:
    """Kills every gate alone, outputs included, and measures what hard accuracy that costs.

    All gates run in one compiled map, on packed cases. A gate that is dead already costs nothing.

    Args:
        circuit: the circuit.
        spec: its layers.
        x: input bits.
        y: target bits.
        alive: the knockout to start from; None = all alive.

    Returns:
        What each gate costs.

    Raises:
        MaskError: a mask that does not fit the circuit.
        TaskError: cases of another width than the circuit's.

    >>> import jax.numpy as jnp
    >>> copy = Circuit([jnp.array([[0, 1]])], [jnp.array([[[-3.0, 3.0]], [[-3.0, 3.0]]])])
    >>> bits = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> criticality(copy, CircuitSpec(((2, 1), (2, 1)), 1), bits, bits).lost.tolist()
    [0.25, 0.25]
    """
    standing = np.ones(spec.n_nodes, bool) if alive is None else np.asarray(alive)
    spec.check_alive(standing)
    masks = np.repeat(standing[None], spec.n_gates + 1, axis=0)
    masks[np.arange(spec.n_gates), np.arange(spec.n_in, spec.n_nodes)] = False
    right = accuracy_by_output(circuit, spec, x, y, masks)
    return Criticality(spec, float(right[-1].mean()), right[-1] - right[:-1])
