"""Files of models: whole or absent, and they say when they were damaged.

`.safetensors` holds the tensors, and in its header, as JSON, what they are, and a SHA-256 of their bytes. `.json` holds
the same as text that a person can read, numbers written so that they read back exactly.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from dredge.errors import ArchiveError, ModelError, needed
from dredge.files import write_whole
from dredge.quasimoto.baselines import BASELINES
from dredge.quasimoto.compress import dequantised, quantised
from dredge.quasimoto.packets import WavePackets

__all__ = ["FORMAT", "compress_file", "load_model", "save_model"]

FORMAT = 1
_CODES, _SCALES = "::int8", "::scale"
_TYPES = {"float32": torch.float32, "float64": torch.float64, "complex64": torch.complex64, "int8": torch.int8}
_MODELS: dict[str, Callable[..., nn.Module]] = {"packets": WavePackets, **BASELINES}

Tensors = dict[str, Shaped[Tensor, "..."]]


def save_model(
    model: nn.Module, path: str | Path, *, int8: bool = False, notes: Mapping[str, Any] | None = None
) -> Path:
    """Writes packets, or one of the baselines.

    Args:
        model: to write.
        path: ends in .safetensors or .json.
        int8: weights in 8 bits, as `dredge.quasimoto.compress` says.
        notes: JSON values to keep with it.

    Returns:
        The file.

    Raises:
        ModelError: a model of another kind or precision, notes that are no JSON values, numbers in JSON that are not
            finite, or another suffix.
    """
    path = Path(path)
    kinds = [name for name, kind in _MODELS.items() if type(model) is kind]
    if not kinds:
        raise ModelError(
            f"files are of packets and of {', '.join(BASELINES)}; got {type(model).__name__}. Use torch.save."
        )
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    other = sorted({str(value.dtype) for value in tensors.values() if value.dtype not in _TYPES.values()})
    if other:
        raise ModelError(f"files hold {', '.join(_TYPES)}; got {other[0]}. Save model.float().")
    kept = _packed(model, tensors) if int8 else tensors
    header = {
        "format": FORMAT, "model": kinds[0], "config": model.config, "notes": dict(notes or {}),
        "sha256": _digest(kept),
    }  # fmt: skip
    try:
        told = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"notes are JSON values; {error}. Leave out what is none.") from error
    if path.suffix == ".safetensors":
        files = needed("safetensors.torch", "inr", "files of models")
        meta = {"dredge": told}
        write_whole(path, lambda temporary: files.save_file(kept, temporary, metadata=meta))
    elif path.suffix == ".json":
        listed = {
            name: {
                "type": str(value.dtype).removeprefix("torch."),
                "shape": list(value.shape),
                "numbers": _numbers(value),
            }
            for name, value in kept.items()
        }
        try:
            text = json.dumps({**header, "tensors": listed}, indent=1, allow_nan=False)
        except ValueError as error:
            raise ModelError("numbers in JSON are finite; some of this model are not. Use .safetensors.") from error
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    else:
        raise ModelError(f"a model's file ends in .safetensors or .json; got {path.name!r}. Rename it.")
    return path


def load_model(path: str | Path) -> nn.Module:
    """Reads a model.

    Args:
        path: that `save_model` wrote.

    Returns:
        The model, on the CPU, in the precision that it was written in; 8-bit weights are decoded.

    Raises:
        ArchiveError: a file that is missing, cut short, damaged, foreign or too new.
    """
    path = Path(path)
    header, tensors = _read(path)
    if header.get("format") != FORMAT:
        raise ArchiveError(
            f"this version reads format {FORMAT}; {path} has {header.get('format')!r}. Use that of the file."
        )
    if _digest(tensors) != header.get("sha256"):
        raise ArchiveError(
            f"tensors have the SHA-256 that their header says; those of {path} do not. Use another copy."
        )
    try:
        model = _MODELS[header["model"]](**header["config"])
        # The tensors themselves become the parameters, so that nothing is rounded to the model's own precision.
        model.load_state_dict(_unpacked(tensors), assign=True)
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise ArchiveError(
            f"a model's file holds what its kind needs; {path} does not: {error}. Use another copy."
        ) from error
    return model


def compress_file(source: str | Path, target: str | Path) -> tuple[int, int]:
    """Writes a model again with weights in 8 bits.

    Args:
        source: of `save_model`.
        target: where to; its suffix says how.

    Returns:
        Bytes of the files, before and after.

    Raises:
        ArchiveError: a source that cannot be read.
        ModelError: a target with another suffix.
    """
    written = save_model(load_model(source), target, int8=True)
    return Path(source).stat().st_size, written.stat().st_size


def _packed(model: nn.Module, tensors: Tensors) -> Tensors:
    found: Tensors = {}
    for name, codes in quantised(model).items():
        if isinstance(codes, tuple):
            found[name + _CODES], found[name + _SCALES] = codes
        else:
            found[name] = codes
    missing = tensors.keys() - {name.removesuffix(_CODES).removesuffix(_SCALES) for name in found}
    return found | {name: tensors[name] for name in missing}


def _unpacked(tensors: Tensors) -> Tensors:
    found: Tensors = {}
    for name, value in tensors.items():
        if name.endswith(_CODES):
            plain = name.removesuffix(_CODES)
            found[plain] = dequantised(value, tensors[plain + _SCALES])
        elif not name.endswith(_SCALES):
            found[name] = value
    return found


def _read(path: Path) -> tuple[dict[str, Any], Tensors]:
    try:
        if path.suffix == ".json":
            whole = json.loads(path.read_text(encoding="utf-8"))
            listed = whole.pop("tensors")
            tensors = {
                name: _tensor(part["numbers"], _TYPES[part["type"]]).reshape(part["shape"])
                for name, part in listed.items()
            }
            return whole, tensors
        files = needed("safetensors", "inr", "files of models")
        with files.safe_open(path, framework="pt") as file:
            header = dict(json.loads((file.metadata() or {})["dredge"]))
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except Exception as error:
        # safetensors raises a class of its own, which cannot be named where it is not installed.
        known = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError, OverflowError)
        if isinstance(error, ImportError) or not (isinstance(error, known) or "Safetensor" in type(error).__name__):
            raise
        raise ArchiveError(
            f"a model's file is one that dredge wrote; {path} is not, or is cut short: {error!r}. Use another copy."
        ) from error


def _numbers(value: Tensor) -> list[Any]:
    flat = torch.view_as_real(value) if value.is_complex() else value
    return flat.reshape(-1).tolist()


def _tensor(numbers: list[Any], dtype: torch.dtype) -> Tensor:
    if dtype.is_complex:
        return torch.view_as_complex(torch.tensor(numbers, dtype=torch.float32).reshape(-1, 2))
    return torch.tensor(numbers, dtype=dtype)


def _digest(tensors: Tensors) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        real = torch.view_as_real(value) if value.is_complex() else value
        found.update(real.contiguous().numpy().tobytes())
    return found.hexdigest()
