"""The scalar network of each component as two Triton kernels, for z and for all gradients. Only h is kept between them.

A program takes a block of rows of a few components, and runs through the hidden units: neither pass writes a hidden
layer to memory. GELU is in the exact form, a = x Φ(x), a' = Φ(x) + x φ(x), all in float32. Weights' gradients are
summed over a block of rows in the kernel, and over the blocks after it, so that they are the same each time.

Legend: N rows, C components, H hidden units; x = w1 h + b1. A capital behind a name says along which axes a block lies.
"""

import os
from typing import Any, cast, no_type_check

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from spd.errors import ConfigError

__all__ = ["scalar_mlp_triton"]

_ROWS = 128
"""Rows of a program."""

_COMPONENTS = 16
"""Components of a program: neighbours in memory, so that a warp reads whole lines."""


@triton.jit
@no_type_check
def _forward_kernel(
    h_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, z_ptr, rows, components,
    HIDDEN: tl.constexpr, ROWS: tl.constexpr, COMPONENTS: tl.constexpr,
):  # fmt: skip
    n_N = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c_C = tl.program_id(1) * COMPONENTS + tl.arange(0, COMPONENTS)
    live_C = c_C < components
    at_NC = n_N[:, None].to(tl.int64) * components + c_C[None, :]
    live_NC = (n_N < rows)[:, None] & live_C[None, :]
    h_NC = tl.load(h_ptr + at_NC, mask=live_NC, other=0.0)
    z_NC = tl.zeros((ROWS, COMPONENTS), tl.float32) + tl.load(b2_ptr + c_C, mask=live_C, other=0.0)[None, :]
    for unit in range(HIDDEN):
        at_C = c_C * HIDDEN + unit
        w1_C = tl.load(w1_ptr + at_C, mask=live_C, other=0.0)
        b1_C = tl.load(b1_ptr + at_C, mask=live_C, other=0.0)
        w2_C = tl.load(w2_ptr + at_C, mask=live_C, other=0.0)
        x_NC = h_NC * w1_C[None, :] + b1_C[None, :]
        z_NC += 0.5 * x_NC * (1.0 + tl.erf(x_NC * 0.7071067811865476)) * w2_C[None, :]
    tl.store(z_ptr + at_NC, z_NC, mask=live_NC)


@triton.jit
@no_type_check
def _backward_kernel(
    h_ptr, w1_ptr, b1_ptr, w2_ptr, dz_ptr, dh_ptr, dw1_ptr, db1_ptr, dw2_ptr, rows, components,
    HIDDEN: tl.constexpr, ROWS: tl.constexpr, COMPONENTS: tl.constexpr,
):  # fmt: skip
    n_N = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c_C = tl.program_id(1) * COMPONENTS + tl.arange(0, COMPONENTS)
    live_C = c_C < components
    at_NC = n_N[:, None].to(tl.int64) * components + c_C[None, :]
    live_NC = (n_N < rows)[:, None] & live_C[None, :]
    h_NC = tl.load(h_ptr + at_NC, mask=live_NC, other=0.0)
    # Rows beyond the last have no gradient, and so add nothing to the sums.
    dz_NC = tl.load(dz_ptr + at_NC, mask=live_NC, other=0.0)
    dh_NC = tl.zeros((ROWS, COMPONENTS), tl.float32)
    block = tl.program_id(0).to(tl.int64) * components * HIDDEN
    for unit in range(HIDDEN):
        at_C = c_C * HIDDEN + unit
        w1_C = tl.load(w1_ptr + at_C, mask=live_C, other=0.0)
        b1_C = tl.load(b1_ptr + at_C, mask=live_C, other=0.0)
        w2_C = tl.load(w2_ptr + at_C, mask=live_C, other=0.0)
        x_NC = h_NC * w1_C[None, :] + b1_C[None, :]
        cdf_NC = 0.5 * (1.0 + tl.erf(x_NC * 0.7071067811865476))
        pdf_NC = 0.3989422804014327 * tl.exp(-0.5 * x_NC * x_NC)
        dx_NC = dz_NC * w2_C[None, :] * (cdf_NC + x_NC * pdf_NC)
        dh_NC += dx_NC * w1_C[None, :]
        tl.store(dw2_ptr + block + at_C, tl.sum(dz_NC * x_NC * cdf_NC, axis=0), mask=live_C)
        tl.store(db1_ptr + block + at_C, tl.sum(dx_NC, axis=0), mask=live_C)
        tl.store(dw1_ptr + block + at_C, tl.sum(dx_NC * h_NC, axis=0), mask=live_C)
    tl.store(dh_ptr + at_NC, dh_NC, mask=live_NC)


class _Triton(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_NC: Tensor, w1_CH: Tensor, b1_CH: Tensor, w2_CH: Tensor, b2_C: Tensor) -> Tensor:
        h_NC, w1_CH, b1_CH, w2_CH = (t.contiguous() for t in (h_NC, w1_CH, b1_CH, w2_CH))
        z_NC = torch.empty_like(h_NC)
        _forward_kernel[_grid(h_NC)](
            h_NC, w1_CH, b1_CH, w2_CH, b2_C.contiguous(), z_NC, *h_NC.shape,
            HIDDEN=w1_CH.shape[1], ROWS=_ROWS, COMPONENTS=_COMPONENTS,
        )  # fmt: skip
        ctx.save_for_backward(h_NC, w1_CH, b1_CH, w2_CH)
        return z_NC

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        h_NC, w1_CH, b1_CH, w2_CH = ctx.saved_tensors
        dz_NC, dh_NC, grid = gradients[0].contiguous(), torch.empty_like(h_NC), _grid(h_NC)
        dw1, db1, dw2 = (w1_CH.new_empty(grid[0], *w1_CH.shape) for _ in range(3))
        _backward_kernel[grid](
            h_NC, w1_CH, b1_CH, w2_CH, dz_NC, dh_NC, dw1, db1, dw2, *h_NC.shape,
            HIDDEN=w1_CH.shape[1], ROWS=_ROWS, COMPONENTS=_COMPONENTS,
        )  # fmt: skip
        return dh_NC, dw1.sum(0), db1.sum(0), dw2.sum(0), dz_NC.sum(0)


def _grid(h_NC: Tensor) -> tuple[int, int]:
    n, c = h_NC.shape
    return triton.cdiv(n, _ROWS), triton.cdiv(c, _COMPONENTS)


def scalar_mlp_triton(
    h: Float[Tensor, "N C"],
    w1: Float[Tensor, "C H"],
    b1: Float[Tensor, "C H"],
    w2: Float[Tensor, "C H"],
    b2: Float[Tensor, " C"],
) -> Float[Tensor, "N C"]:
    """Computes z for each component and row.

    Args:
        h: inner activations.
        w1: weights from h to the hidden layer.
        b1: its biases.
        w2: weights from the hidden layer to z.
        b2: biases of z.

    Returns:
        z.

    Raises:
        ConfigError: numbers that are not float32, or tensors on a CPU without Triton's interpreter.
    """
    if h.dtype != torch.float32 or w1.dtype != torch.float32:
        raise ConfigError(
            f"the Triton form of ci_kernel computes in float32; got {h.dtype} and weights in {w1.dtype}. Use "
            "ci_kernel='recompute'."
        )
    if not h.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(
            f"the Triton form of ci_kernel runs on a GPU; got tensors on {h.device}. Use ci_kernel='recompute', or set "
            "TRITON_INTERPRET=1 before the start to run it slowly in Triton's interpreter."
        )
    return cast(Tensor, _Triton.apply(h, w1, b1, w2, b2))
