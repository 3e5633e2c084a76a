"""Weights as one safetensors file: the model's own names, the masks beside them, and a header that says what they are.

`weight` is what it was, and loads into a model that has never heard of masks once the keys that end in `_mask_bits` are
dropped. A mask is saved as bytes packed by rows (see `SparseMask.state_dict`). The header holds one JSON text: format,
version of the package, and for each masked weight its shape, sparsity and phase. The file is written under a temporary
name in the same folder, fsynced and renamed, so it is either whole or absent.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from resu import __version__
from resu.core.mask import SparseMask
from resu.core.phases import Phase, sparse_state
from resu.errors import CheckpointError, MaskError

__all__ = ["FORMAT_VERSION", "MASK_SUFFIX", "WeightFile", "load_weights", "read_weights", "save_weights"]

FORMAT_VERSION = 1
MASK_SUFFIX = "_mask_bits"
_THETA_SUFFIX = "_theta"
_MARK = "resu.weights"


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Args:
        tensors: the model's tensors by name; tied ones under each of their names.
        masks: masks by parameter name.
        metadata: the header: `format`, `version`, `weights` (shape, sparsity and phase by parameter name), `extra`.
    """

    tensors: dict[str, Shaped[Tensor, "..."]]
    masks: dict[str, SparseMask]
    metadata: dict[str, Any]


def save_weights(path: str | os.PathLike[str], model: nn.Module, *, extra: Mapping[str, Any] | None = None) -> Path:
    """Writes a model's weights and masks in one indivisible step; the folder is made if need be.

    Args:
        path: the file, usually `….safetensors`.
        model: its parameters may be sparsified or not.
        extra: further JSON values for the header.

    Returns:
        The path.

    Raises:
        CheckpointError: extra values that JSON cannot hold.

    >>> from tempfile import TemporaryDirectory
    >>> from resu.core.phases import sparsify
    >>> layer = nn.Linear(4, 2)
    >>> _ = sparsify(layer.weight, SparseMask.random((2, 4), 0.5), "weight")
    >>> with TemporaryDirectory() as folder:
    ...     file = read_weights(save_weights(Path(folder) / "layer.safetensors", layer))
    >>> sorted(file.tensors), file.metadata["weights"]["weight"]
    (['bias', 'weight'], {'shape': [2, 4], 'sparsity': 0.5, 'phase': 'train'})
    """
    path = Path(path)
    tensors, ties = _untied(model.state_dict())
    weights: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        state, bits = sparse_state(parameter), tensors.get(name + MASK_SUFFIX)
        if state is not None:
            mask, phase = state.mask, state.phase
        elif bits is not None:  # a layer that keeps its mask to itself
            mask = SparseMask.from_state_dict({"bits": bits, "shape": parameter.shape})
            phase = Phase.RESU if name + _THETA_SUFFIX in tensors else Phase.TRAIN
        else:
            continue
        weights[name] = {"shape": list(mask.shape), "sparsity": mask.sparsity, "phase": str(phase)}
        tensors[name + MASK_SUFFIX] = mask.state_dict()["bits"]
    header = {
        "format": FORMAT_VERSION,
        "version": __version__,
        "weights": weights,
        "ties": ties,
        "extra": dict(extra or {}),
    }
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"a header's extra values are JSON values; {error}. Pass numbers, texts, lists and dictionaries."
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name for all attempts: what a killed process leaves behind, the next one overwrites.
    temporary = path.with_name(f".{path.name}.partial")
    save_file(tensors, temporary, {_MARK: text})
    _fsync(temporary)
    temporary.replace(path)
    if os.name == "posix":  # elsewhere a folder cannot be opened; there the rename itself is all there is
        _fsync(path.parent)
    return path


def read_weights(path: str | os.PathLike[str]) -> WeightFile:
    """Reads a file of weights and checks that it is whole and ours.

    Args:
        path: the file.

    Returns:
        Tensors, masks and header.

    Raises:
        CheckpointError: no such file; a truncated or foreign one, or one of a later format; parts that do not belong
            together.

    >>> read_weights("nowhere.safetensors")
    Traceback (most recent call last):
        ...
    resu.errors.CheckpointError: weights are read from a file; nowhere.safetensors is none. Check the path.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"weights are read from a file; {path} is none. Check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_MARK)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except SafetensorError as error:
        raise CheckpointError(
            f"weights are a whole safetensors file; {path} ({path.stat().st_size} bytes) is truncated or something "
            f"else: {error}. Export it again."
        ) from error
    if text is None:
        raise CheckpointError(
            f"a file of weights is marked {_MARK}; {path} is a safetensors file of another kind. Check the path."
        )
    try:
        header = json.loads(text)
        if header["format"] != FORMAT_VERSION:
            raise CheckpointError(
                f"this version reads weights of format {FORMAT_VERSION}; {path} has format {header['format']}. Load it "
                "with the version of resu that wrote it."
            )
        masks = {}
        for name, row in header["weights"].items():
            bits, shape = tensors.pop(name + MASK_SUFFIX), torch.tensor(row["shape"])
            masks[name] = SparseMask.from_state_dict({"bits": bits, "shape": shape})
        tensors |= {name: tensors[first] for name, first in header["ties"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"a file's header and tensors belong together; in {path} they do not: {error}. Export it again."
        ) from error
    return WeightFile(tensors, masks, {key: value for key, value in header.items() if key != "ties"})


def load_weights(path: str | os.PathLike[str], model: nn.Module) -> WeightFile:
    """Reads a file of weights into a model; nothing is changed unless everything fits.

    Masks are given back, for `Sparsifier.set_masks`, and not put into force, except in a `RESULinear`, which keeps its
    mask to itself and takes it from the file, with θ where there is one.

    Args:
        path: the file.
        model: of the same architecture; its parameters may carry masks, which must then be those of the file.

    Returns:
        What the file holds.

    Raises:
        CheckpointError: see `read_weights`; names or shapes that are not the model's; another mask than a parameter's.
    """
    file = read_weights(path)
    own = model.state_dict()
    # Layers with an effective weight of their own save and load what belongs to it themselves.
    keeping = {f"{name}.weight".lstrip(".") for name, m in model.named_modules() if hasattr(m, "effective_weight")}
    private = tuple(f"{name}_" for name in keeping)
    names, theirs = ({key for key in keys if not key.startswith(private)} for keys in (own, file.tensors))
    missing, foreign = sorted(names - theirs), sorted(theirs - names)
    if missing or foreign:
        raise CheckpointError(
            f"weights go into a model with the same names; {path} lacks {_few(missing)} and has {_few(foreign)} "
            "besides. Build the model that was exported."
        )
    for name in sorted(names):
        if own[name].shape != file.tensors[name].shape:
            raise CheckpointError(
                f"weights go into a model with the same shapes; {name} has {tuple(own[name].shape)} in the model and "
                f"{tuple(file.tensors[name].shape)} in {path}. Build the model that was exported."
            )
    for name, parameter in model.named_parameters(remove_duplicate=False):
        state, mask = sparse_state(parameter), file.masks.get(name)
        if name in keeping:
            fits = mask is not None or name + MASK_SUFFIX not in own
        else:
            fits = state is None or _same(state.mask, mask)
        if not fits:
            raise CheckpointError(
                f"weights and mask belong together; the mask of {name} in {path} is not the one that the model "
                "carries. Load into a fresh model and hand the returned masks to Sparsifier.set_masks."
            )
    bits = {name + MASK_SUFFIX: file.masks[name].state_dict()["bits"] for name in keeping & file.masks.keys()}
    model.load_state_dict(file.tensors | bits)
    return file


def _same(mask: SparseMask, other: SparseMask | None) -> bool:
    try:
        return other is not None and mask == other
    except MaskError:
        return False


def _untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that share no storage, and for each that was left out the name of the one that it is."""
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    owners: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        storage = tensor.untyped_storage().data_ptr()
        view = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if storage and view in owners:
            ties[name] = owners[view]
            continue
        owners[view] = name
        tensors[name] = (tensor.clone() if storage and storage in storages else tensor).contiguous()
        storages.add(storage)
    return tensors, ties


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _few(names: list[str]) -> str:
    return "nothing" if not names else ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
