"""Files to go on from: whole or absent, and they say when they were damaged.

A checkpoint is one safetensors file. Its tensors are the indices, what the optimizer keeps, residuals among it, and
gradients that were collected and not applied yet; its header holds, as JSON, a format number, the version of this
package, the settings, the epoch, the history and the names of the classes, and a SHA-256 of all of that and of all
tensors' bytes. A run that goes on from one is, bit for bit on a CPU, the run that was never stopped: the order of
samples depends on the seed and the epoch alone, so that no state of a generator has to be kept.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from neurograph.config import Config
from neurograph.errors import CheckpointError, NeuroGraphError
from neurograph.files import write_whole
from neurograph.model import Model

__all__ = [
    "FORMAT_VERSION",
    "Checkpoint",
    "TrainerState",
    "check_same_settings",
    "load_checkpoint",
    "save_checkpoint",
]

FORMAT_VERSION = 2
"""Of the files that this version writes and reads."""

TrainerState = tuple[dict[str, Shaped[Tensor, "..."]], dict[str, Any]]
"""Tensors by name, and JSON values: what `Trainer.state_dict` returns."""

_KEY = "neurograph"
_WAY_OUT = "Use an earlier copy, or train anew."
_MAY_CHANGE = {("threads",), ("device",), ("model", "backend"), ("train", "epochs")}
"""Settings that change how a run is computed or how long it is, and not what is learned in an epoch."""


@dataclass(frozen=True)
class Checkpoint:
    """What is in a file.

    Args:
        config: the settings.
        tensors: by name.
        values: JSON values.
        classes: names of the classes.
        picture: rows and columns of a sample, where it is a picture.
        version: of the package that wrote it.
    """

    config: Config
    tensors: dict[str, Shaped[Tensor, "..."]]
    values: dict[str, Any]
    classes: tuple[str, ...]
    picture: tuple[int, int] | None
    version: str

    @property
    def epoch(self) -> int:
        """Epochs that were done."""
        return int(self.values["epoch"])

    @property
    def state(self) -> TrainerState:
        """What `Trainer.load_state_dict` takes."""
        return self.tensors, self.values

    def build_model(self, device: str | None = None) -> Model:
        """The network, with the integers of the file.

        Args:
            device: where to; None = the settings' own.

        Returns:
            A network.

        Raises:
            CheckpointError: tensors that are not those of the settings.
        """
        config = self.config if device is None else self.config.model_copy(update={"device": device})
        model = Model.build(config, n_classes=len(self.classes) or None)
        store = model.store
        given = [self.tensors.get(name) for name in ("phase", "mag")]
        wrong = [None if one is None else tuple(one.shape) for one in given]
        if wrong != [tuple(store.phase.shape)] * 2:
            raise CheckpointError(
                f"a checkpoint's indices are those of its settings, {tuple(store.phase.shape)}; these are not, but "
                f"{wrong}. {_WAY_OUT}"
            )
        try:
            store.set_(*(one.to(store.phase.device) for one in given if one is not None))
        except NeuroGraphError as error:
            raise CheckpointError(
                f"a checkpoint's indices are those of its settings; these are not: {error}. {_WAY_OUT}"
            ) from error
        return model


def save_checkpoint(
    path: str | Path,
    state: TrainerState,
    config: Config,
    *,
    classes: Sequence[str] = (),
    picture: tuple[int, int] | None = None,
) -> Path:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: the file, replaced where it exists.
        state: of a trainer.
        config: its settings.
        classes: names of the classes; none = one for each output node.
        picture: rows and columns of a sample, where it is a picture.

    Returns:
        The file.
    """
    tensors, values = state
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "version": _version(),
        "config": config.model_dump(mode="json"),
        "classes": list(classes),
        "picture": picture,
        "values": values,
    }
    # As it will be read: tuples are lists, and keys are text.
    header = json.loads(json.dumps(header))
    header["sha256"] = _digest(ready, header)
    path = Path(path)
    content = tensor_bytes(ready, metadata={_KEY: json.dumps(header)})
    write_whole(path, lambda temporary: temporary.write_bytes(content))
    return path


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint, and checks it.

    Args:
        path: the file.

    Returns:
        What is in it, on the CPU.

    Raises:
        CheckpointError: a file that is missing, truncated, damaged, foreign or too new.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: Any = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"a checkpoint is a safetensors file that neurograph wrote; {path} is not, or is truncated: {error!r}. "
            f"{_WAY_OUT}"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT_VERSION:
        found = header.get("format") if isinstance(header, dict) else header
        raise CheckpointError(
            f"this version reads checkpoints of format {FORMAT_VERSION}; {path} has format {found!r}. Use the version "
            "of neurograph that wrote it, or a newer one."
        )
    given = header.pop("sha256", None)
    if _digest(tensors, header) != given:
        raise CheckpointError(
            f"a checkpoint has the SHA-256 that its header says; {path} has another: it is damaged. {_WAY_OUT}"
        )
    try:
        picture = None if header["picture"] is None else tuple(header["picture"])
        parts = header["values"], tuple(header["classes"]), picture, header["version"]
        return Checkpoint(Config.model_validate(header["config"]), tensors, *parts)
    except ValidationError as error:
        raise CheckpointError(
            f"a checkpoint holds settings that this version knows; those of {path}, written by version "
            f"{header['version']}, are refused: {error.errors()[0]['msg']}. Use that version."
        ) from error
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"the header of a checkpoint has all its parts; that of {path} has not: {error!r}. {_WAY_OUT}"
        ) from error


def check_same_settings(saved: Config, present: Config) -> None:
    """Whether a run with these settings may go on from those.

    Threads, device, back end and the number of epochs may differ; everything else is the same.

    Args:
        saved: of the checkpoint.
        present: of the run.

    Raises:
        CheckpointError: a setting that differs.

    >>> check_same_settings(Config(), Config(threads=1))
    >>> check_same_settings(Config(), Config(seed=1))
    Traceback (most recent call last):
    neurograph.errors.CheckpointError: a run goes on with the settings that it began with; seed was 0 and is 1 now. \
Change it back, or start anew in another folder.
    """
    then, now = (config.model_dump(mode="json") for config in (saved, present))
    for key, before, after in _differences(then, now):
        if key not in _MAY_CHANGE:
            raise CheckpointError(
                f"a run goes on with the settings that it began with; {'.'.join(key)} was {before!r} and is {after!r} "
                "now. Change it back, or start anew in another folder."
            )


def _differences(then: Any, now: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in then:
            yield from _differences(then[key], now[key], (*at, key))
    elif then != now:
        yield at, then, now


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """SHA-256 of the header, and of names, types, shapes and bytes of tensors on the CPU."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _version() -> str:
    try:
        return version("neurograph")
    except PackageNotFoundError:
        return "not installed"
