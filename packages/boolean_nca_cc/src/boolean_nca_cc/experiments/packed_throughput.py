"""How fast hard circuits run on packed cases, and how fast they could: look-up tables a second against two probes.

The roofline (S. Williams, A. Waterman, D. Patterson: *Roofline: An Insightful Visual Performance Model for Multicore
Architectures*. 2009) of this computation has two sides:

*arithmetic*
    a table of k inputs is 2^k - 1 multiplexers of whole words, `low ^ ((low ^ high) & x)`. The probe runs long chains
    of multiplexers on words that it loads once.
*memory*
    a group reads k rows of words, and each of its gates writes one. The probe rewrites an array as large as a layer
    and its inputs, so that it has the circuit's own place in the caches.

Both probes are compiled by XLA, as the circuit is, and take turns with it; of each the fastest round counts, because
other work on the machine only ever slows a round down. Several threads run whole evaluations side by side. Everything
but the seconds is a function of the settings.
"""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from threading import Barrier
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from boolean_nca_cc.circuits.kernels import evaluate_packed, pack_cases
from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import ConfigError

__all__ = ["LARGE", "PackedThroughput", "SpeedRow", "packed_throughput", "random_workload"]

LARGE = CircuitSpec.default(10, 10, arity=4, hidden=4, width=4)
"""530 gates of four inputs; 1,024 cases."""

_LANES = 2048  # words of the arithmetic probe: they stay in the first cache
_CHAIN = 32  # its multiplexers in a row
_REPEATS = 64  # of a probe within one call, so that calling it costs nothing


@dataclass(frozen=True)
class SpeedRow:
    """The fastest round of one of the things that take turns.

    Args:
        name: what ran.
        unit: what is counted.
        amount: how much of it one call does.
        calls: calls of a round, over all threads.
        seconds: of that round.
    """

    name: str
    unit: str
    amount: int
    calls: int
    seconds: float

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.amount * self.calls / self.seconds


@dataclass(frozen=True)
class PackedThroughput:
    """Packed evaluation beside what the machine allows.

    Args:
        gates: gates of the circuit.
        arity: their inputs.
        cases: cases of one evaluation.
        threads: evaluations side by side.
        multiplexers: multiplexers of words in one evaluation.
        traffic: bytes that one evaluation reads and writes.
        digest: SHA-256 of the outputs, to see that two runs computed the same.
        rows: evaluation, arithmetic probe, memory probe.
    """

    gates: int
    arity: int
    cases: int
    threads: int
    multiplexers: int
    traffic: int
    digest: str
    rows: tuple[SpeedRow, SpeedRow, SpeedRow]

    @property
    def rate(self) -> float:
        """Look-up tables evaluated a second, one for each gate and case."""
        return self.rows[0].rate

    @property
    def roofs(self) -> dict[str, float]:
        """The most that the arithmetic and the memory probe allow, in the same unit."""
        _, arithmetic, memory = self.rows
        tables = self.gates * self.cases
        return {
            "arithmetic": arithmetic.rate / self.multiplexers * tables,
            "memory": memory.rate / self.traffic * tables,
        }

    @property
    def bound(self) -> str:
        """Which of the two is lower."""
        return min(self.roofs, key=lambda name: self.roofs[name])

    @property
    def share(self) -> float:
        """The rate as a share of the lower roof."""
        return self.rate / self.roofs[self.bound]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [asdict(row) | {"rate": row.rate} for row in self.rows]
        found = {"rate": self.rate, "roofs": self.roofs, "bound": self.bound, "share": self.share}
        return asdict(self) | {"rows": rows} | found


def packed_throughput(
    spec: CircuitSpec = LARGE, *, threads: int = 1, rounds: int = 40, calls: int = 200, seed: int = 0
) -> PackedThroughput:
    """Measures packed evaluation of all cases of a random circuit, in turns with the two probes.

    Args:
        spec: the circuit's layers, of up to 16 inputs.
        threads: evaluations side by side; the probes run in as many.
        rounds: turns of each.
        calls: calls of each thread in a turn.
        seed: of wires and tables.

    Returns:
        Rates and roofs.

    Raises:
        ConfigError: no threads, rounds or calls, or more inputs than sixteen.

    >>> small = packed_throughput(CircuitSpec.default(4, 4), rounds=1, calls=1)
    >>> small.gates, small.cases, small.multiplexers
    (84, 16, 1260)
    """
    if min(threads, rounds, calls) < 1 or spec.n_in > 16:
        raise ConfigError(
            "a measurement has at least 1 thread, 1 round and 1 call, and up to 16 inputs; it was asked for "
            f"{threads}, {rounds}, {calls} and {spec.n_in}. Raise or lower what is out of range."
        )
    circuit, words = random_workload(spec, seed)
    rows_of_words = words.shape[1]
    tables = sum(n << spec.arity for n, _ in spec.layer_sizes[1:])
    read = sum(n // s * spec.arity for n, s in spec.layer_sizes[1:])
    largest = max(before + n for (before, _), (n, _) in zip(spec.layer_sizes, spec.layer_sizes[1:], strict=False))
    lanes, high, select, resident = (
        jnp.asarray(np.random.default_rng(seed + index).integers(0, 1 << 32, size, np.uint32))
        for index, size in enumerate((_LANES, _CHAIN, _CHAIN, largest * rows_of_words))
    )
    work: dict[str, tuple[str, int, Callable[[], object]]] = {
        "packed evaluation": (
            "look-up tables", spec.n_gates << spec.n_in, partial(evaluate_packed, circuit, words)
        ),
        "arithmetic probe": (
            "multiplexers", _CHAIN * _REPEATS * _LANES, partial(_multiplexers, lanes, high, select)
        ),
        "memory probe": ("bytes", 2 * resident.nbytes * _REPEATS, partial(_rewrites, resident)),
    }  # fmt: skip
    best: dict[str, SpeedRow] = {}
    with ThreadPoolExecutor(threads) as pool:
        for _, _, call in work.values():
            jax.block_until_ready(call())  # compiled before the clock runs
        for _ in range(rounds):
            for name, (unit, amount, call) in work.items():
                row = SpeedRow(name, unit, amount, calls * threads, _turn(pool, threads, call, calls))
                if name not in best or row.rate > best[name].rate:
                    best[name] = row
    outputs = np.asarray(evaluate_packed(circuit, words))
    return PackedThroughput(
        gates=spec.n_gates,
        arity=spec.arity,
        cases=1 << spec.n_in,
        threads=threads,
        multiplexers=spec.n_gates * ((1 << spec.arity) - 1) * rows_of_words,
        traffic=4 * (rows_of_words * (read + spec.n_gates) + tables),
        digest=hashlib.sha256(outputs.tobytes()).hexdigest(),
        rows=(best["packed evaluation"], best["arithmetic probe"], best["memory probe"]),
    )


def random_workload(spec: CircuitSpec, seed: int = 0) -> tuple[Circuit, UInt32[Array, "n_in words"]]:
    """What is measured: random wires and tables, and all cases.

    Args:
        spec: the circuit's layers.
        seed: of wires and tables.

    Returns:
        The circuit and its packed inputs.

    >>> random_workload(CircuitSpec.default(6, 2))[1].shape
    (6, 2)
    """
    wiring, drawing = jax.random.split(jax.random.key(seed))
    circuit = gen_circuit(wiring, spec.layer_sizes, spec.arity)
    keys = jax.random.split(drawing, spec.n_layers)
    logits = [jax.random.normal(key, layer.shape) for key, layer in zip(keys, circuit.logits, strict=True)]
    cases = np.arange(1 << spec.n_in)[:, None] >> np.arange(spec.n_in) & 1
    return Circuit(circuit.wires, logits), pack_cases(cases)


@jax.jit
def _multiplexers(
    words: UInt32[Array, " words"], high: UInt32[Array, " chain"], select: UInt32[Array, " chain"]
) -> UInt32[Array, " words"]:
    """A chain of multiplexers for each word: one load and one store to very many operations."""

    def repeat(_: Int[Array, ""], low: UInt32[Array, " words"]) -> UInt32[Array, " words"]:
        for step in range(_CHAIN):
            low = low ^ ((low ^ high[step]) & select[step])
        return low

    return jax.lax.fori_loop(0, _REPEATS, repeat, words)


@jax.jit
def _rewrites(words: UInt32[Array, " words"]) -> UInt32[Array, " words"]:
    """Reads and writes every word, again and again."""
    return jax.lax.fori_loop(0, _REPEATS, lambda step, x: x ^ step.astype(jnp.uint32), words)


def _turn(pool: ThreadPoolExecutor, threads: int, call: Callable[[], object], calls: int) -> float:
    """Seconds from a common start until the last of the threads has made its calls."""
    start = Barrier(threads + 1)

    def run() -> None:
        start.wait()
        for _ in range(calls):
            jax.block_until_ready(call())

    running = [pool.submit(run) for _ in range(threads)]
    start.wait()
    begun = time.perf_counter()
    for one in running:
        one.result()
    return time.perf_counter() - begun
