"""The pool: who is drawn, replaced and struck, how often, and what happens to them."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import ConfigError, PatternError, SpecError
from boolean_nca_cc.knockout import vocabulary
from boolean_nca_cc.meta.pool import Pool, fresh_pool, put_back, replace, sample, strike, wire_diversity
from boolean_nca_cc.meta.settings import DamageConfig

SPEC = CircuitSpec(((2, 1), (4, 2), (4, 2), (2, 1)), arity=2)  # nodes 2 to 9 are hidden gates
DRAWS = 4000


def pool_of(size: int, wiring: Any = "fixed", seed: int = 0) -> Pool:
    """A pool in which every circuit is told by its numbers: row i has i + 1 steps, a loss, and memories of i + 1."""
    pool = fresh_pool(jax.random.key(seed), SPEC, size, channels=3, wiring=wiring)
    rows = jnp.arange(1, size + 1)
    hidden = jnp.broadcast_to(rows[:, None, None] * 1.0, pool.state.hidden.shape)
    return pool._replace(state=pool.state._replace(hidden=hidden), steps=rows, loss=rows / 10)


def frequencies(chosen: Callable[[jax.Array], jax.Array]) -> np.ndarray:
    """How often each row is chosen, as a share of many draws; `chosen` gives a boolean a row."""
    return np.asarray(jax.jit(jax.vmap(chosen))(jax.random.split(jax.random.key(1), DRAWS)).mean(axis=0))


def assert_chances(found: np.ndarray, chances: list[float]) -> None:
    """Within four and a half standard deviations, which a right chance misses once in a hundred thousand."""
    expected = np.array(chances)
    spread = np.sqrt(expected * (1 - expected) / DRAWS)
    assert (np.abs(found - expected) <= 4.5 * spread + 1e-9).all(), (found, expected)


def without_replacement(chances: list[float]) -> list[float]:
    """The chance of each to be among two that are drawn one after the other."""
    return [p + sum(q * p / (1 - q) for j, q in enumerate(chances) if j != i) for i, p in enumerate(chances)]


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def rows_of(pool: Pool, *rows: int) -> Any:
    wires = pool.wires if pool.shares_wires else [layer[jnp.array(rows)] for layer in pool.wires]
    return [wires, *jax.tree.map(lambda leaf: leaf[jnp.array(rows)], tuple(pool[1:]))]


def test_fresh_circuits_are_pass_through_whole_and_unseen() -> None:
    pool = fresh_pool(jax.random.key(4), SPEC, 3, channels=5)
    wires, logits = gen_circuit(jax.random.key(4), SPEC.layer_sizes, SPEC.arity)
    assert pool.shares_wires
    assert same(pool.wires, wires)
    flat = np.concatenate([np.asarray(layer).reshape(-1, 4) for layer in logits])
    assert np.array_equal(pool.state.logits, np.stack([flat] * 3))
    assert not pool.state.hidden.any()
    assert pool.alive.all()
    assert not pool.steps.any()
    assert np.isinf(pool.loss).all()
    own = fresh_pool(jax.random.key(4), SPEC, 3, channels=5, wiring="random")
    assert not own.shares_wires
    assert len({np.asarray(own.wires[1][row]).tobytes() for row in range(3)}) == 3
    assert np.array_equal(own.state.logits, pool.state.logits)


def test_a_pool_of_copies() -> None:
    wires, logits = gen_circuit(jax.random.key(4), SPEC.layer_sizes, SPEC.arity)
    start = Circuit(wires, [layer + 0.5 for layer in logits])
    pool = jax.jit(lambda start: fresh_pool(jax.random.key(0), SPEC, 2, channels=5, start=start))(start)
    assert same(pool.wires, wires)
    assert np.array_equal(pool.state.logits[1, :4], np.asarray(start.logits[0]).reshape(4, 4))


def test_pools_that_cannot_be_are_refused() -> None:
    key, start = jax.random.key(0), gen_circuit(jax.random.key(4), SPEC.layer_sizes, SPEC.arity)
    with pytest.raises(ConfigError, match="at least one circuit; size is 0"):
        fresh_pool(key, SPEC, 0, channels=5)
    with pytest.raises(ConfigError, match=r"wiring is 'random'\. Use wiring='fixed', or give no start"):
        fresh_pool(key, SPEC, 2, channels=5, wiring="random", start=start)
    with pytest.raises(SpecError, match="Give its own spec"):
        fresh_pool(key, CircuitSpec(((2, 1), (4, 2), (2, 1)), 2), 2, channels=5, start=start)


def test_every_pair_is_drawn_as_often_as_any_other_and_nobody_twice() -> None:
    """Pearson's chi-square over the 20 ordered pairs of 5 circuits; 43.8 is the 99.9 % quantile of 19 degrees."""
    pool = pool_of(5)
    rows = jax.jit(jax.vmap(lambda key: sample(key, pool, 2)[0]))(jax.random.split(jax.random.key(0), DRAWS))
    counts = Counter(map(tuple, rows.tolist()))
    assert set(counts) == {(i, j) for i in range(5) for j in range(5) if i != j}
    expected = DRAWS / 20
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 43.8


@pytest.mark.parametrize("wiring", ["fixed", "random"])
def test_what_is_drawn_is_put_back_where_it_was(wiring: str) -> None:
    pool = pool_of(4, wiring)
    rows, drawn = jax.jit(lambda key: sample(key, pool, 2))(jax.random.key(2))
    assert same(list(drawn), rows_of(pool, *rows.tolist()))
    assert same(put_back(pool, rows, drawn), pool)
    changed = drawn._replace(steps=drawn.steps + 10, alive=drawn.alive.at[:, 3].set(False))
    after = jax.jit(put_back)(pool, rows, changed)
    assert same(rows_of(after, *rows.tolist()), list(changed))
    others = sorted(set(range(4)) - set(rows.tolist()))
    assert same(rows_of(after, *others), rows_of(pool, *others))


def test_batches_that_cannot_be_drawn_are_refused() -> None:
    pool = pool_of(3)
    for batch in (0, 4):
        with pytest.raises(ConfigError, match=rf"from 1 to the pool's 3 circuits; it is {batch}\. Use a larger pool"):
            sample(jax.random.key(0), pool, batch)


STEPS, LOSS = [0, 10, 30, 60], [0.3, 0.1, math.inf, 0.4]  # an infinite loss counts as 0.4


@pytest.mark.parametrize(
    ("by", "chances"),
    [
        ("uniform", [0.25, 0.25, 0.25, 0.25]),
        ("steps", [0.0, 0.1, 0.3, 0.6]),
        ("loss", [0.25, 1 / 12, 1 / 3, 1 / 3]),
        ("mixed", [0.125, 0.05 + 1 / 24, 0.15 + 1 / 6, 0.3 + 1 / 6]),
    ],
)
def test_who_is_replaced(by: Any, chances: list[float]) -> None:
    pool = pool_of(4)._replace(steps=jnp.array(STEPS) + 0, loss=jnp.array(LOSS))
    fresh = fresh_pool(jax.random.key(0), SPEC, 2, channels=3)
    replaced = frequencies(lambda key: ~replace(key, pool, fresh, 2, by).state.hidden.any((1, 2)))
    assert_chances(replaced, without_replacement(chances))
    assert replaced.sum() == pytest.approx(2, abs=1e-4)


def test_where_there_is_nothing_to_weigh_all_are_equal() -> None:
    pool = pool_of(4)._replace(steps=jnp.zeros(4, int), loss=jnp.full(4, jnp.inf))
    fresh = fresh_pool(jax.random.key(0), SPEC, 1, channels=3)
    assert_chances(frequencies(lambda key: ~replace(key, pool, fresh, 1, "mixed").state.hidden.any((1, 2))), [0.25] * 4)


def test_the_replaced_are_fresh_and_the_others_untouched() -> None:
    pool, fresh = pool_of(5, "random"), fresh_pool(jax.random.key(9), SPEC, 3, channels=3, wiring="random")
    after = jax.jit(replace, static_argnums=3)(jax.random.key(3), pool, fresh, 2)
    new = np.flatnonzero(np.isinf(after.loss)).tolist()
    assert len(new) == 2
    assert same(rows_of(after, *new), rows_of(fresh, 0, 1)) or same(rows_of(after, *new), rows_of(fresh, 1, 0))
    kept = sorted(set(range(5)) - set(new))
    assert same(rows_of(after, *kept), rows_of(pool, *kept))
    assert same(replace(jax.random.key(3), pool, fresh, 0), pool)


def test_genetic_wires_are_those_of_a_member_with_some_pairs_swapped() -> None:
    pool, fresh = pool_of(5, "random"), fresh_pool(jax.random.key(9), SPEC, 3, channels=3, wiring="random")
    after = jax.jit(lambda key: replace(key, pool, fresh, 3, genetic=1))(jax.random.key(3))
    for row in np.flatnonzero(np.isinf(after.loss)):
        for mine, members in zip(after.wires, pool.wires, strict=True):
            apart = [int((np.asarray(mine[row]) != np.asarray(one)).sum()) for one in members]
            parents = [index for index, number in enumerate(apart) if number <= 2]
            assert any(
                sorted(np.ravel(mine[row]).tolist()) == sorted(np.ravel(members[one]).tolist()) for one in parents
            )
    assert not same(after.wires, pool.wires)


def test_more_than_there_are_cannot_be_replaced() -> None:
    pool, fresh = pool_of(5), fresh_pool(jax.random.key(9), SPEC, 3, channels=3)
    for count in (4, -1):
        with pytest.raises(ConfigError, match=rf"from 0 to all 3 circuits can be replaced; count is {count}\. Use"):
            replace(jax.random.key(0), pool, fresh, count)


def test_the_better_a_circuit_works_the_likelier_it_is_struck() -> None:
    """Losses 0, 0.1 and 0.5 have the mean 0.2: chances are as 1 / 0.2, 1 / 0.3 and 1 / 0.7."""
    pool = pool_of(4)._replace(loss=jnp.array([0.1, math.inf, 0.5, 0.0]))
    weights = [1 / 0.3, 0.0, 1 / 0.7, 1 / 0.2]
    chances = [weight / sum(weights) for weight in weights]
    struck = frequencies(lambda key: ~strike(key, pool, SPEC, 2, DamageConfig(dead=1)).alive.all(axis=1))
    assert_chances(struck, without_replacement(chances))
    assert strike(jax.random.key(0), pool, SPEC, 4, DamageConfig(dead=1)).alive.all(axis=1).sum() == 0


def test_permanent_damage_kills_and_takes_the_place_of_the_one_before() -> None:
    pool = pool_of(4)
    hit = jax.jit(lambda key: strike(key, pool, SPEC, 2, DamageConfig(dead=3)))(jax.random.key(5))
    assert sorted((~hit.alive).sum(axis=1).tolist()) == [0, 0, 3, 3]
    assert hit.alive[:, :2].all()
    assert hit.alive[:, -2:].all()
    assert same([hit.wires, *hit[1:2], *hit[3:]], [pool.wires, *pool[1:2], *pool[3:]])
    again = strike(jax.random.key(6), hit, SPEC, 4, DamageConfig(dead=1))
    assert (~again.alive).sum(axis=1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["reversible", "seu"])
def test_faults_stay_in_the_tables_of_as_many_live_gates(kind: Any) -> None:
    pool = pool_of(4)
    hit = jax.jit(lambda key: strike(key, pool, SPEC, 2, DamageConfig(dead=3, kind=kind)))(jax.random.key(5))
    assert hit.alive.all()
    assert same([*hit[3:], hit.state.hidden], [*pool[3:], pool.state.hidden])
    before, after = np.asarray(pool.state.logits), np.asarray(hit.state.logits)
    gates = (before != after).any(axis=2)
    assert sorted(gates.sum(axis=1).tolist()) == [0, 0, 3, 3]
    assert not gates[:, 8:].any()  # the outputs
    if kind == "reversible":
        assert (after[gates] == -10).all()
    else:
        assert ((before != after).sum(axis=2) == gates).all()
        assert (after[before != after] == -before[before != after]).all()


def test_a_vocabulary_is_drawn_from_whole() -> None:
    pool, patterns = pool_of(3), vocabulary(jax.random.key(7), SPEC, 4, "shotgun", 2)
    assert len({row.tobytes() for row in np.asarray(patterns)}) == 4
    keys = jax.random.split(jax.random.key(8), 60)
    hits = jax.jit(jax.vmap(lambda key: strike(key, pool, SPEC, 3, DamageConfig(dead=2), patterns).alive))(keys)
    seen = {row.tobytes() for row in np.asarray(hits).reshape(-1, SPEC.n_nodes)}
    assert seen == {row.tobytes() for row in np.asarray(patterns)}


def test_damage_that_cannot_be_done_is_refused() -> None:
    pool = pool_of(3)
    for count in (4, -1):
        with pytest.raises(ConfigError, match=rf"from 0 to all 3 circuits can be struck; count is {count}\. Use"):
            strike(jax.random.key(0), pool, SPEC, count, DamageConfig(dead=1))
    with pytest.raises(PatternError, match=r"of which there are 8; it asks for 9\. Use fewer, or a larger circuit"):
        strike(jax.random.key(0), pool, SPEC, 1, DamageConfig(dead=9))


@pytest.mark.parametrize("size", [3, 40])
def test_wire_diversity_is_the_mean_entropy_of_a_connection(size: int) -> None:
    pool = fresh_pool(jax.random.key(2), SPEC, size, channels=3, wiring="random")
    entropies = []
    for layer, (sources, _) in zip(pool.wires, SPEC.layer_sizes[:-1], strict=True):
        flat = np.asarray(layer).reshape(size, -1)
        for connection in flat.T.tolist():
            shares = [count / size for count in Counter(connection).values()]
            entropies.append(-sum(p * math.log(p) for p in shares) / math.log(min(size, sources)))
    found = float(jax.jit(lambda pool: wire_diversity(pool, SPEC))(pool))
    assert found == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)
    assert 0.3 < found <= 1
    assert float(wire_diversity(pool_of(size), SPEC)) == 0.0
