"""A training shared by four devices, or by two processes, is the training of one device."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from safetensors.numpy import load_file

from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.meta.pool import Pool
from boolean_nca_cc.meta.rollout import Rule
from boolean_nca_cc.meta.sharded_checkpoint import ShardedCheckpoint, load_sharded, save_sharded
from boolean_nca_cc.meta.spreading import POOL, hold, local_copy, make_pool_mesh, shardings_of, spread
from boolean_nca_cc.meta.training import MetaState
from boolean_nca_cc.models.graph import NodeState

from .spread_training import CONFIG, assert_same_shares, half, nudged, numbers, small_state, start

ROWS, WHOLE = PartitionSpec(POOL), PartitionSpec()


def pool_of(size: int, own_wires: bool = False) -> Pool:
    """Each circuit is told by its steps."""
    zeros = NodeState(*(jnp.zeros((size, *shape)) for shape in ((3, 4), (3, 2), (1,))))
    wires = jnp.zeros((size, 2, 3) if own_wires else (2, 3), jnp.int32)
    return Pool([wires], zeros, jnp.ones((size, 5), bool), jnp.arange(size), jnp.zeros(size))


@pytest.fixture(scope="module")
def started() -> tuple[Rule, MetaState]:
    return start()


@pytest.fixture(scope="module")
def alone(started: tuple[Rule, MetaState]) -> dict[str, np.ndarray]:
    """The training on one device."""
    rule, state = started
    return numbers(half(rule, half(rule, state, None)[0], None)[0])


def assert_close(found: dict[str, np.ndarray], alone: dict[str, np.ndarray]) -> None:
    """Sums over the batch are added up in another order; nothing else differs."""
    assert found.keys() == alone.keys()
    for name, values in found.items():
        if np.issubdtype(values.dtype, np.floating):
            np.testing.assert_allclose(values, alone[name], rtol=1e-5, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(values, alone[name], err_msg=name)


@pytest.mark.needs_extra("orbax")
def test_four_devices_train_as_one_and_go_on_from_a_checkpoint(
    tmp_path: Path, started: tuple[Rule, MetaState], alone: dict[str, np.ndarray]
) -> None:
    rule, untrained = started
    mesh = make_pool_mesh()
    state = spread(untrained, mesh)
    middle, _ = half(rule, state, mesh)
    end, record = half(rule, middle, mesh)

    trained = numbers(end)
    assert_close(trained, alone)
    moved = [name for name, values in numbers(untrained).items() if (trained[name] != values).any()]
    assert len([name for name in moved if "weights" in name]) > 5  # or nothing would have been compared
    assert int(end.epoch) == 4

    # All rows of the pool lie spread, before and after; all else is everywhere.
    for placed in (state, middle, end):
        for leaf in jax.tree.leaves(placed.pool):
            assert leaf.sharding.spec[0] == POOL
            assert len(leaf.sharding.device_set) == 4
            assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {CONFIG.pool.size // 4}
        for leaf in jax.tree.leaves((placed.weights, placed.opt_state, placed.start, placed.key, placed.epoch)):
            assert leaf.is_fully_replicated
            assert len(leaf.sharding.device_set) == 4
    assert record.loss.is_fully_replicated

    save_sharded(tmp_path, ShardedCheckpoint(middle))
    back = load_sharded(tmp_path, state)
    assert_same_shares(back.state, middle)
    resumed, again = half(rule, back.state, mesh)
    assert_same_shares((resumed, again), (end, record))


@pytest.mark.needs_extra("orbax")
def test_two_processes_work_as_one_and_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    """All that a training of two processes does but the training itself, which takes long to compile."""
    state = small_state()
    check_two_processes(tmp_path, "nudge", state, numbers(nudged(nudged(state, None), None)))


@pytest.mark.slow
@pytest.mark.needs_extra("orbax")
def test_two_processes_train_as_one_and_go_on_from_a_checkpoint(
    tmp_path: Path, started: tuple[Rule, MetaState], alone: dict[str, np.ndarray]
) -> None:
    check_two_processes(tmp_path, "train", started[1], alone)


def check_two_processes(folder: Path, work: str, start: MetaState, alone: dict[str, np.ndarray]) -> None:
    files = run_two_processes(folder, work)
    first, second = (load_file(folder / f"{number}.safetensors") for number in (0, 1))
    assert_close(first, alone)
    for name, values in first.items():
        assert values.tobytes() == second[name].tobytes(), name

    for number, facts in enumerate(files):
        assert facts["spans"] is True
        assert facts["main"] is (number == 0)
        assert facts["devices"] == [4, 2]  # in all, and of this process
        assert facts["back"] == [{"seed": CONFIG.seed}, {"loss": [0.5, float("inf")]}]
        refused = facts["refusals"]
        assert f"a process joins once; this one has joined as number {number} of 2" in refused["joining twice"]
        assert "share a pool with all their devices; it is asked for 1 of 4" in refused["some devices"]
        assert "that of process 1 is not that of process 0" in refused["different seeds"]

    # What two processes have written, one process reads, with other numbers of devices.
    for devices in (1, 4):
        back = load_sharded(folder / "checkpoints", spread(start, make_pool_mesh(devices)))
        assert int(back.state.epoch) == 2
        assert len(back.state.pool.alive.sharding.device_set) == devices


def run_two_processes(folder: Path, work: str) -> list[dict[str, Any]]:
    """Two processes of two devices each, on this machine; they are ended whatever happens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    script = str(Path(__file__).with_name("spread_training.py"))
    processes = []
    try:
        for number in (0, 1):
            with (folder / f"{number}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, script, coordinator, "2", str(number), str(folder), work],
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment,
                    )
                )
        end = time.monotonic() + 300
        ends = [process.wait(timeout=max(0, end - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    said = "\n".join((folder / f"{number}.log").read_text(encoding="utf-8", errors="replace") for number in (0, 1))
    assert ends == [0, 0], said
    return [json.loads((folder / f"{number}.json").read_text(encoding="utf-8")) for number in (0, 1)]


def test_a_pool_lies_spread_by_rows_and_all_else_everywhere() -> None:
    mesh = make_pool_mesh()
    for own_wires, wires in ((False, WHOLE), (True, ROWS)):
        tree: dict[str, Any] = {"pool": pool_of(8, own_wires), "weights": [np.ones((4, 3))]}
        placed = spread(tree, mesh)
        assert [leaf.sharding.spec for leaf in placed["pool"].wires] == [wires] * len(placed["pool"].wires)
        assert {leaf.sharding.spec for leaf in jax.tree.leaves(placed["pool"][1:])} == {ROWS}
        assert placed["weights"][0].sharding.spec == WHOLE
        shares = [shard.data.tolist() for shard in placed["pool"].steps.addressable_shards]
        assert shares == [[0, 1], [2, 3], [4, 5], [6, 7]]
        whole = local_copy(placed)
        assert len(whole["pool"].steps.sharding.device_set) == 1
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(tree), strict=True):
            np.testing.assert_array_equal(one, other)


def test_random_keys_are_placed_too() -> None:
    key = jax.random.key(5, impl="rbg")
    placed = spread(key, make_pool_mesh())
    assert len(placed.sharding.device_set) == 4
    assert local_copy(placed).dtype == key.dtype
    np.testing.assert_array_equal(jax.random.key_data(local_copy(placed)), jax.random.key_data(key))


def test_held_arrays_come_out_of_a_compiled_function_where_they_belong() -> None:
    mesh = make_pool_mesh()
    drawn = jax.jit(lambda pool: hold(jax.tree.map(lambda leaf: leaf[::-1], pool), mesh))(pool_of(8, own_wires=True))
    assert [shard.data.tolist() for shard in drawn.steps.addressable_shards] == [[7, 6], [5, 4], [3, 2], [1, 0]]
    assert hold(drawn, None) is drawn


def test_fewer_devices_than_there_are() -> None:
    placed = spread(pool_of(6), make_pool_mesh(2))
    assert [shard.data.tolist() for shard in placed.steps.addressable_shards] == [[0, 1, 2], [3, 4, 5]]


def test_what_cannot_be_shared_is_refused() -> None:
    for devices in (0, 5):
        with pytest.raises(ConfigError, match=rf"asked for {devices} and there are 4\. Ask for fewer, or start"):
            make_pool_mesh(devices)
    for refused in (spread, shardings_of, hold):
        with pytest.raises(ConfigError, match=r"there are 6 for 4\. Use 8 circuits, or 2 devices"):
            refused({"pool": pool_of(6)}, make_pool_mesh())


def test_a_batch_that_cannot_be_shared_is_refused(started: tuple[Rule, MetaState]) -> None:
    rule, state = started
    mesh = make_pool_mesh()
    batch = CONFIG.model_copy(update={"batch": 3})
    with pytest.raises(ConfigError, match=r"those of a batch, must divide evenly .* there are 3 for 4\. Use 4 circ"):
        half(rule, spread(state, mesh), mesh, batch)
