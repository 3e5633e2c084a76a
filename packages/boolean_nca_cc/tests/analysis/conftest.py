"""Random circuits, and every node's bit in every case by NumPy alone."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec

SPEC = CircuitSpec(((6, 1), (8, 4), (6, 2), (4, 1)), arity=3)


@pytest.fixture(scope="session")
def spec() -> CircuitSpec:
    """6 inputs, 18 gates of three inputs, 4 of them outputs."""
    return SPEC


@pytest.fixture(scope="session")
def draw() -> Callable[..., Circuit]:
    """`draw(seed, wiring)`: tables from the first seed, wires from the second."""

    def circuit(seed: int, wiring: int = 0) -> Circuit:
        places, tables = np.random.default_rng(wiring), np.random.default_rng(1000 + seed)
        wires, logits = [], []
        for (before, _), (n, s) in zip(SPEC.layer_sizes[:-1], SPEC.layer_sizes[1:], strict=True):
            wires.append(jnp.asarray(places.integers(0, before, (SPEC.arity, n // s))))
            logits.append(jnp.asarray(tables.normal(0, 2, (n // s, s, 1 << SPEC.arity)), jnp.float32))
        return Circuit(wires, logits)

    return circuit


@pytest.fixture(scope="session")
def look_up() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """`look_up(circuit, x, alive)`: bits of all nodes (cases, nodes), and each gate's addresses (cases, gates)."""

    def run(circuit: Circuit, x: np.ndarray, alive: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        alive = np.ones(SPEC.n_nodes, bool) if alive is None else alive
        values, addresses = [x.astype(int) * alive[: SPEC.n_in]], []
        for layer, where in enumerate(SPEC.layer_slices[1:]):
            wires = np.repeat(np.asarray(circuit.wires[layer]), SPEC.layer_sizes[layer + 1][1], axis=1)
            bits = (np.asarray(circuit.logits[layer]) > 0).astype(int).reshape(wires.shape[1], -1)
            address = sum(values[-1][:, source] << j for j, source in enumerate(wires))
            addresses.append(address)
            values.append(bits[np.arange(wires.shape[1]), address] * alive[where])
        return np.concatenate(values, axis=1), np.concatenate(addresses, axis=1)

    return run


@pytest.fixture(scope="session")
def cases() -> np.ndarray:
    """All 64 inputs, as float32."""
    return (np.arange(64)[:, None] >> np.arange(6) & 1).astype(np.float32)
