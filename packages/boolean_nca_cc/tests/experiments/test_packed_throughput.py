"""The measurement counts right and computes the same each time; how fast it is, is nobody's business here."""

import jax
import numpy as np
import pytest

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.experiments import packed_throughput as measured
from boolean_nca_cc.experiments.packed_throughput import LARGE, PackedThroughput, SpeedRow, packed_throughput

SMALL = CircuitSpec(((7, 1), (8, 4), (2, 1)), arity=3)


def test_the_large_circuit_is_the_one_that_is_meant() -> None:
    assert (LARGE.n_gates, LARGE.n_logits, LARGE.n_in, LARGE.arity) == (530, 8480, 10, 4)


def test_counts_are_functions_of_the_circuit_and_outputs_repeat() -> None:
    first = packed_throughput(SMALL, threads=2, rounds=2, calls=3)
    again = packed_throughput(SMALL, threads=1, rounds=1, calls=1)
    # 128 cases are 4 words; a table of 3 inputs is 7 multiplexers; 2 + 2 groups read 3 rows each, 10 gates write one.
    assert (first.gates, first.cases, first.threads, first.multiplexers) == (10, 128, 2, 10 * 7 * 4)
    assert first.traffic == 4 * (4 * (4 * 3 + 10) + 10 * 8)
    assert [(row.name, row.unit) for row in first.rows] == [
        ("packed evaluation", "look-up tables"),
        ("arithmetic probe", "multiplexers"),
        ("memory probe", "bytes"),
    ]
    assert [row.amount for row in first.rows] == [row.amount for row in again.rows]
    assert first.rows[0].amount == 10 * 128
    assert first.digest == again.digest
    assert all(row.seconds > 0 and row.calls == 6 for row in first.rows)
    assert packed_throughput(SMALL, rounds=1, calls=1, seed=1).digest != first.digest


def test_rates_roofs_and_share_are_arithmetic() -> None:
    rows = (
        SpeedRow("packed evaluation", "look-up tables", 1000, 6, 3.0),
        SpeedRow("arithmetic probe", "multiplexers", 500, 8, 1.0),
        SpeedRow("memory probe", "bytes", 100, 10, 0.5),
    )
    found = PackedThroughput(10, 4, 100, 2, multiplexers=400, traffic=500, digest="", rows=rows)
    assert found.rate == 2000.0
    assert found.roofs == {"arithmetic": 10_000.0, "memory": 4000.0}
    assert (found.bound, found.share) == ("memory", 0.5)
    document = found.as_dict()
    assert (document["share"], document["rows"][1]["rate"]) == (0.5, 4000.0)


def test_the_probes_do_what_they_say() -> None:
    """The compiled loops against NumPy: nothing was optimised away."""
    words, high, select = (
        np.random.default_rng(seed).integers(0, 1 << 32, size, np.uint32) for seed, size in enumerate((50, 32, 32))
    )
    low = words
    for step in range(32 * measured._REPEATS):
        low = (low & ~select[step % 32]) | (high[step % 32] & select[step % 32])
    np.testing.assert_array_equal(measured._multiplexers(words, high, select), low)
    words = np.arange(50, dtype=np.uint32)
    expected = words ^ np.bitwise_xor.reduce(np.arange(measured._REPEATS, dtype=np.uint32))
    np.testing.assert_array_equal(jax.device_get(measured._rewrites(words)), expected)


@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"rounds": 0}, {"calls": 0}, {"spec": CircuitSpec(((17, 1), (1, 1)), 1)}]
)
def test_measurements_that_cannot_be_made_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="at least 1 thread, 1 round and 1 call"):
        packed_throughput(**options)  # type: ignore[arg-type]
