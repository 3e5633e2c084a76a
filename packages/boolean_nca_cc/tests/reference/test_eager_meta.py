from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.meta.pool import Pool
from boolean_nca_cc.meta.rollout import Rule
from boolean_nca_cc.meta.settings import DamageConfig, MetaConfig, PoolConfig, RuleConfig
from boolean_nca_cc.meta.training import MetaState, meta_epochs, start_training
from boolean_nca_cc.reference.eager_meta import EagerState, as_lists, as_pool, eager_epoch, original_epoch

SPEC = CircuitSpec(((2, 1), (4, 2), (2, 1)), arity=2)
TASK = get_task("reverse", 2)


def begun(kind: Literal["attention", "gnn"], loss: Literal["l4", "bce"]) -> tuple[MetaConfig, Rule, MetaState]:
    """A training on three circuits, each with wires of its own and two with a dead gate, whose rule does something."""
    config = MetaConfig(
        rule=RuleConfig(kind=kind, hidden=2, width=4, heads=2),
        pool=PoolConfig(size=3, wiring="random", reset=0.0),
        batch=2, steps=3, loss=loss, loss_step="beta", epochs=50,
    )  # fmt: skip
    rule, state = start_training(config, SPEC)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32), state.weights)
    alive = jnp.ones((3, SPEC.n_nodes), bool).at[jnp.array([0, 1]), jnp.array([2, 4])].set(False)
    return config, rule, state._replace(weights=weights, pool=state.pool._replace(alive=alive))


def close(ours: Any, theirs: Any) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def first_moment(opt_state: Any) -> Any:
    """Of Adam after one epoch: a tenth of the clipped gradient."""
    return optax.tree_utils.tree_get(opt_state, "mu")


def check_epoch(compiled: MetaState, weights: Any, opt_state: Any, pool: Pool, before: Pool) -> None:
    close(first_moment(opt_state), first_moment(compiled.opt_state))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(first_moment(opt_state))) > 1e-3
    # Adam turns a gradient that is nothing but rounding into a move of a whole learning rate: left out.
    clear = jax.tree.map(lambda leaf: jnp.abs(leaf) > 1e-6, first_moment(compiled.opt_state))
    moved, expected = (
        jax.tree.map(jnp.where, clear, tree, jax.tree.map(jnp.zeros_like, clear))
        for tree in (weights, compiled.weights)
    )
    close(moved, expected)
    close(pool, compiled.pool)
    (left,) = np.flatnonzero(np.asarray(pool.steps) == 0)
    for old, new in zip(before.state, pool.state, strict=True):
        assert np.asarray(old)[left].tobytes() == np.asarray(new)[left].tobytes(), "who was not drawn stays"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loss"), [("gnn", "bce"), ("attention", "l4")])
def test_an_epoch_is_the_same_as_the_original_compiled_it_and_in_one_scan(
    kind: Literal["attention", "gnn"], loss: Literal["l4", "bce"]
) -> None:
    config, rule, state = begun(kind, loss)
    compiled, record = meta_epochs(config, SPEC, rule, state, TASK, 1)
    after, told = original_epoch(config, SPEC, rule, state, TASK)
    assert told.loss == pytest.approx(float(record.loss[0]), rel=1e-5)
    assert (told.hard_accuracy, told.worst) == (float(record.hard_accuracy[0]), float(record.worst[0]))
    check_epoch(compiled, after.weights, after.opt_state, after.pool, state.pool)
    assert int(after.epoch) == 1
    assert jax.random.key_data(after.key).tolist() == jax.random.key_data(compiled.key).tolist()


@pytest.mark.slow  # each operation is compiled for itself
@pytest.mark.parametrize(("kind", "loss"), [("gnn", "l4"), ("attention", "bce")])
def test_an_epoch_is_the_same_operation_by_operation_and_in_one_scan(
    kind: Literal["attention", "gnn"], loss: Literal["l4", "bce"]
) -> None:
    config, rule, state = begun(kind, loss)
    compiled, record = meta_epochs(config, SPEC, rule, state, TASK, 1)
    ended, told = eager_epoch(config, SPEC, rule, as_lists(state), TASK)
    assert told.loss == pytest.approx(float(record.loss[0]), rel=1e-5)
    assert (told.hard_accuracy, told.worst) == (float(record.hard_accuracy[0]), float(record.worst[0]))
    norm = np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(told.gradient)))
    close(jax.tree.map(lambda leaf: 0.1 * leaf / max(1.0, norm), told.gradient), first_moment(compiled.opt_state))
    check_epoch(compiled, ended.weights, ended.opt_state, as_pool(ended.members, shares_wires=False), state.pool)
    assert ended.epoch == 1
    assert jax.random.key_data(ended.key).tolist() == jax.random.key_data(compiled.key).tolist()


def test_lists_and_pools_hold_the_same_circuits() -> None:
    config, _, state = begun("gnn", "l4")
    close(as_pool(as_lists(state).members, shares_wires=False), state.pool)
    shared = config.model_copy(update={"pool": PoolConfig(size=3, reset=0.0)})
    _, state = start_training(shared, SPEC)
    lists = as_lists(state)
    assert isinstance(lists, EagerState)
    assert len(lists.members) == 3
    close(as_pool(lists.members, shares_wires=True), state.pool)


@pytest.mark.parametrize("epoch", [eager_epoch, original_epoch])
@pytest.mark.parametrize(
    ("change", "words"),
    [({"pool": PoolConfig(size=3, reset=0.5)}, "reset=0.5"), ({"damage": DamageConfig(dead=1)}, "dead=1")],
)
def test_a_pool_that_changes_by_itself_is_refused(
    epoch: Callable[..., Any], change: dict[str, Any], words: str
) -> None:
    config, rule, state = begun("gnn", "l4")
    given = as_lists(state) if epoch is eager_epoch else state
    with pytest.raises(ConfigError, match=f"neither replaces nor strikes.*{words}"):
        epoch(config.model_copy(update=change), SPEC, rule, given, TASK)
