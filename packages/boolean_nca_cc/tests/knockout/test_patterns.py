"""Knockout patterns: how many, how evenly, where, and what is refused."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from boolean_nca_cc.circuits.model import Circuit, run_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import PatternError
from boolean_nca_cc.knockout import bernoulli, greedy, greedy_order, shotgun, strip, vocabulary
from boolean_nca_cc.knockout.patterns import _count  # the shape checker refuses a float before a pattern can

DEFAULT = CircuitSpec.default(8, 8)
SMALL = CircuitSpec.default(3, 2, arity=2, hidden=2)
FLAT = CircuitSpec(((3, 1), (2, 1)), arity=2)  # no hidden layer


def dead_of(alive: jax.Array) -> np.ndarray:
    return np.flatnonzero(~np.asarray(alive))


@pytest.mark.parametrize("k", [0, 1, 20, 159, 160, 161, 10_000])
def test_shotgun_kills_exactly_k_and_stops_at_all_hidden_gates(k: int) -> None:
    dead = dead_of(shotgun(jax.random.key(3), DEFAULT, k))
    assert len(dead) == min(k, 160)
    assert set(dead) <= set(range(8, 168))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), k=st.integers(0, 40))
def test_shotgun_counts_hold_for_every_key(seed: int, k: int) -> None:
    dead = dead_of(shotgun(jax.random.key(seed), SMALL, k))
    hidden = SMALL.hidden_gates
    assert len(dead) == min(k, hidden.size)
    assert set(dead) <= set(hidden)


def test_shotgun_with_traced_k_under_jit_and_vmap_equals_the_plain_call() -> None:
    key = jax.random.key(7)
    counts = jnp.array([0, 3, 160, 500])
    batch = jax.jit(jax.vmap(lambda k: shotgun(key, DEFAULT, k)))(counts)
    for row, k in zip(batch, counts.tolist(), strict=True):
        np.testing.assert_array_equal(row, shotgun(key, DEFAULT, k))


def test_shotgun_is_a_function_of_its_key() -> None:
    first, again, other = (shotgun(jax.random.key(seed), DEFAULT, 20) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_larger_shotgun_of_one_key_contains_the_smaller() -> None:
    few, many = (set(dead_of(shotgun(jax.random.key(1), DEFAULT, k))) for k in (10, 30))
    assert few < many


def test_shotgun_chooses_every_gate_equally_often() -> None:
    """Draws without replacement: counts are hypergeometric, so their chi-square is shrunk by (1 - k/n) n/(n-1)."""
    draws, k, n = 4000, 20, DEFAULT.hidden_gates.size
    alive = jax.vmap(lambda key: shotgun(key, DEFAULT, k))(jax.random.split(jax.random.key(0), draws))
    counts = np.asarray(~alive).sum(axis=0)[DEFAULT.hidden_gates]
    expected = draws * k / n
    statistic = ((counts - expected) ** 2 / expected).sum() / ((1 - k / n) * n / (n - 1))
    assert 1e-4 < chi2.sf(statistic, n - 1) < 1 - 1e-4


def test_shotgun_chooses_pairs_equally_often() -> None:
    """Single gates could be even while neighbours still die together."""
    draws, k, n = 4000, 4, SMALL.hidden_gates.size
    alive = jax.vmap(lambda key: shotgun(key, SMALL, k))(jax.random.split(jax.random.key(1), draws))
    dead = np.asarray(~alive)[:, SMALL.hidden_gates].astype(float)
    together = (dead.T @ dead)[np.triu_indices(n, 1)]
    expected = draws * k * (k - 1) / (n * (n - 1))
    # Standard deviation of one pair's count is below sqrt(expected); six of them over all pairs is far beyond chance.
    assert np.abs(together - expected).max() < 6 * np.sqrt(expected)


def test_bernoulli_has_the_expected_mean_and_varies() -> None:
    keys = jax.random.split(jax.random.key(2), 2000)
    dead = np.asarray(~jax.vmap(lambda key: bernoulli(key, DEFAULT, 20.0))(keys))
    counts = dead.sum(axis=1)
    deviation = np.sqrt(160 * (20 / 160) * (1 - 20 / 160))
    assert abs(counts.mean() - 20) < 5 * deviation / np.sqrt(2000)
    assert abs(counts.std() - deviation) < 0.1 * deviation
    assert not dead[:, :8].any()
    assert not dead[:, -8:].any()


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_bernoulli_keeps_to_its_layer(layer: int) -> None:
    keys = jax.random.split(jax.random.key(layer), 500)
    dead = np.asarray(~jax.vmap(lambda key: bernoulli(key, DEFAULT, 6.0, layer))(keys))
    where = DEFAULT.layer_slices[layer]
    assert dead.sum() == dead[:, where].sum()
    assert abs(dead.sum(axis=1).mean() - 6) < 5 * np.sqrt(6 / 500)


def test_bernoulli_takes_a_traced_expectation() -> None:
    key = jax.random.key(0)
    batch = jax.jit(jax.vmap(lambda expected: bernoulli(key, DEFAULT, expected)))(jnp.array([0.0, 20.0, 1e9]))
    assert (~batch).sum(axis=1).tolist()[::2] == [0, 160]
    np.testing.assert_array_equal(batch[1], bernoulli(key, DEFAULT, 20.0))


@pytest.mark.parametrize("d", [0, 1, 2, 5, 20, 1000])
def test_strip_kills_the_neighbourhood_of_one_centre_in_each_hidden_layer(d: int) -> None:
    for seed in range(20):
        alive = np.asarray(strip(jax.random.key(seed), DEFAULT, d))
        assert alive[:8].all()
        assert alive[-8:].all()
        for where in DEFAULT.layer_slices[1:-1]:
            dead = np.flatnonzero(~alive[where])
            width = where.stop - where.start
            reach = d // 2
            if d == 0:
                assert dead.size == 0
                continue
            assert (np.diff(dead) == 1).all()
            assert min(reach + 1, width) <= dead.size <= 2 * reach + 1
            if dead[0] > 0 and dead[-1] < width - 1:
                assert dead.size == 2 * reach + 1


def test_strip_reaches_every_gate_and_layers_are_independent() -> None:
    keys = jax.random.split(jax.random.key(0), 2000)
    dead = np.asarray(~jax.jit(jax.vmap(lambda key: strip(key, DEFAULT, 1)))(keys))
    assert dead[:, DEFAULT.hidden_gates].any(axis=0).all()
    first, second = (dead[:, where].argmax(axis=1) for where in DEFAULT.layer_slices[1:3])
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    counts = np.bincount(first, minlength=64)
    expected = 2000 / 64
    assert 1e-4 < chi2.sf(((counts - expected) ** 2 / expected).sum(), 63) < 1 - 1e-4


def test_strip_takes_a_traced_width() -> None:
    key = jax.random.key(4)
    batch = jax.jit(jax.vmap(lambda d: strip(key, DEFAULT, d)))(jnp.arange(6))
    for d, row in enumerate(batch):
        np.testing.assert_array_equal(row, strip(key, DEFAULT, d))


def test_greedy_kills_the_first_of_an_order() -> None:
    order = [100, 9, 50]
    for d, expected in ((0, []), (1, [100]), (2, [9, 100]), (3, [9, 50, 100]), (9, [9, 50, 100])):
        assert dead_of(greedy(DEFAULT, order, d)).tolist() == expected
    batch = jax.jit(jax.vmap(lambda d: greedy(DEFAULT, order, d)))(jnp.arange(3))
    assert (~batch).sum(axis=1).tolist() == [0, 1, 2]


def _any_circuit(seed: int) -> Circuit:
    """Of the small spec, with random wires and tables, without a compilation."""
    rng = np.random.default_rng(seed)
    wires = [rng.integers(0, n, (2, groups)).astype(np.int32) for n, groups in ((3, 6), (12, 4), (4, 2))]
    logits = [rng.normal(size=(*shape, 4)).astype(np.float32) for shape in ((6, 2), (4, 1), (2, 1))]
    return Circuit([jnp.asarray(layer) for layer in wires], [jnp.asarray(layer) for layer in logits])


@pytest.mark.parametrize("cases", [8, 5])  # a whole truth table, and one that leaves bits of a word unused
def test_greedy_order_is_the_slow_search(cases: int) -> None:
    circuit = _any_circuit(8)  # one whose order would change if padding counted
    x = ((np.arange(cases)[:, None] >> np.arange(3)) & 1).astype(np.float32)
    run = jax.jit(lambda masks: run_circuit(circuit.logits, circuit.wires, x, masks, hard=True)[-1])
    y = np.asarray(run(SMALL.to_layers(np.ones(SMALL.n_nodes, bool))))

    def accuracy(alive: np.ndarray) -> float:
        return float((np.asarray(run(SMALL.to_layers(alive))) == y).mean())

    alive, slow = np.ones(SMALL.n_nodes, bool), []
    for _ in range(5):
        scores = {}
        for gate in SMALL.hidden_gates:
            if alive[gate]:
                trial = alive.copy()
                trial[gate] = False
                scores[int(gate)] = accuracy(trial)
        worst = min(scores, key=lambda gate: (scores[gate], gate))
        alive[worst] = False
        slow.append(worst)
    assert greedy_order(circuit, x, y, 5).tolist() == slow


def test_greedy_order_names_every_hidden_gate_once_when_asked_for_too_many() -> None:
    x = ((np.arange(8)[:, None] >> np.arange(3)) & 1).astype(np.float32)
    order = greedy_order(_any_circuit(2), x, x[:, :2], 1000)
    assert sorted(order.tolist()) == SMALL.hidden_gates.tolist()


@pytest.mark.parametrize(("mode", "draw"), [("shotgun", shotgun), ("bernoulli", bernoulli), ("strip", strip)])
def test_vocabulary_is_one_pattern_for_each_split_key(mode: str, draw: Callable[..., jax.Array]) -> None:
    key = jax.random.key(9)
    patterns = vocabulary(key, DEFAULT, 12, mode, 10)
    assert patterns.shape == (12, DEFAULT.n_nodes)
    for row, one in zip(patterns, jax.random.split(key, 12), strict=True):
        np.testing.assert_array_equal(row, draw(one, DEFAULT, 10))
    assert len({row.tobytes() for row in np.asarray(patterns)}) > 6


def test_a_circuit_without_hidden_gates_has_nothing_to_kill() -> None:
    key = jax.random.key(0)
    for alive in (shotgun(key, FLAT, 3), bernoulli(key, FLAT, 3.0), strip(key, FLAT, 3), greedy(FLAT, [], 3)):
        assert np.asarray(alive).all()
        assert alive.shape == (5,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key: shotgun(key, SMALL, -1), r"k is a number of gates and cannot be negative; it is -1\. Use 0"),
        (lambda key: _count("k", 2.5), r"k is a whole number of gates; it is 2\.5\. Round it"),
        (lambda key: strip(key, SMALL, -2), r"d is a number of gates and cannot be negative; it is -2"),
        (lambda key: bernoulli(key, SMALL, -1.0), r"expected is a mean number .* it is -1\.0"),
        (lambda key: bernoulli(key, SMALL, float("nan")), r"at least 0 and finite; it is nan"),
        (lambda key: bernoulli(key, SMALL, 1.0, 0), r"from 1 to 2 here .* it is 0\. Leave it out"),
        (lambda key: bernoulli(key, SMALL, 1.0, 3), r"3 the output\); it is 3"),
        (lambda key: greedy(SMALL, [0, 5], 1), r"flat ids of hidden gates, 3 to 18 here; \[0\] are none"),
        (lambda key: greedy(SMALL, [19], 1), r"\[19\] are none"),
        (lambda key: greedy(SMALL, [4, 4], 1), r"names each gate once; it is \[4, 4\]"),
        (lambda key: greedy(FLAT, [4], 1), r"of which this circuit has none"),
        (
            lambda key: vocabulary(key, SMALL, 2, "greedy", 1),
            r"drawn by one of shotgun, bernoulli, strip; mode is 'greedy'",
        ),
        (lambda key: vocabulary(key, SMALL, 0, "shotgun", 1), r"at least 1 pattern; size is 0"),
        (lambda key: vocabulary(key, SMALL, 2, "shotgun", -3), r"cannot be negative; it is -3"),
        (lambda key: greedy_order(_any_circuit(0), np.ones((2, 3)), np.ones((2, 2)), -1), r"count .* it is -1"),
    ],
)
def test_bad_input_is_refused_with_the_rule_and_the_value(call: Callable[..., object], message: str) -> None:
    with pytest.raises(PatternError, match=message):
        call(jax.random.key(0))
