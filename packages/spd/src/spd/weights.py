"""Components and causal-importance functions alone, as one file to give away: `load_components(model, path)`.

A checkpoint of `spd.checkpoint` also holds what a run needs to go on. A file of weights is a safetensors file with the
parameters of a decomposition under their own names (`_components.<site>.V`, `_ci_fns.<site>.layers.<k>.W`, dots of a
site's name written as `-`); its header holds, as JSON, the components of each site and a SHA-256 of the tensors. The
frozen target is not in it. It is whole or absent.
"""

from pathlib import Path

import torch
from torch import Tensor

from spd.errors import CheckpointError
from spd.models.component_model import ComponentModel
from spd.tensor_files import TensorFile

__all__ = ["WEIGHTS_FORMAT", "load_components", "save_components"]

WEIGHTS_FORMAT = 1
_FILE = TensorFile("spd-weights", WEIGHTS_FORMAT, "a file of weights", "Get it again.")


def save_components(model: ComponentModel, path: Path) -> None:
    """Writes the parameters of a decomposition.

    Args:
        model: the decomposed network.
        path: the file, replaced where it exists; its folder is made where it is missing.
    """
    tensors = {name: p.detach().cpu().contiguous() for name, p in _parameters(model).items()}
    _FILE.write(path, tensors, {"components": model.module_to_c})


def load_components(model: ComponentModel, path: Path) -> None:
    """Puts parameters from a file into a decomposed network.

    Args:
        model: with the same sites, numbers of components and kind of causal-importance functions.
        path: a file that `save_components` wrote.

    Raises:
        CheckpointError: a file that is truncated, damaged, foreign, too new, or of another decomposition. Nothing is
            changed then.
    """
    tensors = _FILE.tensors(path, _FILE.header(path))
    needed = _parameters(model)
    for name in sorted(needed.keys() | tensors.keys()):
        came, wanted = (None if name not in all_ else tuple(all_[name].shape) for all_ in (tensors, needed))
        if came != wanted:
            raise CheckpointError(
                f"weights fit the decomposition that they were saved from; {name} has shape {came} in {path}, and this "
                f"one needs {wanted} (None: it is not there). Decompose the same sites into as many components, with "
                "the same kind of causal-importance functions."
            )
    with torch.no_grad():
        for name, p in needed.items():
            p.copy_(tensors[name])


def _parameters(model: ComponentModel) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if not name.startswith("target_model.")}
