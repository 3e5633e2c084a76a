"""The mathematics, slowly, in float64 NumPy: what the fast forms are held against.

Nothing here is shared with them. Notation: W a weight of N coordinates with flat row-major index; M its mask; A the
active coordinates (M = 1), P the pruned ones (M = 0), p = |P|; θ ∈ R^p; G = ∂L/∂W_eff. Coordinates are visited one at
a time wherever an order or a tie matters.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

__all__ = [
    "Selection",
    "active_std",
    "adam_theta_step",
    "amnesty_counts",
    "amnesty_ratio",
    "amnesty_tournament",
    "effective_weight",
    "effective_weight_gradients",
    "masked_adamw_step",
    "masked_sgd_step",
    "momentum_theta_step",
    "phi",
    "phi_inverse",
    "selective_step",
    "sgd_theta_step",
    "top_k",
    "top_k_over",
]

_Array = Shaped[np.ndarray, "..."]
_Mask = Bool[np.ndarray, "..."]


# --- θ and the effective weight ---------------------------------------------------------------------------------------


def phi(theta: Shaped[np.ndarray, " pruned"], mask: _Mask) -> Float[np.ndarray, "..."]:
    """φ: R^p → S_P puts θ_j at the j-th pruned coordinate by ascending flat index, zero elsewhere.

    Args:
        theta: one value a pruned coordinate.
        mask: True = active.

    Returns:
        An array of the mask's shape.

    >>> phi(np.array([5.0, 7.0]), np.array([[True, False], [False, True]])).tolist()
    [[0.0, 5.0], [7.0, 0.0]]
    """
    out = np.zeros(mask.size)
    j = 0
    for k, active in enumerate(mask.ravel()):
        if not active:
            out[k] = theta[j]
            j += 1
    return out.reshape(mask.shape)


def phi_inverse(dense: _Array, mask: _Mask) -> Float[np.ndarray, " pruned"]:
    """φ⁻¹ gathers the pruned coordinates; it is the adjoint of φ as well.

    Args:
        dense: an array of the mask's shape.
        mask: True = active.

    Returns:
        One value a pruned coordinate.

    >>> phi_inverse(np.array([[1.0, 5.0], [7.0, 2.0]]), np.array([[True, False], [False, True]])).tolist()
    [5.0, 7.0]
    """
    pairs = zip(dense.ravel(), mask.ravel(), strict=True)
    return np.array([value for value, active in pairs if not active], np.float64)


def effective_weight(weight: _Array, theta: Shaped[np.ndarray, " pruned"], mask: _Mask) -> Float[np.ndarray, "..."]:
    """W_eff = M ⊙ W + (1 − M) ⊙ φ(θ).

    Args:
        weight: W; what it holds at P does not matter.
        theta: one value a pruned coordinate.
        mask: True = active.

    Returns:
        The effective weight.

    >>> effective_weight(np.array([1.0, 9.0]), np.array([5.0]), np.array([True, False])).tolist()
    [1.0, 5.0]
    """
    kept = np.where(mask, np.asarray(weight, np.float64), 0.0)
    return kept + phi(theta, mask)


def effective_weight_gradients(
    grad_output: _Array, mask: _Mask, freeze_active: bool
) -> tuple[Float[np.ndarray, "..."] | None, Float[np.ndarray, " pruned"]]:
    """∂L/∂W = M ⊙ G, or none where A is frozen; ∂L/∂θ = φ⁻¹(G).

    Args:
        grad_output: G.
        mask: True = active.
        freeze_active: whether W gets no gradient.

    Returns:
        The gradients of W and of θ.

    >>> grad_weight, grad_theta = effective_weight_gradients(np.array([2.0, 3.0]), np.array([True, False]), False)
    >>> grad_weight.tolist(), grad_theta.tolist()
    ([2.0, 0.0], [3.0])
    """
    grad_weight = None if freeze_active else np.where(mask, np.asarray(grad_output, np.float64), 0.0)
    return grad_weight, phi_inverse(grad_output, mask)


def active_std(weight: _Array, mask: _Mask) -> float:
    """σ_A, the unbiased standard deviation of the active weights; 1 where fewer than two are active.

    Args:
        weight: W.
        mask: True = active.

    Returns:
        σ_A.

    >>> active_std(np.array([1.0, 3.0, 100.0]), np.array([True, True, False])) == math.sqrt(2)
    True
    """
    values = [float(value) for value, active in zip(weight.ravel(), mask.ravel(), strict=True) if active]
    if len(values) < 2:
        return 1.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


# --- steps of θ -------------------------------------------------------------------------------------------------------


def sgd_theta_step(theta: _Array, grad: _Array, lr: float, weight_decay: float = 0.0) -> Float[np.ndarray, "..."]:
    """Plain descent with decoupled decay: θ ← θ (1 − η λ) − η g.

    Args:
        theta: θ.
        grad: g = φ⁻¹(G).
        lr: η.
        weight_decay: decoupled decay λ.

    Returns:
        The new θ.

    >>> sgd_theta_step(np.array([1.0]), np.array([2.0]), 0.25).tolist()
    [0.5]
    """
    return np.asarray(theta, np.float64) * (1 - lr * weight_decay) - lr * np.asarray(grad, np.float64)


def momentum_theta_step(
    theta: _Array, grad: _Array, momentum: _Array, lr: float, beta: float = 0.9
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Momentum as a running mean: m ← β m + (1 − β) g, θ ← θ − η m.

    Args:
        theta: θ.
        grad: g = φ⁻¹(G).
        momentum: m before.
        lr: η.
        beta: β.

    Returns:
        The new θ and the new m.

    >>> [float(x[0]) for x in momentum_theta_step(np.array([1.0]), np.array([2.0]), np.array([0.0]), 1.0, 0.5)]
    [0.0, 1.0]
    """
    momentum = beta * np.asarray(momentum, np.float64) + (1 - beta) * np.asarray(grad, np.float64)
    return np.asarray(theta, np.float64) - lr * momentum, momentum


def adam_theta_step(
    theta: _Array,
    grad: _Array,
    first: _Array,
    second: _Array,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """AdamW on θ: bias-corrected, with decoupled decay before the step.

    Args:
        theta: θ.
        grad: g = φ⁻¹(G).
        first: first moment before.
        second: second moment before.
        step: number of this step, from 1.
        lr: η.
        betas: decays of the moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay λ.

    Returns:
        The new θ and moments.

    >>> start = np.ones(1), np.ones(1), np.zeros(1), np.zeros(1)
    >>> [round(float(x[0]), 6) for x in adam_theta_step(*start, step=1, lr=0.5, betas=(0.5, 0.5))]
    [0.5, 0.5, 0.5]
    """
    everything = np.ones(np.shape(theta), bool)
    return masked_adamw_step(theta, grad, first, second, everything, step, lr, betas, eps, weight_decay)


# --- masked optimizers ------------------------------------------------------------------------------------------------


def masked_adamw_step(
    weight: _Array,
    grad: _Array,
    first: _Array,
    second: _Array,
    writable: _Mask,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """One step of AdamW (Loshchilov and Hutter, 2017, arXiv:1711.05101), coordinate by coordinate.

    A coordinate that may not be written keeps its weight and both moments.

    Args:
        weight: W.
        grad: G.
        first: first moment before.
        second: second moment before.
        writable: which coordinates may be written.
        step: number of this step for the written set, from 1.
        lr: η.
        betas: decays of the moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay λ.

    Returns:
        New weight and moments.

    >>> frozen = np.array([False])
    >>> step = masked_adamw_step(np.ones(1), np.ones(1), np.ones(1), np.ones(1), frozen, step=1, lr=1.0)
    >>> [x.tolist() for x in step]
    [[1.0], [1.0], [1.0]]
    """
    w, g, m, v = (np.array(x, np.float64).ravel() for x in (weight, grad, first, second))
    for k in np.flatnonzero(writable.ravel()):
        w[k] *= 1 - lr * weight_decay
        m[k] = betas[0] * m[k] + (1 - betas[0]) * g[k]
        v[k] = betas[1] * v[k] + (1 - betas[1]) * g[k] ** 2
        corrected = m[k] / (1 - betas[0] ** step)
        w[k] -= lr * corrected / (math.sqrt(v[k] / (1 - betas[1] ** step)) + eps)
    shape = np.shape(weight)
    return w.reshape(shape), m.reshape(shape), v.reshape(shape)


def masked_sgd_step(
    weight: _Array,
    grad: _Array,
    momentum: _Array,
    writable: _Mask,
    lr: float,
    mu: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """One step of SGD with momentum and coupled decay, coordinate by coordinate.

    d = g + λ w, b ← μ b + d, w ← w − η b (Nesterov: w ← w − η (d + μ b)). The first step's b is d, since b starts at 0.

    Args:
        weight: W.
        grad: G.
        momentum: b before.
        writable: which coordinates may be written.
        lr: η.
        mu: μ.
        weight_decay: λ.
        nesterov: whether the step looks ahead.

    Returns:
        New weight and momentum.

    >>> written = np.array([True, False])
    >>> masked_sgd_step(np.ones(2), np.ones(2), np.zeros(2), written, lr=0.5)[0].tolist()
    [0.5, 1.0]
    """
    w, g, b = (np.array(x, np.float64).ravel() for x in (weight, grad, momentum))
    for k in np.flatnonzero(writable.ravel()):
        direction = g[k] + weight_decay * w[k]
        b[k] = mu * b[k] + direction
        w[k] -= lr * (direction + mu * b[k] if nesterov else b[k])
    shape = np.shape(weight)
    return w.reshape(shape), b.reshape(shape)


# --- selection --------------------------------------------------------------------------------------------------------


def top_k(scores: _Array, k: int, among: _Mask | None = None) -> Bool[np.ndarray, "..."]:
    """Exactly the k largest scores; of equal ones, those of the lowest flat index.

    Args:
        scores: one score a coordinate.
        k: how many.
        among: only these take part; None = all.

    Returns:
        True where chosen, in the scores' shape.

    >>> top_k(np.array([1.0, 2.0, 2.0, 2.0]), 2).tolist()
    [False, True, True, False]
    """
    (chosen,) = top_k_over([scores], k, None if among is None else [among])
    return chosen


def top_k_over(scores: Sequence[_Array], k: int, among: Sequence[_Mask] | None = None) -> list[Bool[np.ndarray, "..."]]:
    """Exactly the k largest scores over several arrays; ties by the lowest array, then the lowest flat index.

    Args:
        scores: arrays of scores.
        k: how many in all.
        among: for each array, which coordinates take part; None = all.

    Returns:
        True where chosen, one array for each.

    >>> [chosen.tolist() for chosen in top_k_over([np.array([1.0, 3.0]), np.array([3.0, 3.0])], 2)]
    [[False, True], [True, False]]
    """
    entries = []
    for a, array in enumerate(scores):
        takes_part = np.ones(array.size, bool) if among is None else among[a].ravel()
        entries += [(-float(array.ravel()[i]), a, i) for i in range(array.size) if takes_part[i]]
    chosen = [np.zeros(array.size, bool) for array in scores]
    for _, a, i in sorted(entries)[:k]:
        chosen[a][i] = True
    return [flags.reshape(array.shape) for flags, array in zip(chosen, scores, strict=True)]


class Selection(NamedTuple):
    """One step of RESU-Selective.

    Args:
        theta: θ after the step.
        mean: m, the running mean of g.
        mean_abs: v, the running mean of |g|.
        consistency: C = |m| / (v + δ).
        selected: which coordinates of θ moved by their gradient.
    """

    theta: np.ndarray
    mean: np.ndarray
    mean_abs: np.ndarray
    consistency: np.ndarray
    selected: np.ndarray


def selective_step(
    theta: Shaped[np.ndarray, " pruned"],
    grad: Shaped[np.ndarray, " pruned"],
    mean: Shaped[np.ndarray, " pruned"],
    mean_abs: Shaped[np.ndarray, " pruned"],
    lr: float,
    *,
    beta: float = 0.9,
    delta: float = 1e-8,
    tau: float = 0.5,
    screen: float = 0.5,
    select: float = 0.2,
    weight_decay: float = 0.0,
) -> Selection:
    """Moves only the coordinates of θ whose gradient is large and keeps its direction.

    m ← β m + (1 − β) g, v ← β v + (1 − β) |g|, C = |m| / (v + δ). P_mag is the top ⌊screen · p⌋ (at least 1) by |g|,
    P_con = {C > τ}, I their intersection; with n = ⌊select · p⌋ (at least 1), all of I is selected where |I| ≤ n, else
    its top n by |g|. All of θ decays by (1 − η λ), then θ_j ← θ_j − η C_j g_j on what is selected.

    Args:
        theta: θ.
        grad: g = φ⁻¹(G).
        mean: m before.
        mean_abs: v before.
        lr: η.
        beta: β.
        delta: δ.
        tau: τ.
        screen: share of θ that passes by |g|.
        select: share of θ that moves at most.
        weight_decay: λ.

    Returns:
        The step.

    >>> step = selective_step(np.zeros(4), np.array([4.0, 3.0, 2.0, 1.0]), np.zeros(4), np.zeros(4), lr=0.5)
    >>> step.selected.tolist(), step.theta.round(6).tolist()
    ([True, False, False, False], [-2.0, 0.0, 0.0, 0.0])
    """
    theta, grad = np.asarray(theta, np.float64), np.asarray(grad, np.float64)
    mean = beta * np.asarray(mean, np.float64) + (1 - beta) * grad
    mean_abs = beta * np.asarray(mean_abs, np.float64) + (1 - beta) * np.abs(grad)
    consistency = np.abs(mean) / (mean_abs + delta)
    size = np.abs(grad)
    p = theta.size
    selected = top_k(size, max(1, math.floor(screen * p))) & (consistency > tau)
    most = max(1, math.floor(select * p))
    if selected.sum() > most:
        selected = top_k(size, most, selected)
    theta = theta * (1 - lr * weight_decay)
    theta = np.where(selected, theta - lr * consistency * grad, theta)
    return Selection(theta, mean, mean_abs, consistency, selected)


# --- amnesty ----------------------------------------------------------------------------------------------------------


def _exactly(value: float) -> Fraction:
    """The number that was meant by its shortest decimal form: 0.9 is nine tenths."""
    return Fraction(repr(float(value)))


def amnesty_ratio(cycle: int, cycles: int, start: float = 0.10, end: float = 0.02) -> float:
    """r(c) = r₀ − (r₀ − r₁) · min(c, C) / C.

    Args:
        cycle: c, from 0.
        cycles: C.
        start: r₀.
        end: r₁.

    Returns:
        The share of kept weights that is reserved for θ.

    >>> amnesty_ratio(5, 10, 0.10, 0.02) == 0.06
    True
    """
    r0, r1 = _exactly(start), _exactly(end)
    return float(r0 - (r0 - r1) * Fraction(min(cycle, cycles), cycles))


def amnesty_counts(numel: int, sparsity: float, ratio: float) -> tuple[int, int]:
    """n_keep = N − round(s N), of which n_res = ⌊r n_keep⌋ are for pruned coordinates and the rest for active ones.

    The products are exact: at s = 0.9 one of ten coordinates is kept, where ⌊(1 − s) N⌋ in floating point keeps none.

    Args:
        numel: N.
        sparsity: s.
        ratio: r.

    Returns:
        The places for active coordinates, and those for pruned ones.

    >>> amnesty_counts(1000, 0.7, 0.1), amnesty_counts(10, 0.9, 0.1)
    ((270, 30), (1, 0))
    """
    n_keep = numel - round(_exactly(sparsity) * numel)
    n_resurrected = math.floor(_exactly(ratio) * n_keep)
    return n_keep - n_resurrected, n_resurrected


def amnesty_tournament(scores: _Array, mask: _Mask, n_active: int, n_resurrected: int) -> Bool[np.ndarray, "..."]:
    """The new active set: the best n_active inside A and the best n_resurrected inside P, which never meet.

    Where one pool has fewer coordinates than places, the free places go to the remaining P first, then to A.

    Args:
        scores: one score a coordinate of W_eff.
        mask: A before, True = active.
        n_active: places for A.
        n_resurrected: places for P.

    Returns:
        A after; of equal scores the lowest flat index stays.

    >>> amnesty_tournament(np.array([1.0, 2.0, 9.0, 8.0]), np.array([True, True, False, False]), 1, 1).tolist()
    [False, True, True, False]
    >>> amnesty_tournament(np.array([1.0, 2.0, 9.0, 8.0]), np.array([True, False, False, False]), 2, 1).tolist()
    [True, False, True, True]
    """
    chosen = top_k(scores, min(n_active, int(mask.sum())), mask)
    chosen |= top_k(scores, min(n_resurrected, int((~mask).sum())), ~mask)
    for pool in (~mask, mask):
        missing = n_active + n_resurrected - int(chosen.sum())
        if missing > 0:
            chosen |= top_k(scores, missing, pool & ~chosen)
    return chosen
