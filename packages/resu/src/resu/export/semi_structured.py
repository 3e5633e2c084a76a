"""2:4 inference on a GPU: linear layers whose weight is stored for sparse tensor cores.

Of every four neighbouring weights two are zero; the hardware stores the other two and skips the rest (Mishra et al.
2021, arXiv 2104.08378). The pattern comes from `resu.pruning.nm`. PyTorch has these kernels for CUDA only, in float16
and bfloat16.
"""

import copy
import warnings

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from resu.errors import KernelError, MaskError
from resu.export.csr import effective_linears, effective_weight
from resu.pruning.nm import verify_nm

__all__ = ["semi_structured_model", "to_semi_structured"]

_DTYPES = (torch.float16, torch.bfloat16)
_ROW_MULTIPLE, _COLUMN_MULTIPLE = 32, 64


def to_semi_structured(weight: Float[Tensor, "..."], *, name: str = "weight") -> Shaped[Tensor, "rows cols"]:
    """A matrix in 2:4 form.

    Args:
        weight: the matrix, with at most two nonzero values in every four neighbours of a row.
        name: for messages.

    Returns:
        A semi-structured sparse tensor that multiplies as the matrix did.

    Raises:
        MaskError: the values are not 2:4, or the shape does not fit the hardware.
        KernelError: not on a CUDA device, or neither float16 nor bfloat16.

    >>> to_semi_structured(torch.eye(64))
    Traceback (most recent call last):
        ...
    resu.errors.KernelError: 2:4 kernels run on CUDA devices; weight is on cpu. Move the model with .cuda(), or export \
to CSR for a CPU: resu.export.csr.csr_model.
    """
    weight = weight.detach()
    if weight.dim() != 2:
        raise MaskError(
            f"2:4 kernels multiply matrices; {name} has shape {tuple(weight.shape)}. Export linear layers only."
        )
    report = verify_nm(weight, 2, 4)
    if not report.holds:
        raise MaskError(
            f"2:4 needs at most 2 nonzero values in every 4 neighbours of a row; in {name} {report.over} of "
            f"{report.groups} groups have more. Prune with resu.pruning.nm.nm_mask first."
        )
    if weight.shape[0] % _ROW_MULTIPLE or weight.shape[1] % _COLUMN_MULTIPLE:
        raise MaskError(
            f"2:4 kernels need rows in multiples of {_ROW_MULTIPLE} and columns of {_COLUMN_MULTIPLE}; {name} has "
            f"shape {tuple(weight.shape)}. Pad the layer, or leave it dense."
        )
    if weight.device.type != "cuda":
        raise KernelError(
            f"2:4 kernels run on CUDA devices; {name} is on {weight.device}. Move the model with .cuda(), or export to "
            "CSR for a CPU: resu.export.csr.csr_model."
        )
    if weight.dtype not in _DTYPES:
        raise KernelError(
            f"2:4 kernels multiply float16 and bfloat16; {name} is {weight.dtype}. Convert the model with .half() or "
            ".bfloat16()."
        )
    with warnings.catch_warnings():
        # Said once a process: that this part of PyTorch may still change.
        warnings.filterwarnings("ignore", message=".*SparseSemiStructuredTensor", category=UserWarning)
        return to_sparse_semi_structured(weight)


def semi_structured_model(model: nn.Module) -> nn.Module:
    """A copy of a model for inference, every linear layer that is 2:4 in the hardware's form; the others stay dense.

    Args:
        model: on a CUDA device, in float16 or bfloat16; not changed.

    Returns:
        The copy, in evaluation mode.

    Raises:
        MaskError: no linear layer is 2:4, or one that is has a shape that does not fit the hardware.
        KernelError: not on a CUDA device, or neither float16 nor bfloat16.
    """
    converted: dict[int, nn.Parameter | nn.Module] = {}
    names = {module: name for name, module in model.named_modules()}
    for linear in effective_linears(model):
        weight = effective_weight(linear)
        if weight.shape[1] % 4 or not verify_nm(weight, 2, 4).holds:
            continue
        packed = to_semi_structured(weight, name=f"{names[linear]}.weight")
        plain = nn.Linear(1, 1, bias=False, device=weight.device, dtype=weight.dtype)
        plain.in_features, plain.out_features = linear.in_features, linear.out_features
        plain.weight = nn.Parameter(packed, requires_grad=False)
        plain.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        converted[id(linear)] = plain
    if not converted:
        raise MaskError(
            "an export to 2:4 converts linear layers whose weights are 2:4; this model has none. Prune with "
            "resu.pruning.nm.nm_mask first."
        )
    return copy.deepcopy(model, dict(converted)).eval()
