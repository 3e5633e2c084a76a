"""What a saved layer says of its mask and θ, in the form that the layer which loads it needs."""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from resu.core.mask import SparseMask
from resu.core.resurrection import StorageMode
from resu.errors import CheckpointError, MaskError
from resu.kernels.embedding import phi_inverse_gather, phi_scatter

__all__ = ["fit_theta", "saved_mask"]


def saved_mask(bits: Shaped[Tensor, "..."], shape: tuple[int, ...], name: str) -> SparseMask:
    """The mask of a state dict.

    Args:
        bits: packed by rows, uint8, ceil(cols / 8) bytes each.
        shape: of the weight that loads it.
        name: of the weight, for messages.

    Returns:
        The mask.

    Raises:
        CheckpointError: bits of another weight.

    >>> mask = SparseMask.random((3, 11), 0.5)
    >>> saved_mask(mask.state_dict()["bits"], (3, 11), "weight") == mask
    True
    """
    try:
        return SparseMask.from_state_dict({"bits": bits, "shape": shape})
    except MaskError as error:
        raise CheckpointError(
            f"a saved mask belongs to the weight that it was saved with; {name} has shape {shape} here and its bits "
            f"are {bits.dtype} of shape {tuple(bits.shape)}. Load them into a layer of the same size."
        ) from error


@torch.no_grad()
def fit_theta(
    state_dict: dict[str, Any], name: str, theta: Shaped[Tensor, "..."], mask: SparseMask, storage_mode: StorageMode
) -> None:
    """Changes the entries of a weight and its θ, saved by a layer of any storage mode, to those of another one.

    Args:
        state_dict: has the weight under `name`; θ goes under `name` + "_theta", or into the weight.
        name: of the weight.
        theta: as saved: a vector, a matrix, or empty where it is in the weight.
        mask: as saved.
        storage_mode: of the layer that loads.

    Raises:
        CheckpointError: θ of another mask.

    >>> mask = SparseMask(torch.tensor([[True, False]]))
    >>> state = {"weight": torch.tensor([[1.0, 5.0]])}
    >>> fit_theta(state, "weight", torch.empty(0), mask, StorageMode.COMPACT)
    >>> state["weight"].tolist(), state["weight_theta"].tolist()
    ([[1.0, 0.0]], [5.0])
    """
    weight = state_dict.get(name)
    if weight is None or tuple(weight.shape) != mask.shape:
        return  # loading the weight itself says what is wrong
    mask = mask.to(weight.device)
    indices = mask.pruned_indices
    if theta.shape == (0,) and mask.n_pruned:
        theta = phi_inverse_gather(weight.detach(), indices)
    elif theta.shape == weight.shape:
        theta = phi_inverse_gather(theta.detach(), indices)
    elif theta.shape != (mask.n_pruned,):
        raise CheckpointError(
            f"a saved θ has one value a pruned weight, {mask.n_pruned} for {name}, or the weight's shape "
            f"{mask.shape}; it has shape {tuple(theta.shape)}. The file mixes two layers, or is damaged."
        )
    theta = theta.detach()
    if storage_mode is StorageMode.INPLACE:
        whole = weight.detach().clone(memory_format=torch.contiguous_format)
        whole.view(-1).scatter_(0, indices, theta.to(whole.dtype))
        state_dict[name] = whole
        return
    state_dict[name] = mask.apply(weight.detach())
    compact = storage_mode is StorageMode.COMPACT
    state_dict[f"{name}_theta"] = theta if compact else phi_scatter(theta, indices, mask.shape)
