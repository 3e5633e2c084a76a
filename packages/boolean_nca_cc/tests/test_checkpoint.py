"""Checkpoints: what comes back, what is refused, and what a crash leaves behind."""

import json
import operator
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from boolean_nca_cc.checkpoint import FORMAT_VERSION, Checkpoint, load, save, write_atomically
from boolean_nca_cc.circuits.model import gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import CheckpointError

SPEC = CircuitSpec.default(3, 2, arity=2, hidden=1)


@pytest.fixture
def checkpoint() -> Checkpoint:
    circuit = gen_circuit(jax.random.key(0), SPEC.layer_sizes, SPEC.arity)
    grads = [jnp.sin(layer) for layer in circuit.logits]
    optimizer = optax.adamw(0.3)
    _, opt_state = optimizer.update(grads, optimizer.init(circuit.logits), circuit.logits)
    record = {"loss": np.array([3.0, np.nan, np.inf]), "alive": np.array([[True, False]]), "step": np.arange(3)}
    settings = {"name": "é", "nested": {"list": [1, 2.5, None]}}
    return Checkpoint(SPEC, circuit, 7, settings, opt_state, jax.random.key(5), record)


def assert_same(left: object, right: object) -> None:
    """Bit for bit, with dtypes and shapes."""
    left_leaves, right_leaves = jax.tree.leaves(left), jax.tree.leaves(right)
    assert operator.eq(jax.tree.structure(left), jax.tree.structure(right))
    for one, other in zip(left_leaves, right_leaves, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def assert_same_key(found: jax.Array | None, expected: jax.Array | None) -> None:
    assert found is not None
    assert expected is not None
    assert found.dtype == expected.dtype
    assert_same(jax.random.bits(found, (4,)), jax.random.bits(expected, (4,)))


def test_everything_comes_back_bit_for_bit(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = save(tmp_path / "new" / "folder" / "c.safetensors", checkpoint)
    template = optax.adamw(9.9).init(checkpoint.circuit.logits)
    back = load(path, spec=SPEC, opt_state=template)
    assert_same(back.circuit, checkpoint.circuit)
    assert_same(back.opt_state, checkpoint.opt_state)
    assert_same(back.record, checkpoint.record)
    assert (back.spec, back.step, back.settings) == (SPEC, 7, checkpoint.settings)
    assert_same_key(back.key, checkpoint.key)


@pytest.mark.parametrize("key", [None, jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")])
def test_keys_of_every_kind(tmp_path: Path, checkpoint: Checkpoint, key: jax.Array | None) -> None:
    back = load(save(tmp_path / "c", Checkpoint(SPEC, checkpoint.circuit, key=key)))
    if key is None:
        assert back.key is None
    else:
        assert_same_key(back.key, key)


def test_a_checkpoint_without_optimizer_state_gives_none_and_refuses_to_invent_one(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    path = save(tmp_path / "c", Checkpoint(SPEC, checkpoint.circuit))
    assert load(path).opt_state is None
    with pytest.raises(CheckpointError, match=r"needs an optimizer state; .* has none\. Start with a fresh"):
        load(path, opt_state=optax.sgd(1.0).init(checkpoint.circuit.logits))


def test_another_optimizer_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = save(tmp_path / "c", checkpoint)
    with pytest.raises(CheckpointError, match=r"a state of its own kind; .* holds 5 arrays .* this optimizer has 2"):
        load(path, opt_state=optax.sgd(1.0, momentum=0.9).init(checkpoint.circuit.logits))


def test_another_circuit_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = save(tmp_path / "c", checkpoint)
    with pytest.raises(CheckpointError, match=r"has layers 3/1-4/1-2/1 of arity 2, this run asks for 3/1-4/2-2/1"):
        load(path, spec=CircuitSpec(((3, 1), (4, 2), (2, 1)), 2))


def test_every_truncation_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    whole = save(tmp_path / "whole", checkpoint).read_bytes()
    cut = tmp_path / "cut"
    for length in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=rf"cut \({length} bytes\) is truncated or something else"):
            load(cut)


def test_foreign_files_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weights": np.ones(3, np.float32)}, foreign)
    with pytest.raises(CheckpointError, match="is a safetensors file of another kind"):
        load(foreign)
    (tmp_path / "text").write_text("not a checkpoint at all, but long enough to hold a header length")
    with pytest.raises(CheckpointError, match="truncated or something else"):
        load(tmp_path / "text")
    with pytest.raises(CheckpointError, match=r"a checkpoint is a file; .*missing is none\. Check the path"):
        load(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="a checkpoint is a file"):
        load(tmp_path)


def _rewritten(path: Path, header: str) -> None:
    """The same tensors under another header."""
    save_file(load_file(path), path, {"boolean_nca_cc.checkpoint": header})


def test_a_later_format_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = save(tmp_path / "c", checkpoint)
    _rewritten(path, json.dumps({"version": FORMAT_VERSION + 1, "whatever": "it may hold"}))
    with pytest.raises(
        CheckpointError, match=rf"format {FORMAT_VERSION}; .* has format {FORMAT_VERSION + 1}\. Load it"
    ):
        load(path)


@pytest.mark.parametrize(
    "header",
    [
        "{}",
        "[]",
        "no json",
        '{"version": 1}',
        '{"version": 1, "layer_sizes": [[3, 1], [4, 1], [2, 1]], "arity": 2}',  # no step
        '{"version": 1, "layer_sizes": [[3, 1], [5, 1], [2, 1]], "arity": 2, "step": 0, "settings": {}}',
        '{"version": 1, "layer_sizes": [[2, 1], [4, 1], [2, 1]], "arity": 2, "step": 0, "settings": {}}',
        '{"version": 1, "layer_sizes": [[3, 1], [4, 3], [2, 1]], "arity": 2, "step": 0, "settings": {}}',
    ],
)
def test_a_header_that_does_not_fit_its_tensors_is_refused(tmp_path: Path, checkpoint: Checkpoint, header: str) -> None:
    path = save(tmp_path / "c", checkpoint)
    _rewritten(path, header)
    with pytest.raises(CheckpointError, match="parts belong together; in"):
        load(path)


def test_the_same_state_is_the_same_file(tmp_path: Path, checkpoint: Checkpoint) -> None:
    files = [save(tmp_path / str(number), checkpoint).read_bytes() for number in range(5)]
    assert files == files[:1] * 5


def test_settings_must_be_json(tmp_path: Path, checkpoint: Checkpoint) -> None:
    for settings in ({"array": np.ones(2)}, {"nan": float("nan")}):
        with pytest.raises(CheckpointError, match=r"settings are JSON values; .* put arrays into `record`"):
            save(tmp_path / "c", Checkpoint(SPEC, checkpoint.circuit, settings=settings))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (Path, "replace")])
def test_a_failed_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, function: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(owner, function, fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    write_atomically(path, b"newest")
    assert path.read_bytes() == b"newest"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
