"""RESU-Selective: θ moves only where its gradient is large and has kept its direction.

Two running means follow the gradient g of the pruned coordinates, m ← β m + (1 − β) g and v ← β v + (1 − β) |g|. Their
ratio C = |m| / (v + δ), from 0 to 1, is the directional consistency; a correction of the means' bias would cancel in
it. C is a function of m and v and is never stored. On the first step it is 1 everywhere, so its threshold screens
nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from resu.config import SelectionConfig
from resu.core.mask import SparseMask
from resu.core.select import Candidate, select_top
from resu.errors import CheckpointError, ConfigError, MaskError

__all__ = [
    "RESUSelective",
    "SelectionResult",
    "compute_consistency",
    "select_coordinates",
    "update_ema",
    "update_ema_and_consistency",
]

_ROW = 1 << 16


@dataclass(frozen=True)
class SelectionResult:
    """Which coordinates of θ may move in a step.

    Args:
        mask: those selected.
        p_mag: those whose gradient is large.
        p_con: those whose gradient is consistent.
        n_selected: how many were selected.
    """

    mask: Bool[Tensor, " p"]
    p_mag: Bool[Tensor, " p"]
    p_con: Bool[Tensor, " p"]
    n_selected: int


def update_ema(m: Float[Tensor, "*shape"], v: Float[Tensor, "*shape"], g: Float[Tensor, "*shape"], beta: float) -> None:
    """M ← β m + (1 − β) g and v ← β v + (1 − β) |g|, in place.

    Args:
        m: running mean of the gradient.
        v: running mean of its size.
        g: the gradient.
        beta: β, in [0, 1).

    >>> m, v = torch.zeros(2), torch.zeros(2)
    >>> update_ema(m, v, torch.tensor([1.0, -2.0]), beta=0.5)
    >>> m.tolist(), v.tolist()
    ([0.5, -1.0], [0.5, 1.0])
    """
    # The same operations in the same order, so that rounding keeps |m| ≤ v on the first step.
    m.mul_(beta).add_(g, alpha=1 - beta)
    v.mul_(beta).add_(g.abs(), alpha=1 - beta)


def compute_consistency(
    m: Float[Tensor, "*shape"],
    v: Float[Tensor, "*shape"],
    delta: float = 1e-8,
    out: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """C = |m| / (v + δ), at most 1.

    Args:
        m: running mean of the gradient.
        v: running mean of its size.
        delta: δ, keeps 0 / 0 away.
        out: where to write; None makes a new tensor.

    Returns:
        C.

    >>> compute_consistency(torch.tensor([-0.5, 0.0]), torch.tensor([1.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    out = torch.abs(m, out=out) if out is not None else m.abs()
    return out.div_(v + delta).clamp_(max=1.0)


def update_ema_and_consistency(
    m: Float[Tensor, "*shape"],
    v: Float[Tensor, "*shape"],
    g: Float[Tensor, "*shape"],
    beta: float,
    delta: float = 1e-8,
    consistency_out: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """`update_ema`, then `compute_consistency`.

    Args:
        m: running mean of the gradient, changed in place.
        v: running mean of its size, changed in place.
        g: the gradient.
        beta: β, in [0, 1).
        delta: δ.
        consistency_out: where to write C; None makes a new tensor.

    Returns:
        C.
    """
    update_ema(m, v, g, beta)
    return compute_consistency(m, v, delta, consistency_out)


def select_coordinates(
    grad: Float[Tensor, " p"], consistency: Float[Tensor, " p"], config: SelectionConfig | None = None
) -> SelectionResult:
    """Screens by size and by consistency, then takes the largest gradients of those that pass both.

    P_mag = the max(1, ⌊screen p⌋) largest |g|, P_con = {C > τ}, I = P_mag ∩ P_con. With at most
    k = max(1, ⌊select p⌋) coordinates in I all of I is selected, else the k of I with the largest |g|. Ties are broken
    by the lowest index.

    Args:
        grad: g of the pruned coordinates.
        consistency: C of the same.
        config: screen, select and τ; None = the published values.

    Returns:
        The selection.

    Raises:
        MaskError: a gradient that is NaN.

    >>> g, c = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5]), torch.tensor([0.1, 0.9, 0.9, 0.9, 0.9])
    >>> select_coordinates(g, c, SelectionConfig(screen=0.6, select=0.4)).mask.tolist()
    [False, True, True, False, False]
    """
    config = SelectionConfig() if config is None else config
    p = grad.numel()
    size = grad.detach().abs()
    p_con = consistency > config.tau
    if not p:
        return SelectionResult(p_con, p_con, p_con, 0)
    p_mag = _largest(size, max(1, int(config.screen * p)), None)
    both = p_mag & p_con
    n_selected, most = int(both.sum()), max(1, int(config.select * p))
    if n_selected > most:
        both, n_selected = _largest(size, most, both), most
    return SelectionResult(both, p_mag, p_con, n_selected)


class RESUSelective:
    """Updates θ with the selective rule, one step at a time.

    Per step: the running means follow g; coordinates are selected; all of θ decays, θ ← (1 − η λ) θ; then
    θ_j ← θ_j − η C_j g_j on selected j. A gradient that is not finite changes nothing and is counted.

    θ may be a vector of the pruned coordinates, or live in a tensor of the weight's shape (the weight itself when θ is
    kept in its pruned slots): only pruned coordinates of that tensor are read or written. The means are vectors of the
    pruned coordinates in either case.

    Args:
        theta: θ, of shape (p,) or of the mask's shape; changed in place.
        mask: which coordinates are pruned.
        config: β, δ, τ, screen, select and λ; None = the published values.
        lr: η.
        weight_decay: λ; None takes the config's.

    Raises:
        MaskError: θ of another shape.
        ConfigError: a negative η or λ.

    >>> mask = SparseMask(torch.tensor([[True, False, False]]))
    >>> theta = torch.zeros(2)
    >>> selective = RESUSelective(theta, mask, lr=0.1)
    >>> selective.step(torch.tensor([[9.0, 1.0, -3.0]]))["n_selected"]
    1
    >>> [round(value, 4) for value in theta.tolist()]
    [0.0, 0.3]
    """

    def __init__(
        self,
        theta: Float[Tensor, "..."],
        mask: SparseMask,
        config: SelectionConfig | None = None,
        lr: float = 1e-4,
        weight_decay: float | None = None,
    ) -> None:
        self.config = SelectionConfig() if config is None else config
        self.lr = lr
        self.weight_decay = self.config.weight_decay if weight_decay is None else weight_decay
        if lr < 0 or self.weight_decay < 0:
            raise ConfigError(
                f"lr and weight_decay are at least 0; got {lr} and {self.weight_decay}. Give 0 to switch decay off."
            )
        self._theta, self._mask = theta.detach(), mask
        if theta.shape not in ((mask.n_pruned,), torch.Size(mask.shape)):
            raise MaskError(
                f"θ is a vector of the {mask.n_pruned} pruned coordinates or has the weight's shape {mask.shape}; got "
                f"{tuple(theta.shape)}. Pass the mask that θ was made for."
            )
        self.m = torch.zeros(mask.n_pruned, dtype=torch.float32, device=theta.device)
        self.v = torch.zeros_like(self.m)
        self.step_count = 0
        self.skipped_steps = 0

    @property
    def consistency(self) -> Float[Tensor, " p"]:
        """C of the running means, made anew."""
        return compute_consistency(self.m, self.v, self.config.delta)

    @torch.no_grad()
    def step(self, grad: Float[Tensor, "..."]) -> dict[str, int | float]:
        """One update of θ.

        Args:
            grad: dL/dW_eff in the weight's shape, or its vector of the pruned coordinates.

        Returns:
            `n_selected`, `selection_ratio` (of p), `n_screened`, `n_consistent`, `mean_consistency`,
            `min_consistency`, `max_consistency`, `grad_norm` and `skipped` (1 where the gradient was not finite).

        Raises:
            MaskError: a gradient of another shape.
        """
        g = self._pruned(grad, "gradient").float()
        if not g.numel() or not bool(torch.isfinite(g).all()):
            self.skipped_steps += int(g.numel() > 0)
            return _stats(self.m, self.m, None, skipped=g.numel() > 0)
        c = update_ema_and_consistency(self.m, self.v, g, self.config.beta, self.config.delta)
        chosen = select_coordinates(g, c, self.config)
        stats = _stats(g, c, chosen, skipped=False)
        theta = self._pruned(self._theta, "θ")
        theta.mul_(1 - self.lr * self.weight_decay)
        theta.sub_((c * g * chosen.mask).mul_(self.lr).to(theta.dtype))
        if theta.data_ptr() != self._theta.data_ptr():
            self._put(theta)
        self.step_count += 1
        return stats

    def reset(self) -> None:
        """Forgets the running means and the counts."""
        self.m.zero_()
        self.v.zero_()
        self.step_count = self.skipped_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """m, v and the counts; C follows from m and v."""
        return {
            "m": self.m.clone(),
            "v": self.v.clone(),
            "step_count": self.step_count,
            "skipped_steps": self.skipped_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`.

        Args:
            state: what `state_dict` gave.

        Raises:
            CheckpointError: parts missing, or means of another number of pruned coordinates.
        """
        missing = {"m", "v", "step_count", "skipped_steps"} - state.keys()
        if missing:
            raise CheckpointError(
                f"a selective state holds m, v, step_count and skipped_steps; {sorted(missing)} are missing. Save it "
                "with state_dict()."
            )
        for name in ("m", "v"):
            if state[name].shape != self.m.shape:
                raise CheckpointError(
                    f"running means belong to the mask that they were made for, with {self.m.numel()} pruned "
                    f"coordinates here; {name} has shape {tuple(state[name].shape)}. Load the mask first."
                )
        self.m.copy_(state["m"])
        self.v.copy_(state["v"])
        self.step_count, self.skipped_steps = int(state["step_count"]), int(state["skipped_steps"])

    def _pruned(self, tensor: Tensor, what: str) -> Tensor:
        """The vector of the pruned coordinates; a vector already is itself."""
        if tensor.shape == (self._mask.n_pruned,) and tensor.shape != torch.Size(self._mask.shape):
            return tensor.detach()
        self._mask.check_shape(tensor.shape, what)
        rows, out = tensor.detach().reshape(self._mask.rows, self._mask.cols), tensor.new_empty(self._mask.n_pruned)
        start = 0
        for part in self._mask.chunks():
            values = rows[part][~self._mask.row_bool(part)]
            out[start : start + values.numel()] = values
            start += values.numel()
        return out

    def _put(self, theta: Tensor) -> None:
        """Writes the vector into the pruned slots of a tensor of the weight's shape."""
        whole, start = self._theta if self._theta.dim() > 1 else self._theta.unsqueeze(0), 0
        for part in self._mask.chunks():
            pruned = ~self._mask.row_bool(part)
            n = int(pruned.sum())
            whole[part][pruned.view(whole[part].shape)] = theta[start : start + n]
            start += n


def _largest(values: Tensor, k: int, among: Tensor | None) -> Bool[Tensor, " p"]:
    """Exactly the k largest of a vector, read as rows so that the selection's temporaries stay small."""
    cut = values.numel() // _ROW * _ROW
    candidates = []
    for start, stop, cols in ((0, cut, _ROW), (cut, values.numel(), values.numel() - cut)):
        if stop > start:
            rows = values[start:stop].view(-1, cols)
            pool = None if among is None else SparseMask(among[start:stop].view(-1, cols))
            candidates.append(Candidate(rows.__getitem__, tuple(rows.shape), values.device, pool))
    return torch.cat([mask.to_bool().flatten() for mask in select_top(candidates, k)])


def _stats(g: Tensor, c: Tensor, chosen: SelectionResult | None, *, skipped: bool) -> dict[str, int | float]:
    names = ("n_selected", "selection_ratio", "n_screened", "n_consistent")
    values: tuple[int | float, ...] = (0, 0.0, 0, 0)
    sizes = (0.0, 0.0, 0.0, 0.0)
    if chosen is not None:
        n = chosen.n_selected
        values = (n, n / c.numel(), int(chosen.p_mag.sum()), int(chosen.p_con.sum()))
        sizes = (float(c.mean()), float(c.min()), float(c.max()), float(g.norm()))
    size_names = ("mean_consistency", "min_consistency", "max_consistency", "grad_norm")
    return dict(zip((*names, *size_names, "skipped"), (*values, *sizes, int(skipped)), strict=True))
