"""From the causal-importance network's output z to a causal importance g in [0, 1], or nearly.

Two are used at once: g, which makes the masks, and ḡ, which is penalised. `leaky_hard` takes another function for each
of them, every other type the same for both. α = 0.01 is the slope of a leak.

============== ==================================== ====================================================
name           forward                              backward
============== ==================================== ====================================================
lower_leaky    clamp(z, 0, 1)                       z ≤ 0: α times the gradient, where that asks for a
                                                    larger g, else 0; 0 < z ≤ 1: as it is; z > 1: 0
lower_leaky    α z below 0, z, 1 above 1            its derivative
(published)
upper_leaky    0 below 0, z, 1 + α (z − 1) above 1  its derivative
leaky          α z below 0, z, 1 + α (z − 1)        its derivative
hard           clamp(z, 0, 1)                       its derivative
normal         1 / (1 + exp(−z))                    its derivative
swish_hard     ½ + u(z − 1) − s(z − ½) + s(z) − u(z), shifted; see `swish_hard`
============== ==================================== ====================================================

`lower_leaky` as published is that of Bushnaq, Braun, Sharkey, *Stochastic Parameter Decomposition*, 2025,
arXiv:2506.20790; the form whose forward pass stays in [0, 1] is what the original's code came to use.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from spd.errors import ConfigError
from spd.kernels.importances import leaky_hard_pair

__all__ = [
    "SIGMOIDS",
    "SigmoidPair",
    "SigmoidType",
    "hard",
    "leaky_hard",
    "lower_leaky_hard",
    "lower_leaky_hard_published",
    "sigmoid_pair",
    "swish_hard",
    "upper_leaky_hard",
]

SigmoidType = Literal[
    "leaky_hard", "leaky_hard_published", "hard", "normal", "upper_leaky_hard", "lower_leaky_hard", "swish_hard"
]

Sigmoid = Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]

_ALPHA = 0.01


class _LowerLeaky(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.alpha = alpha
        return z.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (z,), (gradient,) = ctx.saved_tensors, gradients
        # A negative gradient asks for a larger g.
        below = torch.where(gradient < 0, ctx.alpha * gradient, 0.0)
        return torch.where(z <= 0, below, torch.where(z <= 1, gradient, 0.0)), None


def lower_leaky_hard(z: Float[Tensor, "..."], alpha: float = _ALPHA) -> Float[Tensor, "..."]:
    """clamp(z, 0, 1), which a component below 0 can come back from: there the gradient leaks, one way.

    Args:
        z: any numbers.
        alpha: the leak's slope α.

    Returns:
        Numbers in [0, 1].

    >>> z = torch.tensor([-2.0, 0.5, 3.0], requires_grad=True)
    >>> (-lower_leaky_hard(z)).sum().backward()
    >>> [round(x, 2) for x in z.grad.tolist()]
    [-0.01, -1.0, 0.0]
    """
    return cast(Tensor, _LowerLeaky.apply(z, alpha))


def lower_leaky_hard_published(z: Float[Tensor, "..."], alpha: float = _ALPHA) -> Float[Tensor, "..."]:
    """α z below 0, z up to 1, and 1 above: the form of the paper, below 0 where z is.

    Args:
        z: any numbers.
        alpha: the leak's slope α.

    Returns:
        Numbers of at most 1.

    >>> lower_leaky_hard_published(torch.tensor([-2.0, 0.5, 3.0])).tolist()
    [-0.019999999552965164, 0.5, 1.0]
    """
    return torch.where(z > 0, z.clamp(max=1), alpha * z)


def upper_leaky_hard(z: Float[Tensor, "..."], alpha: float = _ALPHA) -> Float[Tensor, "..."]:
    """0 below 0, z up to 1, and 1 + α (z − 1) above, so that the penalty reaches importances beyond 1.

    Args:
        z: any numbers.
        alpha: the leak's slope α.

    Returns:
        Numbers of at least 0.

    >>> [round(x, 2) for x in upper_leaky_hard(torch.tensor([-2.0, 0.5, 3.0])).tolist()]
    [0.0, 0.5, 1.02]
    """
    return torch.where(z > 1, 1 + alpha * (z - 1), z.clamp(0, 1))


def leaky_hard(z: Float[Tensor, "..."], alpha: float = _ALPHA) -> Float[Tensor, "..."]:
    """Leaks on both sides: α z below 0, z, and 1 + α (z − 1) above 1.

    Args:
        z: any numbers.
        alpha: the leaks' slope α.

    Returns:
        Numbers about [0, 1].

    >>> [round(x, 2) for x in leaky_hard(torch.tensor([-2.0, 0.5, 3.0])).tolist()]
    [-0.02, 0.5, 1.02]
    """
    return torch.where(z > 0, torch.where(z < 1, z, 1 + alpha * (z - 1)), alpha * z)


def hard(z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """clamp(z, 0, 1).

    >>> hard(torch.tensor([-2.0, 0.5, 3.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return z.clamp(0, 1)


def swish_hard(z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A smooth form of clamp(z, 0, 1) made of swishes, whose gradient is 0 nowhere.

    With s(x) = x σ(10 x), u(x) = x σ(−10 x) and y = z − ½: ½ + u(y − ½) − s(y) + s(y + ½) − u(y).

    Args:
        z: any numbers.

    Returns:
        Numbers about [0, 1].

    >>> swish_hard(torch.tensor(0.5)).item()
    0.5
    """

    def s(x: Tensor) -> Tensor:
        return x * torch.sigmoid(10 * x)

    def u(x: Tensor) -> Tensor:
        return x * torch.sigmoid(-10 * x)

    y = z - 0.5
    return 0.5 + u(y - 0.5) - s(y) + s(y + 0.5) - u(y)


SIGMOIDS: dict[str, Sigmoid] = {
    "hard": hard,
    "normal": torch.sigmoid,
    "upper_leaky_hard": upper_leaky_hard,
    "lower_leaky_hard": lower_leaky_hard,
    "swish_hard": swish_hard,
}
"""Those that are used for masks and penalty alike, by name."""


_RANGES = {
    "hard": (0.0, 1.0),
    "normal": (0.0, 1.0),
    "lower_leaky_hard": (0.0, 1.0),
    "upper_leaky_hard": (0.0, math.inf),
}


@dataclass(frozen=True)
class SigmoidPair:
    """The two functions of a type.

    Args:
        masks: makes g.
        penalty: makes ḡ.
        range: what g is within.
        both: makes both of them from one z, in fewer passes over memory; None = nothing does.
    """

    masks: Sigmoid
    penalty: Sigmoid
    range: tuple[float, float] = (-math.inf, math.inf)
    both: Callable[[Float[Tensor, "..."]], tuple[Float[Tensor, "..."], Float[Tensor, "..."]]] | None = None


def sigmoid_pair(name: SigmoidType | str) -> SigmoidPair:
    """The functions of a type by its name.

    Args:
        name: see the module.

    Returns:
        The function for masks and the one for the penalty.

    Raises:
        ConfigError: no such type.
    """
    if name == "leaky_hard":
        return SigmoidPair(lower_leaky_hard, upper_leaky_hard, (0.0, 1.0), leaky_hard_pair)
    if name == "leaky_hard_published":
        return SigmoidPair(lower_leaky_hard_published, upper_leaky_hard, (-math.inf, 1.0))
    if name not in SIGMOIDS:
        raise ConfigError(
            f"a sigmoid is leaky_hard, leaky_hard_published, {', '.join(SIGMOIDS)}; got {name!r}. Name one of them."
        )
    return SigmoidPair(SIGMOIDS[name], SIGMOIDS[name], _RANGES.get(name, (-math.inf, math.inf)))
