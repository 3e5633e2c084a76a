"""Checkpoints that each device or process writes its share of: what comes back, and what is refused.

That a training goes on from one bit for bit, with four devices and with two processes, is in test_spreading.py.
"""

import builtins
import json
import operator
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest

from boolean_nca_cc.errors import CheckpointError, MissingExtraError
from boolean_nca_cc.meta.sharded_checkpoint import ShardedCheckpoint, load_sharded, save_sharded, spans_processes
from boolean_nca_cc.meta.spreading import local_copy, make_pool_mesh, spread
from boolean_nca_cc.meta.training import MetaState

from .spread_training import assert_same_shares, small_state

needs_orbax = pytest.mark.needs_extra("orbax")


def state_of(epoch: int = 1, **kind: Any) -> MetaState:
    return spread(small_state(epoch, **kind), make_pool_mesh())


@needs_orbax
def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = state_of(epoch=7, seed=1)
    record = {"loss": np.array([1.5, np.nan]), "worst case": np.ones((2, 0, 3), np.float32), "n": np.array(3)}
    settings = {"name": "é", "nested": {"list": [1, 2.5, None]}}
    assert save_sharded(tmp_path / "new" / "folder", ShardedCheckpoint(state, settings, record)).name == "7"
    back = load_sharded(tmp_path / "new" / "folder", state_of())
    assert_same_shares(back.state, state)
    assert operator.eq(jax.tree.structure(back.state), jax.tree.structure(state))
    assert back.settings == settings
    assert back.record.keys() == record.keys()
    for name, values in record.items():
        assert (back.record[name].dtype, back.record[name].shape) == (values.dtype, values.shape)
        assert back.record[name].tobytes() == values.tobytes()
    assert not spans_processes(state)


@needs_orbax
def test_arrays_come_back_to_where_the_new_state_lies(tmp_path: Path) -> None:
    save_sharded(tmp_path, ShardedCheckpoint(state_of(seed=1)))
    back = load_sharded(tmp_path, spread(local_copy(state_of()), make_pool_mesh(2)))
    assert [shard.data.tolist() for shard in back.state.pool.steps.addressable_shards] == [[0, 1], [2, 3]]
    assert len(back.state.epoch.sharding.device_set) == 2


@needs_orbax
def test_the_two_latest_are_kept_and_the_last_is_read(tmp_path: Path) -> None:
    for epoch in (1, 2, 10):
        save_sharded(tmp_path, ShardedCheckpoint(state_of(epoch)))
    assert {path.name for path in tmp_path.iterdir()} == {"2", "10"}
    assert int(load_sharded(tmp_path, state_of()).state.epoch) == 10
    shutil.rmtree(tmp_path / "10")
    assert int(load_sharded(tmp_path, state_of()).state.epoch) == 2


@needs_orbax
def test_what_a_killed_process_leaves_behind_is_passed_over_and_cleared(tmp_path: Path) -> None:
    save_sharded(tmp_path, ShardedCheckpoint(state_of(1)))
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp-17")
    assert int(load_sharded(tmp_path, state_of()).state.epoch) == 1
    save_sharded(tmp_path, ShardedCheckpoint(state_of(2)))
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}


@needs_orbax
def test_an_epoch_is_written_once(tmp_path: Path) -> None:
    save_sharded(tmp_path, ShardedCheckpoint(state_of(3)))
    with pytest.raises(CheckpointError, match=r"written once; .* has one of epoch 3\. Go on from it, or use another"):
        save_sharded(tmp_path, ShardedCheckpoint(state_of(3, seed=1)))


@needs_orbax
def test_settings_must_be_json(tmp_path: Path) -> None:
    for settings in ({"array": np.ones(2)}, {"nan": float("nan")}):
        with pytest.raises(CheckpointError, match=r"settings are JSON values; .* put arrays into `record`"):
            save_sharded(tmp_path / "new", ShardedCheckpoint(state_of(), settings))
    assert not (tmp_path / "new").exists()


@needs_orbax
def test_another_training_is_refused(tmp_path: Path) -> None:
    save_sharded(tmp_path, ShardedCheckpoint(state_of()))
    with pytest.raises(CheckpointError, match=r"in 1 arrays, first in 'key': \['uint32', \[2\]\] there, .*\[4\]"):
        load_sharded(tmp_path, state_of(impl="rbg"))
    with pytest.raises(CheckpointError, match=r"differs in 2 arrays, first in 'opt_state\.0'.* absent here\. Use the"):
        load_sharded(tmp_path, state_of()._replace(opt_state=()))


@needs_orbax
def test_folders_without_such_checkpoints_are_refused(tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    with pytest.raises(CheckpointError, match=r"are in a folder; .*missing is none\. Check the path"):
        load_sharded(tmp_path / "missing", state_of())
    (tmp_path / "notes.txt").write_text("nothing of ours")
    (tmp_path / "12").write_text("not even a folder")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(CheckpointError, match=r"has none that is whole\. Check the path"):
        load_sharded(tmp_path, state_of())
    assert len(list(tmp_path.iterdir())) == 3

    with ocp.CheckpointManager(tmp_path / "foreign") as manager:
        parts = ocp.args.Composite(arrays=ocp.args.StandardSave({"w": np.ones(3)}), about=ocp.args.JsonSave({"a": 1}))
        manager.save(1, args=parts)
    with pytest.raises(CheckpointError, match="is of another program"):
        load_sharded(tmp_path / "foreign", state_of())
    (tmp_path / "empty" / "5").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"5 is truncated or something else|none that is whole"):
        load_sharded(tmp_path / "empty", state_of())


@needs_orbax
def test_a_later_format_is_refused(tmp_path: Path) -> None:
    about = save_sharded(tmp_path, ShardedCheckpoint(state_of())) / "about" / "metadata"
    text = about.read_text()
    assert '"version": 1' in text
    about.write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(CheckpointError, match=r"of format 1; .* has format 2\. Load it with the version"):
        load_sharded(tmp_path, state_of())


TRUNCATIONS = """
import json, shutil, sys
from pathlib import Path
from boolean_nca_cc.errors import CheckpointError
from boolean_nca_cc.meta.sharded_checkpoint import load_sharded
from boolean_nca_cc.meta.spreading import make_pool_mesh, spread
from spread_training import assert_same_shares, small_state

whole, like = Path(sys.argv[1]), spread(small_state(), make_pool_mesh())
state, refused = load_sharded(whole.parent, like).state, []
for number, path in enumerate(sorted(path for path in whole.rglob("*") if path.is_file() and path.stat().st_size)):
    name, content = path.relative_to(whole), path.read_bytes()
    folder = whole.parent.parent / str(number)
    shutil.copytree(whole, folder / whole.name)
    (folder / whole.name / name).write_bytes(content[: len(content) // 2])
    try:
        back = load_sharded(folder, like)
    except CheckpointError as error:
        assert "is truncated or something else" in str(error), error
        refused.append(name.as_posix())
    else:
        assert_same_shares(back.state, state)
print(json.dumps(refused))
"""


@needs_orbax
def test_every_truncated_file_is_refused_or_not_needed(tmp_path: Path) -> None:
    """In a process of its own: orbax leaves reading tasks behind, which complain when they are collected."""
    whole = save_sharded(tmp_path / "whole", ShardedCheckpoint(state_of(seed=1)))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", TRUNCATIONS, str(whole)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    refused = json.loads(done.stdout.splitlines()[-1])
    assert {"about/metadata", "arrays/manifest.ocdbt"} <= set(refused)
    assert any("/d/" in name for name in refused)


def test_without_orbax_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, real_import = state_of(), builtins.__import__

    def without_orbax(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name.split(".")[0] == "orbax":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_orbax)
    for use in (lambda: save_sharded(tmp_path, ShardedCheckpoint(state)), lambda: load_sharded(tmp_path, state)):
        with pytest.raises(MissingExtraError, match=r"pip install '\./packages/boolean_nca_cc\[distributed\]'"):
            use()
    assert not list(tmp_path.iterdir())
