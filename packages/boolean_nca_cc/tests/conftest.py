"""Runs before the package's tests: four virtual devices, and the shape checker over the package.

Both must stand before jax and the package are imported. Tests that count compilations run in a process of their own
without the checker, since it wraps the functions that they count.
"""

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

if "jax" in sys.modules:
    raise pytest.UsageError("jax was imported before its virtual devices could be set; run this package's tests alone")

# The tests compile much and run little: compiled plainly they take half the time.
_FLAGS = ("--xla_force_host_platform_device_count=4", "--xla_backend_optimization_level=0")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("boolean_nca_cc", "beartype.beartype")

import numpy as np  # noqa: E402
from hypothesis import settings  # noqa: E402

from boolean_nca_cc.circuits.spec import CircuitSpec  # noqa: E402

# Compilation and shared machines make single examples slow now and then; that is no failure.
settings.register_profile("compiled", deadline=None, max_examples=25)
settings.load_profile("compiled")


class Case(NamedTuple):
    """A random circuit with data and a mask, as NumPy float32 and int32."""

    spec: CircuitSpec
    wires: list[np.ndarray]
    logits: list[np.ndarray]
    x: np.ndarray
    y: np.ndarray
    alive: np.ndarray
    gate_mask: list[np.ndarray]


SPECS = (
    CircuitSpec(((3, 1), (4, 2), (2, 1)), 2),
    CircuitSpec(((4, 1), (6, 3), (4, 2), (3, 1)), 3),
    CircuitSpec(((5, 1), (4, 4), (2, 1)), 4),
    CircuitSpec(((2, 1), (3, 1), (1, 1)), 1),
)


def build_case(
    seed: int, spec_index: int = 1, cases: int = 7, dead: float = 0.3, fractions: bool = False, bits: bool = False
) -> Case:
    """Everything random from one seed; wires need not be balanced, outputs stay alive."""
    rng = np.random.default_rng(seed)
    spec = SPECS[spec_index]
    wires = [
        rng.integers(0, before[0], (spec.arity, n // s)).astype(np.int32)
        for before, (n, s) in zip(spec.layer_sizes[:-1], spec.layer_sizes[1:], strict=True)
    ]
    logits = [rng.normal(0, 2, (n // s, s, 1 << spec.arity)).astype(np.float32) for n, s in spec.layer_sizes[1:]]
    x = rng.random((cases, spec.n_in))
    x = (np.round(x) if bits else x).astype(np.float32)
    y = rng.integers(0, 2, (cases, spec.n_out)).astype(np.float32)
    alive = rng.random(spec.n_nodes) >= dead
    alive[-spec.n_out :] = True
    mask = alive.astype(np.float32)
    if fractions:
        mask *= rng.choice([0.25, 0.5, 1.0], spec.n_nodes).astype(np.float32)
    return Case(spec, wires, logits, x, y, alive, [mask[where] for where in spec.layer_slices])


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    """Builds random circuits: `make_case(seed, spec_index=…, cases=…, dead=…, fractions=…, bits=…)`."""
    return build_case
