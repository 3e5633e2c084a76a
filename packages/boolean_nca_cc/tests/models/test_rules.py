"""What every rule has to be: right, local, blind to the dead, and idle before it is trained."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.models.attention import LogicAttention
from boolean_nca_cc.models.gnn import LogicGNN
from boolean_nca_cc.models.graph import NodeState
from boolean_nca_cc.reference.oracle_rules import Scene, attention_step, gnn_step

RULES = ("attention", "gnn-sum", "gnn-attention")
HIDDEN, WIDTH, HEADS, DEPTH = 3, 8, 2, 2

SPEC = CircuitSpec(((3, 1), (4, 2), (4, 2), (2, 1)), arity=2)
N_IN, N_GATES = SPEC.n_in, SPEC.n_gates
# Gates of a group read the same nodes. Gates 5 and 6, and the output 12, read one node twice.
SOURCES = np.array([[0, 1], [0, 1], [2, 2], [2, 2], [3, 5], [3, 5], [6, 4], [6, 4], [7, 8], [10, 10]])
ALL = np.ones(SPEC.n_nodes, bool)


def network(name: str) -> LogicAttention | LogicGNN:
    if name == "attention":
        return LogicAttention(SPEC, hidden=HIDDEN, width=WIDTH, heads=HEADS, blocks=DEPTH, rngs=nnx.Rngs(0))
    aggregate: Any = name.removeprefix("gnn-")
    return LogicGNN(SPEC, hidden=HIDDEN, width=WIDTH, rounds=DEPTH, aggregate=aggregate, rngs=nnx.Rngs(0))


@cache
def step_of(name: str) -> tuple[Callable[..., NodeState], Any, Any]:
    """The compiled step of weights, state, sources and alive; fresh weights; and weights that are all random."""
    rng = np.random.default_rng(7)
    definition, fresh = nnx.split(network(name))
    drawn = jax.tree.map(lambda leaf: np.float32(np.asarray(leaf) + 0.3 * rng.normal(size=leaf.shape)), fresh)
    return jax.jit(lambda weights, *scene: nnx.merge(definition, weights)(*scene)), fresh, drawn


def state_of(seed: int) -> NodeState:
    rng = np.random.default_rng(seed)
    logits, hidden = rng.normal(0, 3, (N_GATES, 4)), rng.normal(0, 1, (N_GATES, HIDDEN))
    return NodeState(*(np.asarray(part, np.float32) for part in (logits, hidden, rng.random(SPEC.n_out))))


def edited(array: np.ndarray, where: Any, value: Any) -> np.ndarray:
    changed = array.copy()
    changed[where] = value
    return changed


def without(*nodes: int) -> np.ndarray:
    return edited(ALL, list(nodes), False)


def changes(name: str, state: NodeState, sources: np.ndarray = SOURCES, alive: np.ndarray = ALL) -> np.ndarray:
    """Increments of tables and memories, one row a gate."""
    step, _, weights = step_of(name)
    after = step(weights, state, sources, alive)
    return np.concatenate([np.asarray(one) - before for one, before in zip(after[:2], state[:2], strict=True)], axis=1)


def differing(before: np.ndarray, after: np.ndarray) -> set[int]:
    """Gates whose increments differ in any bit."""
    return {N_IN + int(gate) for gate in np.flatnonzero((before != after).any(axis=1))}


def gates_near(start: int, alive: np.ndarray = ALL) -> set[int]:
    """Live gates that at most `DEPTH` wires over live nodes lead to."""
    wires = [(N_IN + gate, source) for gate, row in enumerate(SOURCES.tolist()) for source in row]
    wires = [(reader, source) for reader, source in wires if alive[reader] and alive[source]]
    found = {start}
    for _ in range(DEPTH):
        found = found.union(*(pair for pair in wires if set(pair) & found))
    return {node for node in found if node >= N_IN}


def by_oracle(name: str, state: NodeState, sources: np.ndarray, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(step_of(name)[2])}
    scene = Scene([n for n, _ in SPEC.layer_sizes], sources, alive, *state)
    if name == "attention":
        return attention_step(weights, scene, HEADS)
    return gnn_step(weights, scene, name.removeprefix("gnn-"))


@pytest.mark.parametrize("name", RULES)
def test_a_step_is_that_of_the_loops(name: str) -> None:
    step, _, weights = step_of(name)
    for seed, dead in enumerate([(), (1, 5), (4, 7, 12), (0, 1, 2, 3), range(13)]):
        rng = np.random.default_rng(seed)
        first = [rng.integers(0, 3, (2, 2)), rng.integers(3, 7, (2, 2))]  # one row a group
        sources = np.concatenate([*(np.repeat(rows, 2, axis=0) for rows in first), [[7, 9], [8, 8]]])
        alive, state = without(*dead), state_of(seed)
        after = step(weights, state, sources, alive)
        logits, hidden = by_oracle(name, state, sources, alive)
        np.testing.assert_allclose(after.logits, logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(after.hidden, hidden, rtol=1e-4, atol=1e-4)
        assert np.array_equal(after.residual, state.residual)
        moved = np.abs(np.asarray(after.logits) - np.asarray(state.logits)).max(axis=1) > 1e-2
        assert np.array_equal(moved, alive[N_IN:])


@pytest.mark.parametrize("name", RULES)
def test_an_untrained_rule_changes_nothing(name: str) -> None:
    step, fresh, _ = step_of(name)
    state = state_of(1)
    after = step(fresh, state, SOURCES, without(5))
    assert all(np.array_equal(one, other) for one, other in zip(after, state, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_dead_gates_keep_their_state_and_nobody_reads_it(name: str) -> None:
    step, _, weights = step_of(name)
    state, alive, rows = state_of(2), without(4, 8, 12), np.array([4, 8, 12]) - N_IN
    live = np.delete(np.arange(N_GATES), rows)
    expected = step(weights, state, SOURCES, alive)
    for value in (np.nan, -np.inf, 1e30, 0.0):
        other = NodeState(
            edited(state.logits, rows, value), edited(state.hidden, rows, value), edited(state.residual, 1, value)
        )
        after = step(weights, other, SOURCES, alive)
        for found, kept, wanted in zip(after[:2], other[:2], expected[:2], strict=True):
            assert np.asarray(found)[rows].tobytes() == np.asarray(kept)[rows].tobytes()
            assert np.asarray(found)[live].tobytes() == np.asarray(wanted)[live].tobytes()
    assert differing(changes(name, state), changes(name, state, alive=alive)) >= {4, 8, 12, 7}


@pytest.mark.parametrize("name", ["attention", pytest.param("gnn-attention", marks=pytest.mark.slow)])
def test_a_dead_gates_nan_reaches_no_gradient(name: str) -> None:
    step, _, weights = step_of(name)
    state, alive = state_of(2), without(4, 8)
    rows = np.array([4, 8]) - N_IN
    broken = state._replace(logits=edited(state.logits, rows, np.nan), hidden=edited(state.hidden, rows, np.nan))

    @jax.jit
    def gradient(weights: Any, state: NodeState) -> Any:
        def moves(weights: Any, state: NodeState) -> jax.Array:
            after = step(weights, state, SOURCES, alive)
            return sum(jnp.sum(jnp.where(alive[N_IN:, None], part, 0) ** 2) for part in after[:2])

        return jax.grad(moves, (0, 1))(weights, state)

    for one, other in zip(
        jax.tree.leaves(gradient(weights, broken)), jax.tree.leaves(gradient(weights, state)), strict=True
    ):
        assert np.isfinite(one).all()
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", RULES)
def test_a_gate_whose_neighbours_are_all_dead_depends_on_nobody(name: str) -> None:
    """In the original a fully masked row of attention became uniform attention over the whole circuit."""
    alive, state, other = without(7, 8), state_of(3), state_of(4)
    row = 11 - N_IN
    other = NodeState(
        edited(other.logits, row, state.logits[row]), edited(other.hidden, row, state.hidden[row]), state.residual
    )
    alone, elsewhere = changes(name, state, alive=alive), changes(name, other, alive=alive)
    assert np.isfinite(alone).all()
    assert np.array_equal(alone[row], elsewhere[row])
    assert 11 not in differing(alone, elsewhere)
    assert np.abs(alone[row] - changes(name, state)[row]).max() > 1e-3


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dead", [(), (4,)])
def test_the_residual_of_an_output_is_seen_as_far_as_wires_lead(name: str, dead: tuple[int, ...]) -> None:
    state, alive = state_of(5), without(*dead)
    before = changes(name, state, alive=alive)
    after = changes(name, state._replace(residual=edited(state.residual, 1, state.residual[1] + 0.2)), alive=alive)
    assert differing(before, after) == gates_near(12, alive) == {12, 10, 6, 4} - set(dead)
    assert np.abs(before[12 - N_IN] - after[12 - N_IN]).max() > 1e-3


@pytest.mark.parametrize("name", RULES)
def test_tables_and_memories_are_seen_as_far_as_wires_lead(name: str) -> None:
    state = state_of(6)
    before = changes(name, state)
    near = gates_near(7)
    assert near < set(range(N_IN, SPEC.n_nodes))
    table = state._replace(logits=edited(state.logits, (7 - N_IN, 2), 0.5))
    memory = state._replace(hidden=edited(state.hidden, (7 - N_IN, 0), 0.5))
    assert differing(before, changes(name, table)) == differing(before, changes(name, memory)) == near


@pytest.mark.parametrize("name", RULES)
def test_the_first_input_of_a_gate_is_not_its_second(name: str) -> None:
    state = state_of(7)
    before = changes(name, state)
    swapped = changes(name, state, edited(SOURCES, 11 - N_IN, [8, 7]))
    assert np.abs(before - swapped)[11 - N_IN].max() > 1e-3
    assert {7, 8} <= differing(before, swapped)
    twice = changes(name, state, edited(SOURCES, 12 - N_IN, SOURCES[12 - N_IN, ::-1]))
    assert np.array_equal(before, twice)


@pytest.mark.parametrize("name", ["attention", "gnn-attention"])
def test_a_batch_is_its_circuits_one_by_one(name: str) -> None:
    step, _, weights = step_of(name)
    states = [state_of(seed) for seed in (8, 9)]
    wires = [SOURCES, edited(SOURCES, 11 - N_IN, [9, 9])]
    masks = [ALL, without(3, 10)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
    batch = jax.jit(jax.vmap(step, (None, 0, 0, 0)))(weights, stacked, np.stack(wires), np.stack(masks))
    for row, scene in enumerate(zip(states, wires, masks, strict=True)):
        for one, other in zip(step(weights, *scene), batch, strict=True):
            np.testing.assert_allclose(other[row], one, rtol=1e-5, atol=1e-5)


def test_networks_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 heads for a width of 8\. Use a width of 9"):
        LogicAttention(SPEC, width=8, heads=3, rngs=nnx.Rngs(0))
    aggregate: Any = "mean"
    with pytest.raises((ConfigError, TypeError)) as caught:
        LogicGNN(SPEC, aggregate=aggregate, rngs=nnx.Rngs(0))
    assert "mean" in str(caught.value)
