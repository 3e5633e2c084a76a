"""A masked site's output in the folded form, with the mask's arithmetic, as one function with a gradient by hand.

With m = g + (1 − g) r, inner activations h and the layer's own output y₀ = a Wᵀ + b,

    y = (h ⊙ (m − d)) U + d (y₀ − b) + b,

which equals (h ⊙ m) U + d a Δᵀ + b, Δ = W − (V U)ᵀ. Positions at which the layer itself is taken may be left out.

Legend: N positions, R of them masked, C components, D outputs.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["folded_output", "take_rows"]


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.n = x.shape[0]
        return x.index_select(0, rows)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _put(gradients[0], ctx.saved_tensors[0], ctx.n), None


def _put(part: Tensor, rows: Tensor | None, n: int) -> Tensor:
    return part if rows is None else part.new_zeros(n, *part.shape[1:]).index_copy_(0, rows, part)


def take_rows(x: Float[Tensor, "N ..."], rows: Int64[Tensor, " R"]) -> Float[Tensor, "R ..."]:
    """Some rows, each at most once: their gradients are put back, and need not be added up.

    Args:
        x: all rows.
        rows: which, no two the same.

    Returns:
        The rows.
    """
    return cast(Tensor, _TakeRows.apply(x, rows))


class _Folded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h_RC: Tensor, g_NC: Tensor, r_NC: Tensor, d_N: Tensor, U_CD: Tensor, y_ND: Tensor, b_D: Tensor | None,
        rows_R: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.n, ctx.shared = y_ND.shape[0], r_NC.shape[0] == 1
        g_RC, d_R, y_RD, r_RC = g_NC, d_N, y_ND, r_NC
        if rows_R is not None:
            g_RC, d_R, y_RD = (t.index_select(0, rows_R) for t in (g_NC, d_N, y_ND))
            r_RC = r_NC if ctx.shared else r_NC.index_select(0, rows_R)
        d_R1 = d_R.unsqueeze(-1)
        k_RC = torch.addcmul(g_RC, 1 - g_RC, r_RC).sub_(d_R1)
        out = (h_RC * k_RC) @ U_CD
        if b_D is not None:
            out.addcmul_(1 - d_R1, b_D)
        out.addcmul_(d_R1, y_RD)
        # The numbers of g, y and b enter the gradients of r and d alone.
        of_r, of_d = ctx.needs_input_grad[2], ctx.needs_input_grad[3]
        kept = [h_RC, k_RC, r_RC, d_R1, U_CD, g_RC if of_r else None, y_RD if of_d else None, b_D if of_d else None]
        ctx.save_for_backward(*kept, rows_R)
        return out if rows_R is None else y_ND.clone().index_copy_(0, rows_R, out.to(y_ND.dtype))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        h_RC, k_RC, r_RC, d_R1, U_CD, g_RC, y_RD, b_D, rows_R = ctx.saved_tensors
        (dout_ND,), of = gradients, ctx.needs_input_grad
        dout_RD = dout_ND if rows_R is None else dout_ND.index_select(0, rows_R)
        dh = dg = dr = dd = dU = dy = None
        if any(of[:4]):
            dhk_RC = dout_RD @ U_CD.t().to(dout_RD.dtype)
            dh = dhk_RC * k_RC if of[0] else None
            dk_RC = dhk_RC.mul_(h_RC)
            if of[1]:
                dg = _put(torch.addcmul(dk_RC, dk_RC, r_RC, value=-1), rows_R, ctx.n)
            if of[3]:
                own = y_RD if b_D is None else y_RD - b_D
                dd = _put((dout_RD * own).sum(-1).sub_(dk_RC.sum(-1)), rows_R, ctx.n)
            if of[2]:
                dr = dk_RC.addcmul_(dk_RC, g_RC, value=-1)
                dr = dr.sum(0, keepdim=True) if ctx.shared else _put(dr, rows_R, ctx.n)
        if of[4]:
            dU = (h_RC * k_RC).t().to(dout_RD.dtype) @ dout_RD
        if of[5]:
            dy = dout_RD * d_R1
            dy = dy if rows_R is None else dout_ND.clone().index_copy_(0, rows_R, dy.to(dout_ND.dtype))
        return dh, dg, dr, dd, dU, dy, None, None


def folded_output(
    h: Float[Tensor, "R C"],
    g: Float[Tensor, "N C"],
    r: Float[Tensor, "#N C"],
    d: Float[Tensor, " N"],
    u: Float[Tensor, "C D"],
    y: Float[Tensor, "N D"],
    bias: Float[Tensor, " D"] | None = None,
    rows: Int64[Tensor, " R"] | None = None,
) -> Float[Tensor, "N D"]:
    """A masked site's output from its layer's own; first derivatives only.

    Args:
        h: inner activations, of the masked positions.
        g: importances.
        r: sources; one row of them stands for all positions.
        d: the mask of Δ.
        u: U.
        y: the layer's own output y₀, which other positions keep.
        bias: b, which has no gradient.
        rows: the masked positions, no two the same; None = all.

    Returns:
        The output.

    >>> h, g, u, y = torch.ones(2, 3), torch.zeros(2, 3), torch.ones(3, 1), torch.full((2, 1), 5.0)
    >>> folded_output(h, g, torch.full((1, 3), 0.5), torch.tensor([0.0, 1.0]), u, y).flatten().tolist()
    [1.5, 3.5]
    """
    return cast(Tensor, _Folded.apply(h, g, r, d, u, y, bias, rows))
