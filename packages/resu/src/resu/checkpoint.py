"""Checkpoints: one file that is either whole or absent.

A checkpoint is a safetensors file. Weights, packed masks, optimizer state and random states are its tensors; everything
else (step counts, phase, position in the cycle, settings) is JSON in its header, with a SHA-256 over all of it.

One file means one rename: it is written under a temporary name in the same folder, fsynced, renamed over the old one,
and the folder is fsynced. Whoever is killed at any moment leaves the last whole checkpoint behind. Nothing in it is
executed on loading.
"""

import hashlib
import json
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from resu.core.mask import SparseMask
from resu.core.phases import Phase
from resu.errors import CheckpointError, ResuError
from resu.optim.masked import MaskedAdamW
from resu.sparsifier import Sparsifier

__all__ = ["FORMAT_VERSION", "Checkpoint", "about", "load", "random_states", "restore", "save", "set_random_states"]

FORMAT_VERSION = 1
_MARK = "resu.checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a training needs to go on as if nothing had happened. Trees of JSON values and tensors.

    Args:
        model: the model's `state_dict()`.
        sparsifier: the `Sparsifier`'s: masks, phase, subsets.
        optimizer: the optimizer's, with its step counts; None where there is none.
        cycle: the position in the cycle.
        scheduler: the learning rate scheduler's state.
        loader: which epoch and batch come next, and the random states that the epoch began with.
        random: the random states, see `random_states`.
        settings: what the training was asked to do.
        about: a few facts for people who look at the file: step, phase, sparsity.
    """

    model: Mapping[str, Any]
    sparsifier: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] | None = None
    cycle: Mapping[str, Any] | None = None
    scheduler: Mapping[str, Any] | None = None
    loader: Mapping[str, Any] | None = None
    random: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


def save(path: str | os.PathLike[str], checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint in one indivisible step; the folder is made if need be.

    Args:
        path: the file, usually `….safetensors`.
        checkpoint: what to keep.

    Returns:
        The path.

    Raises:
        CheckpointError: something that is neither a tensor nor a JSON value.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = save(Path(folder) / "last.safetensors", Checkpoint({"w": torch.ones(2)}, about={"step": 7}))
    ...     load(path).model["w"].tolist(), about(path)["step"]
    ([1.0, 1.0], 7)
    """
    path = Path(path)
    writer = _Writer()
    header = {"version": FORMAT_VERSION, "state": {f.name: writer.tree(getattr(checkpoint, f.name), f.name)
                                                   for f in fields(checkpoint)}}  # fmt: skip
    header["sha256"] = _digest(header, writer.tensors)
    # One entry only: safetensors writes several in no fixed order, and the same state should be the same file.
    _write_atomically(path, lambda to: save_file(writer.tensors, to, {_MARK: _canonical(header)}))
    return path


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint and checks that it is whole and ours.

    Args:
        path: the file.

    Returns:
        The checkpoint, its tensors on the CPU.

    Raises:
        CheckpointError: no such file; a truncated or foreign one, one of a later format, or one with a flipped bit.

    >>> load("nowhere.safetensors")
    Traceback (most recent call last):
        ...
    resu.errors.CheckpointError: a checkpoint is a file; nowhere.safetensors is none. Check the path, or train first.
    """
    path = Path(path)
    header, tensors = _read(path, with_tensors=True)
    with _consistent(path):
        claimed = header.pop("sha256")
        found = _digest(header, tensors)
    if claimed != found:
        raise CheckpointError(
            f"a checkpoint's SHA-256 is that of its content; {path} says {str(claimed)[:12]}…, its content has "
            f"{found[:12]}…. The file is damaged: take an older checkpoint."
        )
    with _consistent(path):
        return Checkpoint(**{name: _tree(value, tensors) for name, value in header["state"].items()})


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint says of itself, without reading its tensors.

    Args:
        path: the file.

    Returns:
        The facts under `about`, the `settings`, the format's `version` and the file's `bytes`.

    Raises:
        CheckpointError: no such file; a truncated or foreign one, or one of a later format.
    """
    path = Path(path)
    header, _ = _read(path, with_tensors=False)
    with _consistent(path):
        state = header["state"]
        facts = {"version": header["version"], "bytes": path.stat().st_size, "settings": _tree(state["settings"], {})}
        return facts | _tree(state["about"], {})


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    sparsifier: Sparsifier,
    optimizer: Optimizer | None = None,
    *,
    source: str | os.PathLike[str] = "the checkpoint",
) -> None:
    """Puts weights, masks and optimizer state back, or nothing at all.

    Args:
        checkpoint: what `load` gave.
        model: a model of the same shapes.
        sparsifier: over that model.
        optimizer: an optimizer of the same kind over the same parameters; None leaves its state aside.
        source: the file, for messages.

    Raises:
        CheckpointError: weights, masks or an optimizer state that belong to another model.
    """
    _check_weights(checkpoint.model, model.state_dict(), source)
    _check_masks(checkpoint.sparsifier, sparsifier, checkpoint.model, source)
    if optimizer is not None:
        _check_optimizer(checkpoint.optimizer, optimizer, source)
    try:
        model.load_state_dict(dict(checkpoint.model))
        if optimizer is not None and checkpoint.optimizer is not None:
            optimizer.load_state_dict(dict(checkpoint.optimizer))
            _undo_casts(checkpoint.optimizer["state"], optimizer)
        # Last: a mask may live in the optimizer's moments.
        sparsifier.load_state_dict(dict(checkpoint.sparsifier))
    except (ResuError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"a training goes on only from a checkpoint of its own kind; {source} does not fit: {error}. Build the "
            "model and the optimizer as they were."
        ) from error


def random_states(*generators: torch.Generator | None) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's random numbers, CUDA's included.

    Args:
        generators: further ones, of a loader or a sampler; None stays None.

    Returns:
        A tree for a checkpoint.
    """
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    return {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "position": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "generators": [None if generator is None else generator.get_state() for generator in generators],
    }


def set_random_states(states: Mapping[str, Any], *generators: torch.Generator | None) -> None:
    """Puts random states back.

    Args:
        states: from `random_states`.
        generators: as many as were given there.

    Raises:
        CheckpointError: another number of generators or of GPUs.
    """
    found = [state is not None for state in states["generators"]]
    given = [generator is not None for generator in generators]
    if found != given:
        raise CheckpointError(
            f"random states go back to the generators that they came from; the checkpoint has states for {found}, this "
            f"run has generators {given} (loader, sampler). Give the loader the generator that it had."
        )
    python, legacy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": legacy["key"].numpy().astype(np.uint32), "pos": legacy["position"]},
            "has_gauss": legacy["has_gauss"],
            "gauss": legacy["gauss"],
        }
    )
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        if len(states["cuda"]) != torch.cuda.device_count():
            raise CheckpointError(
                f"every GPU has a random state of its own; the checkpoint has {len(states['cuda'])}, this machine has "
                f"{torch.cuda.device_count()} GPUs. Set CUDA_VISIBLE_DEVICES to as many."
            )
        torch.cuda.set_rng_state_all(states["cuda"])
    for generator, state in zip(generators, states["generators"], strict=True):
        if generator is not None:
            generator.set_state(state)


# --- trees ------------------------------------------------------------------------------------------------------------


class _Writer:
    """Turns a tree into JSON whose tensors are named."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._kept: list[Tensor] = []  # alive until the end, so that no address is used twice

    def tree(self, value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            return {"$tensor": self._tensor(value, name)}
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, str):
            return str(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
        if isinstance(value, np.generic):
            return self.tree(value.item(), name)
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {str(key): self.tree(item, f"{name}/{key}") for key, item in value.items()}
            return {"$items": [[self.tree(k, name), self.tree(v, f"{name}/{k}")] for k, v in value.items()]}
        if isinstance(value, tuple):
            return {"$tuple": [self.tree(item, f"{name}/{i}") for i, item in enumerate(value)]}
        if isinstance(value, list):
            return [self.tree(item, f"{name}/{i}") for i, item in enumerate(value)]
        raise CheckpointError(
            f"a checkpoint holds tensors and JSON values; {name} is a {type(value).__name__}. Leave it out, or turn it "
            "into numbers, texts, lists and dictionaries."
        )

    def _tensor(self, tensor: Tensor, name: str) -> str:
        if tensor.layout != torch.strided or hasattr(tensor, "to_local"):
            raise CheckpointError(
                f"a checkpoint holds plain tensors; {name} is a {type(tensor).__name__} of layout {tensor.layout}. "
                "Gather it first: tensor.full_tensor() of a sharded one, tensor.to_dense() of a sparse one."
            )
        tensor = tensor.detach()
        place = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and place in self._names:  # tied weights are written once
            return self._names[place]
        while name in self.tensors:
            name += "'"
        self._kept.append(tensor)
        self._names[place] = name
        copy = tensor.cpu().contiguous()
        # A view of a larger storage would be refused as shared memory.
        self.tensors[name] = copy.clone() if copy.untyped_storage().nbytes() != copy.nbytes else copy
        return name


def _tree(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_tree(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$float" in value:
        return float(value["$float"])
    if "$tuple" in value:
        return tuple(_tree(item, tensors) for item in value["$tuple"])
    if "$items" in value:
        return {_tree(key, tensors): _tree(item, tensors) for key, item in value["$items"]}
    return {key: _tree(item, tensors) for key, item in value.items()}


# --- files ------------------------------------------------------------------------------------------------------------


def _canonical(header: Mapping[str, Any]) -> str:
    return json.dumps(header, allow_nan=False, sort_keys=True, separators=(",", ":"))


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the header and every tensor's name, kind and bytes."""
    digest = hashlib.sha256(_canonical(header).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Replaces a file; after a crash it holds either the old or the new content, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name for all attempts: what a killed process leaves behind, the next one overwrites.
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.touch()
    mode = temporary.stat().st_mode
    write(temporary)
    temporary.chmod(mode)  # safetensors makes a file that only its owner may read
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name == "posix":  # elsewhere a folder cannot be opened; there the rename itself is all there is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read(path: Path, *, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"a checkpoint is a file; {path} is none. Check the path, or train first.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"a checkpoint is a whole safetensors file; {path} ({path.stat().st_size} bytes) is truncated or something "
            f"else: {error}. Take an older checkpoint."
        ) from error
    if _MARK not in metadata:
        raise CheckpointError(
            f"a checkpoint is marked {_MARK}; {path} is a safetensors file of another kind. Check the path."
        )
    with _consistent(path):
        header = json.loads(metadata[_MARK])
        version = header["version"]
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"this version reads checkpoints of format {FORMAT_VERSION}; {path} has format {version}. Load it with the "
            "version of resu that wrote it."
        )
    return header, tensors


@contextmanager
def _consistent(path: Path) -> Iterator[None]:
    """Whatever goes wrong in putting the parts together means that they were not written together."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"a checkpoint's parts belong together; in {path} they do not: {error}. Take an older checkpoint."
        ) from error


# --- whether it fits --------------------------------------------------------------------------------------------------


def _check_weights(saved: Mapping[str, Any], present: Mapping[str, Any], source: Any) -> None:
    theirs, ours = (
        {name: tuple(x.shape) for name, x in side.items() if isinstance(x, Tensor)} for side in (saved, present)
    )
    wrong = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if wrong:
        raise CheckpointError(
            f"a checkpoint continues only the model that it holds; {wrong[0]} has shape {theirs.get(wrong[0], 'none')} "
            f"in {source} and {ours.get(wrong[0], 'none')} here ({len(wrong)} of {len(theirs.keys() | ours.keys())} "
            "differ). Build the model as it was, or start anew."
        )


def _check_masks(saved: Mapping[str, Any], sparsifier: Sparsifier, weights: Mapping[str, Any], source: Any) -> None:
    """Refuses masks of other layers, of other shapes, and ones that do not belong to the weights beside them."""
    try:
        masks = {name: SparseMask.from_state_dict(layer["mask"]) for name, layer in saved["layers"].items()}
        phase = Phase(saved["phase"])
    except (ResuError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"a checkpoint holds a mask for each sparse weight; those of {source} cannot be read: {error}. Take an "
            "older checkpoint."
        ) from error
    theirs = {name: mask.shape for name, mask in masks.items()}
    ours = {name: sparse.mask.shape for name, sparse in sparsifier.parameters.items()}
    wrong = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if wrong:
        raise CheckpointError(
            f"a checkpoint's masks are those of the model that it continues; {wrong[0]} has a mask of shape "
            f"{theirs.get(wrong[0], 'none')} in {source} and {ours.get(wrong[0], 'none')} here. Build the Sparsifier "
            "with the same model, include and exclude."
        )
    for name, mask in masks.items():
        weight = weights.get(name)
        if phase in (Phase.TRAIN, Phase.SHADOW) and isinstance(weight, Tensor) and weight.shape == mask.shape:
            stray = int(mask.apply_inverse(weight).count_nonzero())
            if stray:
                raise CheckpointError(
                    f"pruned weights are 0 in phase {phase}; {source} has {stray} of {name} that its mask prunes and "
                    "that are not. The mask belongs to other weights: take an older checkpoint."
                )


def _check_optimizer(saved: Mapping[str, Any] | None, optimizer: Optimizer, source: Any) -> None:
    if saved is None:
        raise CheckpointError(
            f"the training needs an optimizer state; {source} has none. Start with a fresh optimizer, without resuming."
        )
    theirs = [len(group["params"]) for group in saved["param_groups"]]
    ours = [len(group["params"]) for group in optimizer.param_groups]
    if theirs != ours:
        raise CheckpointError(
            f"an optimizer goes on only from a state of its own kind; {source} holds groups of {theirs} parameters, "
            f"this optimizer has {ours}. Build it as it was."
        )


def _undo_casts(saved: Mapping[Any, Any], optimizer: Optimizer) -> None:
    """Gives back what torch changes on loading.

    Every tensor is cast to its parameter's type there, be it an index; and a step count stays on the CPU, where a fused
    step on a GPU does not find it.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, p in enumerate(parameters):
        state = optimizer.state.get(p) or {}
        for name, value in saved.get(index, {}).items():
            loaded = state.get(name)
            if not isinstance(value, Tensor) or not isinstance(loaded, Tensor):
                continue
            if loaded.dtype != value.dtype:
                state[name] = value.to(loaded.device)
            if isinstance(optimizer, MaskedAdamW) and loaded.device != p.device:
                state[name] = state[name].to(p.device)
