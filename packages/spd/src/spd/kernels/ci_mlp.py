"""The scalar network of each component, z_c = w2_c · gelu(w1_c h_c + b1_c) + b2_c, in four forms.

=========== ==========================================================================================================
einsum      two contractions and a GELU between them, as the original does: several tensors of rows × C × H
broadcast   the same as products and a sum
recompute   block by block, and once more in the backward pass, so that only h is kept: rows × C. Within a block rows
            come last, so that sums over rows run along memory and those over hidden units are small matrix products
triton      the same idea as one kernel a pass, for a GPU; see `spd.kernels.ci_mlp_triton`
=========== ==========================================================================================================

Legend: N rows, C components, H hidden units; x = w1 h + b1, a = gelu(x). In a block C and N stand for parts of them.
"""

import importlib.util
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from spd.errors import ConfigError

__all__ = ["CiKernel", "scalar_mlp", "vector_mlp"]

CiKernel = Literal["einsum", "broadcast", "recompute", "triton"]

_BLOCK_ELEMENTS = 1 << 19
"""Elements of a block's hidden layer: two of them are used over and over, and stay in the caches."""


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_NC: Tensor, w1_CH: Tensor, b1_CH: Tensor, w2_CH: Tensor, b2_C: Tensor) -> Tensor:
        h_C1N = h_NC.t().contiguous().unsqueeze(1)
        z_C1N = torch.empty_like(h_C1N)
        w1_CH1, b1_CH1, w2_C1H = w1_CH.unsqueeze(-1), b1_CH.unsqueeze(-1), w2_CH.unsqueeze(1)
        for at, (a_CHN,) in _blocks(h_C1N, w1_CH.shape[1], 1):
            c = at[0]
            torch.mul(w1_CH1[c], h_C1N[at], out=a_CHN).add_(b1_CH1[c])
            torch.ops.aten.gelu_(a_CHN)
            z_C1N[at] = torch.bmm(w2_C1H[c], a_CHN)
        ctx.save_for_backward(h_NC, w1_CH, b1_CH, w2_CH)
        return torch.add(z_C1N.squeeze(1).t(), b2_C, out=torch.empty_like(h_NC, memory_format=torch.contiguous_format))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        (dz_NC,), (h_NC, w1_CH, b1_CH, w2_CH) = gradients, ctx.saved_tensors
        h_C1N, dz_C1N = (t.t().contiguous().unsqueeze(1) for t in (h_NC, dz_NC))
        dh_C1N = torch.empty_like(h_C1N)
        dw1_CH, db1_CH, dw2_CH = (torch.zeros_like(w) for w in (w1_CH, b1_CH, w2_CH))
        w1_CH1, b1_CH1, w2_CH1, w1_C1H = (
            w1_CH.unsqueeze(-1),
            b1_CH.unsqueeze(-1),
            w2_CH.unsqueeze(-1),
            w1_CH.unsqueeze(1),
        )
        for at, (x_CHN, dx_CHN) in _blocks(h_C1N, w1_CH.shape[1], 2):
            c, h, dz = at[0], h_C1N[at], dz_C1N[at]
            torch.mul(w1_CH1[c], h, out=x_CHN).add_(b1_CH1[c])
            dw2_CH[c] += torch.ops.aten.gelu.out(x_CHN, out=dx_CHN).mul_(dz).sum(-1)
            torch.mul(w2_CH1[c], dz, out=dx_CHN)
            torch.ops.aten.gelu_backward.grad_input(dx_CHN, x_CHN, grad_input=dx_CHN)
            db1_CH[c] += dx_CHN.sum(-1)
            dh_C1N[at] = torch.bmm(w1_C1H[c], dx_CHN)
            dw1_CH[c] += dx_CHN.mul_(h).sum(-1)
        return dh_C1N.squeeze(1).t(), dw1_CH, db1_CH, dw2_CH, dz_NC.sum(0)


def _blocks(h_C1N: Tensor, hidden: int, buffers: int) -> Iterator[tuple[tuple[slice, slice, slice], list[Tensor]]]:
    """Parts of C and of N, each with room for so many hidden layers, which the next part uses again."""
    c, _, n = h_C1N.shape
    rows = max(1, min(n, _BLOCK_ELEMENTS // hidden))
    parts = max(1, _BLOCK_ELEMENTS // (rows * hidden))
    room: list[Tensor] = []
    for row in range(0, n, rows):
        for part in range(0, c, parts):
            shape = (min(parts, c - part), hidden, min(rows, n - row))
            if not room or room[0].shape != shape:
                room = [h_C1N.new_empty(shape) for _ in range(buffers)]
            yield (slice(part, part + parts), slice(None), slice(row, row + rows)), room


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

    Raises:
        ConfigError: the Triton form where it cannot run.
    """
    if kernel == "einsum":
        x = torch.einsum("...ci,cio->...co", h.unsqueeze(-1), w1) + b1
        return (torch.einsum("...ci,cio->...co", functional.gelu(x), w2) + b2).squeeze(-1)
    if kernel == "broadcast":
        x = torch.addcmul(b1, h.unsqueeze(-1), w1.squeeze(1))
        return (functional.gelu(x) * w2.squeeze(-1)).sum(-1) + b2.squeeze(-1)
    flat = h.reshape(-1, h.shape[-1]).to(w1.dtype)
    weights = w1.squeeze(1), b1, w2.squeeze(-1), b2.squeeze(-1)
    if kernel == "triton":
        if importlib.util.find_spec("triton") is None:
            raise ConfigError(
                "ci_kernel='triton' is computed by Triton, which is not installed. Install the package triton, or use "
                "ci_kernel='recompute'."
            )
        from spd.kernels.ci_mlp_triton import scalar_mlp_triton  # imported only where it is used

        return scalar_mlp_triton(flat, *weights).view(h.shape)
    return cast(Tensor, _Recompute.apply(flat, *weights)).view(h.shape)


def vector_mlp(
    x: Float[Tensor, "... D"],
    w1: Float[Tensor, "C D H"],
    b1: Float[Tensor, "C H"],
    w2: Float[Tensor, "C H 1"],
    b2: Float[Tensor, "C 1"],
) -> Float[Tensor, "... C"]:
    """z_c = w2_c · gelu(x W1_c + b1_c) + b2_c, which reads a whole input, for all components at once.

    The first layers side by side are one large product instead of C narrow ones. Positions come last, so that the
    second layers are sums along memory.

    Args:
        x: the layer's input, of D numbers.
        w1: weights to the hidden layers.
        b1: their biases.
        w2: weights from the hidden layers to z.
        b2: biases of z.

    Returns:
        z.
    """
    c, d, h = w1.shape
    side_by_side = w1.transpose(1, 2).reshape(c * h, d)
    a = functional.gelu(torch.addmm(b1.reshape(-1, 1), side_by_side, x.reshape(-1, d).t())).view(c, h, -1)
    z = torch.bmm(w2.transpose(1, 2), a).squeeze(1) + b2
    return z.t().reshape(*x.shape[:-1], c)
