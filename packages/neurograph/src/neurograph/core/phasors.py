"""Phasors of indices, and the cell of a superposition.

A node's own indices (p, m) are the phasor w = a(x_m) e^{i p δ}. Its state is

    z = snap(squash(w s)),   s = Σ_j z_j / √K,   squash(u) = tanh(|u|) u / |u|,

over its K sources; snap takes the angle to the nearest of P and the amplitude to the nearest of M levels in [0, 1].
Backward, snap is passed over (straight-through: Bengio et al., *Estimating or Propagating Gradients Through Stochastic
Neurons*, 2013, arXiv:1308.3432), squash and the product are exact, and gradients of indices come from the slopes of the
tables.

Legend: n nodes, B samples, D phasors a node; states are planar, [n, B, 2, D], real parts first.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from neurograph.core.high_res_tables import HighResolutionLookupTables

__all__ = ["own_phasors", "phase_index", "superpose"]

_TINY = 1e-12


class _OwnPhasors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, phase: Tensor, mag: Tensor, tables: HighResolutionLookupTables) -> tuple[Tensor, Tensor]:
        p, m = tables.wrap_phase(phase.round().long()), tables.wrap_magnitude(mag.round().long())
        c, s, a, slope = tables.cos[p], tables.sin[p], tables.mag[m], tables.mag_slope[m]
        ctx.save_for_backward(c, s, a, slope)
        ctx.steps = tables.phase_step, tables.mag_step
        return a * c, a * s

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (g_re, g_im), (c, s, a, slope) = gradients, ctx.saved_tensors
        along, across = g_re * c + g_im * s, g_im * c - g_re * s
        return ctx.steps[0] * a * across, ctx.steps[1] * slope * along, None


def own_phasors(
    phase: Float[Tensor, "..."], mag: Float[Tensor, "..."], tables: HighResolutionLookupTables
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """The phasors a(x_m) e^{i p δ} of indices that are given as whole numbers of floating type.

    Gradients are per step of an index: δ ∂/∂θ and Δx a'(x_m) ∂/∂a.

    Args:
        phase: p.
        mag: m.
        tables: look-up tables.

    Returns:
        Real and imaginary parts.

    >>> re, im = own_phasors(torch.tensor([2.0]), torch.tensor([2.0]), HighResolutionLookupTables(8, 4))
    >>> round(re.item(), 6), round(im.item(), 6)
    (0.0, 1.0)
    """
    return cast("tuple[Tensor, Tensor]", _OwnPhasors.apply(phase, mag, tables))


class _Superpose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, s: Tensor, tables: HighResolutionLookupTables, snap: bool) -> Tensor:
        w_re, w_im = w[:, None, 0], w[:, None, 1]
        s_re, s_im = s[:, :, 0], s[:, :, 1]
        u_re = (w_re * s_re).addcmul_(w_im, s_im, value=-1)
        u_im = (w_re * s_im).addcmul_(w_im, s_re)
        r = torch.hypot(u_re, u_im)
        t = r.tanh()
        ctx.save_for_backward(w, s, u_re, u_im, r, t)
        z = torch.empty_like(s)
        if snap:
            levels = tables.mag_bins - 1
            t = (t * levels).round_().div_(levels)
            p = torch.atan2(u_im, u_re).div_(tables.phase_step).round_().remainder_(tables.phase_bins).long()
            torch.mul(tables.cos[p], t, out=z[:, :, 0])
            torch.mul(tables.sin[p], t, out=z[:, :, 1])
            return z
        f = t / r.clamp(min=_TINY)
        torch.mul(u_re, f, out=z[:, :, 0])
        torch.mul(u_im, f, out=z[:, :, 1])
        return z

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (g,), (w, s, u_re, u_im, r, t) = gradients, ctx.saved_tensors
        g_re, g_im = g[:, :, 0], g[:, :, 1]
        r = r.clamp(min=_TINY)
        f = t / r
        # d z = f du + (f' / r) (u · du) u, f' = (1 − t² − f) / r
        curve = (1 - t * t).sub_(f).div_(r).div_(r)
        curve = curve.mul_((u_re * g_re).addcmul_(u_im, g_im))
        du_re = (f * g_re).addcmul_(curve, u_re)
        du_im = (f * g_im).addcmul_(curve, u_im)
        dw = ds = None
        if ctx.needs_input_grad[0]:
            s_re, s_im = s[:, :, 0], s[:, :, 1]
            dw_re = (s_re * du_re).addcmul_(s_im, du_im).sum(1)
            dw_im = (s_re * du_im).addcmul_(s_im, du_re, value=-1).sum(1)
            dw = torch.stack([dw_re, dw_im], dim=1)
        if ctx.needs_input_grad[1]:
            w_re, w_im = w[:, None, 0], w[:, None, 1]
            ds = torch.empty_like(s)
            torch.mul(w_re, du_re, out=ds[:, :, 0]).addcmul_(w_im, du_im)
            torch.mul(w_re, du_im, out=ds[:, :, 1]).addcmul_(w_im, du_re, value=-1)
        return dw, ds, None, None


def superpose(
    w: Float[Tensor, "n 2 D"], s: Float[Tensor, "n B 2 D"], tables: HighResolutionLookupTables, snap: bool = True
) -> Float[Tensor, "n B 2 D"]:
    """States of nodes whose own phasors and sums of messages are given; first derivatives only.

    Args:
        w: own phasors.
        s: sums of messages.
        tables: for the grid of the states.
        snap: take states to the grid.

    Returns:
        States.

    >>> tables = HighResolutionLookupTables(4, 1024)
    >>> superpose(torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[[0.2], [9.0]]]]), tables).flatten().tolist()[1]
    1.0
    """
    return cast(Tensor, _Superpose.apply(w, s, tables, snap))


def phase_index(z: Float[Tensor, "*rest 2 D"], tables: HighResolutionLookupTables) -> Int[Tensor, "*rest D"]:
    """Phase indices of states: the nearest of P angles. A state of amplitude 0 has index 0.

    Args:
        z: planar states.
        tables: for the grid.

    Returns:
        Indices in [0, P).
    """
    # Adding 0 makes −0 a 0, whose angle is 0 and not π.
    angle = torch.atan2(z[..., 1, :] + 0.0, z[..., 0, :] + 0.0)
    return angle.div_(tables.phase_step).round_().remainder_(tables.phase_bins).long()
