"""A small training for one process or for several.

Tests import it; `python spread_training.py HOST:PORT PROCESSES NUMBER FOLDER train` is one of several processes that
train together, and writes into the folder what came out. With `nudge` they do all but train, which takes no compiling.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from safetensors.numpy import save_file

from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.meta.hosts import is_main_process, join_hosts
from boolean_nca_cc.meta.pool import Pool
from boolean_nca_cc.meta.rollout import Rule
from boolean_nca_cc.meta.settings import DamageConfig, MetaConfig, PoolConfig, RuleConfig
from boolean_nca_cc.meta.sharded_checkpoint import ShardedCheckpoint, load_sharded, save_sharded, spans_processes
from boolean_nca_cc.meta.spreading import hold, local_copy, make_pool_mesh, spread
from boolean_nca_cc.meta.training import MetaRecord, MetaState, meta_epochs, start_training
from boolean_nca_cc.models.graph import NodeState

SPEC = CircuitSpec.default(2, 2, arity=2, hidden=1)
# Every circuit has its own wires, some are replaced and some are struck: all that moves rows about takes part.
CONFIG = MetaConfig(
    rule=RuleConfig(kind="gnn", hidden=2, width=4),
    pool=PoolConfig(size=8, wiring="random", reset=0.2),
    damage=DamageConfig(dead=1, fraction=0.2),
    epochs=8,
    batch=4,
    steps=2,
)
# Epochs of a call; twice as many are trained, so that one compiled program serves both halves.
HALF = 2


def start() -> tuple[Rule, MetaState]:
    return start_training(CONFIG, SPEC)


def half(rule: Rule, state: MetaState, mesh: Mesh | None, config: MetaConfig = CONFIG) -> tuple[MetaState, MetaRecord]:
    return meta_epochs(config, SPEC, rule, state, get_task("reverse", 2), HALF, mesh)


def small_state(epoch: int = 1, seed: int = 0, impl: str = "threefry2x32") -> MetaState:
    """Random and odd numbers of every kind, four circuits; not a training, but of the structure of one."""
    rng = np.random.default_rng(seed)
    pool = Pool(
        [jnp.asarray(rng.integers(0, 3, (4, 2, 3)), jnp.int32)],
        NodeState(
            jnp.asarray(rng.normal(size=(4, 3, 4)), jnp.float32),
            jnp.asarray(rng.normal(size=(4, 3, 2)), jnp.float32),
            jnp.zeros((4, 1)),
        ),
        jnp.asarray(rng.random((4, 5)) > 0.5),
        jnp.arange(4, dtype=jnp.int32),
        jnp.asarray([np.nan, -0.0, np.inf, 1e-45], jnp.float32),
    )
    weights: nnx.State[Any, Any] = nnx.State(
        {"layer": {"kernel": nnx.Param(jnp.asarray(rng.normal(size=(3, 2)), jnp.float32))}}
    )
    opt_state = (jnp.asarray(epoch, jnp.int32), {"mu": jax.tree.map(jnp.ones_like, weights)})
    start = Circuit([jnp.zeros((2, 3), jnp.int32)], [jnp.ones((3, 1, 4))])
    return MetaState(weights, opt_state, start, pool, jax.random.key(seed, impl=impl), jnp.asarray(epoch, jnp.int32))


@partial(jax.jit, static_argnums=1)
def nudged(state: MetaState, mesh: Mesh | None) -> MetaState:
    """What a training exchanges: rows change places, and weights take a sum over all of them."""
    key, order = jax.random.split(state.key)
    rows = jax.random.permutation(order, state.pool.size)
    pool = jax.tree.map(lambda leaf: leaf[rows], state.pool)
    weights = jax.tree.map(lambda leaf: leaf + jnp.sum(pool.state.logits), state.weights)
    return hold(state._replace(weights=weights, pool=pool, key=key, epoch=state.epoch + 1), mesh)


def numbers(tree: object) -> dict[str, np.ndarray]:
    """Every array by name, whole, random keys as their numbers."""
    named = {}
    for path, leaf in jax.tree.leaves_with_path(local_copy(tree)):
        typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        named[jax.tree_util.keystr(path)] = np.asarray(jax.random.key_data(leaf) if typed else leaf)
    return named


def assert_same_shares(left: object, right: object) -> None:
    """Bit for bit, of what this process holds, and in the same places."""
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        for mine, theirs in zip(one.addressable_shards, other.addressable_shards, strict=True):
            assert mine.index == theirs.index
            assert np.asarray(mine.data).tobytes() == np.asarray(theirs.data).tobytes()


def refusal(action: Callable[[], object]) -> str:
    try:
        action()
    except ConfigError as error:
        return str(error)
    return "nothing was refused"


def main(coordinator: str, processes: int, number: int, folder: Path, work: str) -> None:
    join_hosts(coordinator, processes, number, timeout=120)
    refusals = {"joining twice": refusal(lambda: join_hosts(coordinator, processes, number))}
    mesh = make_pool_mesh()
    refusals["some devices"] = refusal(lambda: make_pool_mesh(1))
    refusals["different seeds"] = refusal(lambda: spread({"seed": np.array([number])}, mesh))

    if work == "train":
        rule, state = start()
        go_on: Callable[[MetaState], MetaState] = lambda state: half(rule, state, mesh)[0]  # noqa: E731
    else:
        state, go_on = small_state(), partial(nudged, mesh=mesh)
    state = spread(state, mesh)
    middle = go_on(state)
    record = {"loss": np.array([0.5, np.inf], np.float32)}
    save_sharded(folder / "checkpoints", ShardedCheckpoint(middle, {"seed": CONFIG.seed}, record))
    end = go_on(middle)
    back = load_sharded(folder / "checkpoints", state)
    assert_same_shares(back.state, middle)
    assert_same_shares(go_on(back.state), end)

    save_file(numbers(end), folder / f"{number}.safetensors")
    facts = {
        "refusals": refusals,
        "spans": spans_processes(end),
        "main": is_main_process(),
        "devices": [len(end.pool.loss.sharding.device_set), len(end.pool.loss.addressable_shards)],
        "back": [back.settings, {name: values.tolist() for name, values in back.record.items()}],
    }
    (folder / f"{number}.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
