"""Circuits to export, and what they should compute."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec

SPECS = (
    CircuitSpec(((3, 1), (4, 2), (2, 1)), 2),
    CircuitSpec(((4, 1), (6, 3), (4, 2), (3, 1)), 3),
    CircuitSpec(((7, 1), (8, 4), (6, 2), (2, 1)), 4),
    CircuitSpec(((2, 1), (3, 1), (1, 1)), 1),
    CircuitSpec(((5, 1), (4, 2), (3, 1)), 5),
)


class Sample(NamedTuple):
    """A circuit with some nodes dead, inputs among them, and its truth table."""

    circuit: Circuit
    spec: CircuitSpec
    alive: np.ndarray
    expected: np.ndarray


def truth_by_address(circuit: Circuit, spec: CircuitSpec, alive: np.ndarray) -> np.ndarray:
    """Every gate's bit in every case, looked up one by one in plain Python."""
    rows = []
    for case in range(1 << spec.n_in):
        values = [case >> bit & 1 & int(alive[bit]) for bit in range(spec.n_in)]
        for layer in range(spec.n_layers):
            _, size = spec.layer_sizes[layer + 1]
            wires, logits = np.asarray(circuit.wires[layer]), np.asarray(circuit.logits[layer])
            standing = alive[spec.layer_slices[layer + 1]]
            values = [
                int(
                    bool(
                        logits[
                            gate // size, gate % size, sum(values[s] << j for j, s in enumerate(wires[:, gate // size]))
                        ]
                        > 0
                    )
                    and standing[gate]
                )
                for gate in range(len(standing))
            ]
        rows.append(values)
    return np.array(rows, bool)


def make_sample(seed: int, spec_index: int, dead: float = 0.15, scale: float = 40.0, bias: float = 0.0) -> Sample:
    """Random wires (two of one group may meet in one node) and tables."""
    rng = np.random.default_rng(seed)
    spec = SPECS[spec_index]
    wires, logits = [], []
    for (before, _), (n, s) in zip(spec.layer_sizes[:-1], spec.layer_sizes[1:], strict=True):
        wires.append(jnp.asarray(rng.integers(0, before, (spec.arity, n // s))))
        drawn = rng.uniform(0.5, 1.0, (n // s, s, 1 << spec.arity))
        drawn *= np.where(rng.normal(bias, 1, drawn.shape) > 0, 1, -1)
        logits.append(jnp.asarray(scale * drawn, jnp.float32))
    alive = rng.random(spec.n_nodes) >= dead
    circuit = Circuit(wires, logits)
    return Sample(circuit, spec, alive, truth_by_address(circuit, spec, alive))


@pytest.fixture(scope="session")
def sample() -> Callable[..., Sample]:
    """`sample(seed, spec_index, dead=…, scale=…, bias=…)`."""
    return make_sample
