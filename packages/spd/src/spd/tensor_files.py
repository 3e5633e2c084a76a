"""Files of tensors: whole or absent, and they say when they were damaged.

Each is a safetensors file whose header holds, as JSON, a format number, a SHA-256 of all tensors' bytes, and whatever
else belongs to them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spd.errors import CheckpointError
from spd.files import write_whole

__all__ = ["TensorFile", "digest"]

Tensors = Mapping[str, Shaped[Tensor, "..."]]


def digest(tensors: Tensors) -> str:
    """SHA-256 of names, types, shapes and bytes.

    Args:
        tensors: by name, on the CPU and contiguous.

    Returns:
        In hexadecimal.

    >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2, 1)})
    False
    """
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class TensorFile:
    """A kind of file.

    Args:
        key: of the header among safetensors' metadata.
        format: this version's.
        what: "a checkpoint", for messages.
        way_out: what to do with one that cannot be read.
    """

    key: str
    format: int
    what: str
    way_out: str

    def write(self, path: Path, tensors: Tensors, header: Mapping[str, Any]) -> None:
        """Writes a file.

        Args:
            path: where.
            tensors: by name.
            header: JSON values.
        """
        ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        whole = {"format": self.format, "sha256": digest(ready), **header}
        write_whole(path, lambda temporary: save_file(ready, temporary, metadata={self.key: json.dumps(whole)}))

    def header(self, path: Path) -> dict[str, Any]:
        """Reads a header.

        Args:
            path: the file.

        Returns:
            JSON values.

        Raises:
            CheckpointError: a file that is missing, truncated, foreign or too new.
        """
        try:
            with safe_open(path, framework="pt") as file:
                found: dict[str, Any] = json.loads((file.metadata() or {})[self.key])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{self.what} is a safetensors file that spd wrote; {path} is not, or is truncated: {error!r}. "
                f"{self.way_out}"
            ) from error
        if found.get("format") != self.format:
            raise CheckpointError(
                f"this version reads {self.what} of format {self.format}; {path} has format {found.get('format')}. "
                "Use the version of spd that wrote it."
            )
        return found

    def tensors(self, path: Path, header: Mapping[str, Any]) -> dict[str, Shaped[Tensor, "..."]]:
        """Reads tensors, and checks them.

        Args:
            path: the file.
            header: its own.

        Returns:
            By name.

        Raises:
            CheckpointError: tensors that are not those of the header.
        """
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        if digest(tensors) != header["sha256"]:
            raise CheckpointError(
                f"the tensors of {self.what} have the SHA-256 that its header says; those of {path} do not: it is "
                f"damaged. {self.way_out}"
            )
        return tensors
