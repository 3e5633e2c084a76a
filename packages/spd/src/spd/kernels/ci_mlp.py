"""The scalar network of each component, z_c = w2_c · gelu(w1_c h_c + b1_c) + b2_c, in three forms.

=========== ==========================================================================================================
einsum      two contractions and a GELU between them, as the original does: several tensors of rows × C × H
broadcast   the same as products and a sum
recompute   row block by row block, and once more in the backward pass, so that only h is kept: rows × C
=========== ==========================================================================================================

Legend: N rows, C components, H hidden units; x = w1 h + b1, a = gelu(x).
"""

from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["CiKernel", "scalar_mlp"]

CiKernel = Literal["einsum", "broadcast", "recompute"]

_BLOCK_ELEMENTS = 1 << 17
"""Elements of a row block's hidden layer: two such tensors fit a core's second-level cache."""


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_NC: Tensor, w1_CH: Tensor, b1_CH: Tensor, w2_CH: Tensor) -> Tensor:
        z_NC = torch.empty_like(h_NC)
        for rows in _row_blocks(h_NC, w1_CH.shape[1]):
            a = functional.gelu(torch.addcmul(b1_CH, h_NC[rows].unsqueeze(-1), w1_CH))
            torch.sum(a.mul_(w2_CH), -1, out=z_NC[rows])
        ctx.save_for_backward(h_NC, w1_CH, b1_CH, w2_CH)
        return z_NC

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (dz_NC,), (h_NC, w1_CH, b1_CH, w2_CH) = gradients, ctx.saved_tensors
        dh_NC = torch.empty_like(h_NC)
        dw1_CH, db1_CH, dw2_CH = (torch.zeros_like(w) for w in (w1_CH, b1_CH, w2_CH))
        for rows in _row_blocks(h_NC, w1_CH.shape[1]):
            h, dz = h_NC[rows].unsqueeze(-1), dz_NC[rows].unsqueeze(-1)
            x = torch.addcmul(b1_CH, h, w1_CH)
            dw2_CH += functional.gelu(x).mul_(dz).sum(0)
            dx = torch.ops.aten.gelu_backward(dz * w2_CH, x)
            db1_CH += dx.sum(0)
            torch.sum(dx * w1_CH, -1, out=dh_NC[rows])
            dw1_CH += dx.mul_(h).sum(0)
        return dh_NC, dw1_CH, db1_CH, dw2_CH


def _row_blocks(h_NC: Tensor, hidden: int) -> list[slice]:
    step = max(1, _BLOCK_ELEMENTS // (h_NC.shape[1] * hidden))
    return [slice(start, start + step) for start in range(0, h_NC.shape[0], step)]


def scalar_mlp(
    h: Float[Tensor, "... C"],
    w1: Float[Tensor, "C 1 H"],
    b1: Float[Tensor, "C H"],
    w2: Float[Tensor, "C H 1"],
    b2: Float[Tensor, "C 1"],
    kernel: CiKernel,
) -> Float[Tensor, "... C"]:
    """Computes z for each component and position.

    Args:
        h: inner activations.
        w1: weights from h to the hidden layer.
        b1: its biases.
        w2: weights from the hidden layer to z.
        b2: bias of z.
        kernel: which form.

    Returns:
        z.
    """
    if kernel == "einsum":
        x = torch.einsum("...ci,cio->...co", h.unsqueeze(-1), w1) + b1
        return (torch.einsum("...ci,cio->...co", functional.gelu(x), w2) + b2).squeeze(-1)
    if kernel == "broadcast":
        x = torch.addcmul(b1, h.unsqueeze(-1), w1.squeeze(1))
        return (functional.gelu(x) * w2.squeeze(-1)).sum(-1) + b2.squeeze(-1)
    flat = h.reshape(-1, h.shape[-1])
    z = cast(Tensor, _Recompute.apply(flat, w1.squeeze(1), b1, w2.squeeze(-1)))
    return z.view(h.shape) + b2.squeeze(-1)
