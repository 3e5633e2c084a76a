"""Checkpoints of a training whose pool lies spread over processes: each process writes its own share.

An ordinary checkpoint (`boolean_nca_cc.checkpoint`) is one file, written by one process that holds everything. Use it
wherever one does; this is for arrays that no process holds whole. A sharded checkpoint is a folder of all processes,
with one folder for each saved epoch, written by orbax under a temporary name and renamed when every process has
finished, so that whoever is killed at any moment leaves the last whole one behind. The two latest are kept. Nothing in
it is executed on loading.

Needs the extra `distributed` (orbax).
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from boolean_nca_cc.errors import CheckpointError, MissingExtraError
from boolean_nca_cc.meta.training import MetaState

__all__ = ["ShardedCheckpoint", "load_sharded", "save_sharded", "spans_processes"]

_VERSION = 1
_MARK = "boolean_nca_cc.sharded_checkpoint"
_KEPT = 2
_RECORD = "record."


@dataclass(frozen=True)
class ShardedCheckpoint:
    """Everything that a training needs to go on as if nothing had happened.

    Args:
        state: of the training.
        settings: what the training was asked to do; JSON values only.
        record: numbers so far, by name, the same in every process.
    """

    state: MetaState
    settings: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Shaped[np.ndarray, "..."]] = field(default_factory=dict)


def spans_processes(state: MetaState) -> bool:
    """Whether some of a state lies where this process cannot read it, so that no one file can be written of it.

    Args:
        state: of a training.

    Returns:
        False with a single process, however many devices it has.
    """
    return not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(state))


def save_sharded(folder: str | os.PathLike[str], checkpoint: ShardedCheckpoint) -> Path:
    """Writes a checkpoint, each process its share; all must call it, with a folder that all can reach.

    Args:
        folder: of the checkpoints of one training; it is made if need be.
        checkpoint: what to keep.

    Returns:
        The folder of this epoch.

    Raises:
        MissingExtraError: orbax is not installed.
        CheckpointError: settings that JSON cannot hold, or an epoch that is there already.
    """
    ocp = _orbax()
    folder, epoch = Path(folder).absolute(), int(checkpoint.state.epoch)
    arrays = _arrays(checkpoint)
    about = {"mark": _MARK, "version": _VERSION, "settings": checkpoint.settings, "kinds": _kinds(arrays)}
    try:
        json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"a checkpoint's settings are JSON values; {error}. Pass numbers, texts, lists and dictionaries, and put "
            "arrays into `record`."
        ) from error
    with _manager(ocp, folder, create=True) as manager:
        if epoch in manager.all_steps():
            raise CheckpointError(
                f"a checkpoint is written once; {folder} has one of epoch {epoch}. Go on from it, or use another "
                "folder."
            )
        parts = ocp.args.Composite(arrays=ocp.args.StandardSave(_filled(arrays)), about=ocp.args.JsonSave(about))
        manager.save(epoch, args=parts)
    return folder / str(epoch)


def load_sharded(folder: str | os.PathLike[str], like: MetaState) -> ShardedCheckpoint:
    """Reads the latest checkpoint of a folder, each process its share; all must call it.

    The number of processes and devices may differ from that at saving.

    Args:
        folder: of the checkpoints of one training.
        like: a state of the same training, placed where the arrays shall lie: what `start_training` and `spread` give.

    Returns:
        The checkpoint, bit for bit.

    Raises:
        MissingExtraError: orbax is not installed.
        CheckpointError: no folder, or none of such checkpoints; a truncated or foreign one, or one of a later format;
            another training.
    """
    ocp = _orbax()
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise CheckpointError(f"sharded checkpoints are in a folder; {folder} is none. Check the path, or train first.")
    with _manager(ocp, folder, create=False) as manager:
        epoch = manager.latest_step()
        if epoch is None:
            raise CheckpointError(
                f"a folder of sharded checkpoints has one folder for each saved epoch; {folder} has none that is whole."
                " Check the path, or train first."
            )
        path = folder / str(epoch)
        about = _read(manager, path, ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        if not isinstance(about, dict) or about.get("mark") != _MARK:
            raise CheckpointError(
                f"a sharded checkpoint is one that `save_sharded` wrote; {path} is of another program. Check the path."
            )
        if about["version"] != _VERSION:
            raise CheckpointError(
                f"this version reads sharded checkpoints of format {_VERSION}; {path} has format "
                f"{about['version']}. Load it with the version of boolean_nca_cc that wrote it."
            )
        kinds = about["kinds"]
        wanted = _arrays(ShardedCheckpoint(like))
        _check_kinds(_kinds(wanted), kinds, path)
        record = {name: np.zeros(shape, dtype) for name, (dtype, shape) in kinds.items() if name not in wanted}
        places = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for name, a in wanted.items()}
        parts = ocp.args.Composite(arrays=ocp.args.StandardRestore(_filled(places | record)))
        arrays = wanted | record | _read(manager, path, parts)["arrays"]
    state = [_as_key(arrays[name], leaf) for name, leaf in zip(_names(like), jax.tree.leaves(like), strict=True)]
    return ShardedCheckpoint(
        jax.tree.unflatten(jax.tree.structure(like), state),
        about["settings"],
        {name.removeprefix(_RECORD): np.asarray(arrays[name]) for name in record},
    )


def _orbax() -> ModuleType:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise MissingExtraError(
            "checkpoints of arrays spread over processes need orbax, which is not installed. From the root of the "
            "repository: pip install './packages/boolean_nca_cc[distributed]'"
        ) from error
    return ocp


def _manager(ocp: ModuleType, folder: Path, *, create: bool) -> Any:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=_KEPT, create=create, cleanup_tmp_directories=create, enable_async_checkpointing=False
    )
    return ocp.CheckpointManager(folder, options=options)


def _read(manager: Any, path: Path, parts: Any) -> Any:
    """Parts of a checkpoint; whatever goes wrong in reading means that it is not whole, or not ours."""
    try:
        return manager.restore(int(path.name), args=parts)
    except Exception as error:  # nothing narrower: orbax raises it for an array that it cannot read
        raise CheckpointError(
            f"a sharded checkpoint is whole; {path} is truncated or something else: {error}. Remove that folder to go "
            "on from the one before."
        ) from error


def _names(state: MetaState) -> list[str]:
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(state)]


def _arrays(checkpoint: ShardedCheckpoint) -> dict[str, Any]:
    """Everything by name, random keys as their numbers."""
    leaves = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(checkpoint.state)]
    arrays = dict(zip(_names(checkpoint.state), leaves, strict=True))
    return arrays | {f"{_RECORD}{name}": np.asarray(values) for name, values in checkpoint.record.items()}


def _filled(arrays: dict[str, Any]) -> dict[str, Any]:
    """Those with numbers in them: orbax writes no others, and their kind says all about them."""
    return {name: array for name, array in arrays.items() if array.size}


def _is_key(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_key(values: Array, like: Array) -> Array:
    return jax.random.wrap_key_data(values, impl=jax.random.key_impl(like)) if _is_key(like) else values


def _kinds(arrays: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [str(array.dtype), list(array.shape)] for name, array in arrays.items()}


def _check_kinds(ours: dict[str, list[Any]], theirs: dict[str, list[Any]], path: Path) -> None:
    theirs = {name: kind for name, kind in theirs.items() if not name.startswith(_RECORD)}
    different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if different:
        name = different[0]
        raise CheckpointError(
            f"a checkpoint continues only the training that it is of; {path} differs in {len(different)} arrays, first "
            f"in {name!r}: {theirs.get(name, 'absent')} there, {ours.get(name, 'absent')} here. Use the settings of "
            "that training, or another folder."
        )
