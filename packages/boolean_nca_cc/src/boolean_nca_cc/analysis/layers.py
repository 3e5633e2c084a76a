"""How much of each layer is alive, reaches an output, and matters."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Bool

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.knockout.liveness import functional_liveness, structural_liveness

__all__ = ["LayerLiveness", "liveness_by_layer"]


@dataclass(frozen=True)
class LayerLiveness:
    """One layer in numbers; each is at most the one before.

    Args:
        layer: 0 is the input.
        nodes: inputs or gates.
        alive: those that are not knocked out.
        wired: those from which wires lead to an output through gates that are alive.
        live: those whose value an output depends on, as far as tables tell.
    """

    layer: int
    nodes: int
    alive: int
    wired: int
    live: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"layer": self.layer, "nodes": self.nodes, "alive": self.alive, "wired": self.wired, "live": self.live}


def liveness_by_layer(
    circuit: Circuit, spec: CircuitSpec, alive: Bool[Array | np.ndarray, " nodes"] | None = None
) -> list[LayerLiveness]:
    """Counts what `boolean_nca_cc.knockout`'s structural and functional liveness find in each layer.

    Args:
        circuit: the circuit.
        spec: its layers.
        alive: the knockout; None = all alive.

    Returns:
        One entry a layer, the input first.

    Raises:
        MaskError: a mask that does not fit the circuit.

    >>> import jax.numpy as jnp
    >>> first = Circuit([jnp.array([[0], [1]])], [jnp.array([[[-3.0, 3.0, -3.0, 3.0]]])])
    >>> [(layer.wired, layer.live) for layer in liveness_by_layer(first, CircuitSpec(((2, 1), (1, 1)), 2))]
    [(2, 1), (1, 1)]
    """
    standing = np.ones(spec.n_nodes, bool) if alive is None else np.asarray(alive)
    wired, live = structural_liveness(circuit, spec, standing), functional_liveness(circuit, spec, standing)
    return [
        LayerLiveness(layer, n, *(int(nodes[where].sum()) for nodes in (standing, wired, live)))
        for layer, ((n, _), where) in enumerate(zip(spec.layer_sizes, spec.layer_slices, strict=True))
    ]
