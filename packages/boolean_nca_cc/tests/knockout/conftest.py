"""Circuits drawn by NumPy: any wires, any tables, and nothing to compile."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec


@pytest.fixture(scope="session")
def random_circuit() -> Callable[..., Circuit]:
    """A function of spec, seed and bias: normal logits, wires without any order; a bias makes constant tables."""

    def draw(spec: CircuitSpec, seed: int, bias: float = 0.0) -> Circuit:
        rng = np.random.default_rng(seed)
        wires, logits = [], []
        for (n_before, _), (n, s) in zip(spec.layer_sizes[:-1], spec.layer_sizes[1:], strict=True):
            wires.append(jnp.asarray(rng.integers(0, n_before, (spec.arity, n // s)).astype(np.int32)))
            logits.append(jnp.asarray((bias + rng.normal(size=(n // s, s, 1 << spec.arity))).astype(np.float32)))
        return Circuit(wires, logits)

    return draw


@pytest.fixture(scope="session")
def random_alive() -> Callable[..., np.ndarray]:
    """A function of spec, seed and k: k dead hidden gates."""

    def draw(spec: CircuitSpec, seed: int, k: int) -> np.ndarray:
        alive = np.ones(spec.n_nodes, bool)
        hidden = spec.hidden_gates
        alive[np.random.default_rng(seed).choice(hidden, min(k, hidden.size), replace=False)] = False
        return alive

    return draw
