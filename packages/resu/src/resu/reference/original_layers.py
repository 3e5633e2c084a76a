"""The original's layer in its modes, and the RESU-Selective that steps its θ.

What is rebuilt, and from what, is told in `original_effective`, which has the defects of the mask and of the effective
weight. Those of the layer, kept on purpose and each named where it stands:

- HIDDEN θ STATE: RESU-Selective keeps m, v and C, three vectors as long as θ, from the moment of entry.
- STATE KEPT: with W frozen, the optimizer's 2 |W| of state for it stay alive unless they are deleted; only the trainer
  deletes them, so that who uses the layer by itself leaks them.
- FIXED LEARNING RATE: a plain `resu_step` moves by 1e-4, whatever was asked for.
- NOISE COMMITTED: what the phase then merges into W is the noise that θ began with.
- NOTHING SAVED: mask, θ and mode are in no state dict.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from resu.reference.original_effective import (
    BlendFunction,
    EffectiveWeightFunction,
    Forward,
    PhiScatterFunction,
    SparseMask,
    phi_inverse_gather,
    phi_scatter,
)

__all__ = [
    "OriginalRESULinear",
    "OriginalSelective",
]

_FIXED_LR = 1e-4


class OriginalSelective:
    """RESU-Selective with its HIDDEN θ STATE: m and v, and C as well, which is a function of the two.

    Args:
        theta: θ, for its length.
    """

    beta, delta, tau, screen, select = 0.9, 1e-8, 0.5, 0.5, 0.2

    def __init__(self, theta: Float[Tensor, " pruned"]) -> None:
        self.mean = torch.zeros_like(theta.detach())
        self.mean_abs = torch.zeros_like(theta.detach())
        self.consistency = torch.zeros_like(theta.detach())

    def step(self, theta: Float[Tensor, " pruned"], grad: Float[Tensor, " pruned"], lr: float) -> int:
        """Moves what passes the filters by −η C g.

        Args:
            theta: θ, changed in place.
            grad: its gradient.
            lr: η.

        Returns:
            How many coordinates moved.
        """
        self.mean.mul_(self.beta).add_(grad, alpha=1 - self.beta)
        self.mean_abs.mul_(self.beta).add_(grad.abs(), alpha=1 - self.beta)
        self.consistency.copy_(self.mean.abs() / (self.mean_abs + self.delta))
        p, size = theta.numel(), grad.abs()
        large = torch.zeros_like(theta, dtype=torch.bool)
        large[torch.topk(size, max(1, int(self.screen * p))).indices] = True
        chosen = (large & (self.consistency > self.tau)).nonzero().flatten()
        most = max(1, int(self.select * p))
        if chosen.numel() > most:
            chosen = chosen[torch.topk(size[chosen], most).indices]
        theta.data[chosen] -= lr * self.consistency[chosen] * grad[chosen]
        return int(chosen.numel())


class _Resurrection:
    """θ with the way back into the matrix.

    Args:
        mask: the layer's mask.
        std: σ_A.
        epsilon: size of the noise that θ starts with, over σ_A.
    """

    def __init__(self, mask: SparseMask, std: float, epsilon: float) -> None:
        self.mask = mask
        noise = torch.randn(mask.pruned_indices.numel(), device=mask.mask.device)
        self.theta = nn.Parameter(noise * (epsilon * std))

    def phi(self, with_gradient: bool) -> Tensor:
        if with_gradient:
            return cast(Tensor, PhiScatterFunction.apply(self.theta, self.mask.pruned_indices, self.mask.shape))
        return phi_scatter(self.theta, self.mask.pruned_indices, self.mask.shape)


class OriginalRESULinear(nn.Linear):
    """The original's layer in its modes: dense, sparse and RESU.

    NOTHING SAVED: its state dict has weight and bias only. In sparse mode each forward multiplies by the mask, and
    above 70 % builds a COO matrix anew.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: whether there is a bias.
        forward_form: how the effective weight is formed in RESU.

    >>> layer = OriginalRESULinear(4, 2, forward_form=Forward.CACHED)
    >>> layer.prune_by_magnitude(0.5)
    >>> layer.enter_resu_mode()
    >>> layer(torch.ones(1, 4)).sum().backward()
    >>> layer.resurrection.theta.grad.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, forward_form: Forward = Forward.CACHED
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.forward_form = forward_form
        self.mask: SparseMask | None = None
        self.resurrection: Any = None
        self.selective: OriginalSelective | None = None
        self.active_cached: Tensor | None = None

    def prune_by_magnitude(self, sparsity: float) -> None:
        """TIES PRUNED; see `SparseMask.from_magnitude`.

        Args:
            sparsity: s.
        """
        self.mask = SparseMask.from_magnitude(self.weight, sparsity)

    def enter_resu_mode(self, epsilon: float = 0.1, use_selective: bool = True) -> None:
        """Freezes W, and makes θ, its hidden state and the cache. STATE KEPT: no optimizer is told.

        Args:
            epsilon: size of θ's noise over the standard deviation of the active weights.
            use_selective: whether RESU-Selective is on, as it is by default.
        """
        mask = cast(SparseMask, self.mask)
        self.weight.requires_grad_(False)
        active = self.weight.detach().flatten()[mask.active_indices]
        self.resurrection = _Resurrection(mask, float(active.std()) if active.numel() > 1 else 1.0, epsilon)
        self.selective = OriginalSelective(self.resurrection.theta) if use_selective else None
        if self.forward_form is not Forward.RECOMPUTE:
            self.active_cached = mask.mask * self.weight.detach()

    def effective_weight(self) -> Float[Tensor, "out in"]:
        """W_eff of the present mode, in the chosen form."""
        if self.resurrection is None:
            return self.weight if self.mask is None else self.mask.mask * self.weight
        mask: SparseMask = self.resurrection.mask
        if self.active_cached is None:
            return cast(
                Tensor,
                EffectiveWeightFunction.apply(
                    self.weight, self.resurrection.theta, mask.mask, mask.pruned_indices, True
                ),
            )
        phi_theta = self.resurrection.phi(self.forward_form is Forward.CACHED)
        return cast(Tensor, BlendFunction.apply(self.active_cached, phi_theta, mask.mask, True))

    def forward(self, input: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """The layer's output in its present mode.

        Args:
            input: any number of leading dimensions.

        Returns:
            The output.
        """
        weight = self.effective_weight()
        if self.resurrection is None and self.mask is not None and float(1 - self.mask.mask.mean()) > 0.7:
            flat = input.reshape(-1, input.shape[-1])
            out = torch.sparse.mm(weight.to_sparse(), flat.T).T.reshape(*input.shape[:-1], -1)
            return out if self.bias is None else out + self.bias
        return nn.functional.linear(input, weight, self.bias)

    def resu_step(self, grad: Float[Tensor, "out in"]) -> None:
        """One step of θ with its FIXED LEARNING RATE of 1e-4.

        Args:
            grad: gradient of the effective weight.
        """
        theta = self.resurrection.theta
        gathered = phi_inverse_gather(grad, self.resurrection.mask.pruned_indices)
        if self.selective is not None:
            self.selective.step(theta, gathered, _FIXED_LR)
        else:
            theta.data -= _FIXED_LR * gathered

    def exit_resu_mode(self, commit: bool = True) -> None:
        """NOISE COMMITTED: merges θ, which nothing has trained, into W, or drops it.

        Args:
            commit: whether to merge.
        """
        if commit:
            self.weight.data.copy_(self.effective_weight().detach())
        self.resurrection = self.selective = self.active_cached = None
        self.weight.requires_grad_(True)
