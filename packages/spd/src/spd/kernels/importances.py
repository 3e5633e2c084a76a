"""From z to importances and on to their penalty in few passes over memory.

On a CPU a choice between two tensors costs many times what a sum or a threshold of one of them does. The functions here
give the numbers of `spd.models.sigmoids` and of a plain power, and their gradients, without one.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["leaky_hard_pair", "power"]


def _edges_have_slope() -> bool:
    """Whether the gradient of a clamp passes at its very edges: one release of torch answers otherwise than another."""
    with torch.enable_grad():
        z = torch.zeros((), requires_grad=True)
        (slope,) = torch.autograd.grad(z.clamp(0, 1), z)
    return bool(slope)


_EDGES_HAVE_SLOPE = _edges_have_slope()


class _LeakyHardPair(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(z)
        ctx.alpha = alpha
        ctx.set_materialize_grads(False)
        g = z.clamp(0, 1)
        above = (z - g).clamp_(min=0)
        return g, torch.add(g, above, alpha=alpha)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        (z,), (lower, upper), aten = ctx.saved_tensors, gradients, torch.ops.aten
        # Thresholds leave their own value out: the next number above 1, and one just below 0, let the edges in.
        one, zero = 1 + torch.finfo(z.dtype).eps, -torch.finfo(z.dtype).tiny
        dz = None
        if lower is not None:
            # What is left at z ≤ 0, where it asks for a larger g.
            leak = (lower - aten.threshold_backward(lower, z, 0)).clamp_(max=0)
            dz = aten.hardtanh_backward(lower, z, 0, one).add_(leak, alpha=ctx.alpha)
        if upper is not None:
            inside = aten.hardtanh_backward(upper, z, *((zero, one) if _EDGES_HAVE_SLOPE else (0, 1)))
            inside.add_(aten.threshold_backward(upper, z, 1), alpha=ctx.alpha)
            dz = inside if dz is None else dz.add_(inside)
        return dz, None


def leaky_hard_pair(z: Float[Tensor, "..."], alpha: float = 0.01) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Both importances g and ḡ of `leaky_hard`, see `spd.models.sigmoids`.

    Args:
        z: outputs of a causal-importance function.
        alpha: the leaks' slope α.

    Returns:
        clamp(z, 0, 1), whose gradient leaks one way below 0; and the same plus α (z − 1) above 1.

    >>> g, penalised = leaky_hard_pair(torch.tensor([-2.0, 0.5, 3.0]))
    >>> g.tolist(), [round(x, 2) for x in penalised.tolist()]
    ([0.0, 0.5, 1.0], [0.0, 0.5, 1.02])
    """
    return cast("tuple[Tensor, Tensor]", _LeakyHardPair.apply(z, alpha))


class _Power(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        y = x.pow(p)
        ctx.save_for_backward(x, y)
        ctx.p = p
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        return (y / x).mul_(gradients[0]).mul_(ctx.p), None


def power(x: Float[Tensor, "..."], p: float) -> Float[Tensor, "..."]:
    """x^p, whose gradient p x^p / x takes no second power.

    Args:
        x: numbers above 0.
        p: the power.

    Returns:
        The powers; x itself for p = 1.

    >>> power(torch.tensor([4.0]), 1.5).item()
    8.0
    """
    if p == 1:
        return x
    return x.square() if p == 2 else cast(Tensor, _Power.apply(x, p))
