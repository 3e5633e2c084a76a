"""JAX: block_until_ready after each call, compilation outside the clock, memory statistics where a device has them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from claimbench.errors import RunError
from claimbench.runtimes.base import Runtime, flatten

__all__ = ["JaxRuntime", "make"]


class JaxRuntime(Runtime):
    """Runtime for JAX arrays."""

    def synchronise(self, outputs: Any) -> None:
        """Wait for every array."""
        jax.block_until_ready(outputs)

    def leaves(self, tree: Any) -> dict[str, np.ndarray]:
        """Every array of a tree on the host; typed PRNG keys by their bits."""
        found = {}
        for name, leaf in flatten(tree).items():
            if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            found[name] = np.asarray(leaf)
        return found

    def facts(self) -> dict[str, Any]:
        """Versions and device."""
        device = jax.devices()[0]
        return {
            "jax": jax.__version__,
            "optax": version("optax"),
            "numpy": np.__version__,
            "device": f"{device.platform}: {device.device_kind}",
        }

    def peak_memory(self, call: Callable[[], Any]) -> tuple[float, str]:
        """Peak of the device's allocator where it keeps statistics, else resident memory."""
        device = jax.devices()[0]
        before = device.memory_stats()
        if not before or "peak_bytes_in_use" not in before:
            return super().peak_memory(lambda: jax.block_until_ready(call()))
        # The allocator's peak cannot be reset: a process of its own has seen only the inputs and the warm-up.
        kept = jax.block_until_ready(call())
        peak = device.memory_stats()["peak_bytes_in_use"] - before["bytes_in_use"]
        del kept
        return float(peak), "peak_bytes_in_use of the device"

    def probes(self) -> dict[str, tuple[Callable[[], Any], float, str]]:
        """Copy and matrix product as XLA does them here."""
        source = jnp.ones(1 << 24, dtype=jnp.float32)
        square = jnp.ones((1024, 1024), dtype=jnp.float32)
        copy = jax.jit(lambda x: x + 1.0)
        product = jax.jit(lambda x: x @ x)
        return {
            "copy": (lambda: copy(source), 2.0 * source.nbytes, "B/s"),
            "matmul": (lambda: product(square), 2.0 * 1024**3, "flop/s"),
        }


def make(device: str) -> Runtime:
    """The runtime for a device.

    Raises:
        RunError: When JAX has no such device.
    """
    platforms = {d.platform for d in jax.devices()}
    if device == "cuda" and not platforms & {"gpu", "cuda"}:
        raise RunError(
            f"JAX sees no CUDA device, only {', '.join(sorted(platforms))}; "
            "install the extra: pip install './packages/boolean_nca_cc[cuda]', or use --device cpu"
        )
    return JaxRuntime(device)
